"""The tools that every client has: command_status, command_cancel, command_list.

Clients strip bounds from schemas and cut descriptions, so limits stand in the descriptions, what
matters most in their first 150 characters, and a number beyond a limit is taken as the limit.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import jsonschema_rs
import orjson
from mcp import types

from app.asserted import LABELS_MAX
from app.commands.state import State
from app.edges import sagas
from app.edges.commands import cancel, find, listing
from app.edges.mcp import follow, saga_tools
from app.edges.mcp.calls import Context
from app.edges.mcp.shown import Part, listed, status_reply
from app.edges.parts import Parts
from app.identity import Identity
from app.intake.prepare import hold

WAIT_S_MAX: Final = 45
WAIT_S: Final = 20
LIST_MAX: Final = 100
LIST: Final = 20
ID: Final = {"type": "string", "format": "uuid", "description": "As a call's answer gave it."}
READS: Final = types.ToolAnnotations(read_only_hint=True, open_world_hint=False)

STATUS: Final = types.Tool(
    name="command_status",
    title="Ask how a command is doing",
    description=(
        "Get the result of a call that answered 'accepted' or timed out, instead of calling its"
        " tool again. Waits up to wait_s seconds for the end; ask again while `final` is false."
        " Shows state, progress, result or error, and `next_step`. A result that is too large is"
        " read in parts, by offset."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "command_id": ID,
            "wait_s": {
                "type": "number",
                "default": WAIT_S,
                "description": f"Seconds to wait for the end, 0 to {WAIT_S_MAX}.",
            },
            "offset": {
                "type": "integer",
                "description": "Read the result as JSON text from this character on, 0 for the"
                " first: an answer's `next_offset` says where to go on.",
            },
            "limit": {
                "type": "integer",
                "description": "Characters to read from offset on; fewer come where an answer has"
                " no room for them.",
            },
        },
        "required": ["command_id"],
        "additionalProperties": False,
    },
    annotations=READS,
    execution=saga_tools.NO_TASK,
    _meta={"anthropic/alwaysLoad": True},  # who is told to use it must have it
)
CANCEL: Final = types.Tool(
    name="command_cancel",
    title="Cancel a command",
    description=(
        "Stop a command of yours. One that waits ends at once; one that runs is asked to stop, and"
        " command_status tells when it has. What it did until then stays done."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "command_id": ID,
            "reason": saga_tools.REASON,
        },
        "required": ["command_id"],
        "additionalProperties": False,
    },
    annotations=types.ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
    ),
    execution=saga_tools.NO_TASK,
)
FIND: Final = types.Tool(
    name="command_list",
    title="List your commands",
    description=(
        "Find a call whose answer was lost, after a time-out or a disconnect, before calling its"
        " tool again: your own commands, newest first, each with its tool, arguments and state."
        " command_status has their results."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "state": {
                "type": "array",
                "items": {"type": "string", "enum": [str(state) for state in State]},
                "description": "Only these states.",
            },
            "tool": {"type": "string", "description": "Only this tool, by its name in tools/list."},
            "label": {
                "type": "array",
                "items": {"type": "string"},
                "description": f"Only those that have each of these labels, {LABELS_MAX} at most.",
            },
            "before": {**ID, "description": "Older than this command: the next page."},
            "limit": {
                "type": "integer",
                "default": LIST,
                "description": f"How many, 1 to {LIST_MAX}.",
            },
        },
        "additionalProperties": False,
    },
    annotations=READS,
    execution=saga_tools.NO_TASK,
)
TOOLS: Final = (STATUS, CANCEL, FIND)
SCHEMAS: Final = {tool.name: tool.input_schema for tool in TOOLS} | saga_tools.ASKED
VALIDATORS: Final = {
    name: jsonschema_rs.validator_for(schema, validate_formats=True)
    for name, schema in SCHEMAS.items()
}


async def call(
    broker: Parts, ctx: Context, who: Identity, name: str, arguments: Mapping[str, Any]
) -> types.CallToolResult:
    """Serve one of the built-in tools. An argument that is null is one that is not there.

    Raises:
        InvalidArgumentsError, NotFoundError
    """
    given = {one: value for one, value in arguments.items() if value is not None}
    hold(name, VALIDATORS[name], given)
    match name:
        case "command_status":
            return await _status(broker, ctx, who, given)
        case "command_cancel":
            reason = given.get("reason") or "cancelled by the caller"
            change = await cancel(broker, who, UUID(given["command_id"]), reason=reason)
            return await status_reply(broker, change.command)
        case "command_list":
            return await _list(broker, who, given)
        case _:
            return await saga_tools.ask(broker, ctx, who, name, given)


async def _status(
    broker: Parts, ctx: Context, who: Identity, given: Mapping[str, Any]
) -> types.CallToolResult:
    command = await find(broker, who, UUID(given["command_id"]))
    wait_s = min(WAIT_S_MAX, float(given.get("wait_s", WAIT_S)))
    if not command.final and wait_s > 0:
        ended = await follow.ended(broker, ctx, who, command.id, wait_s=wait_s)
        command = ended or await find(broker, who, command.id)
    part = Part.asked(given.get("offset"), given.get("limit"))
    return await status_reply(broker, command, part=part)


async def _list(broker: Parts, who: Identity, given: Mapping[str, Any]) -> types.CallToolResult:
    states = given.get("state")
    before = given.get("before")
    limit = min(LIST_MAX, max(1, int(given.get("limit", LIST))))
    tool, method = await _paths(broker, given.get("tool"))
    found = await listing(
        broker,
        who,
        states=None if states is None else [State(state) for state in states],
        tool=tool,
        method=method,
        labels=given.get("label"),
        before=None if before is None else UUID(before),
        limit=limit,
    )
    body = {
        "commands": [await listed(broker, one) for one in found],
        "before": str(found[-1].id) if len(found) == limit else None,
    }
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=orjson.dumps(body, default=str).decode())],
        structured_content=body,
    )


async def _paths(broker: Parts, name: str | None) -> tuple[str | None, str | None]:
    """The tool and the method of a name of tools/list; the name of a tool has all its methods."""
    if name is None:
        return None, None
    if name == saga_tools.RUN.name:
        return sagas.RUN.tool, sagas.RUN.method
    found = await broker.catalog.by_name(name)
    return (name, None) if found is None else (found.tool, found.method)
