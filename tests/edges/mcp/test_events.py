"""The events extension: each end, wait and approval is told, in order, over replicas and breaks."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx2
import orjson
import pytest

from app.edges.mcp.events import EXTENSION, Events, Subscription
from app.edges.parts import Parts
from app.sagas.store.occurrences import Kind, Position
from devstack.tokens import DevIssuer
from tests.edges.mcp.conftest import STREAMS_PER_USER_MAX, Front
from tests.edges.mcp.test_saga_tools import FAILED, begin, do, plan, relay, step
from tests.edges.mcp.wire import TASKS, call, framed, message, send, send_old
from tests.support.calls import ADA, accept, echo, finish
from tests.support.served import served
from tests.support.stack import wait_for

__all__ = ["relay"]

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


async def poll(http: httpx2.AsyncClient, name: str, cursor: str | None, **more: Any) -> Any:
    """The result of events/poll, or its error."""
    answer = message(await send(http, "events/poll", {"name": name, "cursor": cursor, **more}))
    return answer.get("result") or answer["error"]


async def drained(
    http: httpx2.AsyncClient, name: str, cursor: str, wanted: int, **more: Any
) -> tuple[list[Any], str]:
    """At least so many events from a cursor on, and the cursor after them."""
    found: list[Any] = []
    at = cursor

    async def there() -> bool:
        nonlocal at
        while True:
            told = await poll(http, name, at, **more)
            assert not told["truncated"]
            at = told["cursor"]
            found.extend(told["events"])
            if not told["hasMore"]:
                return len(found) >= wanted

    await wait_for(there)
    return found, at


async def started(http: httpx2.AsyncClient, text: str) -> str:
    made = (await call(http, "probe_echo", {"text": text}, extensions=(TASKS,)))["result"]
    return made["taskId"]


async def ended(front: Front, http: httpx2.AsyncClient, text: str) -> str:
    """A call that has ended."""
    one = await started(http, text)
    await front.say(one, "", status="ok", result={"text": text})
    return one


class Stream:
    """What an events/stream request is told."""

    def __init__(self, lines: Any, number: str) -> None:
        self._lines, self._number = lines, number

    async def next(self, wanted: str) -> Any:
        """The next notification of this kind; heartbeats may come before it."""
        async with asyncio.timeout(15):
            async for line in self._lines:
                if line.startswith("data: "):
                    told = orjson.loads(line.removeprefix("data: "))
                    assert told["params"].pop("_meta") == {SUBSCRIPTION: self._number}
                    kind = told["method"].removeprefix("notifications/events/")
                    if kind == wanted:
                        return told["params"]
                    assert kind == "heartbeat", told
        raise AssertionError("the stream ended")


@asynccontextmanager
async def streaming(
    http: httpx2.AsyncClient, name: str, cursor: str | None, **more: Any
) -> AsyncGenerator[Stream]:
    params = {"name": name, "cursor": cursor, **more}
    headers, body = framed("events/stream", params, None, (EXTENSION,))
    async with http.stream("POST", "/mcp", json=body, headers=headers) as answer:
        assert answer.status_code == 200
        yield Stream(answer.aiter_lines(), body["id"])


@pytest.mark.guarantee("mcp:events")
async def test_each_end_is_told_once_and_in_order_whichever_replica_is_asked(
    front: Front, twin: Front
) -> None:
    async with (
        front.http("ada") as here,
        twin.http("ada") as there,
        front.http("bob") as bob,
        front.http("ada", tenant="other") as other,
    ):
        first = await poll(here, "command.ended", None)
        assert (first["events"], first["truncated"], first["hasMore"]) == ([], False, False)
        strangers = [(await poll(one, "command.ended", None))["cursor"] for one in (bob, other)]
        ids = [await ended(front, here, f"e{n}") for n in range(3)]
        open_one = await started(here, "open")
        found, cursor = await drained(there, "command.ended", first["cursor"], 3, maxEvents=1)
        assert [one["data"]["command_id"] for one in found] == ids
        assert len({one["eventId"] for one in found}) == 3
        assert found[0]["data"] == {
            "command_id": ids[0],
            "tool": "probe_echo",
            "state": "succeeded",
            "outcome_unknown": False,
        }
        await front.say(open_one, "", **FAILED)
        found, cursor = await drained(here, "command.ended", cursor, 1)
        assert [(one["data"]["command_id"], one["data"]["state"]) for one in found] == [
            (open_one, "failed")
        ]
        assert (await poll(there, "command.ended", cursor))["events"] == []
        for http, at in zip((bob, other), strangers, strict=True):
            assert (await poll(http, "command.ended", at))["events"] == []
        # A cursor is a place and no right: with ada's, bob is told of bob's.
        assert (await poll(bob, "command.ended", first["cursor"]))["events"] == []


async def test_what_is_said_of_a_call_after_its_end_is_no_other_end(front: Front) -> None:
    retryable = {"code": "x", "message": "It broke.", "retryable": True}
    async with front.http("dan") as http, front.http("olga", "operator") as operator:
        cursor = (await poll(http, "command.ended", None))["cursor"]
        one = await started(http, "dies")
        for attempt in (1, 2, 3):
            await front.say(one, "", attempt=attempt, status="error", error=retryable)
        found, cursor = await drained(http, "command.ended", cursor, 1)
        assert [each["data"]["state"] for each in found] == ["dead_lettered"]
        discarded = await operator.post(
            f"/operator/dead-letters/{one}/discard", json={"reason": "settled"}
        )
        assert discarded.status_code == 200, discarded.text
        last = await ended(front, http, "last")
        found, _ = await drained(http, "command.ended", cursor, 1)
        assert [each["data"]["command_id"] for each in found] == [last]


@pytest.mark.guarantee("mcp:events")
async def test_what_commits_late_is_told_and_what_came_after_it_waits_for_it(front: Front) -> None:
    """A sequence's numbers would have let the reader go past the open transaction."""
    owner = await asyncpg.connect(front.dsns.owner)
    async with front.http("lea") as http:
        cursor = (await poll(http, "command.ended", None))["cursor"]
        late = await started(http, "late")
        try:
            async with owner.transaction():
                await owner.execute(
                    "INSERT INTO audit.events (tenant_id, type, actor, user_id, command_id, tool,"
                    " method, state_from, state_to) VALUES ('demo', 'command.succeeded', 'test',"
                    " 'lea', $1, 'probe', 'echo', 'running', 'succeeded')",
                    late,
                )
                later = await ended(front, http, "later")
                told = await poll(http, "command.ended", cursor)
                assert told["events"] == [], "it would be lost behind this one"
                cursor = told["cursor"]
        finally:
            await owner.close()
        found, _ = await drained(http, "command.ended", cursor, 2)
    assert [one["data"]["command_id"] for one in found] == [late, later]


