// A call whose person is asked at the console's page: told on standard output, as JSON.

import * as v2 from "@modelcontextprotocol/client";
import * as v1 from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CallToolResultSchema,
  ElicitRequestSchema,
  ElicitationCompleteNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

const [url, version, what] = process.argv.slice(2);
const modern = version === "2026-07-28";
const about = { name: "interop", version: "1" };
const options = {
  requestInit: { headers: { Authorization: `Bearer ${process.env.MCP_TOKEN}` } },
};
const capabilities = { elicitation: { form: {}, url: {} } };
const told = { offered: [], completed: [] };

async function offered(request) {
  told.offered.push(request.params);
  return { action: "accept" };
}

async function connect() {
  if (modern) {
    const client = new v2.Client(about, {
      capabilities,
      versionNegotiation: { mode: { pin: version } },
    });
    client.setRequestHandler("elicitation/create", offered);
    await client.connect(new v2.StreamableHTTPClientTransport(new URL(url), options));
    return client;
  }
  const client = new v1.Client(about, { capabilities });
  client.setRequestHandler(ElicitRequestSchema, offered);
  client.setNotificationHandler(ElicitationCompleteNotificationSchema, ({ params }) => {
    told.completed.push(params.elicitationId);
  });
  await client.connect(new StreamableHTTPClientTransport(new URL(url), options));
  return client;
}

const client = await connect();
const params = { name: "policy_asked", arguments: { what } };
told.result = modern
  ? await client.callTool(params, { timeout: 30000 })
  : await client.callTool(params, CallToolResultSchema, { timeout: 30000 });
await client.close();
console.log(JSON.stringify(told));
