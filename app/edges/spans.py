"""The span of each HTTP request, around all that is done for it."""

from collections.abc import Awaitable
from dataclasses import dataclass
from time import time_ns
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.traces import names
from app.traces.context import HERE, Here
from app.traces.otlp import SERVER, Span
from app.traces.tracing import Tracing

UNTRACED: Final = frozenset({"/healthz", "/readyz"})
REPORTS: Final = "/results/"
FIXED: Final = frozenset({"/mcp", "/mcp/tools/call", "/results/batch"})
WORDS: Final = frozenset({"", "claim", "progress", "reject", "run"})
"""Of the results API: what follows the command in its path."""
SERVER_ERROR: Final = 500


@dataclass(frozen=True, slots=True)
class HttpSpans:
    """Middleware: what is served below it is within a span."""

    app: ASGIApp
    tracing: Tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request, and record its span."""
        if scope["type"] != "http" or scope["path"] in UNTRACED:
            await self.app(scope, receive, send)
            return
        given, reports = traceparent_of(scope), scope["path"].startswith(REPORTS)
        if reports and given is None:  # the spans of their calls tell of it
            await self.app(scope, receive, send)
            return
        place = self.tracing.serve(given, ours=reports)
        here = Here(place.at, place.links)
        status, started = 0, time_ns()

        def sent(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            return send(message)

        token = HERE.set(here)
        try:
            await self.app(scope, receive, sent)
        finally:
            HERE.reset(token)
            name, attributes = names.http_server(
                scope["method"], route_of(scope), scope["scheme"], status, scope["http_version"]
            )
            failed = status == 0 or status >= SERVER_ERROR
            # By place, not by name: this is for each call.
            span = Span(place.at, place.parent, name, SERVER, started, time_ns(), attributes)
            if failed or here.links:
                span = span._replace(failed=failed, links=here.links)
            self.tracing.record(span)


def traceparent_of(scope: Scope) -> str | None:
    """The request's `traceparent`."""
    for name, value in scope["headers"]:
        if name == b"traceparent":
            return value.decode("latin-1")
    return None


def route_of(scope: Scope) -> str:
    """The path as its route has it, so that no id is in it; else its first part."""
    path: str = scope["path"]
    if path in FIXED:
        return path
    if path.startswith(REPORTS):  # read past the framework's routes
        command, _, word = path.removeprefix(REPORTS).partition("/")
        if word in WORDS and command != "batch":
            return f"{REPORTS}{{correlation_id}}/{word}".removesuffix("/")
    found: str | None = getattr(scope.get("route"), "path", None)
    return found or "unknown"
