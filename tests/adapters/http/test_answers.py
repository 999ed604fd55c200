"""What a server's answers, and its silence, become."""

import asyncio
import base64
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from email.utils import formatdate
from typing import Any

import pytest

from adapters.contract import Failure, Outcome, Result
from adapters.kinds import Adapters
from adapters.targets import Limits, Target
from tests.adapters.executor import Heard, call_of
from tests.adapters.http.conftest import Server, Talk
from tests.adapters.http.test_requests import done, failed

ANSWER: dict[str, Any] = {"method": "POST", "path": "/answer", "body": "{a}"}


async def answered(
    adapters: Adapters, server: Server, asked: dict[str, Any], **fields: Any
) -> Outcome:
    target = server.target(limits=fields.pop("limits", Limits()))
    mapping = ANSWER | fields.pop("mapping", {})
    call = call_of(target, args={"a": asked}, mapping=mapping, **fields)
    return await adapters.run(call, Heard())


async def test_successes_become_results(adapters: Adapters, server: Server) -> None:
    async def value(body: Any, kind: str, **asked: Any) -> Any:
        asked |= {"headers": {"content-type": kind}, "body": body}
        return done(await answered(adapters, server, asked))

    assert await value({"a": 1}, "application/json; charset=utf-8") == {"a": 1}
    assert await value({"a": 1}, "application/hal+json", status=201) == {"a": 1}
    assert await value("", "application/json", status=204) is None
    assert await value("hellö", "text/plain") == {"content_type": "text/plain", "text": "hellö"}
    nul = {"content_type": "text/plain", "base64": base64.b64encode(b"a\0").decode()}
    assert await value("a\0", "text/plain") == nul
    picture = await answered(
        adapters, server, {"base64": "AP8=", "headers": {"content-type": "image/png"}}
    )
    assert isinstance(picture, Result)
    assert picture.content == [{"type": "image", "data": "AP8=", "mimeType": "image/png"}]
    full = await answered(
        adapters,
        server,
        {"status": 202, "body": {"a": 1}, "headers": {"content-type": "application/json"}},
        mapping={"result": "full"},
    )
    assert (done(full)["status"], done(full)["body"]) == (202, {"a": 1})


@pytest.mark.guarantee("adapters:one-rule")
@pytest.mark.parametrize(
    ("status", "code", "safe", "careless"),
    [
        # status, code, and whether an idempotent and another tool's call is tried again
        (400, "target_refused", False, False),
        (401, "target_refused", False, False),
        (404, "target_refused", False, False),
        (408, "target_failed", True, False),
        (409, "target_refused", False, False),
        (425, "target_busy", True, True),
        (429, "target_busy", True, True),
        (500, "target_failed", True, False),
        (501, "target_refused", False, False),
        (503, "target_failed", True, False),
        (304, "target_refused", False, False),
    ],
)
async def test_statuses_become_errors(
    *, adapters: Adapters, server: Server, status: int, code: str, safe: bool, careless: bool
) -> None:
    asked = {"status": status, "body": {"detail": "Not so."}, "headers": {"retry-after": "7"}}
    if status == 409:
        asked = {"status": status, "body": {"detail": "Not so."}}
    for idempotent, retryable in ((True, safe), (False, careless)):
        outcome = failed(await answered(adapters, server, asked, idempotent=idempotent))
        assert (outcome.code, outcome.retryable) == (code, retryable)
        unknown = code == "target_failed" and not retryable
        assert outcome.outcome_unknown == unknown
        assert outcome.retry_after_s == (7 if retryable else None)
        assert outcome.details["status"] == status
        if status != 304:
            assert outcome.message == f"The target answered {status}: Not so."


async def test_a_conflict_with_the_same_request_in_progress_is_not_a_refusal(
    adapters: Adapters, server: Server
) -> None:
    asked = {"status": 409, "body": {"error": {"code": "idempotency_key_in_progress"}}}
    outcome = failed(await answered(adapters, server, asked, idempotent=True))
    assert outcome.retryable


async def test_retry_after_can_be_a_date(adapters: Adapters, server: Server) -> None:
    for given, low, high in (
        (formatdate(time.time() + 90, usegmt=True), 80, 91),
        (formatdate(time.time() - 90, usegmt=True), 0, 0),
        ("99999999", 86400, 86400),
    ):
        asked = {"status": 429, "headers": {"retry-after": given}}
        after = failed(await answered(adapters, server, asked)).retry_after_s
        assert after is not None
        assert low <= after <= high
    for given in ("soon", "-1", "²"):
        asked = {"status": 429, "headers": {"retry-after": given.encode().decode("latin-1")}}
        assert failed(await answered(adapters, server, asked)).retry_after_s is None


