// Calls a tool that lists an output schema, once for each kind of answer: what came, or what was thrown.

import * as v2 from "@modelcontextprotocol/client";
import * as v1 from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";

const [url, version] = process.argv.slice(2);
const { MCP_TOKEN: token, CALLS: calls } = process.env;
const options = { requestInit: { headers: { Authorization: `Bearer ${token}` } } };
const about = { name: "answers", version: "1" };

async function connect() {
  if (version === "2026-07-28") {
    const client = new v2.Client(about, { versionNegotiation: { mode: { pin: version } } });
    await client.connect(new v2.StreamableHTTPClientTransport(new URL(url), options));
    return client;
  }
  const client = new v1.Client(about);
  await client.connect(new StreamableHTTPClientTransport(new URL(url), options));
  return client;
}

const client = await connect();
await client.listTools(); // from here on it validates
const answers = {};
for (const { kind, name, arguments: args, meta } of JSON.parse(calls)) {
  try {
    answers[kind] = await client.callTool({ name, arguments: args, _meta: meta });
  } catch (error) {
    answers[kind] = { threw: String(error) };
  }
}
await client.close();
process.stdout.write(JSON.stringify(answers));
