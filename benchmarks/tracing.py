"""What it costs intake to record and send every trace: an app that does, beside one that does not.

Both are on one database, and take turns. The receiver only reads: a collector's work is not ours.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import http
from benchmarks.idle import processor_s
from benchmarks.measure import Figure, at_least, in_turns
from benchmarks.servers import Servers
from devstack.stack import AppProcess

CALLERS: Final = 64
GOAL: Final = 0.97
TURNS: Final = 5
"""Times as many turns as elsewhere: what is looked for is smaller than what turns differ by."""


@dataclass(slots=True)
class Receiver:
    """An endpoint of OTLP that reads and says yes."""

    port: int = 0
    received_bytes: int = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                at = head.index(b"content-length:")
                size = int(head[at + 15 : head.index(b"\r\n", at)])
                await reader.readexactly(size)
                self.received_bytes += size
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionResetError):
            writer.close()


@asynccontextmanager
async def receiving() -> AsyncGenerator[Receiver]:
    """A receiver on a port of its own."""
    made = Receiver()
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0, limit=1 << 24)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()


async def intake_with_and_without(servers: Servers) -> list[Figure]:
    """Calls over HTTP and MCP at 100 % of traces, beside the same without any."""
    figures: list[Figure] = []
    async with servers.database() as dsns, receiving() as receiver:
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{receiver.port}"}
        async with servers.app(dsns.app) as plain, servers.app(dsns.app, **endpoint) as traced:
            for name, path, body, more, expect in WAYS:
                headers = {"Authorization": f"Bearer {servers.token()}", **more}
                figures += await compared(servers, plain, traced, name, path, body, headers, expect)
        assert receiver.received_bytes > 0, "nothing was traced"
    return figures


async def compared(
    servers: Servers,
    plain: AppProcess,
    traced: AppProcess,
    name: str,
    path: str,
    body: http.Body,
    headers: dict[str, str],
    expect: bytes,
) -> list[Figure]:
    """The rates of both apps, and what of a processor a call takes of each."""
    seconds = servers.pick(2, 1)
    spent: dict[str, list[float]] = {"plain": [], "traced": []}

    async def calls(which: str, app: AppProcess) -> float:
        before = processor_s(app.process.pid)
        rate = await http.requests_for(
            app.port,
            path,
            body,
            headers=headers,
            callers=CALLERS,
            seconds=seconds,
            expect=expect,
        )
        took_s = processor_s(app.process.pid) - before
        spent[which].append(1e6 * took_s / (rate * seconds))
        return rate

    for which, app in (("plain", plain), ("traced", traced)):
        await calls(which, app)  # it has its plans and connections then
        spent[which].clear()
    found = await in_turns(
        servers.repeats * servers.pick(TURNS, 1),
        traced=lambda: calls("traced", traced),
        plain=lambda: calls("plain", plain),
    )
    of = f"{name}, {CALLERS} callers"
    rates: dict[str, Any] = {"subject": found["traced"], "baseline": found["plain"]}
    against = "without traces"
    return [
        at_least(GOAL, name=f"{of}, every trace", unit="calls/s", against=against, **rates),
        Figure(
            name=f"{of}, every trace: the app's processor time of a call",
            unit="us",
            subject=spent["traced"],
            baseline=spent["plain"],
            against=against,
        ),
    ]


Way = tuple[str, str, Callable[[], Any], dict[str, str], bytes]
WAYS: Final[tuple[Way, ...]] = (
    (
        "POST /mcp/tools/call",
        "/mcp/tools/call",
        http.http_call,
        {"Prefer": "respond-async"},
        b'"status":"accepted"',
    ),
    (
        "MCP tools/call",
        "/mcp",
        lambda: http.mcp_call(http.MODERN),
        http.mcp_headers(http.MODERN),
        b"ccepted",
    ),
)
