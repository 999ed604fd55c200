"""Pages that change by themselves: parts of them, made anew and sent as server-sent events.

A part is made again when a command that it shows has moved, and each `poll_s` for what is new; it
is sent where it differs from what was sent before. So a page reads the same whether it was loaded
or followed.
"""

import asyncio
import hashlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from app.console.parts import Console, session_of
from app.console.sessions import NoSessionError
from app.edges.http.calls import Streamed
from app.errors import BrokerError
from app.postgres.engine import AWAY

AGO: Final = re.compile(r"(<time[^>]*>)[^<]*")
CHECK_S: Final = 10.0
"""How often an open view asks whether its session is still in force; looking is no use of it."""
BREAKS: Final = {"\u0085": "&#x85;", "\u2028": "&#x2028;", "\u2029": "&#x2029;"}
"""Line breaks to some readers of event streams; `edges.sse` would write them as in JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A part of a page as it is now."""

    html: str
    shows: Sequence[UUID] = ()  # the commands whose moves change it

    @property
    def digest(self) -> str:
        """Of what it says, but how long ago: the page itself goes on counting that."""
        return hashlib.sha256(AGO.sub(r"\1", self.html).encode()).hexdigest()[:32]


def event(name: str, data: str) -> bytes:
    """One server-sent event, of as many lines as the data has."""
    for separator, written in BREAKS.items():
        data = data.replace(separator, written)
    lines = data.replace("\r", "").split("\n")
    return "".join([f"event: {name}\n", *(f"data: {line}\n" for line in lines), "\n"]).encode()


async def stream(
    console: Console,
    request: Request,
    make: Callable[[], Awaitable[Part]],
    *,
    every_s: float = 0,
) -> Response:
    """Send a part whenever it has changed, until its reader leaves or the session is over.

    The query's `seen` is the digest of what its page has. It is made anew every `poll_s`, or
    `every_s` where that is longer.

    Raises:
        BrokerError: what the page itself would be refused with; made first, it breaks no stream.
        TooManyStreamsError: when it is sent; there are as many as there may be.
    """
    parts = _parts(console, request, await make(), make, every_s)
    return Streamed(parts, console.broker.streams.room(session_of(request).who))


async def _parts(
    console: Console,
    request: Request,
    part: Part,
    make: Callable[[], Awaitable[Part]],
    every_s: float,
) -> AsyncGenerator[bytes]:
    broker = console.broker
    clock = asyncio.get_running_loop().time
    tenant_id = session_of(request).who.tenant_id
    said = request.query_params.get("seen", "")
    checked_at = spoke_at = clock()
    while True:
        if part.digest != said:
            said, spoke_at = part.digest, clock()
            yield event("part", part.html)
        elif clock() - spoke_at >= broker.settings.heartbeat_s:
            spoke_at = clock()
            yield b": nothing new\n\n"
        with broker.feed.watch_several(tenant_id, part.shows) as moved, suppress(TimeoutError):
            async with asyncio.timeout(max(every_s, broker.settings.poll_s)):
                await moved.wait()
        try:
            part = await make()
            if clock() - checked_at >= CHECK_S:
                await console.sessions.find(request, touch=False)
                checked_at = clock()
        except NoSessionError:
            yield event("ended", "")
            return
        except (*AWAY, BrokerError):
            return  # the browser asks again, and is told why, or that the connection is lost
