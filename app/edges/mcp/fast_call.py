"""A `tools/call` of 2026-07-28 that is answered at once, past the SDK's transport.

For each request that transport opens task groups and memory streams: more than accepting a call
costs (docs/PERFORMANCE.md). They are for what may come before an answer: progress, pings, a client
that leaves. A call that asks for no progress and waits a moment at the most has none of it, so one
message comes in and one goes out. The SDK's own functions read it, judge it, serve it and write it.
What is not plainly such a call, or not plainly good, goes to the transport as it came.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
from mcp.server import Server
from mcp.server.connection import Connection
from mcp.server.runner import modern_error_data, serve_one
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.inbound import (
    ERROR_CODE_HTTP_STATUS,
    InboundLadderRejection,
    classify_inbound_request,
    validate_mcp_param_headers,
)
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp_types.jsonrpc import (
    JSONRPCError,
    JSONRPCRequest,
    JSONRPCResponse,
    RequestId,
)
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.catalog.policy import Tool
from app.contract import META_PREFIX
from app.edges.bodies import number
from app.edges.calls import wait_bound_s
from app.edges.mcp import command_tools
from app.edges.mcp.calls import PATH, VERSION_HEADER
from app.edges.mcp.messages import MESSAGE
from app.edges.parts import Parts
from app.edges.sagas import RUN
from app.errors import BrokerError
from app.identity import Identity
from app.postgres.engine import AWAY

QUICK_S: Final = 0.1
"""A call that waits longer is the transport's: whether its client leaves begins to matter."""
MODERN: Final = "2026-07-28"
WAIT_META: Final = f"{META_PREFIX}wait_s"
PROGRESS_META: Final = "progressToken"
BUILT_IN: Final = frozenset(command_tools.SCHEMAS) | {RUN.name}
ACCEPTED: Final = frozenset({"application/json", "text/event-stream"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FastCall:
    """A call that is served here."""

    message: JSONRPCRequest
    version: str
    client_info: Any = None
    client_capabilities: Any = None


@dataclass(kw_only=True)
class Exchange:
    """What a handler may say to its client before the answer: nothing, here (`DispatchContext`)."""

    transport: TransportContext
    request_id: RequestId
    message_metadata: ServerMessageMetadata
    can_send_request: bool = False

    @property
    def cancel_requested(self) -> anyio.Event:
        """Never set: no other message comes in this exchange."""
        return anyio.Event()

    async def send_raw_request(
        self,
        method: str,
        params: Mapping[str, Any] | None,  # noqa: ARG002 the protocol's names
        opts: CallOptions | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Refuse, as the SDK's transport does without a session.

        Raises:
            NoBackChannelError: always.
        """
        raise NoBackChannelError(method)

    async def notify(
        self,
        method: str,
        params: Mapping[str, Any] | None,  # noqa: ARG002 the protocol's names
        opts: CallOptions | None = None,  # noqa: ARG002
    ) -> None:
        """No handler of a call without a progress token notifies."""
        raise AssertionError(f"{method} has nowhere to go")

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Nothing is told to a client that gave no progress token."""


@dataclass(frozen=True, slots=True)
class FastCalls:
    """Serves those calls before the SDK's app; hands on everything else as it came."""

    app: ASGIApp
    server: Server[Any]
    broker: Parts
    security: TransportSecuritySettings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        headers = plain_headers(scope)
        if headers is None or not self._fits(headers):
            await self.app(scope, receive, send)
            return
        call = await self._judged(scope["broker.identity"], headers, scope[MESSAGE])
        if call is None:
            await self.app(scope, receive, send)
            return
        answer = await self._answer(call, Request(scope, receive))
        await written(answer)(scope, receive, send)

    def _fits(self, headers: Mapping[str, str]) -> bool:
        """Whether by its headers it may be such a call, and the SDK would not refuse it by them."""
        return (
            headers.get(VERSION_HEADER) == MODERN
            and headers.get("content-type") == "application/json"
            and {one.strip() for one in headers.get("accept", "").split(",")} >= ACCEPTED
            and number(headers.get("content-length", "")) is not None
            and "origin" not in headers
            and self._is_ours(headers.get("host", ""))
        )

    def _is_ours(self, host: str) -> bool:
        """Whether the SDK's check against DNS rebinding would take this host."""
        allowed = self.security.allowed_hosts
        if host in allowed:
            return bool(host)
        return any(one.endswith(":*") and host.startswith(one.removesuffix("*")) for one in allowed)

    async def _judged(
        self, who: Identity, headers: Mapping[str, str], said: Any
    ) -> FastCall | None:
        """The call, where it is one that is answered at once; None where the SDK has to judge."""
        call = read(said, headers)
        if call is None:
            return None
        match call.message:
            case JSONRPCRequest(method="tools/call", params={"name": str(name), **params}):
                arguments = params.get("arguments") or {}
                meta = params.get("_meta") or {}
            case _:
                return None
        if not isinstance(arguments, dict) or not isinstance(meta, dict) or PROGRESS_META in meta:
            return None
        tool = await self._quick(who, name, meta.get(WAIT_META))
        if tool is None:
            return None
        wrong = validate_mcp_param_headers(tool.input_schema, arguments, headers)
        return call if wrong is None else None

    async def _quick(self, who: Identity, name: str, said_s: Any) -> Tool | None:
        """The tool, where the call's wait is over before anyone could miss the transport."""
        if name in BUILT_IN:
            return None
        try:
            tool = await self.broker.catalog.by_name(name)
            view = await self.broker.catalog.tenant(who.tenant_id)
        except (BrokerError, *AWAY):
            return None
        if tool is None or view is None or tool.policy.on_disconnect == "cancel":
            return None
        wait_s = wait_bound_s(self.broker, tool, view.tenant)
        if isinstance(said_s, int | float):
            wait_s = min(wait_s, said_s)
        return tool if wait_s <= QUICK_S else None

    async def _answer(self, call: FastCall, request: Request) -> JSONRPCResponse | JSONRPCError:
        one = call.message
        exchange = Exchange(
            transport=TransportContext(
                kind="streamable-http", can_send_request=False, headers=request.headers
            ),
            request_id=one.id,
            message_metadata=ServerMessageMetadata(request_context=request),
        )
        connection = Connection.from_envelope(
            call.version, call.client_info, call.client_capabilities
        )
        try:
            result = await serve_one(
                self.server,
                exchange,
                one.method,
                one.params,
                connection=connection,
                lifespan_state={},  # what the SDK's own lifespan yields
            )
        except Exception as error:  # noqa: BLE001 the SDK's boundary: an answer for each, or its log
            return JSONRPCError(jsonrpc="2.0", id=one.id, error=modern_error_data(error))
        return JSONRPCResponse(jsonrpc="2.0", id=one.id, result=result)


def plain_headers(scope: Scope) -> dict[str, str] | None:
    """A POST's headers by name; None where one came twice, or for any other request."""
    if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != PATH:
        return None
    raw = scope["headers"]
    found = {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}
    return found if len(found) == len(raw) else None


def read(decoded: Any, headers: Mapping[str, str]) -> FastCall | None:
    """As the SDK's modern entry reads a request; None where it would refuse it."""
    try:
        message = JSONRPCRequest.model_validate(decoded)
    except ValueError:
        return None
    route = classify_inbound_request(decoded, headers=headers)
    if isinstance(route, InboundLadderRejection):
        return None
    return FastCall(
        message=message,
        version=route.protocol_version,
        client_info=route.client_info,
        client_capabilities=route.client_capabilities,
    )


def written(answer: JSONRPCResponse | JSONRPCError) -> Response:
    """JSON, with the status that the SDK has for an error."""
    status = 200
    if isinstance(answer, JSONRPCError):
        status = ERROR_CODE_HTTP_STATUS.get(answer.error.code, status)
    body = answer.model_dump(mode="json", by_alias=True, exclude_none=True)
    text = json.dumps(body, separators=(",", ":"))
    return Response(text, status_code=status, media_type="application/json")
