"""The way in of every HTTP request: its body's limit, and who asks, before anything reads it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.edges import failures
from app.edges.auth.certificates import thumbprint
from app.edges.auth.scopes import ADMINISTER, AUDIT, CALL, OPERATE, RESULTS, need
from app.edges.auth.tokens import LoginFailedError, bearer
from app.edges.parts import Parts
from app.errors import (
    BrokerError,
    ForbiddenError,
    NotAuthenticatedError,
    NotBoundError,
    OversizeError,
)
from app.identity import Identity

PUBLIC: Final = frozenset({"/healthz", "/readyz", "/openapi.json"})
SCOPES_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "mcp": (CALL,),
    "commands": (CALL, OPERATE),
    "sagas": (CALL, OPERATE),
    "results": (RESULTS,),
    "operator": (OPERATE,),
    "auditor": (AUDIT,),
    "admin": (ADMINISTER,),
}
"""What a path's first part needs, one of; a test holds that every route has its line."""

METADATA: Final = "/.well-known/oauth-protected-resource"
RESULT_SLACK: Final = 64 << 10
"""Bytes that a result's envelope may have beyond the result."""


@dataclass(frozen=True, slots=True)
class Guard:
    """Middleware: serves a request with its identity in the scope, or refuses it."""

    app: ASGIApp
    broker: Parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request with its identity in the scope, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        # White space around a value is no part of it (RFC 9110, 5.5), and httptools leaves it.
        scope["headers"] = [(name, value.strip(b" \t")) for name, value in scope["headers"]]
        connection = HTTPConnection(scope)
        try:
            if path not in PUBLIC and not path.startswith(METADATA):
                scope["broker.identity"] = who = await self._identity(connection)
                scopes = SCOPES_OF.get(path.lstrip("/").partition("/")[0], ())
                if scopes and not who.scopes & set(scopes):
                    need(who, scopes[0])
            limited = self._limited(connection, receive)
            await self.app(scope, limited, send)
        except BrokerError as error:
            self.refused(connection, error)
            await failures.problem(error, metadata_url=self.metadata_url)(scope, receive, send)

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

    async def _identity(self, connection: HTTPConnection) -> Identity:
        """Who asks: by the token where there is one, else by the client certificate.

        Raises:
            NotAuthenticatedError: neither is there, or what is there is not good.
            IssuerUnavailableError: the token cannot be checked now.
        """
        token = bearer(connection)
        certificate = self.broker.certificates.shown(connection)
        if token is not None:
            bound = None if certificate is None else thumbprint(certificate)
            return await self.broker.verifier.verify(token, certificate=bound)
        if certificate is not None:
            return self.broker.certificates.identity(certificate)
        raise NotAuthenticatedError("Send 'Authorization: Bearer <token>'.")

    def _limited(self, connection: HTTPConnection, receive: Receive) -> Receive:
        """The body, cut off with an error at its limit, also where no length was announced."""
        limit = self.broker.settings.body_bytes_max
        if connection.scope["path"].startswith("/results/"):
            limit = self.broker.settings.result_bytes_max + RESULT_SLACK
        announced = connection.headers.get("content-length", "0")
        if announced.isdigit() and int(announced) > limit:
            raise OversizeError(f"The body has {announced} bytes; at most {limit} are taken.")
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > limit:
                raise OversizeError(f"The body is over {limit} bytes.")
            return message

        return counted
