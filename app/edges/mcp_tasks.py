"""The tasks extension (SEP-2663) over the commands table: a task is a command."""

from typing import Any, Final
from uuid import UUID

from mcp import types
from mcp.server import Server
from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError

from app.command import State
from app.db.commands import Command
from app.edges.broker import Accepted, Broker, cancel, find
from app.edges.mcp_replies import META, POLL_MS, about, final_reply, protocol_error
from app.envelope import instant
from app.errors import BrokerError
from app.policy import Identity

Context = ServerRequestContext[Any, Any]

EXTENSION: Final = "io.modelcontextprotocol/tasks"
MISSING_CAPABILITY: Final = -32021
HEADER_MISMATCH: Final = -32020


class TaskParams(types.RequestParams):
    """Names a task."""

    task_id: str


class UpdateParams(TaskParams):
    """Answers to what a task asked."""

    input_responses: dict[str, Any] | None = None


class Tasks:
    """tasks/get, tasks/update and tasks/cancel."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def install(self, server: Server[Any]) -> None:
        """Advertise the extension and serve its methods."""
        server.extensions[EXTENSION] = {}
        server.add_request_handler("tasks/get", TaskParams, self._get)
        server.add_request_handler("tasks/update", UpdateParams, self._update)
        server.add_request_handler("tasks/cancel", TaskParams, self._cancel)

    async def start(
        self, ctx: Context, _params: types.CallToolRequestParams, accepted: Accepted
    ) -> dict[str, Any] | None:
        """A task handle for a client that declared the extension; None for every other."""
        if not declared(ctx) or accepted.tool.policy.task == "forbidden":
            return None
        who = _identity(ctx)
        command = await find(self._broker, who, accepted.written.id)
        return self._shown(command) | {
            "resultType": "task",
            "_meta": {META: about(command, accepted)},
        }

    def _shown(self, command: Command) -> dict[str, Any]:
        kept_ms = round(self._broker.settings.bodies_kept_s * 1000)
        shown: dict[str, Any] = {
            "taskId": str(command.id),
            "status": status(command),
            "createdAt": instant(command.created_at),
            "lastUpdatedAt": instant(
                command.finished_at or command.started_at or command.created_at
            ),
            "ttlMs": kept_ms,
            "pollIntervalMs": POLL_MS,
        }
        line = ": ".join(part for part in (command.stage, command.message) if part)
        return shown | ({"statusMessage": line[:200]} if line else {})

    async def _find(self, ctx: Context, params: TaskParams) -> tuple[Identity, Command]:
        need_declared(ctx)
        who = _identity(ctx)
        named = None if ctx.request is None else ctx.request.headers.get("mcp-name")
        if named is not None and named != params.task_id:
            raise MCPError(HEADER_MISMATCH, "Mcp-Name and taskId differ")
        try:
            return who, await find(self._broker, who, UUID(params.task_id))
        except (ValueError, BrokerError) as error:
            raise MCPError(types.INVALID_PARAMS, "Task not found") from error

    async def _get(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        _, command = await self._find(ctx, params)
        shown = self._shown(command) | {"resultType": "complete"}
        if command.state is State.CANCELLED or not command.final:
            return shown
        broken = protocol_error(command)
        if broken is not None:
            return shown | {"error": broken.model_dump(mode="json", exclude_none=True)}
        limit = self._broker.settings.result_inline_bytes_max
        reply = final_reply(command, None, inline_bytes_max=limit)
        return shown | {"result": reply.model_dump(mode="json", by_alias=True, exclude_none=True)}

    async def _update(self, ctx: Context, params: UpdateParams) -> dict[str, Any]:
        await self._find(ctx, params)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        who, command = await self._find(ctx, params)
        await cancel(self._broker, who, command.id, reason="cancelled by the client (tasks/cancel)")
        return {"resultType": "complete"}


def declared(ctx: Context) -> bool:
    """Whether this request's client declared the tasks extension."""
    capabilities = ctx.session.client_capabilities
    return bool(capabilities and capabilities.extensions and EXTENSION in capabilities.extensions)


def need_declared(ctx: Context) -> None:
    """Refuse a client that did not declare the extension.

    Raises:
        MCPError: it did not; the error names the capability.
    """
    if not declared(ctx):
        wanted = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        raise MCPError(MISSING_CAPABILITY, f"Declare the extension {EXTENSION}", wanted)


def status(command: Command) -> str:
    """A command's state in the extension's words: `failed` is for JSON-RPC errors only."""
    if command.state is State.CANCELLED:
        return "cancelled"
    if protocol_error(command) is not None:
        return "failed"
    return "completed" if command.final else "working"


def _identity(ctx: Context) -> Identity:
    assert ctx.request is not None, "served over HTTP only"
    return ctx.request.scope["broker.identity"]
