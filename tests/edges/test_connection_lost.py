"""A connection that dies at any statement of a request: 503 and when to come back, never a 500."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from itertools import cycle, islice
from typing import Any

import asyncpg
import httpx
import httpx2
import pytest
from asyncpg.prepared_stmt import PreparedStatement
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from app.edges import failures
from app.edges.parts import Parts
from app.edges.server import build
from app.postgres.wakeups import NOTIFY
from benchmarks.http import LEGACY, MODERN, mcp_call, mcp_headers
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.conftest import auth
from tests.edges.mcp.wire import message
from tests.support.calls import fetch
from tests.support.faults import STEPS_MAX
from tests.support.stack import PostgresServer, listening, wait_for

pytestmark = pytest.mark.thorough

NOBODY = "01a208ca-483f-77da-84f2-da2218258fda"
CALL = {"tool": "probe", "method": "echo", "args": {"text": "hi"}}
Asked = tuple[str, str, dict[str, Any] | None]
Happen = Callable[[asyncpg.Connection], Awaitable[None]]
REQUESTS: list[Asked] = [
    ("POST", "/mcp/tools/call", CALL),
    ("POST", "/mcp/tools/call", CALL | {"ordering_key": "k"}),
    ("GET", "/commands", None),
    ("GET", f"/commands/{NOBODY}", None),
    ("POST", f"/commands/{NOBODY}/cancel", {"reason": "enough"}),
    ("GET", "/operator/dead-letters", None),
]
ROUNDS_MAX = 10
WORK = ("SELECT", "INSERT", "UPDATE", "WITH")
"""What statements of ours begin with; those around them begin, end and undo transactions."""
WAKEUPS = (NOTIFY, "LISTEN", "UNLISTEN")
DEATHS: list[Exception] = [
    asyncpg.InternalClientError("got result for unknown protocol state 3"),
    asyncpg.InterfaceError("connection is closed"),
    asyncpg.ConnectionDoesNotExistError("closed in the middle of operation"),
    asyncpg.IdleInTransactionSessionTimeoutError("idle for too long"),
    asyncpg.ReadOnlySQLTransactionError("a standby that was the primary"),
    asyncpg.PostgresIOError("no such file"),
    asyncpg.QueryCanceledError("it took too long"),
    asyncpg.DeadlockDetectedError("deadlock"),
    ConnectionResetError("by peer"),
    TimeoutError(),
]


class Breaker:
    """Breaks the n-th statement that this process sends, by whatever pool.

    Wakeups are passed over: they come by themselves, and would take a request's turn.
    """

    def __init__(self) -> None:
        self.left = 0
        self.happen: Happen | None = None
        self.all = True

    async def step(self, conn: asyncpg.Connection, query: str) -> None:
        ours = self.all or query.lstrip().startswith(WORK)
        if self.happen is None or not ours or query.startswith(WAKEUPS):
            return
        self.left -= 1
        if self.left == 0:
            await self.happen(conn)

    @contextmanager
    def at(self, number: int, happen: Happen) -> Generator[None]:
        self.left, self.happen = number, happen
        try:
            yield
        finally:
            self.happen = None


@pytest.fixture
def breaker(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    """Between our code and the driver: the engine prepares statements, the hot pool does not."""
    made = Breaker()

    def broken(
        owner: type, name: str, connection: Callable[[Any], Any], query: Callable[..., str]
    ) -> None:
        whole = getattr(owner, name)

        async def faulty(self: Any, *args: Any, **options: Any) -> Any:
            await made.step(connection(self), query(self, *args))
            return await whole(self, *args, **options)

        monkeypatch.setattr(owner, name, faulty)

    for name in ("execute", "fetch"):
        broken(asyncpg.Connection, name, lambda self: self, lambda _, query, *__: query)
    broken(
        PreparedStatement,
        "fetch",
        lambda self: self._connection,
        lambda self, *_: self.get_query(),
    )
    return made


async def told_so(
    http: httpx.AsyncClient,
    breaker: Breaker,
    request: Asked,
    happen: Happen,
) -> bool:
    """Whether the request, with each of its statements broken in turn, was told so once or more.

    A poll of the background may be what is broken instead: then the same is done again.
    """
    for _ in range(ROUNDS_MAX):
        if await _each_statement(http, breaker, request, happen):
            return True
    return False


async def _each_statement(
    http: httpx.AsyncClient,
    breaker: Breaker,
    request: Asked,
    happen: Happen,
) -> int:
    """How often the request was told so."""
    method, path, body = request
    told = 0
    for step in range(1, STEPS_MAX):
        with breaker.at(step, happen):
            answer = await http.request(
                method, path, json=body, headers={"Prefer": "respond-async"}
            )
        if answer.status_code == 503:
            told += 1
            assert answer.headers["Retry-After"]
            assert answer.headers["Content-Type"] == "application/problem+json"
        else:  # what was broken is of the background, or is done again
            assert answer.status_code < 500, f"{method} {path} at {step}: {answer.text}"
        if breaker.left > 0:
            return told
    raise AssertionError("it has no end")


@pytest.mark.guarantee("postgres:told")
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "open"])
@pytest.mark.parametrize("death", DEATHS, ids=lambda death: type(death).__name__)
async def test_whatever_the_driver_raises_of_a_connection_is_told_as_503(
    http: httpx.AsyncClient,
    breaker: Breaker,
    issuer: DevIssuer,
    database: Dsns,
    death: Exception,
    closed: bool,
) -> None:
    http.headers.update(auth(issuer, "ada", "tools", "operator"))
    breaker.all = closed  # while it is open its transaction can still be undone

    async def die(conn: asyncpg.Connection) -> None:
        if closed:
            conn.terminate()
        raise type(death)(*death.args)  # with a traceback of its own

    for request in REQUESTS:
        assert await told_so(http, breaker, request, die), f"{request} was not broken"
    # Behind a full queue the key is looked up alone.
    http.headers.update(auth(issuer, "eve", tenant="other") | {"Idempotency-Key": "k"})
    full = "UPDATE tenants SET queued_max = 1 WHERE tenant_id = 'other'"
    await fetch(database.owner, full)
    body, respond_async = CALL | {"args": {"text": "first"}}, {"Prefer": "respond-async"}
    first = await http.post("/mcp/tools/call", json=body, headers=respond_async)
    assert first.status_code == 202
    assert await told_so(http, breaker, REQUESTS[0], die)


@pytest.mark.guarantee("postgres:told")
async def test_a_backend_killed_before_any_statement_of_a_request_is_told_as_503(
    http: httpx.AsyncClient, breaker: Breaker, issuer: DevIssuer, template: PostgresServer
) -> None:
    http.headers.update(auth(issuer, "ada", "tools", "operator"))

    async def kill(conn: asyncpg.Connection) -> None:
        pid = conn.get_server_pid()
        breaker.happen = None  # the killer's own statements are whole
        await fetch(template.superuser_dsn, "SELECT pg_terminate_backend($1)", pid)

        async def gone() -> bool:
            alive = "SELECT 1 FROM pg_stat_activity WHERE pid = $1"
            return not await fetch(template.superuser_dsn, alive, pid)

        await wait_for(gone)

    for request in REQUESTS:
        assert await told_so(http, breaker, request, kill), f"{request} was not broken"


@pytest.mark.guarantee("postgres:told")
async def test_over_mcp_it_is_an_error_result_that_says_to_try_again(
    broker: Parts, issuer: DevIssuer, breaker: Breaker
) -> None:
    async with listening(build(broker.settings, broker), lifespan="auto") as port:
        headers = auth(issuer, "ada") | mcp_headers(MODERN)

        async def die(conn: asyncpg.Connection) -> None:
            conn.terminate()
            raise asyncpg.ConnectionDoesNotExistError("closed in the middle of operation")

        told = 0
        async with httpx.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
            # Now and then a statement of the background is the one that is broken.
            for step in islice(cycle(range(1, 7)), STEPS_MAX):
                body = mcp_call(MODERN)
                body["params"]["_meta"]["dev.mcpbroker/wait_s"] = 0
                with breaker.at(step, die):
                    answer = await http.post(f"http://127.0.0.1:{port}/mcp", json=body)
                if answer.status_code != 503:  # the token's check may meet it, before MCP does
                    said = answer.json()
                    if said.get("result", {}).get("isError"):
                        error = said["result"]["structuredContent"]["error"]
                        assert error["code"] == "unavailable"
                        told += 1
                    elif "error" in said:  # before the call was looked at
                        assert said["error"]["data"] == {"code": "unavailable"}
                if told and breaker.left > 0:
                    break
    assert told, "nothing was broken"


@pytest.mark.guarantee("postgres:told")
async def test_any_other_mcp_method_is_told_of_it_by_a_json_rpc_error(
    broker: Parts, issuer: DevIssuer, breaker: Breaker
) -> None:
    async with listening(build(broker.settings, broker), lifespan="auto") as port:
        headers = auth(issuer, "ada") | mcp_headers(LEGACY)
        params = {"uri": f"command://{NOBODY}"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": params}

        async def die(_: asyncpg.Connection) -> None:
            raise asyncpg.ConnectionDoesNotExistError("words that are nobody's business")

        errors: list[Any] = []
        async with httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False) as http:
            for step in islice(cycle(range(1, 5)), STEPS_MAX):
                with breaker.at(step, die):
                    answer = await http.post(f"http://127.0.0.1:{port}/mcp", json=body)
                if answer.status_code != 503:
                    errors.append(message(answer)["error"])
                if len(errors) > 1 and breaker.left > 0:
                    break
    told = [one for one in errors if one["code"] == -32603]
    assert told, errors
    assert all(one["data"] == {"code": "unavailable"} for one in told), told
    assert all("Try again" in one["message"] and "words" not in one["message"] for one in told)


async def test_what_nobody_foresaw_is_a_problem_too_and_counted() -> None:
    async def broken(_: Request) -> Response:
        raise RuntimeError("words that are nobody's business")

    app = Starlette(routes=[Route("/broken", broken)])
    failures.install(app, metadata_url="", on_refused=lambda *_: None)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as http:
        answer = await http.get("/broken")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert "words" not in answer.text
