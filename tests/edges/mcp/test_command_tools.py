"""The built-in tools: what models send them, and what models read of them."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import call, message, send

INTERNAL = {"attempt", "priority", "method", "idempotency_key"}
BUILT_IN = {"command_status", "command_cancel", "command_list", "saga_status", "saga_cancel"}
NO_BOUNDS = {*BUILT_IN, "saga_run"}
NOW = {"meta": {"dev.mcpbroker/wait_s": 0}}


async def made(http: httpx2.AsyncClient, tool: str, args: dict[str, Any]) -> str:
    accepted = (await call(http, tool, args, **NOW))["result"]
    return accepted["structuredContent"]["command_id"]


async def asked(http: httpx2.AsyncClient, tool: str, args: dict[str, Any]) -> dict[str, Any]:
    return (await call(http, tool, args))["result"]["structuredContent"]


def inner(schema: Any) -> list[dict[str, Any]]:
    """Every schema in a schema."""
    found = [schema] if isinstance(schema, dict) else []
    rest = schema.values() if isinstance(schema, dict) else schema
    return found + [one for each in rest if isinstance(each, dict | list) for one in inner(each)]


@pytest.mark.guarantee("mcp:built-in")
async def test_what_they_list_survives_clients_that_cut_it(front: Front) -> None:
    async with front.http("ada") as http:
        listed = message(await send(http, "tools/list", {}))["result"]["tools"]
    tools = {tool["name"]: tool for tool in listed}
    assert tools["command_status"]["_meta"] == {"anthropic/alwaysLoad": True}
    for name in NO_BOUNDS:
        for one in inner(tools[name]["inputSchema"]):
            assert not {"minimum", "maximum", "pattern"} & one.keys(), name
    for tool in listed:
        for one in inner(tool["inputSchema"]):
            assert "enum" not in one or "type" in one, (tool["name"], one)
    first = {name: tools[name]["description"][:150] for name in BUILT_IN}
    assert "instead of calling its tool again" in first["command_status"]
    assert "before calling its tool again" in first["command_list"]
    assert "instead of running it again" in first["saga_status"]


@pytest.mark.guarantee("mcp:built-in")
async def test_two_lost_calls_are_told_apart_by_their_arguments(front: Front) -> None:
    async with front.http("lost") as http:
        one = await made(http, "policy_asked", {"what": "one", "secret": "hunter2"})
        two = await made(http, "policy_quick", {"what": "x" * 1000})
        other = await made(http, "probe_echo", {"text": "hi"})
        listed = await asked(http, "command_list", {})
        shown = {found["command_id"]: found for found in listed["commands"]}
        assert shown[one]["arguments"]["what"] == "one"
        assert "hunter2" not in str(listed)
        assert "xxx" in shown[two]["arguments"]
        assert len(shown[two]["arguments"]) < 600
        for found in shown.values():
            assert not INTERNAL & found.keys()
        names: dict[str, set[str]] = {
            "policy_asked": {one},
            "policy": {one, two},
            "probe_echo": {other},
            "none": set(),
        }
        for name, wanted in names.items():
            found = (await asked(http, "command_list", {"tool": name}))["commands"]
            assert {each["command_id"] for each in found} == wanted, name
        assert shown[one]["tool"] == "policy_asked"
        await asyncio.gather(
            *(call(http, "command_cancel", {"command_id": each}) for each in (one, two, other))
        )


@pytest.mark.guarantee("mcp:built-in")
async def test_null_is_absence_and_what_is_over_a_limit_is_the_limit(front: Front) -> None:
    async with front.http(f"limits-{uuid4()}") as http:
        one = await made(http, "probe_echo", {"text": "limits"})
        args = {"state": None, "tool": None, "before": None, "limit": 100_000}
        assert len((await asked(http, "command_list", args))["commands"]) == 1
        assert len((await asked(http, "command_list", {"limit": -3}))["commands"]) == 1
        status = await asked(http, "command_status", {"command_id": one, "wait_s": -7})
        assert status["state"] == "queued"
        assert "Do not call this tool again" in status["next_step"]
        await front.say(one, "", status="ok", result={"text": "limits"})
        patient = {"command_id": one, "wait_s": 100_000, "offset": None}
        done = await asked(http, "command_status", patient)
        assert (done["state"], done["result"]) == ("succeeded", {"text": "limits"})
        assert "do not call the tool again" in done["next_step"]
        assert not INTERNAL & done.keys()


@pytest.mark.guarantee("mcp:built-in")
@pytest.mark.parametrize(
    ("tool", "args", "places"),
    [
        ("command_list", {"limit": "many", "before": "x"}, ["/limit", "/before"]),
        (
            "saga_run",
            {"name": 7, "version": 0, "dry_run": "false", "more": 1},
            ["/name", "/version", "/dry_run", "/more"],
        ),
        ("policy_ticketed", {"what": 5, "ticket": "x", "time": "noon"}, ["/what", "/ticket"]),
    ],
)
async def test_every_wrong_argument_is_told_at_once_with_its_place(
    front: Front, tool: str, args: dict[str, Any], places: list[str]
) -> None:
    async with front.http("ada") as http:
        refused = (await call(http, tool, args))["result"]
    assert refused["isError"]
    for place in places:
        assert f"{place}: " in refused["content"][0]["text"]
        problems = refused["structuredContent"]["error"]["problems"]
        assert place in {one["at"] for one in problems}


@pytest.mark.guarantee("mcp:built-in")
async def test_a_large_result_is_read_in_parts_without_resources(front: Front) -> None:
    """An answer has room for 1,000 bytes here."""
    text = "é✓🙂" * 500
    async with front.http("parts") as http:
        one = await made(http, "probe_echo", {"text": "parts"})
        await front.say(one, "", status="ok", result={"text": text})
        whole = await asked(http, "command_status", {"command_id": one})
        assert (whole["truncated"], "result" in whole) == (True, False)
        assert "offset 0" in whole["next_step"]
        read, offset = "", 0
        while True:
            wanted = {"command_id": one, "offset": offset, "limit": 400}
            part = await asked(http, "command_status", wanted)
            assert part["offset"] == offset
            read += part["result_text"]
            if "next_offset" not in part:
                break
            assert part["next_offset"] > offset
            offset = part["next_offset"]
        beyond = await asked(http, "command_status", {"command_id": one, "offset": 10**6})
    assert read == f'{{"text":"{text}"}}'
    assert len(read) == part["result_chars"]
    assert (beyond["result_text"], "next_offset" in beyond) == ("", False)


@pytest.mark.guarantee("mcp:built-in")
async def test_waiting_for_a_status_is_heard_as_waiting_for_a_call_is(front: Front) -> None:
    said: list[tuple[float, str | None]] = []
    heard = asyncio.Event()

    async def hear(progress: float, total: float | None, message: str | None) -> None:
        said.append((progress, message))
        heard.set()

    async with front.client("hears") as client:
        args: dict[str, Any] = {"text": "hears"}
        meta: Any = {"dev.mcpbroker/wait_s": 0}
        accepted = (await client.call_tool("probe_echo", args, meta=meta)).structured_content
        one = accepted["command_id"]
        asking = asyncio.create_task(
            client.call_tool("command_status", {"command_id": one}, progress_callback=hear)
        )
        async with asyncio.timeout(5):
            await heard.wait()
        await front.say(one, "/claim", attempt=1, adapter="run")
        await front.say(one, "/progress", stage="half", percent=50)
        await front.say(one, "", status="ok", result={"text": "hears"})
        done = (await asking).structured_content
    assert done["result"] == {"text": "hears"}
    assert said[0][0] == 0, "the first is a round number"
    assert [progress for progress, _ in said] == sorted({progress for progress, _ in said})
    assert said[-1] == (50, "half")
