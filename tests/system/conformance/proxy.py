"""A loopback proxy that adds a bearer token: the suite cannot send one."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

HEAD_MAX = 64 << 10
REPLACED = (b"authorization:", b"connection:")


@asynccontextmanager
async def proxy(*, port: int, token: str) -> AsyncGenerator[int]:
    """Forward each connection's one request, the Host header as it came; gives our port.

    Bytes are passed on as they come, so streams stream and a disconnect is one at both ends.
    """
    served: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        served.add(task)
        try:
            await _forward(reader, writer, port=port, token=token)
        finally:
            writer.close()
            served.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=HEAD_MAX)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in served:
            task.cancel()
        await asyncio.gather(*served, return_exceptions=True)


async def _forward(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, port: int, token: str
) -> None:
    with suppress(asyncio.IncompleteReadError, ConnectionError):
        head = await reader.readuntil(b"\r\n\r\n")
        first, *headers = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        kept = [line for line in headers if not line.lower().startswith(REPLACED)]
        added = [f"Authorization: Bearer {token}".encode(), b"Connection: close"]
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            up_writer.write(b"\r\n".join([first, *kept, *added]) + b"\r\n\r\n")
            ways = {
                asyncio.create_task(_copy(reader, up_writer)),
                asyncio.create_task(_copy(up_reader, writer)),
            }
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            up_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(HEAD_MAX):
        writer.write(data)
        await writer.drain()
