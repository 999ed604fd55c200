"""A program's four pipes: what it is given, and what it says, within bounds."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from typing import Any, Final, Self

import orjson

from adapters.contract import TARGET_LOST, CallFailedError, Known
from adapters.progress import Telling

PROGRESS_LINE_MAX: Final = 16 * 1024
STDERR_MAX: Final = 4096
"""Bytes of its end that are kept."""
CHUNK: Final = 64 * 1024
DRAIN_S: Final = 10.0
"""For what is still in the pipes when no process holds their other end."""


class Streams:
    """Of one run; stdout is kept up to a bound and read on beyond it, so that no program waits."""

    def __init__(self, stdout_max: int) -> None:
        self._stdout_max = stdout_max
        self.stdout = bytearray()
        self.stderr = bytearray()
        self.overflow = 0
        """Bytes of stdout beyond the bound."""
        pipes = [os.pipe() for _ in range(4)]
        (stdin, given), *outs = pipes
        self.theirs = (stdin, *(theirs for _, theirs in outs))
        self._stdin = os.fdopen(given, "wb", buffering=0)
        self._outs = [os.fdopen(ours, "rb", buffering=0) for ours, _ in outs]
        self._giving = Giving()
        self._transports = list[asyncio.BaseTransport]()
        self._tasks = list[asyncio.Task[None]]()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._giving.abort()
        for transport in self._transports:
            transport.close()
        self.let_go()
        for one in (self._stdin, *self._outs):
            one.close()

    def let_go(self) -> None:
        """Close the program's ends, once it has its own of them."""
        for one in self.theirs:
            os.close(one)
        self.theirs = ()

    async def open(self, given: bytes, telling: Telling) -> None:
        """Begin to give and to read."""
        self.let_go()
        loop = asyncio.get_running_loop()
        stdin, _ = await loop.connect_write_pipe(lambda: self._giving, self._stdin)
        stdin.write(given)
        stdin.write_eof()
        for file, take in zip(
            self._outs, (self._of_stdout, self._of_stderr, ProgressLines(telling).take), strict=True
        ):
            reader = asyncio.StreamReader()
            out, _ = await loop.connect_read_pipe(
                lambda reader=reader: asyncio.StreamReaderProtocol(reader), file
            )
            self._transports.append(out)
            self._tasks.append(asyncio.create_task(_read(reader, take)))

    async def end(self) -> None:
        """Read what is left; its processes have ended.

        Raises:
            CallFailedError: somebody else holds a pipe open.
        """
        done, waiting = await asyncio.wait(self._tasks, timeout=DRAIN_S)
        if waiting:
            words = "The program ended, and something else keeps its output open."
            raise CallFailedError(Known.UNKNOWN, TARGET_LOST, words)
        for one in done:
            one.result()

    def _of_stdout(self, chunk: bytes) -> None:
        room = self._stdout_max - len(self.stdout)
        self.stdout += chunk[:room]
        self.overflow += max(0, len(chunk) - room)

    def _of_stderr(self, chunk: bytes) -> None:
        self.stderr += chunk
        del self.stderr[:-STDERR_MAX]


class Giving(asyncio.BaseProtocol):
    """The pipe to the program's stdin, until all is given or nobody reads any more."""

    def __init__(self) -> None:
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It is closed."""
        self._transport = None

    def abort(self) -> None:
        """Close it, whatever is left to give."""
        if isinstance(self._transport, asyncio.WriteTransport):
            self._transport.abort()


class ProgressLines:
    """Lines of JSON: `{"done", "total", "message"}`; what is none, or too long, is left out."""

    def __init__(self, telling: Telling) -> None:
        self._telling = telling
        self._line = bytearray()
        self._too_long = False

    def take(self, chunk: bytes) -> None:
        """Tell of the whole lines that there are."""
        *ended, rest = chunk.split(b"\n")
        for one in ended:
            self._add(one)
            if not self._too_long:
                self._tell(bytes(self._line))
            self._line.clear()
            self._too_long = False
        self._add(rest)

    def _add(self, part: bytes) -> None:
        self._too_long |= len(self._line) + len(part) > PROGRESS_LINE_MAX
        if not self._too_long:
            self._line += part

    def _tell(self, line: bytes) -> None:
        with contextlib.suppress(orjson.JSONDecodeError):
            said = orjson.loads(line)
            if isinstance(said, dict):
                message = said.get("message")
                self._telling.say(
                    _number(said.get("done")),
                    _number(said.get("total")),
                    message if isinstance(message, str) else None,
                )


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


async def _read(reader: asyncio.StreamReader, take: Callable[[bytes], None]) -> None:
    while chunk := await reader.read(CHUNK):
        take(chunk)
