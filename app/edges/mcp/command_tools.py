"""The tools that every client has: command_status, command_cancel, command_list."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import jsonschema_rs
import orjson
from mcp import types

from app.commands.state import State
from app.commands.store.commands import Command
from app.commands.view import view
from app.commands.watch import until_final
from app.edges.commands import cancel, find, listing
from app.edges.mcp import saga_tools
from app.edges.mcp.replies import status_reply
from app.edges.parts import Parts
from app.errors import InvalidArgumentsError, cut
from app.identity import Identity

WAIT_S_MAX: Final = 45
NO_TASK: Final = types.ToolExecution(task_support="forbidden")
ID: Final = {"type": "string", "format": "uuid", "description": "As a call's answer gave it."}

TOOLS: Final = (
    types.Tool(
        name="command_status",
        title="Ask how a command is doing",
        description=(
            "Get the state, progress and, once it has ended, the result of a command that"
            " answered 'accepted'. Waits up to wait_s seconds for the end, so call it again"
            " rather than calling the tool again."
        ),
        input_schema={
            "type": "object",
            "properties": {
                "command_id": ID,
                "wait_s": {
                    "type": "number",
                    "minimum": 0,
                    "maximum": WAIT_S_MAX,
                    "default": 20,
                    "description": "Seconds to wait for the end.",
                },
            },
            "required": ["command_id"],
            "additionalProperties": False,
        },
        annotations=types.ToolAnnotations(read_only_hint=True, open_world_hint=False),
        execution=NO_TASK,
    ),
    types.Tool(
        name="command_cancel",
        title="Cancel a command",
        description=(
            "Stop a command of yours. One that waits ends at once; one that runs is asked to"
            " stop, and command_status tells when it has. What it did until then stays done."
        ),
        input_schema={
            "type": "object",
            "properties": {
                "command_id": ID,
                "reason": {"type": "string", "maxLength": 500},
            },
            "required": ["command_id"],
            "additionalProperties": False,
        },
        annotations=types.ToolAnnotations(
            read_only_hint=False,
            destructive_hint=True,
            idempotent_hint=True,
            open_world_hint=False,
        ),
        execution=NO_TASK,
    ),
    types.Tool(
        name="command_list",
        title="List your commands",
        description=(
            "Your own commands, newest first: finds a call whose command_id was lost, for"
            " example after a disconnect."
        ),
        input_schema={
            "type": "object",
            "properties": {
                "state": {
                    "type": "array",
                    "items": {"enum": [str(state) for state in State]},
                    "description": "Only these states.",
                },
                "tool": {"type": "string", "description": "Only this tool, without its method."},
                "before": {**ID, "description": "Older than this command: the next page."},
                "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
            },
            "additionalProperties": False,
        },
        annotations=types.ToolAnnotations(read_only_hint=True, open_world_hint=False),
        execution=NO_TASK,
    ),
)
SCHEMAS: Final = {tool.name: tool.input_schema for tool in TOOLS} | saga_tools.ASKED
VALIDATORS: Final = {
    name: jsonschema_rs.validator_for(schema, validate_formats=True)
    for name, schema in SCHEMAS.items()
}


async def call(
    broker: Parts, who: Identity, name: str, arguments: Mapping[str, Any]
) -> types.CallToolResult:
    """Serve one of the built-in tools.

    Raises:
        InvalidArgumentsError, NotFoundError
    """
    for error in VALIDATORS[name].iter_errors(dict(arguments)):
        raise InvalidArgumentsError(f"{name}: {cut(error.message)}")
    match name:
        case "command_status":
            return await _status(broker, who, arguments)
        case "command_cancel":
            reason = arguments.get("reason") or "cancelled by the caller"
            command_id = UUID(arguments["command_id"])
            change = await cancel(broker, who, command_id, reason=reason)
            return status_reply(
                change.command, inline_bytes_max=broker.settings.result_inline_bytes_max
            )
        case "command_list":
            return await _list(broker, who, arguments)
        case _:
            return await saga_tools.ask(broker, who, name, arguments)


async def _status(
    broker: Parts, who: Identity, arguments: Mapping[str, Any]
) -> types.CallToolResult:
    command = await find(broker, who, UUID(arguments["command_id"]))
    wait_s = float(arguments.get("wait_s", 20))
    if not command.final and wait_s > 0:
        with broker.feed.watch(who.tenant_id, command.id) as watch:
            ended = await until_final(watch, wait_s=wait_s)
        command = ended or await find(broker, who, command.id)
    return status_reply(command, inline_bytes_max=broker.settings.result_inline_bytes_max)


async def _list(broker: Parts, who: Identity, arguments: Mapping[str, Any]) -> types.CallToolResult:
    states = arguments.get("state")
    before = arguments.get("before")
    limit = int(arguments.get("limit", 20))
    found = await listing(
        broker,
        who,
        states=None if states is None else [State(state) for state in states],
        tool=arguments.get("tool"),
        before=None if before is None else UUID(before),
        limit=limit,
    )
    shown = [
        {name: value for name, value in view(one).items() if name not in {"result", "error"}}
        for one in found
    ]
    body = {"commands": shown, "before": str(found[-1].id) if len(found) == limit else None}
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=orjson.dumps(body, default=str).decode())],
        structured_content=body,
    )


def as_text(command: Command) -> str:
    """A command with its whole result, as a resource."""
    return orjson.dumps(view(command), default=str).decode()
