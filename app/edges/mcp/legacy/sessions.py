"""Sessions of the older era that no replica holds: an id is a name, not state.

A 2025-11-25 client that gives a call up says so by `notifications/cancelled` on another POST, to
any replica, and keeps its stream. That message names its request by a number which every client
counts from one, so it is only acted on within a session. Sessions are what this is for: whoever
names none is given an id, every replica takes any, and it gives no access to anything.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final
from uuid import uuid4

import anyio
import orjson
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic_core import from_json
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.identity import Identity

PATH: Final = "/mcp"
VERSION_HEADER: Final = "mcp-protocol-version"
CANCELLED: Final = "notifications/cancelled"
CANCELLED_BYTES_MAX: Final = 4096
"""A longer message is no notification that a call was given up."""
ASK: Final = "?"
"""Said in place of a name by a replica that may have missed some."""
KEPT_S: Final = 300.0
KEPT_MAX: Final = 10_000
"""What was told to the other replicas is told again to one that asks, for so long and so many."""


def call_name(who: Identity, session: str | None, request_id: Any) -> str | None:
    """What every replica calls one request of one session of one caller; None where it has none."""
    if not session or not isinstance(request_id, int | str):
        return None
    parts = [who.tenant_id, who.user_id, who.client_id, session, repr(request_id)]
    return sha256(orjson.dumps(parts)).hexdigest()


class Stops:
    """The requests that this process serves and that their client may give up.

    Nothing polls for what was given up, and a NOTIFY reaches only who listens at that moment. So a
    replica asks for what it missed whenever it begins to listen, and those who told it tell it again.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._served: defaultdict[str, set[anyio.CancelScope]] = defaultdict(set)
        self._told: deque[tuple[float, str]] = deque(maxlen=KEPT_MAX)

    @contextmanager
    def serving(self, name: str | None, scope: anyio.CancelScope) -> Generator[None]:
        """While the block lasts, the client that gives this request up cancels the scope."""
        if name is None:
            yield
            return
        self._served[name].add(scope)
        try:
            yield
        finally:
            self._served[name].discard(scope)
            if not self._served[name]:
                del self._served[name]

    def stop(self, name: str) -> None:
        """The client has given this request up: end it here, else have the other replicas told."""
        if name in self._served:
            self.notified(name)
        else:
            self._told.append((time.monotonic(), name))
            self._tell(name)

    def notified(self, payload: str) -> None:
        """These requests were given up, says some replica; "" says that some may have been missed."""
        for name in payload.split(","):
            if not name:
                self._tell(ASK)
            elif name == ASK:
                self._tell_again()
            found = self._served.get(name, set[anyio.CancelScope]())
            # A session numbers each request once; where one did not, which one is not known.
            if len(found) == 1:
                [scope] = found
                scope.cancel()

    def _tell_again(self) -> None:
        while self._told and self._told[0][0] < time.monotonic() - KEPT_S:
            self._told.popleft()
        for _, name in self._told:
            self._tell(name)


@dataclass(frozen=True, slots=True)
class Sessions:
    """Middleware of the MCP endpoint: names sessions, and hears what their clients give up."""

    app: ASGIApp
    stream: ASGIApp
    stops: Stops

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request of the newer era as it is, and one of the older with its session."""
        headers = Headers(scope=scope)
        version = headers.get(VERSION_HEADER)
        modern = version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS
        if modern or scope["path"] != PATH:
            await self.app(scope, receive, send)
        elif scope["method"] == "GET" and headers.get(MCP_SESSION_ID_HEADER):
            await self.stream(scope, receive, send)
        elif scope["method"] != "POST":
            # No session is kept that could be ended.
            answer = Response(status_code=405, headers={"Allow": "GET, POST"})
            await answer(scope, receive, send)
        elif session := headers.get(MCP_SESSION_ID_HEADER):
            await self._of_session(session, scope, receive, send)
        else:
            await self.app(scope, receive, naming(send))

    async def _of_session(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        announced = Headers(scope=scope).get("content-length", "")
        if not announced.isdigit() or int(announced) > CANCELLED_BYTES_MAX:
            await self.app(scope, receive, send)
            return
        body = bytearray()
        statuses: list[int] = []

        async def heard() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        await self.app(scope, heard, told)
        # Host, Origin and form of the message were checked by whom it went through.
        if statuses == [202] and CANCELLED.encode() in body:
            message = from_json(bytes(body))
            if message.get("method") == CANCELLED:
                request_id = (message.get("params") or {}).get("requestId")
                name = call_name(scope["broker.identity"], session, request_id)
                if name is not None:
                    self.stops.stop(name)


def naming(send: Send) -> Send:
    """Give the client a session's name with the answer (2025-11-25, "Session Management")."""

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[MCP_SESSION_ID_HEADER] = uuid4().hex
        await send(message)

    return named
