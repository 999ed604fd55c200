"""Requests as bytes on a connection: nothing stands between what a test says and what is sent."""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

Headers = Iterable[tuple[bytes, bytes]]

LINES_MAX: Final = 1 << 20
ENDLESS: Final = (b"notifications/subscriptions/acknowledged", b"notifications/events/active")
"""What streams begin with that have no end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back."""

    path: str
    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return json.loads(self.content)

    @property
    def text(self) -> str:
        return self.content.decode()


class Client:
    """Some connections to the app, each for one request at a time."""

    def __init__(self, port: int, token: str, connections: int) -> None:
        self._port = port
        self._always: list[tuple[bytes, bytes]] = [
            (b"host", b"127.0.0.1:%d" % port),
            (b"authorization", f"Bearer {token}".encode()),
        ]
        self._room = asyncio.Semaphore(connections)
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._all: list[asyncio.StreamWriter] = []

    async def ask(
        self,
        method: str,
        path: str,
        headers: Headers = (),
        body: bytes | Sequence[bytes] | None = None,
        late: asyncio.Event | None = None,
    ) -> Answer:
        """Send a request; a body in pieces goes in chunks, the last when `late` is set."""
        pieces = [body] if isinstance(body, bytes) else list(body or ())
        framing = [(b"transfer-encoding", b"chunked")]
        if body is None or isinstance(body, bytes):
            framing = [(b"content-length", b"%d" % len(body or b""))]
        lines = [f"{method} {path} HTTP/1.1".encode()]
        lines += [name + b": " + said for name, said in [*self._always, *framing, *headers]]
        async with self._room:
            reader, writer = self._idle.pop() if self._idle else await self._connect()
            writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
            if isinstance(body, bytes):
                writer.write(body)
            else:
                for piece in pieces:
                    if late is not None and piece is pieces[-1]:
                        await late.wait()
                    if piece:
                        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                if pieces:
                    writer.write(b"0\r\n\r\n")
            answer = await _answer(reader, path)
            if answer.headers.get("connection") == "close":
                writer.close()
            else:
                self._idle.append((reader, writer))
            return answer

    async def get(self, path: str) -> Any:
        """The JSON that is there."""
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer.text
        return answer.json()

    async def post(self, path: str, body: Any, **headers: str) -> Answer:
        """JSON, as an ordinary client sends it."""
        said = [(b"content-type", b"application/json")]
        said += [(name.encode(), one.encode()) for name, one in headers.items()]
        return await self.ask("POST", path, said, json.dumps(body).encode())

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        made = await asyncio.open_connection("127.0.0.1", self._port, limit=LINES_MAX)
        self._all.append(made[1])
        return made

    def close(self) -> None:
        """Close what is open, of requests that were left too."""
        for writer in self._all:
            writer.close()


async def _answer(reader: asyncio.StreamReader, path: str) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): said.strip()
        for name, _, said in (line.partition(":") for line in head[1:] if line)
    }
    content = b""
    if headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readuntil(b"\r\n"), 16):
            content += (await reader.readexactly(size + 2))[:-2]
            if any(one in content for one in ENDLESS):
                headers["connection"] = "close"
                break
        else:
            await reader.readexactly(2)
    else:
        content = await reader.readexactly(int(headers.get("content-length", 0)))
    return Answer(path=path, status=int(head[0].split()[1]), headers=headers, content=content)


@asynccontextmanager
async def client(port: int, token: str, *, connections: int = 24) -> AsyncGenerator[Client]:
    """Closed with the block."""
    made = Client(port, token, connections)
    try:
        yield made
    finally:
        made.close()
