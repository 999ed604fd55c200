"""From a `tools/call` of any era to an accepted command."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import anyio
from mcp import types
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.shared.exceptions import MCPError
from pydantic import TypeAdapter, ValidationError

from app import metrics
from app.asserted import INVOCATION_META, LABELS_HEADER, invocation_of, labels_of
from app.catalog.policy import Tool
from app.contract import KEY_META, META_PREFIX, CallMeta, Key, traceparent
from app.edges.calls import Accepted, submit
from app.edges.failures import translated
from app.edges.parts import Parts
from app.errors import BadRequestError, BrokerError, UnknownToolError, cut
from app.identity import Identity
from app.intake.prepare import CallRequest
from app.traces.context import traceparent_here

PATH: Final = "/mcp"
VERSION_HEADER: Final = "mcp-protocol-version"

Context = ServerRequestContext[Any, Any]
KeySource = Literal["meta", "header", "body"]
KEY: Final = TypeAdapter[str](Key)


def identity_of(ctx: Context) -> Identity:
    """Who asks: the middleware has verified the token of each HTTP request."""
    assert ctx.request is not None, "served over HTTP only"
    return ctx.request.scope["broker.identity"]


async def plainly(ctx: Context, call_next: CallNext) -> HandlerResult:
    """Middleware: every error of a method says in a sentence of ours what was wrong.

    A call answers most of its own, with an error result: that is what its model reads.
    """
    try:
        return await call_next(ctx)
    except MCPError:
        raise
    except ValidationError as error:
        raise MCPError(types.INVALID_PARAMS, said_of(error)) from error
    except BrokerError as error:
        raise told(error, types.INVALID_PARAMS) from error
    except Exception as error:
        raise told(translated(error, path=ctx.method), types.INTERNAL_ERROR) from error


def told(error: BrokerError, code: int) -> MCPError:
    """One of our errors as a JSON-RPC error, counted."""
    metrics.REFUSED.labels(error.code).inc()
    return MCPError(code, f"{error.title}. {error.detail}", {"code": error.code})


def said_of(error: ValidationError) -> str:
    """The first of pydantic's problems, in a sentence; it quotes nothing."""
    first = error.errors(include_input=False, include_url=False)[0]
    return f"params/{cut('/'.join(map(str, first['loc'])))}: {first['msg']}."


def one_page(params: types.PaginatedRequestParams | None) -> None:
    """Refuse a cursor where a list has one page: none was ever given.

    Raises:
        MCPError: there is one.
    """
    if params is not None and params.cursor is not None:
        raise MCPError(types.INVALID_PARAMS, "Invalid cursor: this list has one page.")


async def granted(broker: Parts, who: Identity, name: str) -> Tool:
    """The tool of this name; one that is not granted is answered like one that is not there.

    Raises:
        MCPError: there is none that the caller may call. It is audited in either case, which
            also takes the same time.
    """
    tool = await broker.catalog.by_name(name)
    if tool is not None and await broker.catalog.may_call(who, tool):
        return tool
    asked = (name, "") if tool is None else (tool.tool, tool.method)
    request = CallRequest(tool=asked[0], method=asked[1], args={})
    reason = "no such tool" if tool is None else "no grant"
    await broker.refusals.call(who, request, kind="call.denied", reason=reason)
    message = f"Unknown tool: {cut(name)}. tools/list shows those that you may call."
    raise MCPError(types.INVALID_PARAMS, message, {"code": UnknownToolError.code})


async def accept(
    broker: Parts, who: Identity, request: CallRequest, *, wait_s: float | None = None
) -> Accepted:
    """Accept a call whole: a disconnect can land anywhere, also in the commit."""
    accepted: Accepted | None = None
    with anyio.CancelScope(shield=True):
        accepted = await submit(broker, who, request, wait_s=wait_s)
    assert accepted is not None
    return accepted


def meta(ctx: Context) -> Mapping[str, Any]:
    """The request's `_meta`, as sent."""
    found = (ctx.params or {}).get("_meta")
    return found if isinstance(found, Mapping) else {}


def request_of(
    ctx: Context, tool: Tool, params: types.CallToolRequestParams
) -> tuple[CallRequest, float | None]:
    """A tools/call as every edge hands it on, and the seconds that it would wait at the most.

    Raises:
        BadRequestError: its idempotency key, or what it says in `_meta`, is malformed.
    """
    assert ctx.request is not None, "served over HTTP only"
    key, source = idempotency_key(ctx)
    given = call_meta(ctx)
    request = CallRequest(
        tool=tool.tool,
        method=tool.method,
        args=params.arguments or {},
        idempotency_key=key,
        key_source=source,
        ordering_key=given.ordering_key,
        deadline_s=None if given.deadline_ms is None else given.deadline_ms / 1000,
        priority=given.priority,
        accept_async=True,
        not_before=given.not_before,
        labels=labels_of(given.labels, ctx.request.headers.get(LABELS_HEADER)),
        asserted=invocation_of(meta(ctx).get(INVOCATION_META)),
        traceparent=traceparent_here(traceparent(meta(ctx).get("traceparent"))),
    )
    return request, given.wait_s


def call_meta(ctx: Context) -> CallMeta:
    """What the call says of itself in `_meta`.

    Raises:
        BadRequestError: a name or a value under our prefix is not of the contract.
    """
    ours = {
        name.removeprefix(META_PREFIX): value
        for name, value in meta(ctx).items()
        if name.startswith(META_PREFIX)
    }
    try:
        return CallMeta.model_validate(ours)
    except ValidationError as error:
        first = error.errors()[0]
        at = f"{META_PREFIX}{'/'.join(map(str, first['loc']))}"
        raise BadRequestError(f"_meta {at}: {first['msg']}. Nothing was started.") from error


def idempotency_key(ctx: Context) -> tuple[str | None, KeySource]:
    """The caller's key and where it stood: `_meta`, the header, the params (never the JSON-RPC id).

    Raises:
        BadRequestError: it is not 1 to 255 printable ASCII characters, or two places differ.
    """
    assert ctx.request is not None, "served over HTTP only"
    sources: tuple[tuple[KeySource, Any], ...] = (
        ("meta", meta(ctx).get(KEY_META)),
        ("header", ctx.request.headers.get("idempotency-key")),
        ("body", (ctx.params or {}).get("idempotencyKey")),
    )
    found = [one for one in sources if one[1] is not None]
    if not found:
        return None, "meta"
    source, first = found[0]
    if any(key != first for _, key in found):
        raise BadRequestError("_meta, header and params name different idempotency keys.")
    try:
        key = KEY.validate_python(first, strict=True)
    except ValidationError as error:
        raise BadRequestError(
            "An idempotency key is 1 to 255 printable ASCII characters. Nothing was started."
        ) from error
    return key, source
