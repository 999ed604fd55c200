"""The tasks extension (SEP-2663), as a client that declares it sends it over plain HTTP."""

from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.mcp.conftest import Front

VERSION = "2026-07-28"
TASKS = "io.modelcontextprotocol/tasks"


async def rpc(http: httpx2.AsyncClient, method: str, name: str, params: dict[str, Any]) -> Any:
    """One request; `name` is the Mcp-Name header."""
    meta = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    headers = {
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": method,
        "Mcp-Name": name,
        "Accept": "application/json, text/event-stream",
    }
    params = params | {"_meta": meta}
    body = {"jsonrpc": "2.0", "id": str(uuid4()), "method": method, "params": params}
    return (await http.post("/mcp", json=body, headers=headers)).json()


async def start(http: httpx2.AsyncClient, text: str) -> Any:
    params = {"name": "probe_echo", "arguments": {"text": text}}
    return (await rpc(http, "tools/call", "probe_echo", params))["result"]


async def task(http: httpx2.AsyncClient, verb: str, task_id: str, name: str | None = None) -> Any:
    return await rpc(http, f"tasks/{verb}", name or task_id, {"taskId": task_id})


@pytest.mark.guarantee("mcp:tasks")
async def test_a_task_is_durable_polled_and_completed(front: Front) -> None:
    async with front.http("ada") as http:
        made = await start(http, "task")
        assert (made["resultType"], made["status"]) == ("task", "working")
        one = made["taskId"]
        await front.say(one, "/claim", attempt=1, adapter="run")
        await front.say(one, "/progress", stage="half", percent=50, message="way")
        working = (await task(http, "get", one))["result"]
        assert (working["status"], working["statusMessage"]) == ("working", "half: way")
        await front.say(one, "", status="ok", result={"text": "task"})
        done = (await task(http, "get", one))["result"]
    assert done["status"] == "completed"
    assert done["result"]["structuredContent"] == {"text": "task"}


async def test_a_failed_tool_is_a_completed_task_with_an_error(front: Front) -> None:
    async with front.http("ada") as http:
        one = (await start(http, "fails"))["taskId"]
        error = {"code": "x", "message": "boom", "retryable": False}
        await front.say(one, "", status="error", error=error)
        done = (await task(http, "get", one))["result"]
    assert (done["status"], done["result"]["isError"]) == ("completed", True)


async def test_a_task_is_cancelled_and_stays_so(front: Front) -> None:
    async with front.http("ada") as http:
        one = (await start(http, "cancel"))["taskId"]
        assert (await task(http, "cancel", one))["result"]["resultType"] == "complete"
        assert (await task(http, "get", one))["result"]["status"] == "cancelled"


@pytest.mark.guarantee("tenancy:not-guessable")
async def test_foreign_unknown_and_misnamed_tasks_are_refused(front: Front) -> None:
    async with front.http("ada") as ada, front.http("bob") as bob:
        one = (await start(ada, "mine"))["taskId"]
        foreign = (await task(bob, "get", one))["error"]
        unknown = (await task(bob, "get", str(uuid4())))["error"]
        assert (foreign["code"], foreign["message"]) == (unknown["code"], unknown["message"])
        assert foreign["code"] == -32602
        assert (await task(ada, "get", one, name="another"))["error"]["code"] == -32020
        assert (await task(ada, "result", one))["error"]["code"] == -32601
