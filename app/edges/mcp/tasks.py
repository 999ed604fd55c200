"""The tasks extension (SEP-2663) over the commands table: a task is a command."""

from typing import Any, Final
from uuid import UUID

from mcp import types
from mcp.server import Server
from mcp.shared.exceptions import MCPError

from app.commands.state import State
from app.commands.store.commands import Command
from app.contract import instant
from app.edges.calls import Accepted
from app.edges.commands import cancel, find
from app.edges.mcp.asking.tasks import answer, asked
from app.edges.mcp.calls import Context, identity_of
from app.edges.mcp.replies import META, POLL_MS, about, outcome_reply, protocol_error
from app.edges.mcp.words import ended_line, line_of, state_line
from app.edges.parts import Parts
from app.errors import BrokerError
from app.identity import Identity

EXTENSION: Final = "io.modelcontextprotocol/tasks"
MISSING_CAPABILITY: Final = -32021
HEADER_MISMATCH: Final = -32020
JOINED: Final = "joined an identical call of yours"
ASKS: Final = "waits for the user's approval, or an operator's"


class TaskParams(types.RequestParams):
    """Names a task."""

    task_id: str


class UpdateParams(TaskParams):
    """Answers to what a task asked."""

    input_responses: dict[str, Any] | None = None


class Tasks:
    """tasks/get, tasks/update and tasks/cancel."""

    def __init__(self, broker: Parts) -> None:
        self._broker = broker

    def install(self, server: Server[Any]) -> None:
        """Advertise the extension and serve its methods."""
        server.extensions[EXTENSION] = {}
        server.add_request_handler("tasks/get", TaskParams, self._get)
        server.add_request_handler("tasks/update", UpdateParams, self._update)
        server.add_request_handler("tasks/cancel", TaskParams, self._cancel)

    async def started(self, ctx: Context, accepted: Accepted) -> dict[str, Any]:
        """A task handle, for a client that declared the extension."""
        command = await find(self._broker, identity_of(ctx), accepted.written.id)
        shown = self._shown(command, waits=bool(await asked(self._broker, ctx, command)))
        if accepted.deduplicated:
            shown["statusMessage"] = line_of(JOINED, shown.get("statusMessage"))
        return shown | {"resultType": "task", "_meta": {META: about(command, accepted)}}

    def _shown(self, command: Command, *, waits: bool = False) -> dict[str, Any]:
        shown = described(command, "input_required" if waits else status(command))
        if waits:
            shown["statusMessage"] = ASKS
        return shown | {"ttlMs": kept_ms(self._broker), "pollIntervalMs": POLL_MS}

    async def _find(self, ctx: Context, params: TaskParams) -> tuple[Identity, Command]:
        need_declared(ctx)
        who = identity_of(ctx)
        named = None if ctx.request is None else ctx.request.headers.get("mcp-name")
        if named is not None and named != params.task_id:
            raise MCPError(HEADER_MISMATCH, "Mcp-Name and taskId differ")
        return who, await own_task(self._broker, who, params.task_id)

    async def _get(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        _, command = await self._find(ctx, params)
        return await self.detailed(ctx, command) | {"resultType": "complete"}

    async def detailed(self, ctx: Context, command: Command) -> dict[str, Any]:
        """A task with its result, its error or its question, as tasks/get and pushes tell it."""
        questions = await asked(self._broker, ctx, command)
        shown = self._shown(command, waits=bool(questions))
        if questions:
            asks = {
                key: one.request.model_dump(mode="json", by_alias=True, exclude_none=True)
                for key, one in questions.items()
            }
            return shown | {"inputRequests": asks}
        if command.state is State.CANCELLED or not command.final:
            return shown
        broken = protocol_error(command)
        if broken is not None:
            return shown | {"error": broken.model_dump(mode="json", exclude_none=True)}
        reply = await outcome_reply(self._broker, command, None)
        return shown | {"result": reply.model_dump(mode="json", by_alias=True, exclude_none=True)}

    async def _update(self, ctx: Context, params: UpdateParams) -> dict[str, Any]:
        who, command = await self._find(ctx, params)
        await answer(self._broker, ctx, who, command, params.input_responses)
        return {"resultType": "complete"}

    async def _cancel(self, ctx: Context, params: TaskParams) -> dict[str, Any]:
        who, command = await self._find(ctx, params)
        await cancel(self._broker, who, command.id, reason="cancelled by the client (tasks/cancel)")
        return {"resultType": "complete"}


async def own_task(broker: Parts, who: Identity, task_id: str) -> Command:
    """The command behind a task of the caller's.

    Raises:
        MCPError: there is none, in the same words whoever's it is.
    """
    try:
        return await find(broker, who, UUID(task_id))
    except (ValueError, BrokerError) as error:
        raise MCPError(types.INVALID_PARAMS, "Task not found") from error


def described(command: Command, status: str, note: str | None = None) -> dict[str, Any]:
    """What both versions of tasks tell of a command alike."""
    task_fields: dict[str, Any] = {
        "taskId": str(command.id),
        "status": status,
        "createdAt": instant(command.created_at),
        "lastUpdatedAt": instant(command.finished_at or command.started_at or command.created_at),
    }
    line = ended_line(command) if command.final else line_of(note, state_line(command))
    return task_fields | ({"statusMessage": line} if line else {})


def kept_ms(broker: Parts) -> int:
    """How long a task can be asked for after its end, in milliseconds."""
    return round(broker.settings.bodies_kept_s * 1000)


def declared(ctx: Context) -> bool:
    """Whether this request's client declared the tasks extension."""
    capabilities = ctx.session.client_capabilities
    return bool(capabilities and capabilities.extensions and EXTENSION in capabilities.extensions)


def need_declared(ctx: Context, tool: str | None = None) -> None:
    """Refuse a client that did not declare the extension, in words for a model.

    Raises:
        MCPError: it did not; the error names the capability.
    """
    if not declared(ctx):
        wanted = {"requiredCapabilities": {"extensions": {EXTENSION: {}}}}
        what = "Tasks are" if tool is None else f"{tool} runs as a task only: it is"
        instead = (
            "command_status tells the same of a command."
            if tool is None
            else "Nothing was started; do not call it again from here, and tell the user."
        )
        words = f"{what} for clients that declare the extension {EXTENSION}. {instead}"
        raise MCPError(MISSING_CAPABILITY, words, wanted)


def status(command: Command) -> str:
    """A command's state in the extension's terms: `failed` is for JSON-RPC errors only."""
    if command.state is State.CANCELLED:
        return "cancelled"
    if protocol_error(command) is not None:
        return "failed"
    return "completed" if command.final else "working"