@pytest.mark.guarantee("mcp:events")
async def test_a_stream_goes_on_at_another_replica_from_its_last_cursor(
    front: Front, twin: Front
) -> None:
    async with front.http("sam") as here, twin.http("sam") as there:
        async with streaming(here, "command.ended", None) as stream:
            active = await stream.next("active")
            assert not active["truncated"]
            one = await ended(front, here, "one")
            told = await stream.next("event")
            assert (told["name"], told["data"]["command_id"]) == ("command.ended", one)
            assert set(told) == {"eventId", "name", "timestamp", "data", "cursor"}
            cursor = told["cursor"]
        missed = [await ended(front, here, text) for text in ("two", "three")]
        async with streaming(there, "command.ended", cursor) as stream:
            await stream.next("active")
            again = [await stream.next("event") for _ in missed]
            assert [each["data"]["command_id"] for each in again] == missed
            beat = await stream.next("heartbeat")
        after = await poll(here, "command.ended", beat["cursor"])
        assert (after["events"], after["truncated"]) == ([], False)


async def test_a_user_has_so_many_streams(front: Front) -> None:
    async with AsyncExitStack() as opened:
        http = await opened.enter_async_context(front.http("max"))
        streams = [
            await opened.enter_async_context(streaming(http, "saga.ended", None))
            for _ in range(STREAMS_PER_USER_MAX)
        ]
        for one in streams:
            await one.next("active")
        answer = message(await send(http, "events/stream", {"name": "saga.ended"}))
        error = answer["error"]
        assert (error["code"], error["data"]["limit"]) == (-32025, "streams")


