// What a client of the TypeScript SDK does: one JSON line on stdout for each step that it has done.
// Arguments: the SDK's entry, the server's URL, a token, the era (auto or legacy).
const [entry, url, token, era] = process.argv.slice(2);
const { Client, StreamableHTTPClientTransport } = await import(entry);

const say = (step, more = {}) => console.log(JSON.stringify({ step, ...more }));
const asked = (async function* () {
  for await (const line of (await import("node:readline")).createInterface({ input: process.stdin }))
    yield line;
})();
const anything = { "~standard": { version: 1, vendor: "test", validate: (value) => ({ value }) } };
const body = (result) => result.structuredContent;

const options = { capabilities: { elicitation: {} } };
if (era !== "legacy") options.versionNegotiation = { mode: { pin: era } };
const client = new Client({ name: "typescript", version: "1" }, options);
client.setRequestHandler("elicitation/create", async () => ({
  action: "accept",
  content: { confirm: true },
}));
const headers = { Authorization: `Bearer ${token}` };
await client.connect(new StreamableHTTPClientTransport(new URL(url), { requestInit: { headers } }));

const { tools } = await client.listTools();
say("listed", { names: tools.map((tool) => tool.name) });

const heard = [];
const echo = (text) => ({ name: "probe_echo", arguments: { text: `${era} ${text}` } });
const called = await client.callTool(echo("call"), {
  onprogress: ({ progress }) => heard.push(progress),
});
say("called", { result: body(called), heard });

let failure = null;
try {
  // Its tool waits for an hour, so the time is the client's to end, after the call is accepted.
  await client.callTool({ name: "policy_patient", arguments: {} }, { timeout: 3000 });
} catch (error) {
  failure = String(error.code ?? error);
}
const listed = await client.callTool({ name: "command_list", arguments: { limit: 1 } });
const lost = body(listed).commands[0].correlation_id;
say("lost", { failure, id: lost });
await asked.next();
const status = { name: "command_status", arguments: { command_id: lost, wait_s: 5 } };
say("found", { state: body(await client.callTool(status)) });

const accepted = body(await client.callTool(echo("stop")));
const cancel = { name: "command_cancel", arguments: { command_id: accepted.command_id } };
say("cancelled", { accepted, state: body(await client.callTool(cancel)) });

if (era === "legacy") {
  const params = { ...echo("task"), task: { ttl: 60000 } };
  const { task } = await client.request({ method: "tools/call", params }, anything);
  say("started", { task });
  await asked.next();
  const one = { taskId: task.taskId };
  const done = await client.request({ method: "tasks/result", params: one }, anything);
  const after = await client.request({ method: "tasks/get", params: one }, anything);
  say("task", { result: body(done), status: after.status });
} else {
  const grave = await client.callTool({ name: "policy_asked", arguments: { what: "from ts" } });
  say("approved", { result: body(grave) });
}
await client.close();
say("closed");
process.exit(0);
