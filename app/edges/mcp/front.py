"""The MCP server: tools from the catalog, calls that outlive the client.

The SDK's low-level server, stateless, both protocol eras. A call is accepted before anything is
waited for; the wait belongs to the request, the command does not.
"""

from collections.abc import Mapping
from typing import Any, Final

import anyio
from mcp import types
from mcp.server import Server
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, REQUEST_CANCELLED
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.applications import Starlette
from starlette.types import ASGIApp

from app import assets
from app.edges.auth.scopes import CALL, need
from app.edges.calls import Accepted
from app.edges.commands import find
from app.edges.failures import translated
from app.edges.mcp import (
    command_tools,
    event_webhooks,
    events,
    follow,
    listen,
    resources,
    saga_tools,
    spans,
    tasks,
)
from app.edges.mcp.asking import approval, dialogue, page
from app.edges.mcp.calls import (
    PATH,
    Context,
    accept,
    granted,
    identity_of,
    one_page,
    plainly,
    request_of,
)
from app.edges.mcp.legacy import asks, stream
from app.edges.mcp.legacy import tasks as legacy
from app.edges.mcp.legacy.sessions import Sessions
from app.edges.mcp.messages import Messages
from app.edges.mcp.replies import (
    problem_reply,
)
from app.edges.mcp.shapes import hold_of, shown_tool
from app.edges.parts import Parts
from app.edges.sagas import RUN
from app.edges.stops import call_name
from app.errors import BrokerError
from app.identity import Identity
from app.postgres.engine import AWAY

INSTRUCTIONS: Final = (
    "Tools here start durable work: once a call is accepted it runs to its end, even if its answer"
    " is lost. After a time-out or an interruption look in command_list for the call; do not call"
    " the tool again. If a call answers 'accepted', use command_status with its command_id. What"
    " waits for an operator's approval waits for a person: tell the user. Each answer says in"
    " next_step what to do, and whether the work may have had an effect."
)


