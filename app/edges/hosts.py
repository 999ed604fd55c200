"""Which Host and Origin headers are answered, and what browsers of those origins may do (CORS).

A browser sends its user's requests to whatever address a page names: a page of another origin, or a
name that was made to point here, is told nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import Message, Send

from app.config import Settings
from app.errors import BadRequestError, MisdirectedError, StrangeOriginError

SHOWN: Final = (
    "Mcp-Session-Id, WWW-Authenticate, Retry-After, Location, Idempotent-Replayed,"
    " Preference-Applied, DPoP-Nonce"
)
"""Answers' headers that a page may read."""
TAKEN: Final = (
    "Authorization, DPoP, Content-Type, Accept, Last-Event-ID, Idempotency-Key, Prefer,"
    " Traceparent, Mcp-Session-Id, MCP-Protocol-Version, Mcp-Method, Mcp-Name,"
    " Mcp-Broker-Labels"
)
"""Requests' headers that a page may send, beside the Mcp-Param-* that it asks for."""
METHODS: Final = "GET, POST, PUT, DELETE"
KEPT_S: Final = 600
SHOWN_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Doors:
    """Judges the Host and the Origin of a request."""

    hosts: tuple[str, ...]
    origins: tuple[str, ...]

    @classmethod
    def of(cls, settings: Settings) -> "Doors":
        """Those of the settings, and those that follow from them."""
        return cls(hosts=settings.hosts_served, origins=settings.origins_served)

    def check(self, headers: Headers, *, any_host: bool) -> str | None:
        """The request's origin, if it has one.

        Raises:
            BadRequestError: it names two hosts, or two origins.
            MisdirectedError, StrangeOriginError: it is for another host, or from another origin.
        """
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) > 1 or len(origins) > 1:
            raise BadRequestError("Send one Host header, and one Origin at the most.")
        host = hosts[0] if hosts else ""
        if not any_host and not matches(host, self.hosts):
            raise MisdirectedError(
                f"The Host {host[:SHOWN_MAX]!r} is not one that is served here; an operator names"
                " it in MCP_BROKER_PUBLIC_URL or MCP_BROKER_ALLOWED_HOSTS."
            )
        if not origins:
            return None
        if not matches(origins[0], self.origins):
            raise StrangeOriginError(
                f"Pages of the origin {origins[0][:SHOWN_MAX]!r} are not answered; an operator"
                " names it in MCP_BROKER_ALLOWED_ORIGINS."
            )
        return origins[0]


def matches(host: str, allowed: Iterable[str]) -> bool:
    """Whether a host or an origin is one of these; `…:*` is any port of it."""
    name, _, port = host.rpartition(":")
    return any(
        host == one or (one.endswith(":*") and port.isascii() and port.isdecimal()
                        and name == one.removesuffix(":*"))
        for one in allowed
    )  # fmt: skip


def preflight(origin: str, headers: Headers) -> Response:
    """What a browser asks before it sends what a page wants it to."""
    asked = headers.get("access-control-request-headers", "")
    params = [
        one.strip() for one in asked.split(",") if one.strip().lower().startswith("mcp-param-")
    ]
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Origin": origin,
            "Access-Control-Allow-Methods": METHODS,
            "Access-Control-Allow-Headers": ", ".join([TAKEN, *params[:32]]),
            "Access-Control-Max-Age": str(KEPT_S),
            "Vary": "Origin, Access-Control-Request-Headers",
        },
    )


def is_preflight(method: str, headers: Headers) -> bool:
    """Whether this is that question."""
    return method == "OPTIONS" and "access-control-request-method" in headers


def readable(send: Send, origin: str) -> Send:
    """Let a page of this origin read the answer."""

    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = SHOWN
            headers.add_vary_header("Origin")
        await send(message)

    return told
