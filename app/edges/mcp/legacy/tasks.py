"""Tasks as MCP 2025-11-25 has them (SEP-1686), for clients that ask for one in a tools/call.

The SDK serves no method of them, so this stands before its dispatch (`Server.middleware`).
"""

from typing import Any, Final
from uuid import UUID

from mcp import types
from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError
from pydantic import ValidationError

from app.commands.state import State
from app.commands.store.commands import Command
from app.commands.watch import until_final
from app.edges.auth.scopes import CALL, need
from app.edges.commands import cancel, find, listing
from app.edges.mcp.calls import Context, accept, granted, identity_of, request_of
from app.edges.mcp.legacy import asks
from app.edges.mcp.replies import META, POLL_MS, about, outcome_reply, protocol_error
from app.edges.mcp.tasks import JOINED, described, kept_ms, own_task
from app.edges.mcp.words import line_of
from app.edges.parts import Parts
from app.errors import BrokerError

VERSION: Final = asks.VERSION
RELATED: Final = "io.modelcontextprotocol/related-task"
CAPABILITY: Final = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}
PAGE: Final = 50


class LegacyTasks:
    """Middleware of the SDK's server."""

    def __init__(self, broker: Parts) -> None:
        self._broker = broker

    async def __call__(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Serve what is about tasks of that version; hand on everything else."""
        if ctx.method == "initialize":
            return announced(await call_next(ctx))
        if ctx.protocol_version != VERSION:
            return await call_next(ctx)
        try:
            return await self._serve(ctx, call_next)
        except BrokerError as error:
            raise MCPError(types.INVALID_PARAMS, f"{error.title}. {error.detail}") from error
        except ValidationError as error:
            raise MCPError(types.INVALID_PARAMS, "Invalid request parameters") from error

    async def _serve(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        params = ctx.params or {}
        match ctx.method:
            case "tools/call":
                return await self._call(ctx, call_next)
            case "tasks/list":
                return await self._list(ctx, params.get("cursor"))
            case "tasks/get":
                return self._shown(ctx, await self._find(ctx))
            case "tasks/result":
                return await self._result(ctx)
            case "tasks/cancel":
                return await self._cancel(ctx)
            case _:
                return await call_next(ctx)

    async def _call(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        params = types.CallToolRequestParams.model_validate(ctx.params or {}, by_name=False)
        tool = await self._broker.catalog.by_name(params.name)
        if params.task is None and (tool is None or tool.policy.task != "required"):
            return await call_next(ctx)
        who = identity_of(ctx)
        need(who, CALL)
        tool = await granted(self._broker, who, params.name)
        if params.task is None:
            words = (
                f"{tool.name} runs as a task only, and this call has no `task`. Nothing was"
                " started; do not call it again from a client without tasks, and tell the user."
            )
            raise MCPError(types.METHOD_NOT_FOUND, words)
        if tool.policy.task == "forbidden":
            words = f"{tool.name} does not run as a task: call it without. Nothing was started."
            raise MCPError(types.METHOD_NOT_FOUND, words)
        request, _ = request_of(ctx, tool, params)
        accepted = await accept(self._broker, who, request)
        command = await find(self._broker, who, accepted.written.id)
        shown = self._shown(ctx, command)
        if accepted.deduplicated:
            shown["statusMessage"] = line_of(JOINED, shown.get("statusMessage"))
        return {"task": shown, "_meta": {META: about(command, accepted)}}

    async def _find(self, ctx: Context) -> Command:
        return await own_task(self._broker, identity_of(ctx), str((ctx.params or {}).get("taskId")))

    def _shown(self, ctx: Context, command: Command) -> dict[str, Any]:
        asked = command.cancel_requested_at is not None and not command.final
        state = "input_required" if asks.offering(ctx, command) else status(command)
        shown = described(command, state, "a cancel is asked for" if asked else None)
        return shown | {"ttl": kept_ms(self._broker), "pollInterval": POLL_MS}

    async def _list(self, ctx: Context, cursor: Any) -> dict[str, Any]:
        try:
            before = None if cursor is None else UUID(str(cursor))
        except ValueError as error:
            raise MCPError(types.INVALID_PARAMS, "Invalid cursor") from error
        found = await listing(
            self._broker, identity_of(ctx), states=None, tool=None, before=before, limit=PAGE
        )
        page: dict[str, Any] = {"tasks": [self._shown(ctx, one) for one in found]}
        return page | ({"nextCursor": str(found[-1].id)} if len(found) == PAGE else {})

    async def _result(self, ctx: Context) -> dict[str, Any]:
        """The outcome; waits for it, as the spec says, and asks for what the task waits for."""
        command = await self._find(ctx)
        await asks.offer(self._broker, ctx, command, meta={RELATED: {"taskId": str(command.id)}})
        if not command.final:
            with self._broker.feed.watch(command.tenant_id, command.id, end_only=True) as watch:
                while not command.final:
                    ended = await until_final(watch, wait_s=self._broker.settings.inline_wait_s)
                    command = ended or command
        broken = protocol_error(command)
        if broken is not None:
            raise MCPError.from_error_data(broken)
        reply = await outcome_reply(self._broker, command, None)
        made = reply.model_dump(mode="json", by_alias=True, exclude_none=True)
        made.pop("resultType", None)  # is of the next era
        return made | {"_meta": {**made.get("_meta", {}), RELATED: {"taskId": str(command.id)}}}

    async def _cancel(self, ctx: Context) -> dict[str, Any]:
        """Cancel; a task that runs says `working` until its adapter has stopped."""
        command = await self._find(ctx)
        if command.final:
            raise MCPError(types.INVALID_PARAMS, f"The task has ended: {status(command)}")
        reason = "cancelled by the client (tasks/cancel)"
        change = await cancel(self._broker, identity_of(ctx), command.id, reason=reason)
        return self._shown(ctx, change.command)


def announced(answer: HandlerResult) -> HandlerResult:
    """The answer to `initialize`, with what the SDK does not know that we serve of that era."""
    if not isinstance(answer, dict):
        return answer
    capabilities = {**answer["capabilities"], "tools": {"listChanged": True}}
    if answer.get("protocolVersion") == VERSION:
        capabilities["tasks"] = CAPABILITY
    return {**answer, "capabilities": capabilities}


def status(command: Command) -> str:
    """A command's state in that version's terms, where a tool's own failure is `failed`."""
    if not command.final:
        return "working"
    if command.state is State.CANCELLED:
        return "cancelled"
    return "completed" if command.state is State.SUCCEEDED else "failed"
