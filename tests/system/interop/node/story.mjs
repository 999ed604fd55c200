// The story of ../story.py with the TypeScript SDK: told on standard output, as JSON.
//
// Version 2 of the SDK speaks 2026-07-28 and has no tasks there; version 1 speaks 2025-11-25 and
// follows that version's tasks.

import * as v2 from "@modelcontextprotocol/client";
import * as v1 from "@modelcontextprotocol/sdk/client/index.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CallToolResultSchema,
  ToolListChangedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";

const [url, user, version] = process.argv.slice(2);
const { MCP_TOKEN: token, TIMEOUT_MS: timeout, BOUND_MS: bound } = process.env;
const UNFINISHED = ["queued", "dispatched", "running"];
const modern = version === "2026-07-28";
const about = { name: "interop", version: "1" };

async function connect() {
  const options = { requestInit: { headers: { Authorization: `Bearer ${token}` } } };
  if (modern) {
    const client = new v2.Client(about, {
      capabilities: { elicitation: {} },
      versionNegotiation: { mode: { pin: version } },
    });
    client.setRequestHandler("elicitation/create", async () => ({
      action: "accept",
      content: { confirm: true },
    }));
    await client.connect(new v2.StreamableHTTPClientTransport(new URL(url), options));
    return client;
  }
  const client = new v1.Client(about);
  await client.connect(new StreamableHTTPClientTransport(new URL(url), options));
  return client;
}

const client = await connect();
const heardOfTools = modern
  ? Promise.resolve(null)
  : new Promise((resolve) => {
      client.setNotificationHandler(ToolListChangedNotificationSchema, () => resolve(true));
    });
const job = (name) => ({ job: `${user} ${name}` });

async function call(name, args, options = {}) {
  const whole = { timeout: Number(bound), ...options };
  const params = { name, arguments: args };
  const done = modern
    ? await client.callTool(params, whole)
    : await client.callTool(params, CallToolResultSchema, whole);
  if (done.isError) throw new Error(JSON.stringify(done));
  return done.structuredContent;
}

const release = (name) => call("interop_release", job(name));
const outcome = (id) => call("command_status", { command_id: id, wait_s: bound / 1000 });

// The one command of ours that runs, by command_list alone.
async function unfinished() {
  const until = Date.now() + Number(bound);
  while (Date.now() < until) {
    const { commands } = await call("command_list", { state: UNFINISHED });
    if (commands.length > 1) throw new Error(JSON.stringify(commands));
    if (commands.length === 1) return commands[0].command_id;
  }
  throw new Error("no command of ours runs");
}

async function progress() {
  const heard = [];
  let released;
  const onprogress = (said) => {
    heard.push(said.progress);
    if (said.message?.includes(job("progress").job)) released ??= release("progress");
  };
  const result = await call("interop_work", job("progress"), { onprogress });
  await released;
  return { heard, result };
}

async function accepted() {
  const told = await call("interop_slow", job("slow"));
  await release("slow");
  return { accepted: told, recovered: await outcome(told.command_id) };
}

async function givesUp() {
  let code;
  try {
    await call("interop_work", job("time-out"), { timeout: Number(timeout) });
  } catch (error) {
    code = error.code;
  }
  const id = await unfinished();
  await release("time-out");
  return { gave_up: code === "REQUEST_TIMEOUT" || code === -32001, found: await outcome(id) };
}

async function drop(tool, name) {
  const dropping = new AbortController();
  const onprogress = (said) => {
    if (said.message?.includes(job(name).job)) dropping.abort("not needed");
  };
  const dropped = { onprogress, signal: dropping.signal };
  const ended = await call(tool, job(name), dropped).then(
    () => "answered",
    () => "dropped",
  );
  if (ended !== "dropped") throw new Error("the call was answered");
}

async function drops() {
  await drop("interop_tied", "drop");
  const { commands } = await call("command_list", { limit: 1 });
  return { dropped: await outcome(commands[0].command_id) };
}

async function cancels() {
  await drop("interop_work", "cancel");
  const id = await unfinished();
  await call("command_cancel", { command_id: id, reason: "not needed" });
  return { cancelled: await outcome(id) };
}

async function followed(name, onCreated) {
  const statuses = new Set();
  let result = {};
  const params = { name: "interop_work", arguments: job(name) };
  const options = { task: { ttl: 60000 } };
  const told = client.experimental.tasks.callToolStream(params, CallToolResultSchema, options);
  for await (const message of told) {
    if (message.task) statuses.add(message.task.status);
    if (message.type === "taskCreated") await onCreated(message.task.taskId);
    if (message.type === "result") result = message.result.structuredContent;
  }
  return { statuses: [...statuses], result };
}

async function tasks() {
  const done = await followed("task", () => release("task"));
  const gone = await followed("task-cancel", (id) => client.experimental.tasks.cancelTask(id));
  return { ...done, cancelled: gone.statuses.at(-1) };
}

const late = () => new Promise((resolve) => setTimeout(() => resolve(false), Number(bound)).unref());

const { tools } = await client.listTools();
const story = {
  version: modern ? client.getNegotiatedProtocolVersion() : client.transport.protocolVersion,
  tools: tools.map((tool) => tool.name),
  ...(await progress()),
  ...(await accepted()),
  ...(await givesUp()),
  ...(await cancels()),
  ...(await drops()),
  task: modern ? null : await tasks(),
  told: await Promise.race([heardOfTools, late()]),
  asked: modern ? await call("policy_asked", { what: "from TypeScript" }) : null,
};
await client.close();
process.stdout.write(JSON.stringify(story));
