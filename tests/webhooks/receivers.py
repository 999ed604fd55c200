"""Receivers of webhooks, on loopback: real sockets that answer as a test says, or do not."""

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from standardwebhooks import Webhook

from tests.support.stack import wait_for

OK = b"HTTP/1.1 204 No Content\r\n\r\n"


def status(code: int, *headers: str, body: bytes = b"") -> bytes:
    lines = [f"HTTP/1.1 {code} Said", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Got:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    def verified(self, secret: str) -> Any:
        """The body, by the specification's own verifier."""
        return Webhook(secret).verify(self.body, self.headers)


Answer = Callable[[Got], Awaitable[bytes | None]]


async def fine(_: Got) -> bytes | None:
    return OK


@dataclass(slots=True, kw_only=True)
class Receiver:
    """What it got, and how it answers: None is never."""

    url: str = ""
    got: list[Got] = field(default_factory=list)
    answer: Answer = fine
    open: int = 0
    most_open: int = 0

    def says(self, *answers: bytes | None) -> None:
        """Answer so, one after another; the last one from then on."""
        left = list(answers)

        async def next_one(_: Got) -> bytes | None:
            return left.pop(0) if len(left) > 1 else left[0]

        self.answer = next_one

    async def receives(self, count: int = 1, *, within_s: float = 10) -> list[Got]:
        """What it got, once it is so much."""

        async def there() -> bool:
            return len(self.got) >= count

        assert await wait_for(there, within_s), f"{len(self.got)} of {count}"
        return self.got

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers["Content-Length"]))
            one = Got(path=head[0].split(" ")[1], headers=headers, body=body)
            self.got.append(one)
            said = await self.answer(one)
            if said is None:
                await reader.read()  # until the other side gives up
            else:
                writer.write(said)
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self.open -= 1
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def receiving(
    *, certificate: Path | None = None, host: str = "127.0.0.1", named: str | None = None
) -> AsyncGenerator[Receiver]:
    """A receiver for as long as the block runs."""
    made = Receiver()
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    server = await asyncio.start_server(made.serve, host, 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    made.url = f"http{'s' if context else ''}://{named or host}:{port}/hook"
    try:
        yield made
    finally:
        server.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await server.wait_closed()
