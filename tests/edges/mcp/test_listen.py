"""subscriptions/listen: tools that come and go, tasks and commands that move."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
import yaml

from app.edges.mcp.listen import WATCHED_MAX
from tests.edges.mcp.conftest import STREAMS_MAX, Front, offer
from tests.edges.mcp.wire import TASKS, call, framed, message, send
from tests.support.stack import wait_for

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
            await front.deny("other", "policy/tied")
            assert (await other.next())[0] == "notifications/tools/list_changed"
            # What ada is told next is her task's end: her tools did not change.
            await front.say(one["taskId"], "", status="ok", result={"text": "witness"})
            method, told = await stream.next()
            assert (method, told["status"]) == ("notifications/tasks", "completed")
    await front.deny("other")


@pytest.mark.guarantee("mcp:list-changed")
async def test_a_change_of_the_catalog_is_told_and_listed_at_every_replica(
    front: Front, twin: Front, tmp_path: Path
) -> None:
    """Neither replica reads its catalog again for an hour unless it is told to."""
    entry = {
        "tool": "new",
        "method": "one",
        "description": "New.",
        "input_schema": {"type": "object"},
    }
    file = tmp_path / "tools.yml"
    file.write_text(yaml.safe_dump({"tools": [entry]}))
    async with front.http("ada") as one, twin.http("ada") as two:
        wanted = {"toolsListChanged": True}
        async with listen(one, wanted) as (here, _), listen(two, wanted) as (there, _):
            await offer(front.dsns.owner, file)
            for stream, http in ((here, one), (there, two)):
                assert (await stream.next())[0] == "notifications/tools/list_changed"
                listed = message(await send(http, "tools/list", {}))["result"]["tools"]
                assert "new_one" in [tool["name"] for tool in listed]


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


async def test_a_stream_too_many_is_refused_until_there_is_room(front: Front) -> None:
    wanted = {"toolsListChanged": True}
    async with front.http("ada") as http:
        async with AsyncExitStack() as streams:
            for number in range(STREAMS_MAX):
                of = await streams.enter_async_context(front.http(f"listens {number}"))
                await streams.enter_async_context(listen(of, wanted))
            async with asyncio.timeout(5):  # one that is open does not end
                sent = await send(http, "subscriptions/listen", {"notifications": wanted})
            assert message(sent)["error"]["message"] == "Too many streams are open; poll instead."

        async def room() -> bool:
            with contextlib.suppress(AssertionError, KeyError):  # it is refused
                async with listen(http, wanted):
                    return True
            return False

        await wait_for(room)


async def test_what_cannot_be_followed_is_refused(front: Front) -> None:
    async with front.http("ada") as http:
        ids = {"notifications": {"taskIds": ["x"]}}
        undeclared = message(await send(http, "subscriptions/listen", ids))
        assert undeclared["error"]["code"] == -32021
        many = {"notifications": {"taskIds": ["x"] * (WATCHED_MAX + 1)}}
        sent = await send(http, "subscriptions/listen", many, extensions=(TASKS,))
        assert message(sent)["error"]["code"] == -32602
