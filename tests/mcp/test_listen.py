"""subscriptions/listen: tools that come and go, tasks and commands that move."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import orjson
import pytest

from app.edges.mcp_listen import WATCHED_MAX
from tests.kernel.calls import fetch
from tests.mcp.conftest import Front
from tests.mcp.wire import TASKS, call, framed, message, send

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


class Stream:
    """What a listen request is told."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines

    async def next(self) -> tuple[str, Any]:
        async with asyncio.timeout(10):
            async for line in self._lines:
                if line.startswith("data: "):
                    told = orjson.loads(line.removeprefix("data: "))
                    return told["method"], told["params"]
        raise AssertionError("the stream ended")


@asynccontextmanager
async def listen(
    http: httpx2.AsyncClient, wanted: dict[str, Any], extensions: tuple[str, ...] = (TASKS,)
) -> AsyncGenerator[tuple[Stream, Any]]:
    params = {"notifications": wanted}
    headers, body = framed("subscriptions/listen", params, None, extensions)
    async with http.stream("POST", "/mcp", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        stream = Stream(answer.aiter_lines())
        method, first = await stream.next()
        assert method == "notifications/subscriptions/acknowledged"
        assert first["_meta"][SUBSCRIPTION] == body["id"]
        yield stream, first["notifications"]


async def change_grants(front: Front, statement: str) -> None:
    await fetch(front.dsns.owner, statement)
    await fetch(front.dsns.owner, "SELECT pg_notify('broker_catalog', '')")


@pytest.mark.guarantee("mcp:list-changed")
async def test_who_gains_or_loses_a_tool_is_told_and_nobody_else(front: Front) -> None:
    wanted = {"toolsListChanged": True}
    async with front.http("ada") as ada, front.http("eve", tenant="other") as eve:
        one = (await call(ada, "probe_echo", {"text": "witness"}, extensions=(TASKS,)))["result"]
        async with (
            listen(ada, wanted | {"taskIds": [one["taskId"]]}) as (stream, honored),
            listen(eve, wanted) as (other, _),
        ):
            assert honored["toolsListChanged"]
            method, told = await stream.next()
            assert (method, told["status"]) == ("notifications/tasks", "working")
            await change_grants(
                front,
                "INSERT INTO grants (tenant_id, subject_kind, subject, pattern, effect)"
                " VALUES ('other', 'tenant', '*', 'policy/tied', 'deny')",
            )
            assert (await other.next())[0] == "notifications/tools/list_changed"
            # What ada is told next is her task's end: her tools did not change.
            await front.say(one["taskId"], "", status="ok", result={"text": "witness"})
            method, told = await stream.next()
            assert (method, told["status"]) == ("notifications/tasks", "completed")
    await change_grants(front, "DELETE FROM grants WHERE pattern = 'policy/tied'")


@pytest.mark.guarantee("mcp:tasks-pushed")
async def test_a_task_is_pushed_as_tasks_get_tells_it(front: Front) -> None:
    async with front.http("ada") as http:
        made = (await call(http, "probe_echo", {"text": "push"}, extensions=(TASKS,)))["result"]
        one = made["taskId"]
        async with listen(http, {"taskIds": [one]}) as (stream, honored):
            assert honored == {"taskIds": [one]}
            method, told = await stream.next()
            assert (method, told["taskId"], told["status"]) == (
                "notifications/tasks",
                one,
                "working",
            )
            await front.say(one, "", status="ok", result={"text": "push"})
            while told["status"] == "working":
                method, told = await stream.next()
    assert told["result"]["structuredContent"] == {"text": "push"}


async def test_a_command_as_a_resource_says_when_it_moved(front: Front) -> None:
    async with front.http("ada") as http:
        made = (await call(http, "probe_echo", {"text": "res"}, extensions=(TASKS,)))["result"]
        uri = f"command://{made['taskId']}"
        async with listen(http, {"resourceSubscriptions": [uri]}) as (stream, honored):
            assert honored == {"resourceSubscriptions": [uri]}
            await front.say(made["taskId"], "", status="ok", result={"text": "res"})
            method, told = await stream.next()
    assert (method, told["uri"]) == ("notifications/resources/updated", uri)


@pytest.mark.guarantee("tenancy:not-guessable")
async def test_anothers_task_is_left_out_like_one_that_never_was(front: Front) -> None:
    async with front.http("ada") as ada, front.http("bob") as bob:
        made = (await call(ada, "probe_echo", {"text": "own"}, extensions=(TASKS,)))["result"]
        unknown = "01900000-0000-7000-8000-000000000000"
        wanted = {"taskIds": [made["taskId"], unknown, "no id"], "toolsListChanged": True}
        async with listen(bob, wanted) as (_, honored):
            assert honored == {"toolsListChanged": True}
        await front.say(made["taskId"], "", status="ok", result={"text": "own"})


async def test_what_cannot_be_followed_is_refused(front: Front) -> None:
    async with front.http("ada") as http:
        ids = {"notifications": {"taskIds": ["x"]}}
        undeclared = message(await send(http, "subscriptions/listen", ids))
        assert undeclared["error"]["code"] == -32021
        many = {"notifications": {"taskIds": ["x"] * (WATCHED_MAX + 1)}}
        sent = await send(http, "subscriptions/listen", many, extensions=(TASKS,))
        assert message(sent)["error"]["code"] == -32602
