"""The hot route answers as FastAPI's route of the same path would: they are asked side by side."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import httpx
import orjson
import pytest
from uuid_utils.compat import uuid7

from app.config import Settings
from app.edges.guard import Guard
from app.edges.http.fast_call import FastCall
from app.edges.parts import Parts
from app.edges.server import build
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.conftest import auth
from tests.support.calls import fetch

PATH = "/mcp/tools/call"
CALL: dict[str, Any] = {"tool": "probe", "method": "echo", "args": {"text": "hi"}}
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def ordinary(
    settings: Settings, broker: Parts, issuer: DevIssuer
) -> AsyncIterator[httpx.AsyncClient]:
    """The same app without the hot routes in front of FastAPI's."""
    guard = build(settings, broker)
    assert isinstance(guard, Guard)
    assert isinstance(guard.app, FastCall)
    transport = httpx.ASGITransport(
        app=replace(guard, app=guard.app.app), raise_app_exceptions=False
    )
    async with httpx.AsyncClient(
        transport=transport, base_url="http://testserver", headers=auth(issuer, "ada")
    ) as client:
        yield client


async def told(client: httpx.AsyncClient, content: Any, headers: dict[str, str]) -> Any:
    """Status, body and the headers that say anything, without what differs by command."""
    answer = await client.post(PATH, content=content, headers={"Prefer": "respond-async"} | headers)
    body = answer.json()
    for name in ("command_id", "correlation_id", "status_url", "events_url", "deadline_at"):
        body.pop(name, None)
    names = ("content-type", "www-authenticate", "retry-after", "idempotent-replayed")
    return answer.status_code, body, [answer.headers.get(name) for name in names]


def call(**more: Any) -> bytes:
    return orjson.dumps(CALL | more)


async def chunks(size: int) -> AsyncGenerator[bytes]:
    for _ in range(size // 65536):
        yield b" " * 65536


REQUESTS: dict[str, tuple[Any, dict[str, str]]] = {
    "a call": (call(), JSON),
    "every field": (
        call(
            envelope_version="1.0",
            correlation_id=None,
            ordering_key="k",
            deadline_ms=60000,
            priority="high",
            accept_partials=True,
            accept_async=True,
            tenant_id="demo",
            user_id="ada",
        ),
        JSON,
    ),
    "a key in the header": (call(), JSON | {"Idempotency-Key": "in the header"}),
    "two keys": (call(idempotency_key="a"), JSON | {"Idempotency-Key": "b"}),
    "a bad key": (call(), JSON | {"Idempotency-Key": "x" * 300}),
    "a bad key and a bad body": (call(surprise=1), JSON | {"Idempotency-Key": ""}),
    "charset": (call(), {"Content-Type": "application/json; charset=utf-8"}),
    "a JSON suffix": (call(), {"Content-Type": "application/problem+json"}),
    "plain text": (call(), {"Content-Type": "text/plain"}),
    "no content type": (call(), {"Content-Type": ""}),
    "a form": (b"tool=probe", {"Content-Type": "application/x-www-form-urlencoded"}),
    "nothing": (b"", JSON),
    "white space": (b"  ", JSON),
    "half": (b'{"tool": "probe"', JSON),
    "two": (call() * 2, JSON),
    "a list": (b"[1]", JSON),
    "null": (b"null", JSON),
    "a text": (b'"x"', JSON),
    "no tool": (b"{}", JSON),
    "an unknown field": (call(surprise=1), JSON),
    "the same field twice": (b'{"tool": "a", ' + call()[1:], JSON),
    "not a number": (call().replace(b'"hi"', b"NaN"), JSON),
    "half a character": (call().replace(b"hi", b"\\ud800"), JSON),
    "latin-1": (call().replace(b"hi", b"\xe9"), JSON),
    "a byte order mark": (b"\xef\xbb\xbf" + call(), JSON),
    "UTF-16": (call().decode().encode("utf-16"), JSON),
    "a NUL": (call().replace(b"hi", b"\\u0000"), JSON),
    "deep": (call().replace(b'"hi"', b"[" * 5000 + b"]" * 5000), JSON),
    "a saga": (call(saga_id=str(uuid7())), JSON),
    "another tenant": (call(tenant_id="other"), JSON),
    "another version": (call(envelope_version="2.0"), JSON),
    "bad arguments": (call(args={"text": 5}), JSON),
    "an unknown tool": (call(tool="nope"), JSON),
    "too much": (call(args={"text": "x" * 2_000_000}), JSON),
    "no token": (call(), JSON | {"Authorization": ""}),
    "a bad token": (call(), JSON | {"Authorization": "Bearer x.y.z"}),
    "an odd trace": (call(), JSON | {"traceparent": "00-zz"}),
    "an odd wait": (call(), JSON | {"Prefer": "wait=abc, respond-async"}),
}


@pytest.mark.guarantee("hot:same-answers")
@pytest.mark.parametrize("what", REQUESTS)
async def test_the_hot_route_answers_as_the_documented_route_does(
    http: httpx.AsyncClient, ordinary: httpx.AsyncClient, database: Dsns, what: str
) -> None:
    content, headers = REQUESTS[what]
    hot = await told(http, content, headers)
    rows = "SELECT tool, method, args, ordering_key, priority, accept_async FROM commands"
    written = await fetch(database.owner, rows)
    await fetch(database.owner, "TRUNCATE commands, outbox, ordering_heads CASCADE")
    assert hot == await told(ordinary, content, headers)
    assert written == await fetch(database.owner, rows)
    assert hot[0] in {202, 400, 401, 403, 404, 413, 422}


async def test_both_routes_need_the_callers_scope_and_audit_its_want(
    http: httpx.AsyncClient, ordinary: httpx.AsyncClient, issuer: DevIssuer
) -> None:
    headers = JSON | auth(issuer, "eda", "results:write")
    hot = await told(http, call(), headers)
    assert hot == await told(ordinary, call(), headers)
    assert hot[0] == 403
    assert hot[2][1] is not None


async def test_both_routes_repeat_and_refuse_alike(
    http: httpx.AsyncClient, ordinary: httpx.AsyncClient
) -> None:
    first = await told(http, call(idempotency_key="k"), JSON)
    assert first[2][3] is None
    for content in (call(idempotency_key="k"), call(idempotency_key="k", args={"text": "other"})):
        assert await told(http, content, JSON) == await told(ordinary, content, JSON)


async def test_a_body_over_the_limit_without_a_length_is_cut_off(http: httpx.AsyncClient) -> None:
    answer = await told(http, chunks(3_000_000), JSON)
    assert (answer[0], answer[1]["code"]) == (413, "oversize")


async def test_a_call_that_waits_gets_its_result_through_the_hot_route(
    http: httpx.AsyncClient, issuer: DevIssuer
) -> None:
    key = str(uuid7())
    waiting = asyncio.create_task(http.post(PATH, content=call(idempotency_key=key), headers=JSON))
    again = None
    async with asyncio.timeout(10):
        while again is None or again.status_code != 202:
            again = await http.post(
                PATH, content=call(idempotency_key=key), headers=JSON | {"Prefer": "respond-async"}
            )
    one = UUID(again.json()["correlation_id"])
    adapter = auth(issuer, "eda", "results:write", tenant="adapters")
    for path, said in (
        (f"/results/{one}/claim", {"attempt": 1, "adapter": "run"}),
        (f"/results/{one}", {"status": "ok", "result": {"text": "hi"}}),
    ):
        assert (await http.post(path, json=said, headers=adapter)).status_code == 200
    assert (await waiting).json()["result"] == {"text": "hi"}
