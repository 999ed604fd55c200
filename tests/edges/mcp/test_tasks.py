"""The tasks extension (SEP-2663), as a client that declares it sends it over plain HTTP."""

import asyncio
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import TASKS, call, message, send, task
from tests.support.calls import fetch


async def start(http: httpx2.AsyncClient, text: str) -> Any:
    return (await call(http, "probe_echo", {"text": text}, extensions=(TASKS,)))["result"]


@pytest.mark.guarantee("mcp:tasks")
async def test_a_task_is_durable_polled_and_completed(front: Front) -> None:
    async with front.http("ada") as http:
        made = await start(http, "task")
        assert (made["resultType"], made["status"]) == ("task", "working")
        one = made["taskId"]
        await front.say(one, "/claim", attempt=1, adapter="run")
        await front.say(one, "/progress", stage="half", percent=50, message="way")
        working = (await task(http, "get", one))["result"]
        assert (working["status"], working["statusMessage"]) == ("working", "half: way (50 %)")
        await front.say(one, "", status="ok", result={"text": "task"})
        done = (await task(http, "get", one))["result"]
    assert (done["status"], done["statusMessage"]) == ("completed", "succeeded")
    assert done["result"]["structuredContent"] == {"text": "task"}


@pytest.mark.guarantee("mcp:tasks-soon")
async def test_a_call_that_ends_soon_is_no_task_and_one_that_does_not_is(front: Front) -> None:
    """This tool's call waits for two seconds before it is a task."""
    async with front.http("soon") as http:
        ends = asyncio.create_task(call(http, "policy_soon", {"what": "a"}, extensions=(TASKS,)))
        one = await front.newest("soon")
        await front.say(one, "", status="ok", result={"done": "a"})
        result = (await ends)["result"]
        assert (result["resultType"], result["structuredContent"]) == ("complete", {"done": "a"})
        asked = {"extensions": (TASKS,)}
        goes_on = (await call(http, "policy_soon", {"what": "b"}, **asked))["result"]
        assert (goes_on["resultType"], goes_on["status"]) == ("task", "working")
        meta = {"dev.mcpbroker/wait_s": 0}
        async with asyncio.timeout(1.5):
            at_once = (await call(http, "policy_soon", {"what": "c"}, meta=meta, **asked))["result"]
        assert at_once["resultType"] == "task"


async def test_a_task_that_joins_an_identical_call_says_so_in_words(front: Front) -> None:
    async with front.http("joins") as http:
        tasks = [
            (await call(http, "git_delete", {"dest": "t"}, extensions=(TASKS,)))["result"]
            for _ in range(2)
        ]
        first, again = tasks
        assert first["taskId"] == again["taskId"]
        assert "joined" not in first.get("statusMessage", "")
        assert again["statusMessage"].startswith("joined an identical call of yours")
        await task(http, "cancel", first["taskId"])


async def test_a_failed_tool_is_a_completed_task_with_an_error(front: Front) -> None:
    async with front.http("ada") as http:
        one = (await start(http, "fails"))["taskId"]
        error = {"code": "x", "message": "boom", "retryable": False}
        await front.say(one, "", status="error", error=error)
        done = (await task(http, "get", one))["result"]
    assert (done["status"], done["result"]["isError"]) == ("completed", True)
    assert "boom" in done["statusMessage"]


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


async def test_a_client_that_did_not_declare_tasks_gets_none(front: Front) -> None:
    before = await fetch(front.dsns.owner, "SELECT count(*) AS n FROM commands")
    async with front.http("ada") as http:
        one: dict[str, Any] = {"taskId": str(uuid4())}
        tool: dict[str, Any] = {"name": "policy_task_only", "arguments": {}}
        for method, name, params in (
            ("tasks/get", one["taskId"], one),
            ("tasks/cancel", one["taskId"], one),
            ("tools/call", tool["name"], tool),
        ):
            sent = await send(http, method, params, name=name)
            error = message(sent)["error"]
            assert error["code"] == -32021
            assert TASKS in error["data"]["requiredCapabilities"]["extensions"]
            if method == "tools/call":
                assert "policy_task_only runs as a task only" in error["message"]
                assert "Nothing was started" in error["message"]
    assert await fetch(front.dsns.owner, "SELECT count(*) AS n FROM commands") == before


async def test_a_tool_that_is_a_task_only_is_one_for_a_client_that_declares_them(
    front: Front,
) -> None:
    async with front.http("ada") as http:
        made = (await call(http, "policy_task_only", {}, extensions=(TASKS,)))["result"]
        assert made["resultType"] == "task"
        assert (await task(http, "get", made["taskId"]))["result"]["status"] == "working"


async def test_an_update_that_nothing_asked_for_is_acknowledged_to_the_owner_only(
    front: Front,
) -> None:
    async with front.http("ada") as ada, front.http("bob") as bob:
        one = (await start(ada, "update"))["taskId"]
        answers: dict[str, Any] = {"inputResponses": {"never-asked": {"action": "accept"}}}
        assert (await task(ada, "update", one, **answers))["result"]["resultType"] == "complete"
        assert (await task(ada, "get", one))["result"]["status"] == "working"
        assert (await task(bob, "update", one, **answers))["error"]["code"] == -32602
        assert (await task(bob, "cancel", one))["error"]["code"] == -32602


async def test_a_cancel_of_a_running_task_asks_its_adapter_which_may_still_complete(
    front: Front,
) -> None:
    async with front.http("ada") as http:
        one = (await start(http, "late"))["taskId"]
        await front.say(one, "/claim", attempt=1, adapter="run")
        await task(http, "cancel", one)
        assert (await task(http, "get", one))["result"]["status"] == "working"
        asked = await front.say(one, "/progress", stage="half")
        assert asked["cancel_requested"]
        await front.say(one, "", status="ok", result={"text": "late"})
        assert (await task(http, "get", one))["result"]["status"] == "completed"
