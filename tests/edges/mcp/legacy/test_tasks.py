"""Tasks as MCP 2025-11-25 has them, from a client without an SDK."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import message

VERSION = "2025-11-25"
RELATED = "io.modelcontextprotocol/related-task"


async def say(http: httpx2.AsyncClient, method: str, params: Any, *, version: str = VERSION) -> Any:
    body = {"jsonrpc": "2.0", "id": str(uuid4()), "method": method, "params": params}
    headers = {
        "MCP-Protocol-Version": version,
        "Accept": "application/json, text/event-stream",
    }
    return message(await http.post("/mcp", json=body, headers=headers))


async def start(http: httpx2.AsyncClient, text: str) -> Any:
    params = {"name": "probe_echo", "arguments": {"text": text}, "task": {"ttl": 60000}}
    return (await say(http, "tools/call", params))["result"]["task"]


@pytest.mark.parametrize(("version", "has"), [(VERSION, True), ("2025-06-18", False)])
async def test_the_version_that_has_tasks_is_offered_them(
    front: Front, version: str, has: bool
) -> None:
    hello = {
        "protocolVersion": version,
        "capabilities": {},
        "clientInfo": {"name": "wire", "version": "1"},
    }
    async with front.http("ada") as http:
        found = (await say(http, "initialize", hello, version=version))["result"]
        assert found["protocolVersion"] == version
        assert ("tasks" in found["capabilities"]) == has


async def test_each_tool_says_whether_it_is_called_as_a_task(front: Front) -> None:
    async with front.http("ada") as http:
        tools = (await say(http, "tools/list", {}))["result"]["tools"]
    support = {tool["name"]: tool["execution"]["taskSupport"] for tool in tools}
    names = ("policy_task_only", "policy_no_task", "probe_echo", "command_status")
    assert [support[name] for name in names] == ["required", "forbidden", "optional", "forbidden"]


@pytest.mark.guarantee("mcp:legacy-tasks")
async def test_a_task_is_made_polled_listed_and_its_result_waited_for(front: Front) -> None:
    async with front.http("ada") as http:
        made = await start(http, "legacy")
        assert (made["status"], set(made) >= {"ttl", "pollInterval", "createdAt"}) == (
            "working",
            True,
        )
        one = made["taskId"]
        listed = (await say(http, "tasks/list", {}))["result"]["tasks"]
        assert one in [task["taskId"] for task in listed]
        waiting = asyncio.create_task(say(http, "tasks/result", {"taskId": one}))
        await front.say(one, "/progress", stage="half", percent=50, message="way")
        assert (await say(http, "tasks/get", {"taskId": one}))["result"]["statusMessage"] == (
            "half: way (50 %)"
        )
        assert not waiting.done()
        await front.say(one, "", status="ok", result={"text": "legacy"})
        result = (await asyncio.wait_for(waiting, 5))["result"]
        assert result["structuredContent"] == {"text": "legacy"}
        assert result["_meta"][RELATED] == {"taskId": one}
        assert (await say(http, "tasks/get", {"taskId": one}))["result"]["status"] == "completed"


async def test_a_failed_tool_is_a_failed_task_with_its_result(front: Front) -> None:
    async with front.http("ada") as http:
        one = (await start(http, "fails"))["taskId"]
        error = {"code": "x", "message": "boom", "retryable": False}
        await front.say(one, "", status="error", error=error)
        assert (await say(http, "tasks/get", {"taskId": one}))["result"]["status"] == "failed"
        assert (await say(http, "tasks/result", {"taskId": one}))["result"]["isError"]


async def test_a_task_is_cancelled_once(front: Front) -> None:
    async with front.http("ada") as http:
        one = (await start(http, "cancel"))["taskId"]
        assert (await say(http, "tasks/cancel", {"taskId": one}))["result"]["status"] == "cancelled"
        again = await say(http, "tasks/cancel", {"taskId": one})
        assert again["error"]["code"] == -32602


@pytest.mark.guarantee("tenancy:not-guessable")
async def test_foreign_and_unknown_tasks_are_not_found_in_the_same_words(front: Front) -> None:
    async with front.http("ada") as ada, front.http("bob") as bob:
        one = (await start(ada, "mine"))["taskId"]
        for verb in ("get", "result", "cancel"):
            foreign = await say(bob, f"tasks/{verb}", {"taskId": one})
            unknown = await say(bob, f"tasks/{verb}", {"taskId": str(uuid4())})
            assert foreign["error"] == unknown["error"]
        assert (await say(bob, "tasks/list", {}))["result"]["tasks"] == []
        bad = await say(bob, "tasks/list", {"cursor": "no id"})
        assert bad["error"]["code"] == -32602


async def test_a_tool_is_a_task_only_where_it_and_its_version_say_so(front: Front) -> None:
    async with front.http("ada") as http:
        only = {"name": "policy_task_only", "arguments": {}}
        refused = (await say(http, "tools/call", only))["error"]
        assert refused["code"] == -32601
        assert "Nothing was started" in refused["message"]
        made = (await say(http, "tools/call", {**only, "task": {}}))["result"]["task"]
        assert made["status"] == "working"
        never = {"name": "policy_no_task", "arguments": {}, "task": {}}
        assert (await say(http, "tools/call", never))["error"]["code"] == -32601
        bad = {"name": "probe_echo", "arguments": {"text": 5}, "task": {}}
        refused = (await say(http, "tools/call", bad))["error"]
        assert (refused["code"], "schema" in refused["message"]) == (-32602, True)
        older = await say(http, "tasks/get", {"taskId": made["taskId"]}, version="2025-06-18")
        assert older["error"]["code"] in {-32601, -32021}
