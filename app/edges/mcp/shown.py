"""A command as a model is shown it: by names that it can use, without the broker's own books."""

from dataclasses import dataclass
from typing import Any, Final, Self

import orjson
from mcp import types

from app.catalog.policy import wire_name
from app.catalog.redaction import redact
from app.commands.state import State
from app.commands.store.commands import Command
from app.commands.view import view
from app.edges.mcp.words import URI, large_next, next_step_of
from app.edges.parts import Parts
from app.edges.sagas import RUN

OURS: Final = ("method", "attempt", "priority", "idempotency_key")
"""Of a command's view: what tells a model nothing, or is another name for what is there."""
OUR_KEYS: Final = ("auto:", "asked:")
"""How the keys begin that no client gave."""
ARGUMENTS_MAX: Final = 500
"""Characters of the arguments in a list."""
PART_CHARS: Final = 20_000
"""Of a result that is read in parts, where the reader names no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Which characters of a result, written as JSON, are wanted."""

    offset: int
    limit: int

    @classmethod
    def asked(cls, offset: float | None, limit: float | None) -> Self | None:
        """The part that is asked for; None where none is."""
        if offset is None and limit is None:
            return None
        return cls(offset=max(0, int(offset or 0)), limit=max(1, int(limit or PART_CHARS)))


async def shown(broker: Parts, command: Command) -> dict[str, Any]:
    """A command with all that is known of it."""
    told = {name: value for name, value in view(command).items() if name not in OURS}
    told["tool"] = await named(broker, command)
    if command.idempotency_key and not command.idempotency_key.startswith(OUR_KEYS):
        told["idempotency_key"] = command.idempotency_key
    return told


async def named(broker: Parts, command: Command) -> str:
    """The name by which a command's tool is called."""
    found = await broker.catalog.find(command.tool, command.method)
    return wire_name(command.tool, command.method) if found is None else found.tool.name


async def listed(broker: Parts, command: Command) -> dict[str, Any]:
    """A command as one of many: with what it was called with, without how it ended."""
    told = await shown(broker, command)
    for large in ("result", "error", "note"):
        told.pop(large, None)
    found = await broker.catalog.find(command.tool, command.method)
    tool = RUN if (command.tool, command.method) == (RUN.tool, RUN.method) else None
    tool = tool if found is None else found.tool
    if tool is not None and command.args is not None:  # what is secret, its schema says
        arguments = redact(dict(command.args), tool.input_schema)
        written = orjson.dumps(arguments).decode()
        if len(written) > ARGUMENTS_MAX:
            arguments = f"{written[:ARGUMENTS_MAX]} …"
        told["arguments"] = arguments
    return told


async def status_reply(
    broker: Parts, command: Command, *, part: Part | None = None
) -> types.CallToolResult:
    """A command's state as a tool's result: structured, never an error in itself."""
    told = await shown(broker, command) | {"next_step": next_step_of(command)}
    bytes_max = broker.settings.result_inline_bytes_max
    text = _text(told)
    too_large = len(text.encode()) > bytes_max
    if command.final and (too_large or part is not None):
        for large in ("result", "error"):
            told.pop(large, None)
        if part is not None:
            told |= parted(command, part, bytes_max=bytes_max)
        else:
            told |= {"truncated": True, "next_step": large_next(command.id)}
        told["result_uri"] = f"{URI}{command.id}"
        text = _text(told)
    content: list[types.ContentBlock] = [types.TextContent(type="text", text=text)]
    if "truncated" in told:
        content.append(link(command))
    return types.CallToolResult(content=content, structured_content=told)


def parted(command: Command, part: Part, *, bytes_max: int) -> dict[str, Any]:
    """Some characters of a result or an error; fewer than asked for where they take more room."""
    outcome = command.result if command.state is State.SUCCEEDED else command.error
    whole = _text(outcome)
    text = whole[part.offset : part.offset + part.limit]
    while len(text) > 1 and len(orjson.dumps(text)) > bytes_max:
        text = text[: len(text) // 2]
    after = part.offset + len(text)
    told: dict[str, Any] = {
        "result_text": text,
        "offset": part.offset,
        "result_chars": len(whole),
        "next_step": "That was all of it; do not call the tool again.",
    }
    if after < len(whole):
        further = f"Go on with command_status and offset {after}; do not call the tool again."
        told |= {"next_offset": after, "next_step": further}
    return told


def link(command: Command) -> types.ResourceLink:
    """Where the whole result can be read."""
    return types.ResourceLink(
        type="resource_link",
        uri=f"{URI}{command.id}",
        name=f"command {command.id}",
        mime_type="application/json",
    )


async def as_text(broker: Parts, command: Command) -> str:
    """A command with its whole result, as a resource."""
    return _text(await shown(broker, command))


def _text(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()
