"""The way in of every HTTP request: from where, who asks, its body's limits, before it is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.edges import failures, hosts, sse
from app.edges.auth.scopes import ADMINISTER, AUDIT, CALL, OPERATE, RESULTS, need
from app.edges.auth.tokens import LoginFailedError
from app.edges.bodies import limited
from app.edges.headers import tidied
from app.edges.hosts import Doors
from app.edges.parts import Parts
from app.errors import (
    BrokerError,
    ForbiddenError,
    NotBoundError,
)

PUBLIC: Final = frozenset({"/healthz", "/readyz", "/openapi.json"})
SCOPES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "mcp": (CALL,),
    "approvals": (CALL, OPERATE),
    "commands": (CALL, OPERATE),
    "sagas": (CALL, OPERATE),
    "results": (RESULTS,),
    "operator": (OPERATE,),
    "auditor": (AUDIT,),
    "admin": (ADMINISTER,),
}
"""What a path's first part needs, one of; a test holds that every route has its line."""

METADATA: Final = "/.well-known/oauth-protected-resource"
MCP: Final = "/mcp"
CONSOLE: Final = "console"
"""Its pages have sessions in place of tokens, and errors that are pages."""
ANY_HOST: Final = frozenset({"results"})
"""Adapters come from inside, by whatever name the app has there; no browser holds their tokens."""
RESULT_SLACK: Final = 64 << 10
"""Bytes that a result's envelope may have beyond the result."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Middleware: serves a request with its identity in the scope, or refuses it."""

    app: ASGIApp
    broker: Parts
    doors: Doors
    console: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request with its identity in the scope, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if scope["path"] == f"{MCP}/":
            scope["path"] = MCP
        scope["headers"] = tidied(scope["headers"])
        connection = HTTPConnection(scope)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await respond(message)

        respond = sse.escaped(send)
        try:
            origin = self._origin(connection)
            if self.console is not None and first_part(scope["path"]) == CONSOLE:
                await self.console(scope, self._limited(connection, receive), watched)
                return
            if origin is not None:
                respond = hosts.readable(respond, origin)
                if hosts.is_preflight(scope["method"], connection.headers):
                    await hosts.preflight(origin, connection.headers)(scope, receive, watched)
                    return
            await self._serve(connection, receive, watched)
        except Exception as error:
            if started:
                raise  # half of an answer is out: the connection is closed on it
            refused = error
            if not isinstance(refused, BrokerError):
                refused = failures.translated(error, path=scope["path"])
            self.refused(connection, refused)
            answer = failures.problem(refused, metadata_url=self.metadata_url)
            await answer(scope, receive, watched)

    async def _serve(self, connection: HTTPConnection, receive: Receive, send: Send) -> None:
        scope = connection.scope
        path: str = scope["path"]
        if path not in PUBLIC and not path.startswith(METADATA):
            scope["broker.identity"] = who = await self.broker.credentials.identity(connection)
            scopes = SCOPES_OF.get(first_part(path), ())
            if scopes and not who.scopes & set(scopes):
                need(who, scopes[0])
        await self.app(scope, self._limited(connection, receive), send)

    def _limited(self, connection: HTTPConnection, receive: Receive) -> Receive:
        settings = self.broker.settings
        bytes_max = settings.body_bytes_max
        if connection.scope["path"].startswith("/results/"):
            bytes_max = settings.result_bytes_max + RESULT_SLACK
        return limited(connection.headers, receive, bytes_max=bytes_max, whole_s=settings.body_s)

    def _origin(self, connection: HTTPConnection) -> str | None:
        """The origin of a browser's page.

        Raises:
            BrokerError: the request is for another host, or from an origin that is not answered.
        """
        path = connection.scope["path"]
        any_host = path in PUBLIC or first_part(path) in ANY_HOST
        return self.doors.check(connection.headers, any_host=any_host)

    @property
    def metadata_url(self) -> str:
        """Where clients learn which issuers are trusted (RFC 9728)."""
        return f"{self.broker.settings.public_url.rstrip('/')}{METADATA}/mcp"

    def refused(self, connection: HTTPConnection, error: BrokerError) -> None:
        """Have a failed login or a denial audited."""
        peer = "unknown" if connection.client is None else connection.client.host
        if isinstance(error, LoginFailedError):
            self.broker.refusals.login_failed(error, peer=peer)
        elif isinstance(error, ForbiddenError | NotBoundError):
            scope = error.fields.get("scope")
            reason = "not_bound" if isinstance(error, NotBoundError) else error.code
            self.broker.refusals.denied(
                connection.scope["broker.identity"],
                reason=reason if scope is None else f"scope {scope}",
                peer=peer,
                detail=error.detail,
                path=connection.scope["path"],
            )


def first_part(path: str) -> str:
    """What a path begins with."""
    return path.lstrip("/").partition("/")[0]
