"""A call that is answered at once gets the SDK's answer, byte for byte, past its transport."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from mcp.server.context import CallNext, HandlerResult
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from app.edges.guard import Guard
from app.edges.http.fast_call import FastCall
from app.edges.mcp.calls import Context, meta
from app.edges.mcp.fast_call import MODERN, FastCalls
from app.edges.mcp.legacy.sessions import Sessions
from app.edges.mcp.legacy.tasks import VERSION as LEGACY
from app.edges.mcp.messages import Messages
from app.edges.server import build, open_broker
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.edges.mcp.conftest import offer
from tests.edges.mcp.tool_calls import END, FAULT, Sent, ended, handed_on, of_one_era, served
from tests.support.calls import fetch
from tests.support.stack import listening

WRITTEN = """
    SELECT tool, method, args, ordering_key, priority, key_source, user_id, state
      FROM commands
     ORDER BY created_at, id
"""
DENY = "INSERT INTO grants VALUES ('demo', 'user', 'mallory', 'probe/*', 'deny', now())"
ENDED = """
    UPDATE commands
       SET state = $2, finished_at = now(), held = false,
           result = CAST($3 AS jsonb), error = CAST($4 AS jsonb)
     WHERE idempotency_key = $1
"""
NORMAL = (
    (rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", b"<uuid>"),
    (rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", b"<time>"),
    (rb"(?mi)^date: [^\r]*", b"date: <date>"),
    (rb"(?mi)^mcp-session-id: [0-9a-f]{32}", b"mcp-session-id: <session>"),
    (rb'"requestState":"[^"]*"', b'"requestState":"<sealed>"'),
)


@dataclass(slots=True)
class Counted:
    """The SDK's app, and how often it was asked."""

    app: ASGIApp
    asked: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.asked += scope["type"] == "http"
        await self.app(scope, receive, send)


@dataclass(frozen=True, kw_only=True)
class Doors:
    """The same broker behind both ways in."""

    dsns: Dsns
    issuer: DevIssuer
    quick: int
    sdk: int
    handed_on: Counted

    async def answer(self, port: int, era: str, one: Sent) -> bytes:
        """All that the server writes, without what differs by command and time."""
        token = self.issuer.token(tenant=one.tenant, user=one.user, scopes=[one.scope])
        body = one.body if isinstance(one.body, bytes) else orjson.dumps(one.body)
        headers: dict[str, str | None] = {
            "Host": "127.0.0.1:1",
            "Authorization": f"Bearer {token}",
            "Accept": "application/json, text/event-stream",
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "MCP-Protocol-Version": era,
            "Connection": "close",
        }
        if era == MODERN:
            headers |= {"Mcp-Method": "tools/call", "Mcp-Name": name_in(one.body)}
        lines = [*(headers | dict(one.headers)).items(), *one.more]
        text = "".join(f"{name}: {value}\r\n" for name, value in lines if value is not None)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(f"{one.method} /mcp HTTP/1.1\r\n{text}\r\n".encode() + body)
            async with asyncio.timeout(10):
                told = await reader.read()
        finally:
            writer.close()
        head, _, body = told.partition(b"\r\n\r\n")
        # A sealed state's length varies with its time.
        told = told.replace(b"content-length: %d\r\n" % len(body), b"content-length: <right>\r\n")
        assert b"content-length: <right>" in told or b"chunked" in head
        for pattern, instead in NORMAL:
            told = re.sub(pattern, instead, told)
        return told


def name_in(body: Any) -> str | None:
    match body:
        case {"params": {"name": str(name)}}:
            return name
        case _:
            return "probe_echo"