class Front:
    """The handlers of one app process."""

    def __init__(self, broker: Parts) -> None:
        self._broker = broker
        self._tasks = tasks.Tasks(broker)
        settings = broker.settings
        self._security = TransportSecuritySettings(
            allowed_hosts=list(settings.hosts_served),
            allowed_origins=list(settings.origins_served),
        )

    def server(self) -> Server[Any]:
        """The SDK's server with our handlers."""
        listener = listen.Listener(self._broker, self._tasks)
        documents = resources.Resources(self._broker)
        server: Server[Any] = Server(
            "mcp-broker",
            version=assets.version(),
            title="MCP broker",
            instructions=INSTRUCTIONS,
            get_tool_input_schema=self._schema,
            on_list_tools=self._list,
            on_call_tool=self._call,
            on_list_resources=documents.list_none,
            on_list_resource_templates=documents.templates,
            on_read_resource=documents.read,
            on_subscriptions_listen=listener.serve,
        )
        self._tasks.install(server)
        settings = self._broker.settings
        if settings.mcp_events:
            events.Events(self._broker).install(server)
            event_webhooks.EventWebhooks(self._broker).install(server)
        boundary = approval.boundary(settings.request_state_keys, ttl_s=settings.approval_wait_s)
        legacy_tasks = legacy.LegacyTasks(self._broker)
        spans.install(server, self._broker.tracing, lambda name: self._schema(name) is not None)
        server.middleware += [plainly, boundary, legacy_tasks]
        return server

    def app(self, server: Server[Any]) -> Starlette:
        """The SDK's ASGI app, which serves one path."""
        return server.streamable_http_app(
            streamable_http_path=PATH,
            stateless_http=True,
            max_request_body_size=self._broker.settings.body_bytes_max,
            transport_security=self._security,
        )

    def endpoint(self, app: ASGIApp) -> ASGIApp:
        """The same app, with one reading of messages and with the older era's sessions."""
        changes = stream.SessionStream(self._broker, self._security)
        return Messages(Sessions(app, changes, self._broker.stops, asks.Asks(self._broker)))

    def _schema(self, name: str) -> Mapping[str, Any] | None:
        if name == saga_tools.RUN.name:
            return saga_tools.RUN.input_schema
        return command_tools.SCHEMAS.get(name) or self._broker.catalog.schema_of(name)

    async def _list(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        one_page(params)
        who = identity_of(ctx)
        need(who, CALL)
        visible = await self._broker.catalog.visible(who)
        holds = await self._broker.holds.of(who.tenant_id)
        tools = [shown_tool(tool, hold=hold_of(tool, holds)) for tool in visible.tools]
        tools = sorted(
            [*tools, *command_tools.TOOLS, *saga_tools.TOOLS], key=lambda tool: tool.name
        )
        return types.ListToolsResult(tools=tools, ttl_ms=5000, cache_scope="private")

    async def _call(self, ctx: Context, params: types.CallToolRequestParams) -> Any:
        name = stop_name(ctx)
        if name is None:  # nobody can give it up by a message
            return await self._answer(ctx, params)
        with anyio.CancelScope() as scope, self._broker.stops.serving(name, scope):
            return await self._answer(ctx, params)
        raise MCPError(REQUEST_CANCELLED, "Request cancelled")

    async def _answer(self, ctx: Context, params: types.CallToolRequestParams) -> Any:
        who = identity_of(ctx)
        try:
            need(who, CALL)
            if params.name in command_tools.SCHEMAS:
                return await command_tools.call(
                    self._broker, ctx, who, params.name, params.arguments or {}
                )
            if params.name == saga_tools.RUN.name:
                return await self._run_saga(ctx, who, params)
            tool = await granted(self._broker, who, params.name)
            if tool.policy.task == "required":
                tasks.need_declared(ctx, tool.name)
            request, wait_s = request_of(ctx, tool, params)
            as_task = tasks.declared(ctx) and tool.policy.task != "forbidden"
            approves = tool.policy.approval.by == "ask" and not as_task
            at_console = page.opens(self._broker.settings, ctx) and not as_task
            approves = approves and not at_console
            if (approves or tool.policy.asks) and approval.can_ask(ctx):
                asked = await dialogue.ask(
                    self._broker, who, tool, params, request, approves=approves
                )
                if isinstance(asked, types.InputRequiredResult):
                    return asked
                request = asked
            elif at_console and params.request_state is not None:
                request = dialogue.Dialogue.of(params.request_state).keyed(request)
            accepted = await accept(self._broker, who, request, wait_s=wait_s)
            if as_task:
                return await self._as_task(ctx, who, accepted)
            shown = await page.ask(self._broker, who, accepted, params) if at_console else None
            return shown or await self._waited(ctx, who, accepted)
        except (BrokerError, *AWAY) as error:
            if not isinstance(error, BrokerError):
                error = translated(error, path=f"tools/call {params.name}")
            return problem_reply(error)

    async def _waited(
        self, ctx: Context, who: Identity, accepted: Accepted
    ) -> types.CallToolResult:
        """The outcome, or where the call stands; on the older era its person is asked first."""
        if page.tells(ctx) and accepted.tool.policy.approval.by != "none":
            command = await find(self._broker, who, accepted.written.id)
            await asks.offer(self._broker, ctx, command)
        return await follow.wait(self._broker, ctx, who, accepted)

    async def _as_task(self, ctx: Context, who: Identity, accepted: Accepted) -> Any:
        """The outcome of a call that ends soon, as its client shows that at once; else its task."""
        ended = await follow.soon(self._broker, ctx, who, accepted)
        return ended or await self._tasks.started(ctx, accepted)

    async def _run_saga(
        self, ctx: Context, who: Identity, params: types.CallToolRequestParams
    ) -> Any:
        """A saga is followed, or made a task, as any call is: by its own command."""
        request, wait_s = request_of(ctx, RUN, params)
        accepted = await saga_tools.run(self._broker, who, request, wait_s=wait_s)
        if isinstance(accepted, types.CallToolResult):
            return accepted
        if tasks.declared(ctx):
            return await self._as_task(ctx, who, accepted)
        return await follow.wait(self._broker, ctx, who, accepted)


def stop_name(ctx: Context) -> str | None:
    """What replicas call this request, where its client may give it up by a message."""
    assert ctx.request is not None, "served over HTTP only"
    session = ctx.request.headers.get(MCP_SESSION_ID_HEADER)
    return call_name(identity_of(ctx), session, ctx.request_id)