async def test_the_mapping_can_know_a_status_better(adapters: Adapters, server: Server) -> None:
    rules = {"statuses": {"404": "done", "500": "not_done", "200": "refused"}}
    assert isinstance(await answered(adapters, server, {"status": 404}, mapping=rules), Result)
    assert failed(await answered(adapters, server, {"status": 500}, mapping=rules)).retryable
    assert isinstance(await answered(adapters, server, {"status": 200}, mapping=rules), Failure)


@pytest.mark.guarantee("adapters:bounded")
async def test_answers_are_bounded(adapters: Adapters, server: Server) -> None:
    limits = Limits(result_bytes_max=1000)
    huge = {"body": "x" * 5_000_000, "headers": {"content-type": "text/plain"}}
    assert failed(await answered(adapters, server, huge, limits=limits)).code == "result_too_large"
    long = {"status": 400, "body": "x" * 5_000_000}
    assert len(failed(await answered(adapters, server, long)).details["body"]) <= 8192
    call = call_of(server.target(limits=limits), mapping={"method": "GET", "path": "/bomb"})
    assert failed(await adapters.run(call, Heard())).code == "result_too_large"
    odd = {"body": "x", "headers": {"content-encoding": "br"}}
    assert failed(await answered(adapters, server, odd)).code == "result_too_large"


async def test_json_that_is_none_is_told(adapters: Adapters, server: Server) -> None:
    for body in ("{", '{"a": NaN}', "\ufeff{}"):
        asked = {"body": body, "headers": {"content-type": "application/json"}}
        outcome = failed(await answered(adapters, server, asked, idempotent=True))
        assert (outcome.code, outcome.retryable) == ("result_unreadable", False)


@pytest.mark.guarantee("adapters:ended")
async def test_cancel_and_deadline_close_the_connection(adapters: Adapters, server: Server) -> None:
    mapping = {"method": "POST", "path": "/slow"}
    heard = Heard()
    running = asyncio.create_task(adapters.run(call_of(server.target(), mapping=mapping), heard))
    await asyncio.wait_for(server.arrived.wait(), 5)
    heard.cancel()
    cancelled = failed(await asyncio.wait_for(running, 5))
    await asyncio.wait_for(server.left.wait(), 5)
    server.left.clear()
    assert (cancelled.code, cancelled.outcome_unknown) == ("cancelled", True)
    call = call_of(server.target(), mapping=mapping, deadline_s=0.2)
    late = failed(await asyncio.wait_for(adapters.run(call, Heard()), 5))
    assert (late.code, late.outcome_unknown) == ("deadline_exceeded", True)
    await asyncio.wait_for(server.left.wait(), 5)


