"""Sessions of the older era that no replica holds: an id is a name, not state.

A 2025-11-25 client that gives a call up says so by `notifications/cancelled` on another POST, to
any replica, and keeps its stream. That message names its request by a number which every client
counts from one, so it is only acted on within a session. Sessions are what this is for: whoever
names none is given an id, every replica takes any, and it gives no access to anything.
"""

from dataclasses import dataclass
from typing import Final

from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.edges.mcp.calls import PATH, VERSION_HEADER
from app.edges.mcp.legacy.asks import Asks, session_name
from app.edges.mcp.messages import MESSAGE
from app.edges.stops import Stops, call_name

CANCELLED: Final = "notifications/cancelled"


@dataclass(frozen=True, slots=True)
class Sessions:
    """Middleware of the MCP endpoint: names sessions, and hears what their clients give up."""

    app: ASGIApp
    stream: ASGIApp
    stops: Stops
    asks: Asks

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
            await self.app(scope, receive, naming(send, session_name(scope[MESSAGE])))

    async def _of_session(self, session: str, scope: Scope, receive: Receive, send: Send) -> None:
        statuses: list[int] = []

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])
            await send(message)

        await self.app(scope, receive, self.asks.streaming(scope, session, told))
        # Form and version of the message were checked by whom it went through.
        decoded = scope[MESSAGE]
        if statuses == [202] and decoded.get("method") == CANCELLED:
            request_id = (decoded.get("params") or {}).get("requestId")
            name = call_name(scope["broker.identity"], session, request_id)
            if name is not None:
                self.stops.stop(name)
        elif statuses == [202]:
            await self.asks.heard(scope["broker.identity"], decoded)


def naming(send: Send, session: str) -> Send:
    """Give the client a session's name with the answer (2025-11-25, "Session Management")."""

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message)[MCP_SESSION_ID_HEADER] = session
        await send(message)

    return named
