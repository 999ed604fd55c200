"""A load generator that costs next to nothing: prepared bytes over keep-alive connections."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any
from uuid import uuid4

import orjson

from benchmarks.measure import Stopwatch

Body = Callable[[], Mapping[str, Any]]


class HttpError(Exception):
    """The server gave another answer than the benchmark expects."""


async def requests_for(
    port: int,
    path: str,
    body: Body,
    *,
    headers: Mapping[str, str],
    callers: int,
    seconds: float,
    expect: bytes,
) -> float:
    """Answers a second, with that many connections that each ask again once answered.

    Raises:
        HttpError: an answer is not 2xx, or does not contain the expected bytes.
    """
    sent_with = {"Content-Type": "application/json", **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in sent_with.items())
    head = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{lines}Content-Length: ").encode()
    answered = 0
    watch = Stopwatch()

    async def caller() -> None:
        nonlocal answered
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        try:
            while watch.s < seconds:
                sent = orjson.dumps(body())
                writer.write(head + str(len(sent)).encode() + b"\r\n\r\n" + sent)
                status, answer = await response(reader)
                if not status.startswith(b"2") or expect not in answer:
                    raise HttpError(f"{status.decode()} {answer[:500].decode()}")
                answered += 1
        finally:
            writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return answered / watch.s


async def response(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """One answer's status and body, by length or in chunks."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = head[9:12]
    lower = head.lower()
    at = lower.find(b"content-length:")
    if at >= 0:
        length = int(lower[at + 15 : lower.index(b"\r\n", at)])
        return status, await reader.readexactly(length)
    whole = b""
    while True:
        size = int(await reader.readuntil(b"\r\n"), 16)
        part = await reader.readexactly(size + 2)
        if size == 0:
            return status, whole
        whole += part[:-2]


def http_call() -> dict[str, Any]:
    """The body of a `POST /mcp/tools/call`."""
    return {
        "tool": "probe",
        "method": "echo",
        "args": {"text": "x" * 200},
        "idempotency_key": str(uuid4()),
    }


def mcp_call(era: str) -> dict[str, Any]:
    """A tools/call of either era."""
    meta: dict[str, Any] = {"dev.mcpbroker/idempotency_key": str(uuid4())}
    meta |= {"dev.mcpbroker/wait_s": 0}  # else the figure is of the wait, too
    if era == MODERN:
        meta |= {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
        }
    arguments = {"text": "x" * 200}
    return {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {"name": "probe_echo", "arguments": arguments, "_meta": meta},
    }


MODERN = "2026-07-28"
LEGACY = "2025-11-25"


def mcp_headers(era: str) -> dict[str, str]:
    """What a client of that era sends with a tools/call."""
    made = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": era}
    if era == MODERN:
        made |= {"Mcp-Method": "tools/call", "Mcp-Name": "probe_echo"}
    return made