@asynccontextmanager
async def talking(talk: Talk) -> AsyncGenerator[Target]:
    """A server that speaks no HTTP, or not to its end."""

    async def one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await talk(reader, writer)
        writer.close()

    server = await asyncio.start_server(one, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Target(name="odd", kind="http", address=f"http://127.0.0.1:{port}")


@pytest.mark.guarantee("adapters:one-rule")
@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhal",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\x15\x03\x01\x00\x02",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nxxxx",
    ],
)
async def test_a_server_that_breaks_off_leaves_the_outcome_unknown(
    adapters: Adapters, said: bytes
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(said)
        await writer.drain()

    async with talking(talk) as target:
        for idempotent in (True, False):
            mapping = {"method": "POST", "path": "/"}
            call = call_of(target, mapping=mapping, idempotent=idempotent)
            outcome = failed(await asyncio.wait_for(adapters.run(call, Heard()), 10))
            assert outcome.code in ("target_lost", "result_unreadable")
            assert outcome.retryable == (idempotent and outcome.code == "target_lost")
            assert outcome.outcome_unknown == (not idempotent and outcome.code == "target_lost")
        await adapters.close()


async def test_nobody_there_means_that_nothing_was_done(adapters: Adapters, server: Server) -> None:
    held = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = held.sockets[0].getsockname()[1]
    held.close()
    await held.wait_closed()
    target = Target(name="none", kind="http", address=f"http://127.0.0.1:{port}")
    call = call_of(target, mapping={"method": "POST", "path": "/"}, idempotent=False)
    outcome = failed(await adapters.run(call, Heard()))
    assert (outcome.code, outcome.retryable) == ("target_unavailable", True)


@pytest.mark.guarantee("adapters:no-way-out")
async def test_redirects_stay_at_the_target(adapters: Adapters, server: Server) -> None:
    async def led(method: str, status: int, to: str, **fields: Any) -> Outcome:
        mapping = {"method": method, "path": "/redirect", "query": {"status": status, "to": to}}
        call = call_of(server.target(**fields), mapping=mapping | {"body": {"a": 1}})
        return await adapters.run(call, Heard())

    assert done(await led("GET", 302, "/there"))["path"] == "/there"
    kept = done(await led("POST", 307, server.address + "/there"))
    assert (kept["method"], kept["body"]) == ("POST", '{"a":1}')
    assert done(await led("POST", 303, "/there"))["method"] == "GET"
    server.seen.clear()
    for method, status, to in (
        ("POST", 302, "/there"),
        ("GET", 302, "http://example.invalid/there"),
        ("GET", 302, f"http://localhost:{server.address.rpartition(':')[2]}/there"),
        ("GET", 302, "//example.invalid/there"),
        ("GET", 302, "file:///etc/passwd"),
        ("GET", 302, "http://["),
    ):
        outcome = failed(await led(method, status, to))
        assert (outcome.code, outcome.retryable) == ("target_refused", False), to
    loop = f"/redirect?status=302&to=/redirect%3Fstatus%3D302%26to%3D/{'x' * 3}"
    assert done(await led("GET", 302, loop))["path"] == "/xxx"
    assert len(server.seen) == 1


@pytest.mark.parametrize("style", ["location", "operation"])
async def test_accepted_work_is_asked_for_until_it_ends(
    adapters: Adapters, server: Server, style: str
) -> None:
    mapping = {"method": "POST", "path": "/begin", "body": "{a}", "poll": {"every_s": 0.01}}
    heard = Heard()
    args = {"a": {"style": style, "end": "Succeeded"}}
    target = server.target(credential={"type": "bearer", "token": "env:TOKEN"})
    outcome = await adapters.run(call_of(target, args=args, mapping=mapping), heard)
    assert done(outcome) == {"made": "there" if style == "operation" else True}
    asked = [one for one in server.seen if one["path"].startswith("/work")]
    assert len(asked) == 4, "the answer 503 in between is no end"
    assert {one["headers"]["authorization"] for one in asked} == {"Bearer t0ken-t0ken"}
    assert not any("idempotency-key" in one["headers"] for one in asked)
    if style == "operation":
        assert heard.said[0] == (40, 100, "running")


@pytest.mark.parametrize(
    ("style", "end", "unknown"), [("location", "gone", True), ("operation", "failed", False)]
)
async def test_accepted_work_that_fails_or_is_lost(
    *, adapters: Adapters, server: Server, style: str, end: str, unknown: bool
) -> None:
    mapping = {"method": "POST", "path": "/begin", "body": "{a}", "poll": {"every_s": 0.01}}
    call = call_of(server.target(), args={"a": {"style": style, "end": end}}, mapping=mapping)
    outcome = failed(await adapters.run(call, Heard()))
    assert (outcome.retryable, outcome.outcome_unknown) == (False, unknown)


async def test_cancel_is_passed_on_to_accepted_work(adapters: Adapters, server: Server) -> None:
    poll = {"every_s": 0.01, "cancel": "DELETE"}
    mapping = {"method": "POST", "path": "/begin", "body": "{a}", "poll": poll}
    args = {"a": {"style": "operation", "end": "never"}}
    heard = Heard()
    running = asyncio.create_task(
        adapters.run(call_of(server.target(), args=args, mapping=mapping), heard)
    )
    await heard.until_said()
    heard.cancel()
    assert failed(await asyncio.wait_for(running, 5)).code == "cancelled"
    assert server.seen[-1]["method"] == "DELETE"


async def test_accepted_work_is_not_asked_for_elsewhere(adapters: Adapters, server: Server) -> None:
    mapping = {"method": "POST", "path": "/begin", "body": "{a}"}
    args = {"a": {"style": "location", "end": "x", "place": "http://example.invalid/work"}}
    outcome = failed(
        await adapters.run(call_of(server.target(), args=args, mapping=mapping), Heard())
    )
    assert outcome.code == "target_refused"
