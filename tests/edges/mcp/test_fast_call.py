"""A call that is answered at once gets the SDK's answer, byte for byte, past its transport."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

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
from tests.edges.mcp.wire import TASKS
from tests.support.calls import fetch
from tests.support.stack import listening

KEY = "dev.mcpbroker/idempotency_key"
PREFIX = "io.modelcontextprotocol"
WRITTEN = """
    SELECT tool, method, args, ordering_key, priority, key_source, user_id, state
      FROM commands
     ORDER BY created_at, id
"""
DENY = "INSERT INTO grants VALUES ('demo', 'user', 'mallory', 'probe/*', 'deny', now())"
END: dict[str, tuple[str, str | None, str | None]] = {
    "succeeded": ("succeeded", '{"text": "é ✓", "n": null, "deep": [{"n": null}]}', None),
    "failed": ("failed", None, '{"code": "x", "message": "it broke"}'),
    "broken": ("failed", None, '{"code": "x", "mcp": {"code": -32050, "message": "told"}}'),
}
ENDED = """
    UPDATE commands
       SET state = $2, finished_at = now(), held = false,
           result = CAST($3 AS jsonb), error = CAST($4 AS jsonb)
     WHERE idempotency_key = $1
"""
FAULT = "test/fault"
NORMAL = (
    (rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", b"<uuid>"),
    (rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", b"<time>"),
    (rb"(?mi)^date: [^\r]*", b"date: <date>"),
    (rb"(?mi)^mcp-session-id: [0-9a-f]{32}", b"mcp-session-id: <session>"),
    (rb'"requestState":"[^"]*"', b'"requestState":"<sealed>"'),
)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """A request as it goes onto the wire; None takes a header away."""

    body: Any
    here: bool | None
    """Whether it is served without the SDK's transport; None where a request never comes so far."""
    headers: Mapping[str, str | None] = field(default_factory=dict)
    user: str = "ada"
    tenant: str = "demo"
    scope: str = "tools"
    method: str = "POST"
    more: tuple[tuple[str, str], ...] = ()


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


def call(era: str, name: Any = "probe_echo", arguments: Any = None, **more: Any) -> dict[str, Any]:
    """A tools/call; `meta`, `params` and `body` add to it, `without` takes from its params."""
    meta: dict[str, Any] = {}
    if era == MODERN:
        meta = {
            f"{PREFIX}/protocolVersion": era,
            f"{PREFIX}/clientCapabilities": more.get("capabilities", {}),
            f"{PREFIX}/clientInfo": {"name": "wire", "version": "1"},
        }
    params = {
        "name": name,
        "arguments": {"text": "hi"} if arguments is None else arguments,
        "_meta": meta | more.get("meta", {}),
        **more.get("params", {}),
    }
    for one in more.get("without", ()):
        del params[one]
    whole = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
    return whole | more.get("body", {})


