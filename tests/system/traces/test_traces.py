"""One trace a call, as somebody else's receiver of OTLP has it."""

import asyncio
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.support.calls import fetch
from tests.support.spans import Received, covered, named, parents
from tests.support.stack import wait_for
from tests.system.e2e.test_saga import plan
from tests.system.traces.conftest import Observed

CALL = {"tool": "kind", "method": "echo", "args": {"text": "not to be seen"}}
ROUTE = "POST /mcp/tools/call"
PLAYBOOK = "playbook mcp_echo_adapter.yml"
LAST = ("send mcp.results", "command kind.echo")

pytestmark = [pytest.mark.eda, pytest.mark.timeout(300)]


async def ended(observed: Observed, command_id: str) -> None:
    async def final() -> bool:
        rows = await fetch(
            observed.dsns.owner, "SELECT finished_at FROM commands WHERE id = $1", command_id
        )
        return rows[0]["finished_at"] is not None

    await wait_for(final, 60)


@pytest.mark.guarantee("traces:one")
async def test_a_call_over_mcp_through_eda_is_one_trace_of_all_its_time(
    observed: Observed, trace_id: str
) -> None:
    async with observed.client(trace_id) as http:
        transport = streamable_http_client(f"{observed.app.url}/mcp", http_client=http)
        async with Client(transport, mode="2026-07-28") as client:
            result = await client.call_tool("probe_echo", {"text": "not to be seen"})
    assert not result.is_error, result.content
    spans = await observed.receiver.until(
        trace_id, "tools/call probe_echo", "send mcp.results", "command probe.echo", PLAYBOOK
    )
    call = named(spans, "tools/call probe_echo")
    edge = next(one for one in spans if one.span_id == call.parent_id)
    assert (edge.name, edge.kind, edge.parent_id) == ("POST /mcp", "server", "00f067aa0ba902b7")
    assert (call.kind, call.attributes["gen_ai.tool.name"]) == ("server", "probe_echo")
    below = [one for one in spans if one.name not in {"POST /mcp", call.name}]
    below = [one for one in below if one.kind != "server"]
    assert parents([*below, call]) == {
        "tools/call probe_echo": "",
        "command probe.echo": "tools/call probe_echo",
        "wait in the outbox": "command probe.echo",
        "send mcp.commands": "command probe.echo",
        "wait for an executor": "command probe.echo",
        "process mcp.commands": "send mcp.commands",
        "send mcp.results": "command probe.echo",
        "rule probe_echo": "send mcp.commands",
        PLAYBOOK: "rule probe_echo",
        "task Claim the attempt": PLAYBOOK,
        "task Leave a trace": PLAYBOOK,
        "task Report the result": PLAYBOOK,
    }
    said = named(spans, "task Leave a trace").attributes
    assert said["ansible.task.result"] == "skipped"
    assert said["ansible.task.module"] == "ansible.builtin.debug"
    assert covered([call, *below], edge) >= 0.95
    whole = named(spans, "command probe.echo")
    assert covered([one for one in below if one is not whole], whole) >= 0.95
    assert "not to be seen" not in str(spans)
    assert not any(one.failed for one in spans)


@pytest.mark.guarantee("traces:one")
async def test_a_call_through_the_worker_goes_on_to_what_its_adapter_asks(
    observed: Observed, trace_id: str
) -> None:
    async with observed.client(trace_id) as http:
        answer = await http.post("/mcp/tools/call", json=CALL)
    assert answer.json()["status"] == "ok", answer.text
    spans = await observed.receiver.until(trace_id, ROUTE, "run echo", *LAST)
    assert parents(spans) == {
        ROUTE: "",
        "command kind.echo": ROUTE,
        "wait in the outbox": "command kind.echo",
        "send mcp.commands.worker": "command kind.echo",
        "wait for an executor": "command kind.echo",
        "process mcp.commands.worker": "send mcp.commands.worker",
        "run echo": "process mcp.commands.worker",
        "send mcp.results": "command kind.echo",
    }
    edge = named(spans, ROUTE)
    assert covered([one for one in spans if one is not edge], edge) >= 0.95
    work = named(spans, "process mcp.commands.worker")
    assert work.attributes["mcp_broker.run"].startswith("worker:")
    assert work.attributes["mcp_broker.outcome"] == "succeeded"
    assert not [name for one in spans for name in one.attributes if name.endswith("_id")]


@pytest.mark.guarantee("traces:kills")
async def test_a_trace_is_whole_where_app_and_relay_are_killed_in_the_middle(
    observed: Observed, trace_id: str
) -> None:
    async with observed.client(trace_id) as http:
        answer = await http.post("/mcp/tools/call", json=CALL, headers={"Prefer": "respond-async"})
        command_id = answer.json()["command_id"]
        await observed.receiver.until(trace_id, ROUTE, "send mcp.commands.worker")
        await running(observed, command_id)
        observed.app.process.kill()
        observed.relay.kill()
        await asyncio.to_thread(observed.relay.start)
        await asyncio.to_thread(observed.app.start)
        await ended(observed, command_id)
    spans = await observed.receiver.until(trace_id, ROUTE, "run echo", *LAST)
    found = parents(spans)
    assert found["process mcp.commands.worker"] == "send mcp.commands.worker"
    assert found["run echo"] == "process mcp.commands.worker"
    assert [name for name, parent in found.items() if not parent] == [ROUTE]


