"""The worker's side of the launcher: one small process, and a supervisor for each program."""

import asyncio
import contextlib
import errno
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from adapters.contract import (
    INVALID_ARGUMENTS,
    TARGET_BUSY,
    TARGET_UNAVAILABLE,
    CallFailedError,
    Known,
)

LAUNCHER: Final = Path(__file__).with_name("launcher.py")
END_S: Final = 5.0
START_S: Final = 10.0
BUSY: Final = {errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.ETXTBSY}


class Running:
    """A program that has started."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ended(self) -> Mapping[str, int]:
        """`exit` or `signal`; no process of its tree is left then.

        Raises:
            CallFailedError: the supervisor is gone, and with it the program.
        """
        try:
            line = await self._reader.readline()
        except ConnectionError:
            line = b""
        if not line:
            raise CallFailedError(
                Known.UNKNOWN, TARGET_UNAVAILABLE, "The program's supervisor was killed."
            )
        return orjson.loads(line)

    def stop(self) -> None:
        """Ask it to end; after its grace it is ended, with all that it started."""
        with contextlib.suppress(OSError):
            self._writer.write(b"T")

    def close(self) -> None:
        """Whatever runs still is ended."""
        self._writer.close()


class Launcher:
    """Shared by the programs of one executor; started at first use, and again when it is gone."""

    def __init__(self) -> None:
        self._starting = asyncio.Lock()
        self._process: asyncio.subprocess.Process | None = None
        self._socket: socket.socket | None = None

    async def start(self, spec: Mapping[str, Any], streams: tuple[int, ...]) -> Running:
        """Start a program: `streams` are its stdin, stdout, stderr and progress.

        Raises:
            CallFailedError: it has not started.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        try:
            with theirs:
                await self._send([theirs.fileno(), *streams])
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        try:
            writer.write(orjson.dumps(spec) + b"\n")
            async with asyncio.timeout(START_S):
                await writer.drain()
                line = await reader.readline()
        except (ConnectionError, TimeoutError):
            line = b""
        except BaseException:
            writer.close()
            raise
        said: Mapping[str, int] = orjson.loads(line) if line else {"errno": errno.EAGAIN}
        if "started" in said:
            return Running(reader, writer)
        writer.close()
        raise _not_started(said["errno"])

    async def close(self) -> None:
        """End the launcher; supervisors end by themselves, with their programs."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None and self._process.returncode is None:
            try:
                async with asyncio.timeout(END_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._process = self._socket = None

    async def _send(self, descriptors: list[int]) -> None:
        async with self._starting:
            for again in (True, False):
                if self._process is None or self._process.returncode is not None:
                    await self._open()
                assert self._socket is not None
                try:
                    socket.send_fds(self._socket, [b"r"], descriptors)
                except BlockingIOError:
                    words = "Programs are started faster than this machine starts them."
                    raise CallFailedError(Known.NOT_DONE, TARGET_BUSY, words) from None
                except OSError as error:
                    await self.close()  # killed, and not noticed yet
                    if not again:
                        raise _not_started(error.errno or errno.EAGAIN) from None
                else:
                    return

    async def _open(self) -> None:
        await self.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._socket = ours
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                str(LAUNCHER),
                str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                env={"PATH": os.defpath},
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )


def _not_started(number: int) -> CallFailedError:
    words = f"The program was not started: {os.strerror(number)}."
    if number == errno.E2BIG:
        return CallFailedError(Known.REFUSED, INVALID_ARGUMENTS, words)
    if number in BUSY:
        return CallFailedError(Known.NOT_DONE, TARGET_BUSY, words)
    return CallFailedError(Known.NOT_DONE, TARGET_UNAVAILABLE, words)