def served(era: str) -> dict[str, Sent]:
    """Calls that are plainly good to read: some are accepted, some refused by their handler."""
    key = str(uuid4())
    bodies: dict[str, Any] = {
        "a call": call(era),
        "an id that is a text": call(era, body={"id": "seven ✓"}),
        "an id of nought": call(era, body={"id": 0}),
        "a field more": call(era, body={"surprise": 1}),
        "no arguments": call(era, without=["arguments"]),
        "arguments of null": call(era, params={"arguments": None}),
        "bad arguments": call(era, arguments={"text": 5}),
        "an argument that cannot be stored": call(era, arguments={"text": "a\0b"}),
        "texts of all kinds": call(era, arguments={"text": 'é ✓ 🙂 \u2028 " \\ \n </script>'}),
        "large numbers": orjson.dumps(call(era)).replace(b'"hi"', b"9" * 30),
        "not a number": orjson.dumps(call(era)).replace(b'"hi"', b"NaN"),
        "the same field twice": orjson.dumps(call(era)).replace(b'"id":7', b'"id":1,"id":7'),
        "all of our meta": call(
            era,
            meta={
                "dev.mcpbroker/ordering_key": "k",
                "dev.mcpbroker/deadline_ms": 60000,
                "dev.mcpbroker/priority": "high",
                "dev.mcpbroker/wait_s": 0,
                KEY: str(uuid4()),
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            },
        ),
        "a key": call(era, meta={KEY: key}),
        "the key again": call(era, meta={KEY: key}),
        "the key for another call": call(era, arguments={"text": "other"}, meta={KEY: key}),
        "a key in the params": call(era, params={"idempotencyKey": key}),
        "a key that is none": call(era, meta={KEY: ""}),
        "a name of ours that is none": call(era, meta={"dev.mcpbroker/nope": 1}),
        "a wait that is none": call(era, meta={"dev.mcpbroker/wait_s": -1}),
        "a patient tool, told not to wait": call(
            era, "policy_patient", {}, meta={"dev.mcpbroker/wait_s": 0}
        ),
        "a call that joins another": call(era, "git_delete", {"dest": "one"}),
        "another that is joined": call(era, "git_delete", {"dest": "one"}),
        "a tool that waits for an operator": call(era, "policy_operated", {}),
        "a tool that asks, to who shows nothing": call(era, "policy_asked", {"what": "x"}),
        "a tool served as a task only": call(era, "policy_task_only", {}),
        "a state that is none of ours": call(
            era, "policy_asked", {"what": "x"}, params={"requestState": "forged"}
        ),
        "odd meta": call(era, meta={"traceparent": 5, "other/name": [1]}),
        "a call that meets a fault": call(era, meta={FAULT: True}),
    }
    made = {name: Sent(body=body, here=True) for name, body in bodies.items()}
    refused = call(era)
    return made | {
        "a key in the header": Sent(body=call(era), headers={"Idempotency-Key": "h"}, here=True),
        "two keys": Sent(
            body=call(era, meta={KEY: "a"}), headers={"Idempotency-Key": "b"}, here=True
        ),
        "a session": Sent(body=call(era), headers={"Mcp-Session-Id": "s"}, here=True),
        "spaces around a header": Sent(
            body=call(era), headers={"Content-Type": " application/json "}, here=True
        ),
        "a tool that is not granted": Sent(body=refused, user="mallory", here=True),
    }


def of_one_era(era: str) -> dict[str, Sent]:
    """What only one era has."""
    if era == LEGACY:
        task = {"task": {"ttl": 60000}}
        bodies = {
            "a task": call(era, params=task),
            "a task of a tool that is none": call(era, "policy_no_task", {}, params=task),
            "a task that is none": call(era, params={"task": 5}),
        }
        return {name: Sent(body=body, here=True) for name, body in bodies.items()}
    tasks = {"extensions": {TASKS: {}}}
    asks: dict[str, Any] = {"elicitation": {}}
    bodies = {
        "a task": call(era, capabilities=tasks),
        "a task of a tool that is none": call(era, "policy_no_task", {}, capabilities=tasks),
        "a question": call(era, "policy_asked", {"what": "x"}, capabilities=asks),
        "a question about arguments": call(
            era, "policy_ticketed", {"what": "x"}, capabilities=asks
        ),
        "capabilities that are none": call(era, capabilities={"extensions": 5}),
    }
    made = {name: Sent(body=body, here=True) for name, body in bodies.items()}
    headed = call(era, "policy_headed", {"region": "eu"})
    other = headed | {}
    return made | {
        "an argument in a header": Sent(body=headed, headers={"Mcp-Param-Region": "eu"}, here=True),
        "an argument not in its header": Sent(body=other, here=False),
        "another name in the header": Sent(
            body=call(era), headers={"Mcp-Name": "git_clone"}, here=False
        ),
        "no name in a header": Sent(body=call(era), headers={"Mcp-Name": None}, here=None),
        "another method in the header": Sent(
            body=call(era), headers={"Mcp-Method": "tools/list"}, here=False
        ),
        "no version in the body": Sent(body=call(LEGACY), here=False),
        "another version": Sent(
            body=call(era), headers={"MCP-Protocol-Version": "2030-01-01"}, here=False
        ),
    }