@pytest.mark.guarantee("mcp:events")
async def test_what_waits_for_an_approval_is_told_and_narrowed_by_its_tool(front: Front) -> None:
    async with front.http("ann") as http:
        cursor = (await poll(http, "approval.waiting", None))["cursor"]
        await started(http, "asks nobody")
        made = await call(http, "policy_operated", {})
        one = made["result"]["structuredContent"]["command_id"]
        found, _ = await drained(http, "approval.waiting", cursor, 1)
        assert [each["data"] for each in found] == [{"command_id": one, "tool": "policy_operated"}]
        only = {"arguments": {"tool": "policy_operated"}}
        assert (await poll(http, "approval.waiting", cursor, **only))["events"] == found
        only = {"arguments": {"tool": "probe_echo"}}
        assert (await poll(http, "approval.waiting", cursor, **only))["events"] == []


@pytest.mark.guarantee("mcp:events")
async def test_a_sagas_end_and_what_it_waits_for_are_told(front: Front) -> None:
    async with front.http("sue") as http:
        cursors = [
            (await poll(http, name, None))["cursor"] for name in ("saga.ended", "saga.waiting")
        ]
        done = await begin(http, plan(step("a")))
        await do(front, done, "a")
        stuck = await begin(http, plan(step("a"), step("b", "a")))
        await do(front, stuck, "a")
        await do(front, stuck, "b", **FAILED)
        await do(front, stuck, "a", "undo", **FAILED)
        found, _ = await drained(http, "saga.waiting", cursors[1], 1)
        assert [one["data"] for one in found] == [
            {"saga_id": stuck, "state": "compensation_failed"}
        ]
        found, _ = await drained(http, "saga.ended", cursors[0], 1)
        assert [one["data"] for one in found] == [{"saga_id": done, "state": "completed"}]


async def test_what_is_not_served_is_refused_by_its_code(front: Front) -> None:
    async with front.http("ian") as http:
        listed = message(await send(http, "events/list", {}))["result"]
        names = [one["name"] for one in listed["events"]]
        assert names == ["command.ended", "approval.waiting", "saga.ended", "saga.waiting"]
        assert all(one["delivery"] == ["poll", "push"] for one in listed["events"])
        unknown = await poll(http, "command.begun", None)
        assert (unknown["code"], unknown["data"]) == (-32023, {"kind": "event"})
        good = (await poll(http, "command.ended", None))["cursor"]
        for bad in ("x", good + "0" * 20, "9" * 30, "", "1.2.3.4", good.replace(".", "-")):
            assert (await poll(http, "command.ended", bad))["code"] == -32602, bad
        for arguments in ({"tool": "no_such"}, {"tool": 7}, {"what": "x"}):
            told = await poll(http, "command.ended", good, arguments=arguments)
            assert told["code"] == -32602, arguments
        assert (await poll(http, "saga.ended", None, arguments={"tool": "x"}))["code"] == -32602
        wanted = {"name": "command.ended", "delivery": {"url": "https://example.org/"}}
        subscribe = message(await send(http, "events/subscribe", wanted))
        assert subscribe["error"]["code"] == -32026, "no webhook_keys are set here"
        old = await send_old(http, "2025-11-25", "events/list", {})
        assert old["error"]["code"] == -32601
    async with front.http("eda", "results:write") as http:
        assert (await send(http, "events/list", {})).status_code == 403