@pytest.mark.guarantee("traces:batches")
async def test_what_is_published_together_is_one_span_linked_to_each_message(
    observed: Observed, trace_id: str
) -> None:
    observed.relay.kill()
    async with observed.client(trace_id) as http:
        answers = [
            await http.post(
                "/mcp/tools/call",
                json=CALL | {"args": {"text": str(n)}},
                headers={"Prefer": "respond-async"},
            )
            for n in range(3)
        ]
        ids = [one.json()["command_id"] for one in answers]
        await asyncio.to_thread(observed.relay.start)
        for command_id in ids:
            await ended(observed, command_id)
    sent: list[Received] = []

    async def whole() -> bool:
        spans = observed.receiver.spans(trace_id)
        sent[:] = [one for one in spans if one.name == "send mcp.commands.worker"]
        return len(sent) == sum(one.name == "command kind.echo" for one in spans) == len(ids)

    await wait_for(whole, 30)
    spans = observed.receiver.spans(trace_id)
    commands = {one.span_id for one in spans if one.name == "command kind.echo"}
    assert {one.parent_id for one in sent} == commands, "each is of its own call all the same"
    [batch] = observed.receiver.linked(sent[0].span_id)
    assert (batch.name, batch.kind, batch.parent_id) == ("send mcp.commands.worker", "client", "")
    assert set(batch.links) == {one.span_id for one in sent}
    assert batch.trace_id != trace_id
    assert batch.attributes["messaging.batch.message_count"] == "3"


async def running(observed: Observed, command_id: str) -> None:
    async def there() -> bool:
        query = "SELECT state FROM commands WHERE id = $1"
        [row] = await fetch(observed.dsns.owner, query, command_id)
        assert row["state"] != "succeeded", "it ended before anything was killed"
        return row["state"] == "running"

    await wait_for(there, 30)


@pytest.mark.guarantee("metrics:otlp")
@pytest.mark.guarantee("logs:otlp")
async def test_log_lines_and_metrics_of_each_process_are_received(
    observed: Observed, trace_id: str
) -> None:
    async with observed.client(trace_id) as http:
        answer = await http.post("/mcp/tools/call", json=CALL)
    assert answer.json()["status"] == "ok", answer.text

    async def told() -> bool:
        lines = observed.receiver.lines('{"timeUnixNano"')
        of_call = [one for one in lines if one["traceId"] == trace_id]
        said = {one["body"]["stringValue"] for one in of_call}
        return {"accepted", "succeeded"} <= said

    await wait_for(told, 30)
    lines = observed.receiver.lines('{"timeUnixNano"')
    [accepted] = [one for one in lines if one["traceId"] == trace_id and "accepted" in str(one)]
    fields = {one["key"] for one in accepted["attributes"]}
    assert "correlation_id" in fields
    assert not {"trace_id", "span_id"} & fields
    assert accepted["severityText"] == "INFO"
    assert "not to be seen" not in str(lines)

    async def counted() -> bool:
        names = {one["name"] for one in observed.receiver.lines('{"name":"mcpbroker')}
        each = {"accepted_calls_total", "published_rows_total", "worker_calls_total"}
        read = observed.receiver.lines('{"name":"mcpbroker_gauges_read_timestamp_seconds"')
        ages = [point["asDouble"] for one in read for point in one["gauge"]["dataPoints"]]
        return {f"mcpbroker_{name}" for name in each} <= names and any(ages)

    await wait_for(counted, 30)


@pytest.mark.guarantee("traces:sagas")
async def test_a_saga_that_is_undone_is_one_trace_whose_undos_name_what_they_undo(
    observed: Observed, trace_id: str
) -> None:
    async with observed.client(trace_id) as http:
        given: dict[str, Any] = {"plan": plan("traced", fail_at="configure")}
        answer: httpx2.Response = await http.post("/sagas", json=given)
    assert answer.json()["error"]["code"] == "compensated", answer.text
    spans = await observed.receiver.until(
        trace_id, "command saga.run", "command service.deprovision"
    )
    commands = [one for one in spans if one.name.startswith("command ")]
    assert parents(commands) == {
        "command saga.run": "",
        "command service.provision": "command saga.run",
        "command service.configure": "command saga.run",
        "command service.deprovision": "command saga.run",
    }
    undo, done = (named(spans, f"command service.{one}") for one in ("deprovision", "provision"))
    assert undo.links == [done.span_id]
    assert named(spans, "command service.configure").failed
