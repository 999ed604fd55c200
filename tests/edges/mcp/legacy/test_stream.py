"""GET /mcp of the older era: any replica tells of changed tools, also of what changed meanwhile."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx2
import orjson
import pytest
from mcp import types

from tests.edges.mcp.conftest import STREAMS_PER_USER_MAX, Front
from tests.edges.mcp.wire import message, send
from tests.support.stack import wait_for

CHANGED = "notifications/tools/list_changed"
HEADERS = {
    "Accept": "text/event-stream",
    "Mcp-Session-Id": "a name",
    "MCP-Protocol-Version": "2025-11-25",
}


class Stream:
    """What a stream says: (id, message or None)."""

    def __init__(self, lines: Any) -> None:
        self._lines = lines

    async def next(self) -> tuple[str | None, Any]:
        seen: dict[str, str] = {}
        async with asyncio.timeout(10):
            async for line in self._lines:
                if not line and "data" in seen:
                    data = seen["data"]
                    return seen.get("id"), orjson.loads(data) if data else None
                name, _, value = line.partition(": ")
                seen[name] = value
        raise AssertionError("the stream ended")


@asynccontextmanager
async def stream(http: httpx2.AsyncClient, **more: str) -> AsyncGenerator[Stream]:
    async with http.stream("GET", "/mcp", headers=HEADERS | more) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Stream(answer.aiter_lines())


@pytest.mark.guarantee("mcp:list-changed")
async def test_a_session_is_told_when_its_callers_tools_change_at_any_replica_and_others_are_not(
    front: Front, twin: Front
) -> None:
    async with (
        front.http("eve", tenant="other") as one,
        twin.http("eve", tenant="other") as two,
        front.http("ada") as ada,
        stream(one) as here,
        stream(two) as there,
        stream(ada) as stranger,
    ):
        (seen, nothing), (also, _), _ = [await one.next() for one in (here, there, stranger)]
        assert (nothing, also) == (None, seen), "one id, whichever replica is asked"
        await front.deny("other", "policy/tied")
        for told in (await here.next(), await there.next()):
            assert told[1] == {"jsonrpc": "2.0", "method": CHANGED}
            assert told[0] != seen
        await front.deny("demo", "policy/tied")
        assert (await stranger.next())[1]["method"] == CHANGED, "and that is its first"
    await front.deny("demo")
    await front.deny("other")


@pytest.mark.guarantee("mcp:list-changed")
async def test_who_comes_back_is_told_at_once_of_what_changed_meanwhile(
    front: Front, twin: Front
) -> None:
    async with front.http("eve", tenant="other") as one, twin.http("eve", tenant="other") as two:
        async with stream(one) as first:
            seen, _ = await first.next()
        assert seen is not None
        await front.deny("other", "policy/tied")
        async with stream(two, **{"Last-Event-ID": seen}) as again:
            assert await again.next() == (seen, None)
            told, said = await again.next()
            assert (said["method"], told != seen) == (CHANGED, True)
        await front.deny("other")

        async def twin_knows() -> bool:
            return "policy_tied" in (await send(two, "tools/list", {})).text

        await wait_for(twin_knows)
        async with stream(two, **{"Last-Event-ID": seen}) as again:
            await again.next()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await again.next()


@pytest.mark.guarantee("mcp:list-changed")
async def test_the_python_sdks_session_hears_it_and_was_told_that_it_would(front: Front) -> None:
    heard = asyncio.Event()

    async def hear(said: Any) -> None:
        if isinstance(said, types.ToolListChangedNotification):
            heard.set()

    async with front.client("eve", mode="legacy", tenant="other", message_handler=hear) as client:
        capabilities = client.server_capabilities
        assert capabilities is not None
        assert capabilities.tools is not None
        assert capabilities.tools.list_changed

        async def changed() -> bool:
            """Its stream opens by and by; what changed before is not told."""
            await front.deny("other", "policy/tied")
            await front.deny("other")
            return heard.is_set()

        await wait_for(changed)


async def test_a_users_streams_are_bounded_and_another_users_are_its_own(front: Front) -> None:
    async with front.http("greedy") as http, front.http("modest") as other:
        async with AsyncExitStack() as streams:
            opened = [
                await streams.enter_async_context(stream(of))
                for of in [*[http] * STREAMS_PER_USER_MAX, other]
            ]
            for one in opened:
                await one.next()
            async with http.stream("GET", "/mcp", headers=HEADERS) as refused:
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")

        async def room() -> bool:
            async with http.stream("GET", "/mcp", headers=HEADERS) as answer:
                return answer.status_code == 200

        await wait_for(room)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Mcp-Session-Id": ""}, 405),  # no session
        ({"MCP-Protocol-Version": "2026-07-28"}, 405),  # an era that has no such stream
        ({"Accept": "application/json"}, 406),
        ({"Host": "evil.example"}, 421),
        ({"Origin": "https://evil.example"}, 403),
        ({"Authorization": "Bearer x"}, 401),
    ],
)
async def test_what_is_no_stream_of_a_session_is_refused(
    front: Front, headers: dict[str, str], status: int
) -> None:
    async with front.http("ada") as http:
        answer = await http.get("/mcp", headers=HEADERS | headers)
    assert answer.status_code == status


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_only_a_version_that_knows_them_is_sent_an_event_without_data(
    front: Front, version: str
) -> None:
    headers = HEADERS | {"MCP-Protocol-Version": version}
    async with front.http("ada") as http:
        hello = {
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": {"name": "wire", "version": "1"},
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        both = {"Accept": "application/json, text/event-stream"}
        answer = message(await http.post("/mcp", json=body, headers=both))
        assert answer["result"]["capabilities"]["tools"] == {"listChanged": True}
        async with http.stream("GET", "/mcp", headers=headers) as opened, asyncio.timeout(10):
            lines = opened.aiter_lines()
            first = await anext(lines)
    assert first.startswith("id: " if version == "2025-11-25" else ": ")
