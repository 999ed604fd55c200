"""The older era's standalone stream: GET /mcp tells when the tools that its caller may call change.

Nothing of it is kept (2025-11-25, "Listening for Messages from the Server"): an event's id is the
digest of what its caller saw then, so whoever comes back with it, to any replica, is told of a
change in between.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

import anyio
import orjson
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.edges.auth.scopes import CALL, need
from app.edges.mcp.tool_changes import tools_changed, tools_seen
from app.edges.parts import Parts
from app.edges.streams import TooManyStreamsError
from app.identity import Identity

SSE: Final = "text/event-stream"
PRIMED: Final = "2025-11-25"
"""The first version whose clients know an event without data (SEP-1699)."""
LIFE_S: Final = 900.0
"""A stream ends after this; its client comes back, with a token that counts by then."""
RETRY_S: Final = 5
SAID: Final = orjson.dumps(
    {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
).decode()
HEADERS: Final = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


@dataclass(frozen=True, slots=True)
class SessionStream:
    """Serves the GET of a session, as an ASGI app."""

    broker: Parts
    security: TransportSecuritySettings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream, or say why not."""
        request = Request(scope, receive)
        answer = await TransportSecurityMiddleware(self.security).validate_request(request)
        if answer is None and SSE not in request.headers.get("accept", ""):
            answer = Response("Accept text/event-stream", status_code=406)
        if answer is not None:
            await answer(scope, receive, send)
            return
        who: Identity = scope["broker.identity"]
        need(who, CALL)
        try:
            with self.broker.streams.room(who):
                events = self._events(who, request)
                await StreamingResponse(events, media_type=SSE, headers=HEADERS)(
                    scope, receive, send
                )
        except TooManyStreamsError:
            problem = {"error": "too many streams are open; list the tools again instead"}
            refused = JSONResponse(problem, status_code=429, headers={"Retry-After": str(RETRY_S)})
            await refused(scope, receive, send)

    async def _events(self, who: Identity, request: Request) -> AsyncGenerator[str]:
        """Each change since what the client saw last, and a comment where there is none."""
        broker = self.broker
        seen = await tools_seen(broker, who)
        known = request.headers.get("last-event-id") or seen
        if request.headers.get("mcp-protocol-version") == PRIMED:
            yield f"id: {known}\ndata: \n\n"
        else:
            yield ": open\n\n"
        until = anyio.current_time() + LIFE_S
        while (left_s := until - anyio.current_time()) > 0:
            with anyio.move_on_after(min(left_s, broker.settings.heartbeat_s)) as waited:
                known = await tools_changed(broker, who, known)
            if waited.cancelled_caught:
                yield ": \n\n"
            else:
                yield f"id: {known}\nevent: message\ndata: {SAID}\n\n"