@pytest.fixture
async def doors(database: Dsns, issuer: DevIssuer) -> AsyncIterator[Doors]:
    await offer(database.owner, Path(__file__).with_name("tools.yml"))
    await fetch(database.owner, DENY)
    settings = settings_of(
        database.app, issuer, inline_wait_s=0.01, request_state_keys=(SecretStr("k" * 32),)
    )
    async with AsyncExitStack() as opened:
        broker = await opened.enter_async_context(open_broker(settings))
        guard, hot, sessions, quick = layers(faulty(build(settings, broker)))
        counted = Counted(quick.app)
        with_quick = replace(sessions, app=replace(quick, app=counted))
        ports = [
            await opened.enter_async_context(listening(app, lifespan="auto"))
            for app in (
                replace(guard, app=replace(hot, mcp=Messages(with_quick))),
                plain(faulty(build(settings, broker))),
            )
        ]
        yield Doors(dsns=database, issuer=issuer, quick=ports[0], sdk=ports[1], handed_on=counted)


def layers(app: ASGIApp) -> tuple[Guard, FastCall, Sessions, FastCalls]:
    assert isinstance(app, Guard)
    assert isinstance(app.app, FastCall)
    assert isinstance(app.app.mcp, Messages)
    sessions = app.app.mcp.app
    assert isinstance(sessions, Sessions)
    assert isinstance(sessions.app, FastCalls)
    return app, app.app, sessions, sessions.app


def faulty(app: ASGIApp) -> ASGIApp:
    """The app, where a call that asks for it meets an error that nobody meant."""

    async def fault(ctx: Context, call_next: CallNext) -> HandlerResult:
        if FAULT in meta(ctx):
            raise RuntimeError("broken on purpose")
        return await call_next(ctx)

    layers(app)[-1].server.middleware.append(fault)
    return app


def plain(app: ASGIApp) -> ASGIApp:
    """The app with every MCP request through the SDK's transport."""
    guard, hot, sessions, quick = layers(app)
    return replace(guard, app=replace(hot, mcp=Messages(replace(sessions, app=quick.app))))


async def end(dsn: str) -> None:
    """Stand in for the adapter of those calls."""
    for key, (state, result, error) in END.items():
        await fetch(dsn, ENDED, key, state, result, error)


@pytest.mark.guarantee("hot:same-mcp-answers")
@pytest.mark.parametrize("era", [MODERN, LEGACY])
async def test_a_call_past_the_transport_is_answered_and_written_as_through_it(
    doors: Doors, era: str
) -> None:
    requests = served(era) | of_one_era(era) | handed_on(era)
    here: dict[str, bytes] = {}
    elsewhere: list[str] = []
    for name, one in requests.items():
        asked = doors.handed_on.asked
        here[name] = await doors.answer(doors.quick, era, one)
        assert here[name].startswith(b"HTTP/1.1 "), name
        past = doors.handed_on.asked == asked
        if era == LEGACY:
            assert name != "a call" or not past, "the older era has no way past the transport"
        elif one.here is not None and past is not one.here:
            elsewhere.append(name)
    assert not elsewhere
    written = await fetch(doors.dsns.owner, WRITTEN)
    await fetch(doors.dsns.owner, "TRUNCATE commands, outbox, ordering_heads CASCADE")
    there = {name: await doors.answer(doors.sdk, era, one) for name, one in requests.items()}
    assert here == there
    assert written == await fetch(doors.dsns.owner, WRITTEN)
    assert b'"status":"accepted"' in here["a call"]
    assert b'"replayed":true' in here["the key again"]
    assert b"idempotency_conflict" in here["the key for another call"]
    assert b"Unknown tool" in here["a tool that is not granted"]


async def test_a_repeat_that_does_not_wait_tells_the_outcome_that_is_there(doors: Doors) -> None:
    era = MODERN
    for one in ended(era).values():
        assert b'"status":"accepted"' in await doors.answer(doors.quick, era, one)
    await end(doors.dsns.owner)
    asked = doors.handed_on.asked
    here = {name: await doors.answer(doors.quick, era, one) for name, one in ended(era).items()}
    assert doors.handed_on.asked == asked
    there = {name: await doors.answer(doors.sdk, era, one) for name, one in ended(era).items()}
    assert here == there
    assert b'"n":null' in here["succeeded"]
    assert b"it broke" in here["failed"]
    assert b'"error":{"code":-32050,"message":"told"' in here["broken"]
