// Vercel's AI SDK as ../sdks.py drives it: a call a line on standard input, what came of it on output.

import { createInterface } from "node:readline";
import { createMCPClient } from "@ai-sdk/mcp";

const [url, version] = process.argv.slice(2);
const say = (word) => process.stdout.write(`${JSON.stringify(word)}\n`);
const client = await createMCPClient({
  transport: { type: "http", url, headers: { Authorization: `Bearer ${process.env.MCP_TOKEN}` } },
  protocolVersionDiscovery: version === "2026-07-28",
});
const { tools } = await client.listTools();
say({ version: client.initializeResult.protocolVersion, tools: tools.map((tool) => tool.name) });
for await (const line of createInterface({ input: process.stdin })) {
  const { name, arguments: args, timeout_ms: timeout } = JSON.parse(line);
  try {
    say({ answer: await client.callTool({ name, arguments: args, options: { timeout } }) });
  } catch (error) {
    say({ threw: String(error) });
  }
}
await client.close();