@pytest.mark.guarantee("mcp:events")
async def test_who_comes_back_too_late_or_from_another_database_is_told_of_the_gap(
    front: Front,
) -> None:
    async with front.http("gus") as http:
        cursor = (await poll(http, "command.ended", None))["cursor"]
        await ended(front, http, "old")
        xid, at, event_id, checked = cursor.split(".")
        old = ".".join((xid, at, event_id, str(int(checked) - 90_000)))
        told = await poll(http, "command.ended", old)
        assert told["truncated"]
        told = await poll(http, "command.ended", ".".join(("9" * 18, at, event_id, checked)))
        assert (told["truncated"], told["events"]) == (True, [])
        assert not (await poll(http, "command.ended", told["cursor"]))["truncated"]
        told = await poll(http, "command.ended", old, maxAgeMs=0)
        assert (told["truncated"], told["events"]) == (True, [])


@pytest.mark.guarantee("mcp:events-end")
async def test_a_stream_whose_tool_is_taken_away_is_ended_and_says_so(front: Front) -> None:
    only = {"tool": "policy_tied"}
    await front.deny("other")
    async with front.http("kim", tenant="other") as http:
        async with streaming(http, "command.ended", None, arguments=only) as stream:
            cursor = (await stream.next("active"))["cursor"]
            await front.deny("other", "policy/tied")
            told = await stream.next("terminated")
        assert told == {
            "error": {
                "code": -32024,
                "message": "Forbidden",
                "data": {"reason": "Access revoked"},
            }
        }
        assert "code" in await poll(http, "command.ended", cursor, arguments=only)
        assert "events" in await poll(http, "command.ended", cursor)
    await front.deny("other")


@pytest.mark.guarantee("mcp:events-end")
async def test_a_suspended_tenants_streams_are_ended_and_it_polls_nothing(front: Front) -> None:
    async with (
        front.http("kim", tenant="other") as http,
        streaming(http, "saga.ended", None) as stream,
    ):
        cursor = (await stream.next("active"))["cursor"]
        await front.allow("other", state="suspended")
        try:
            assert (await stream.next("terminated"))["error"]["code"] == -32024
            assert (await poll(http, "saga.ended", cursor))["code"] == -32024
        finally:
            await front.allow("other", state="active")


async def test_a_gap_in_a_stream_is_told_by_active_again_and_it_goes_on(
    broker: Parts, issuer: DevIssuer
) -> None:
    """Its database was put back to an older state meanwhile: the numbers begin lower."""
    now = datetime.now(UTC)
    one = Subscription(
        who=ADA,
        kind=Kind.COMMAND_ENDED,
        tool=None,
        position=Position.before(10**18),
        since=now - timedelta(days=1),
        truncated=False,
    )
    told = Events(broker).told(one)
    async with asyncio.timeout(10):
        assert (await anext(told))[0] == "active"
        kind, body = await anext(told)
        assert (kind, body["truncated"]) == ("active", True)
        assert body["cursor"] == one.cursor
        assert one.position.xid < 10**18
        written = (await accept(broker, echo("after"), who=ADA)).written.id
        await finish(broker, written, result={"text": "after"})
        kind, body = await anext(told)
        assert (kind, body["data"]["command_id"]) == ("event", str(written))
    await told.aclose()


async def test_events_are_served_where_the_setting_says_so_only(
    broker: Parts, issuer: DevIssuer
) -> None:
    async with served(broker, issuer) as made, made.client("ada") as http:
        answer = message(await send(http, "events/list", {}))
        assert answer["error"]["code"] == -32601
        found = message(await send(http, "server/discover", {}))["result"]["capabilities"]
        assert EXTENSION not in found["extensions"]