REFUSED = {
    *("a notification", "no id", "an id that is a truth", "an id that is a fraction"),
    *("another JSON-RPC", "a batch", "no params", "params that are none", "no name"),
    *("a name that is none", "arguments that are none", "meta that is none"),
    *("nothing", "half", "two", "latin-1", "deep", "no Accept", "one kind accepted"),
    *("another host", "a host that begins alike", "another origin"),
}
"""What is no message, or not from where one may come: neither way sees it."""


def handed_on(era: str) -> dict[str, Sent]:
    """What is the SDK's to judge or to stream."""
    good = call(era)
    raw = orjson.dumps(good)
    bodies: dict[str, Any] = {
        "progress": call(era, meta={"progressToken": 1}),
        "a built-in tool": call(era, "command_list", {}),
        "a saga": call(era, "saga_run", {"steps": []}),
        "an unknown tool": call(era, "nope", {}),
        "a tool that is tied to its caller": call(
            era, "policy_tied", {}, meta={"dev.mcpbroker/wait_s": 0}
        ),
        "a longer wait": call(era, "policy_patient", {}, meta={"dev.mcpbroker/wait_s": 0.2}),
        "another method": call(era, body={"method": "ping"}),
        "a notification": {one: good[one] for one in good if one != "id"},
        "no id": call(era, body={"id": None}),
        "an id that is a truth": call(era, body={"id": True}),
        "an id that is a fraction": call(era, body={"id": 1.5}),
        "another JSON-RPC": call(era, body={"jsonrpc": "1.0"}),
        "a batch": [good],
        "a result": {"jsonrpc": "2.0", "id": 7, "result": {}},
        "no params": {one: good[one] for one in good if one != "params"},
        "params that are none": call(era, body={"params": [1]}),
        "no name": call(era, without=["name"]),
        "a name that is none": call(era, 5),
        "arguments that are none": call(era, params={"arguments": [1]}),
        "meta that is none": call(era, params={"_meta": 5}),
        "nothing": b"",
        "half": raw[:40],
        "two": raw * 2,
        "latin-1": raw.replace(b"hi", b"\xe9"),
        "deep": raw.replace(b'"hi"', b"[" * 5000 + b"]" * 5000),
    }
    made = {
        name: Sent(body=body, here=None if name in REFUSED else False)
        for name, body in bodies.items()
    }
    changed: dict[str, dict[str, str | None]] = {
        "no Accept": {"Accept": None},
        "one kind accepted": {"Accept": "application/json"},
        "anything accepted": {"Accept": "*/*"},
        "a charset": {"Content-Type": "application/json; charset=utf-8"},
        "plain text": {"Content-Type": "text/plain"},
        "another host": {"Host": "evil.example"},
        "a host that begins alike": {"Host": "127.0.0.1.evil.example:1"},
        "an origin of ours": {"Origin": "http://localhost:1"},
        "another origin": {"Origin": "http://evil.example"},
    }
    made |= {
        name: Sent(body=good, headers=one, here=None if name in REFUSED else False)
        for name, one in changed.items()
    }
    mark = b"\xef\xbb\xbf" + raw
    return made | {
        "a byte order mark": Sent(body=mark, here=None),
        "a header twice": Sent(body=good, more=(("Accept", "text/plain"),), here=False),
        "an unknown tenant": Sent(body=good, tenant="nobody", here=False),
        "another scope": Sent(body=good, scope="operator", here=None),
        "no token": Sent(body=good, headers={"Authorization": None}, here=None),
        "too much": Sent(body=good, headers={"Content-Length": "2000000"}, here=None),
    }


def ended(era: str) -> dict[str, Sent]:
    """Calls that are repeated after their end."""
    told = {"dev.mcpbroker/wait_s": 0}
    bodies = {state: call(era, meta={KEY: state, **told}) for state in END}
    return {name: Sent(body=body, here=True) for name, body in bodies.items()}


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
