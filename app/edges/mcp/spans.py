"""The span of each message of MCP, in place of the SDK's.

The SDK's says the texts of errors, which may quote arguments, and names whatever tool a client
asks for; it knows nothing of links, and costs several times as much.
"""

from collections.abc import Callable
from dataclasses import dataclass
from time import time_ns
from typing import Any

from mcp.server import Server
from mcp.server.context import CallNext, HandlerResult
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER
from mcp.shared.exceptions import MCPError

from app.edges.mcp.calls import Context, meta
from app.traces import names
from app.traces.context import HERE, Here
from app.traces.otlp import SERVER, Span, Value
from app.traces.tracing import Place, Tracing


@dataclass(frozen=True, slots=True)
class McpSpans:
    """Middleware: a message is handled within a span."""

    tracing: Tracing
    is_tool: Callable[[str], bool]

    async def __call__(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Handle the message, and record its span."""
        place = self._place(ctx)
        here, started, error = Here(place.at, place.links), time_ns(), "cancelled"
        token = HERE.set(here)
        try:
            result = await call_next(ctx)
            error = "tool_error" if is_error(result) else None
        except MCPError as refused:
            error = str(refused.error.code)
            raise
        except Exception as failed:
            error = type(failed).__name__
            raise
        else:
            return result
        finally:
            HERE.reset(token)
            name, attributes = names.mcp_server(
                ctx.method, self._tool(ctx), str(ctx.protocol_version), error
            )
            self.tracing.record(
                Span(
                    at=place.at,
                    parent=place.parent,
                    name=name,
                    kind=SERVER,
                    start_ns=started,
                    end_ns=time_ns(),
                    attributes=attributes,
                    own=tuple(own(ctx)),
                    failed=error is not None,
                    links=here.links,
                )
            )

    def _place(self, ctx: Context) -> Place:
        """Below what `_meta` names, as MCP's conventions have it; else below the request."""
        around = HERE.get()
        given = meta(ctx).get("traceparent")
        place = self.tracing.serve(given if isinstance(given, str) else None)
        if around is None:
            return place
        if place.parent is None:
            return Place(
                at=self.tracing.below(around.at), parent=around.at.span_id, links=place.links
            )
        if place.at.trace_id == around.at.trace_id:
            return place
        return Place(at=place.at, parent=place.parent, links=(*place.links, around.at))

    def _tool(self, ctx: Context) -> str | None:
        if ctx.method != "tools/call" or not ctx.params:
            return None
        name = ctx.params.get("name")
        return name if isinstance(name, str) and self.is_tool(name) else None


def install(server: Server[Any], tracing: Tracing | None, is_tool: Callable[[str], bool]) -> None:
    """In place of the SDK's middleware, which comes first; where nothing is traced, of none."""
    server.middleware[:] = [] if tracing is None else [McpSpans(tracing, is_tool)]


def own(ctx: Context) -> list[tuple[str, Value]]:
    """What hardly another message has."""
    said: list[tuple[str, Value]] = []
    if ctx.request_id is not None:
        said.append(("jsonrpc.request.id", str(ctx.request_id)[:64]))
    session = None if ctx.request is None else ctx.request.headers.get(MCP_SESSION_ID_HEADER)
    if session is not None:
        said.append(("mcp.session.id", str(session)[:64]))
    return said


def is_error(result: HandlerResult) -> bool:
    """Whether a tool's answer says that it failed."""
    if isinstance(result, dict):
        return result.get("isError") is True
    return getattr(result, "is_error", False) is True
