"""A server on stdio, started by the launcher: with limits, and ended with its whole tree."""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator
from typing import Any, Final

import anyio
import mcp_types as types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from adapters.command.launching import Launcher, Running
from adapters.command.streams import Giving
from adapters.contract import CallFailedError, Opening

STDERR_MAX: Final = 4096
LEAVE_S: Final = 2.0
"""For a server to end by itself when its stdin has ended."""
END_S: Final = 12.0
CHUNK: Final = 64 * 1024
HELD: Final = 64 * 1024

Inward = MemoryObjectSendStream[SessionMessage | Exception]
Outward = MemoryObjectReceiveStream[SessionMessage]


@contextlib.asynccontextmanager
async def stdio(
    launcher: Launcher, spec: dict[str, Any], opening: Opening, said: bytearray
) -> AsyncGenerator[Any]:
    """The streams that a client speaks through; `said` gets the end of its stderr."""
    line_max = opening.target.limits.result_bytes_max + HELD
    pipes = [os.pipe() for _ in range(3)]
    (stdin, given), (told, stdout), (complained, stderr) = pipes
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        running = await launcher.start(spec, (stdin, stdout, stderr, nothing))
    except BaseException:
        for one in (given, told, complained):
            os.close(one)
        raise
    finally:
        for one in (stdin, stdout, stderr, nothing):
            os.close(one)
    loop, giving = asyncio.get_running_loop(), Giving()
    reader, errors = asyncio.StreamReader(limit=line_max), asyncio.StreamReader()
    writer, _ = await loop.connect_write_pipe(lambda: giving, os.fdopen(given, "wb", buffering=0))
    outs = [
        (await loop.connect_read_pipe(
            lambda one=one: asyncio.StreamReaderProtocol(one), os.fdopen(pipe, "rb", buffering=0)
        ))[0]
        for one, pipe in ((reader, told), (errors, complained))
    ]  # fmt: skip
    inward, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, outward = anyio.create_memory_object_stream[SessionMessage](0)
    tasks = [
        asyncio.create_task(_receive(reader, inward)),
        asyncio.create_task(_send(outward, writer, inward)),
        asyncio.create_task(_keep(errors, said)),
    ]
    try:
        yield read, write
    finally:
        read.close()
        write.close()
        giving.abort()
        await _end(running)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for one in (*outs, inward, outward):
            one.close()


async def _receive(reader: asyncio.StreamReader, inward: Inward) -> None:
    """Messages, a line each; what is none is passed on as an error, as the SDK does."""
    async with inward:
        with contextlib.suppress(
            ValueError, ConnectionError, anyio.BrokenResourceError, anyio.ClosedResourceError
        ):
            while line := await reader.readline():
                try:
                    message = types.jsonrpc_message_adapter.validate_json(line, by_name=False)
                except ValueError as error:
                    await inward.send(error)
                else:
                    await inward.send(SessionMessage(message))


async def _send(outward: Outward, writer: asyncio.WriteTransport, inward: Inward) -> None:
    async with outward:
        async for one in outward:
            if writer.is_closing():
                inward.close()
                return
            line = one.message.model_dump_json(by_alias=True, exclude_unset=True)
            writer.write(line.encode() + b"\n")


async def _keep(errors: asyncio.StreamReader, said: bytearray) -> None:
    while chunk := await errors.read(CHUNK):
        said += chunk
        del said[:-STDERR_MAX]


async def _end(running: Running) -> None:
    """Wait for the server, whose stdin has ended; then end it."""
    ended = asyncio.ensure_future(running.ended())
    try:
        await asyncio.wait((ended,), timeout=LEAVE_S)
        if not ended.done():
            running.stop()
            await asyncio.wait((ended,), timeout=END_S)
    finally:
        ended.cancel()
        running.close()
        with contextlib.suppress(CallFailedError, asyncio.CancelledError):
            await ended
