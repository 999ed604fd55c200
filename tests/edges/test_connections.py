"""What a connection may cost before anybody knows who it is."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse

from app.edges.parts import Parts
from app.edges.server import build, uvicorn_config
from app.edges.streams import Streams
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.edges.conftest import auth
from tests.support.stack import wait_for

LIMITS: dict[str, Any] = {
    "head_bytes_max": 20_000,
    "head_s": 0.5,
    "body_s": 0.5,
    "connections_max": 10,
    "host": "127.0.0.1",
    "port": 0,
}
BOUND_S = 10


@asynccontextmanager
async def serving(config: uvicorn.Config) -> AsyncGenerator[int]:
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())

    async def bound() -> bool:
        return server.started

    await wait_for(bound)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, BOUND_S)


@pytest.fixture
async def port(issuer: DevIssuer) -> AsyncGenerator[int]:
    settings = settings_of("postgresql://unused", issuer, **LIMITS)
    async with serving(uvicorn_config(settings, PlainTextResponse("served"))) as made:
        yield made


async def said(port: int, *parts: bytes) -> bytes:
    """What the server answers before it closes, or keeps open for a moment after an answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(BOUND_S):
            return await reader.read(10_000)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def poured(writer: asyncio.StreamWriter) -> None:
    """Send a header of 100 MB, as far as it is taken."""
    for _ in range(10_000):
        writer.write(b"y" * 10_000)
        await writer.drain()


HEAD = b"GET / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.guarantee("hostile:bounded")
async def test_an_ordinary_request_is_served(port: int) -> None:
    assert b"200 OK" in await said(port, HEAD, b"X: " + b"y" * 10_000, b"\r\n\r\n")


@pytest.mark.guarantee("hostile:bounded")
async def test_a_large_head_is_refused_or_its_connection_closed(port: int) -> None:
    whole = await said(port, HEAD + b"X: " + b"y" * 30_000 + b"\r\n\r\n")
    assert whole == b"" or b" 431 " in whole.partition(b"\r\n")[0] + b" "
    many = await said(port, HEAD + b"".join(b"X%d: y\r\n" % n for n in range(5000)) + b"\r\n")
    assert many == b"" or b" 431 " in many.partition(b"\r\n")[0] + b" "
    url = await said(port, b"GET /" + b"y" * 30_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert url == b"" or b" 431 " in url.partition(b"\r\n")[0] + b" "
    # One that never ends is cut off where it passes the bound.
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD + b"X: ")
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(poured(writer), BOUND_S)
    writer.close()


@pytest.mark.guarantee("hostile:bounded")
@pytest.mark.parametrize("begun", [b"", b"\r\n", b"GET", HEAD, HEAD + b"\r\n\r\n" + HEAD])
async def test_a_connection_whose_head_does_not_come_is_closed(port: int, begun: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(begun)
    async with asyncio.timeout(BOUND_S):
        try:
            while await reader.read(1000):
                pass
        except ConnectionError:
            pass
    writer.close()


@pytest.mark.guarantee("hostile:bounded")
async def test_an_idle_connection_is_kept_between_requests(port: int) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(HEAD + b"\r\n")
            async with asyncio.timeout(BOUND_S):
                answer = await reader.readuntil(b"served")
            assert b"200 OK" in answer
            async with asyncio.timeout(BOUND_S):  # longer than a head may take
                until = asyncio.get_running_loop().time() + 2 * LIMITS["head_s"]
                while asyncio.get_running_loop().time() < until:
                    assert (await client.get("/")).status_code == 200
        writer.close()


@pytest.mark.guarantee("hostile:bounded")
async def test_there_is_a_bound_on_connections_and_it_frees_itself(port: int) -> None:
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(15)]
    async with asyncio.timeout(BOUND_S):
        # Those over the bound are closed at once, the others when their time is over.
        for reader, _ in held:
            with suppress(ConnectionError):
                await reader.read(1)
    assert b"200 OK" in await said(port, HEAD + b"\r\n")
    for _, writer in held:
        writer.close()


@pytest.mark.guarantee("hostile:bounded")
async def test_a_slow_body_ends_in_408_and_a_user_has_so_many_streams(
    broker: Parts, issuer: DevIssuer
) -> None:
    settings = broker.settings.model_copy(update=LIMITS)
    parts = replace(broker, settings=settings, streams=Streams(total_max=100, user_max=3))
    async with serving(uvicorn_config(settings, build(settings, parts))) as port:
        base = f"http://127.0.0.1:{port}"
        ada, bob = auth(issuer, "ada"), auth(issuer, "bob")

        token = f"Authorization: {ada['Authorization']}\r\n".encode()
        for path in (b"/mcp/tools/call", b"/mcp", b"/sagas"):
            head = b"POST %b HTTP/1.1\r\nHost: testserver\r\nContent-Length: 99\r\n" % path
            kind = b"Content-Type: application/json\r\n\r\n"
            slow = await said(port, head, token, kind, b'{"tool": ')
            assert b" 408 " in slow.partition(b"\r\n")[0], slow
            assert b"slow_body" in slow

        async with httpx.AsyncClient(base_url=base, timeout=BOUND_S) as client:
            body = {"tool": "probe", "method": "echo", "args": {"text": "x"}}
            prefer = {"Prefer": "respond-async"}
            for who in (ada, bob):
                made = await client.post("/mcp/tools/call", json=body, headers={**who, **prefer})
                path = made.json()["events_url"]
                opened = [
                    client.stream("GET", path, headers=who) for _ in range(3 if who is ada else 1)
                ]
                for one in opened:
                    assert (await one.__aenter__()).status_code == 200
                if who is ada:
                    over = await client.get(path, headers=who)
                    assert (over.status_code, over.json()["code"]) == (429, "too_many_streams")
                    assert over.headers["retry-after"]
                for one in opened:
                    await one.__aexit__(None, None, None)
