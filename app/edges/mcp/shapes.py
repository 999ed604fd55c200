"""What tools/list says of a tool: its own schema, and the shapes of what we answer ourselves."""

from collections.abc import Sequence
from typing import Any, Final

from mcp import types

from app.catalog.policy import Tool
from app.commands.holds import of_call
from app.commands.store.holds import Hold
from app.commands.view import held_words
from app.contract import instant

ACCEPTED_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "The work goes on: ask command_status with this command_id.",
    "properties": {
        "status": {"type": "string", "const": "accepted"},
        "command_id": {"type": "string"},
        "state": {"type": "string"},
        "waiting_for": {"type": "string", "description": "What is waited for, and by whose word."},
        "approval_url": {"type": "string", "description": "Where the user decides about it."},
        "deduplicated": {"type": "boolean", "description": "It joined an unfinished call."},
        "result_uri": {"type": "string", "description": "Where the result will be read."},
        "deadline_at": {"type": "string"},
        "poll_after_ms": {"type": "integer"},
        "next_step": {"type": "string"},
    },
    "required": ["status", "command_id"],
}

SUCCEEDED_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "The work is done, and its result is not of this tool's shape, or not here.",
    "properties": {
        "status": {"type": "string", "const": "succeeded"},
        "command_id": {"type": "string"},
        "truncated": {"type": "boolean", "description": "The result is too large to be inline."},
        "result_bytes": {"type": "integer"},
        "result_uri": {"type": "string", "description": "Where the result is read."},
        "result": {"description": "A result of another shape than the tool's."},
        "next_step": {"type": "string"},
        "purged_at": {"type": "string", "description": "The result was purged, by policy."},
    },
    "required": ["status", "command_id"],
}

FAILED_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "The call was refused, and nothing was started, or it ended without a result.",
    "properties": {
        "status": {
            "type": "string",
            "enum": ["refused", "failed", "cancelled", "timed_out", "dead_lettered"],
        },
        "command_id": {"type": "string"},
        "error": {"type": "object"},
        "outcome_unknown": {"type": "boolean", "description": "It may have had an effect."},
        "result_uri": {"type": "string", "description": "Where the whole error is read."},
        "next_step": {"type": "string", "description": "What to do, and what not to do, now."},
    },
    "required": ["status", "error", "next_step"],
}
SHARED: Final = ("$schema", "$defs", "definitions")
"""What of a tool's output schema must stay at the root, so that its `$ref`s still find it."""
OURS: Final = (ACCEPTED_SCHEMA, SUCCEEDED_SCHEMA, FAILED_SCHEMA)


def hold_of(tool: Tool, holds: Sequence[Hold]) -> Hold | None:
    """The hold that every call of a tool meets, if there is one."""
    every = [one for one in holds if one.ordering_key is None and one.args_path is None]
    return of_call(every, tool=tool.tool, method=tool.method, ordering_key=None, args={})


def held_line(hold: Hold) -> str:
    """What a model is told before it calls what is held."""
    until = None if hold.until is None else instant(hold.until)
    effect = "refused" if hold.effect == "refuse" else "accepted and wait"
    return f"Now {held_words(hold.reason, until)}. Calls are {effect}."


def shown_tool(tool: Tool, *, hold: Hold | None = None) -> types.Tool:
    """A tool as tools/list shows it. Its output admits the shapes that are ours.

    Clients hold each answer against it, refusals too (TypeScript SDK 1.x).
    """
    output = None
    if tool.output_schema is not None:
        own = dict(tool.output_schema)
        shared = () if "$id" in own else SHARED  # with an id of its own it is its own root
        root = {name: own.pop(name) for name in shared if name in own}
        output = root | {"type": "object", "anyOf": [own, *OURS]}
    return types.Tool(
        name=tool.name,
        title=tool.title or None,
        description=(
            tool.description if hold is None else f"{tool.description}\n\n{held_line(hold)}"
        ),
        input_schema=dict(tool.input_schema),
        output_schema=output,
        annotations=types.ToolAnnotations.model_validate(dict(tool.annotations)),
        execution=types.ToolExecution(task_support=tool.policy.task),
    )
