"""A proxy whose connections can go silent: nothing arrives any more, and nothing says so."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

CHUNK: Final = 1 << 16


class SilentProxy:
    """Passes bytes to a port of loopback, until told to swallow them."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._silent: set[asyncio.StreamWriter] = set()
        self._open: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.connections = 0

    def silence(self) -> None:
        """What is open now stays open, and carries nothing more; new connections work."""
        self._silent |= self._open

    def end(self) -> None:
        """What is silent is cut off: whoever closes it need not wait for an answer."""
        for one in self._silent & self._open:
            one.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        self.connections += 1
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._open |= {writer, to_writer}
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass(reader, to_writer))
                group.create_task(self._pass(to_reader, writer))
        finally:
            self._open -= {writer, to_writer}
            for one in (writer, to_writer):
                one.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if writer not in self._silent:
                    writer.write(data)
                    await writer.drain()
        if writer not in self._silent:
            writer.close()


@asynccontextmanager
async def silent_proxy(target: int) -> AsyncGenerator[SilentProxy]:
    """Serve inside the block."""
    proxy = SilentProxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
