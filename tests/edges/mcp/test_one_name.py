"""A command's id has one name in whatever a client is answered."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.contract import KEY_META
from tests.edges.mcp.conftest import ERAS, Front

ENVELOPE = "correlation_id"


def ids(value: Any, name: str) -> Iterator[str]:
    """Every value of this name, at any depth."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key == name:
                yield one
            yield from ids(one, name)
    elif isinstance(value, list):
        for one in value:
            yield from ids(one, name)


@pytest.mark.guarantee("client:one-name")
@pytest.mark.parametrize("mode", ERAS)
async def test_every_answer_over_mcp_says_command_id(front: Front, mode: str) -> None:
    meta: Any = {KEY_META: f"name-{mode}", "dev.mcpbroker/wait_s": 0}
    async with front.client(f"ines-{mode}", mode=mode) as client:
        made = await client.call_tool("probe_echo", {"text": mode}, meta=meta)
        [one] = set(ids(made.structured_content, "command_id"))
        named = {"command_id": one}
        conflict = await client.call_tool("probe_echo", {"text": "other"}, meta=meta)
        answers = [
            made,
            conflict,
            await client.call_tool("command_status", {**named, "wait_s": 0}),
            await client.call_tool("command_list", {}),
            await client.call_tool("command_cancel", named),
        ]
        read = (await client.read_resource(f"command://{one}")).contents[0]
    for answer in answers:
        told = answer.structured_content
        assert set(ids(told, "command_id")) == {one}, told
        assert not set(ids(told, ENVELOPE)), told
    assert set(ids(made.meta, "command_id")) == {one}
    resource = json.loads(read.text)  # pyright: ignore[reportAttributeAccessIssue]
    assert (resource["command_id"], ENVELOPE in resource) == (one, False)


@pytest.mark.guarantee("client:one-name")
async def test_every_answer_over_http_says_command_id(front: Front) -> None:
    call = {"tool": "probe", "method": "echo", "args": {"text": "a"}, "idempotency_key": "name"}
    async with front.http("ines", "tools", "operator") as http:

        async def told(method: str, path: str, **sent: Any) -> Any:
            return (await http.request(method, path, **sent)).json()

        now = {"Prefer": "respond-async"}
        made = await told("POST", "/mcp/tools/call", json=call, headers=now)
        one = made["command_id"]
        conflict = await told("POST", "/mcp/tools/call", json=call | {"args": {"text": "b"}})
        answers = [
            conflict,
            await told("GET", f"/commands/{one}"),
            await told("GET", "/commands", params={"state": "queued"}),
            await told("POST", f"/commands/{one}/cancel", json={}),
        ]
        ended = await told("POST", "/mcp/tools/call", json=call)
        events = (await http.get(f"/commands/{one}/events")).text
    for answer in answers:
        assert set(ids(answer, "command_id")) == {one}, answer
        assert not set(ids(answer, ENVELOPE)), answer
    # What answers a call is of the envelope's contract, and has its name for the id too.
    last = json.loads(events.rsplit("data: ", 1)[1])
    assert [each[ENVELOPE] for each in (made, ended, last)] == [one] * 3
    assert [each["command_id"] for each in (made, ended, last)] == [one] * 3
