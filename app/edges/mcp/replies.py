"""How a command looks to an MCP client: results, "accepted, still running", and refusals."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from mcp import types
from pydantic import ValidationError

from app import metrics
from app.catalog.policy import Tool
from app.commands.state import State
from app.commands.store.commands import Command
from app.commands.view import PURGED, view
from app.contract import instant
from app.edges.calls import Accepted
from app.errors import BrokerError, UnknownToolError

META: Final = "dev.mcpbroker/command"
URI: Final = "command://"
POLL_MS: Final = 2000
REASON_MAX: Final = 2000
"""Characters of an adapter's reason in an answer's text."""
LINE_MAX: Final = 200
"""Characters of a line that says how a command is doing."""

ACCEPTED_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "The work goes on: ask command_status with this command_id.",
    "properties": {
        "status": {"const": "accepted"},
        "command_id": {"type": "string"},
        "state": {"type": "string"},
        "deadline_at": {"type": "string"},
        "poll_after_ms": {"type": "integer"},
    },
    "required": ["status", "command_id"],
}

SUCCEEDED_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "description": "The work is done, and its result is not here: it is read at result_uri.",
    "properties": {
        "status": {"const": "succeeded"},
        "command_id": {"type": "string"},
        "truncated": {"const": True, "description": "The result is too large to be inline."},
        "result_bytes": {"type": "integer"},
        "result_uri": {"type": "string"},
        "purged_at": {"type": "string", "description": "The result was purged, by policy."},
    },
    "required": ["status", "command_id"],
}
SHARED: Final = ("$schema", "$defs", "definitions")
"""What of a tool's output schema must stay at the root, so that its `$ref`s still find it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JustWritten:
    """A command that nobody has heard of since it was written."""

    id: UUID
    deadline_at: datetime
    state: State = State.QUEUED
    attempt: int = 1
    stage: str | None = None
    percent: float | None = None


Standing = Command | JustWritten


def line_of(*parts: str | None) -> str:
    """One short line for a person, of the parts that say anything."""
    return ": ".join(part for part in parts if part)[:LINE_MAX]


def shown_tool(tool: Tool) -> types.Tool:
    """A tool as tools/list shows it. Its output admits the shapes that are ours."""
    output = None
    if tool.output_schema is not None:
        own = dict(tool.output_schema)
        shared = () if "$id" in own else SHARED  # with an id of its own it is its own root
        root = {name: own.pop(name) for name in shared if name in own}
        output = root | {"type": "object", "anyOf": [own, ACCEPTED_SCHEMA, SUCCEEDED_SCHEMA]}
    return types.Tool(
        name=tool.name,
        title=tool.title or None,
        description=tool.description,
        input_schema=dict(tool.input_schema),
        output_schema=output,
        annotations=types.ToolAnnotations.model_validate(dict(tool.annotations)),
        execution=types.ToolExecution(task_support=tool.policy.task),
    )


def link(command: Standing) -> types.ResourceLink:
    """Where the whole result can be read."""
    return types.ResourceLink(
        type="resource_link",
        uri=f"{URI}{command.id}",
        name=f"command {command.id}",
        mime_type="application/json",
    )


def accepted_reply(command: Standing, accepted: Accepted | None) -> types.CallToolResult:
    """A normal result that says: it runs, do not call again."""
    body = {
        "status": "accepted",
        "command_id": str(command.id),
        "state": str(command.state),
        "deadline_at": command.deadline_at.isoformat(),
        "poll_after_ms": POLL_MS,
    }
    if command.stage is not None:
        body |= {"stage": command.stage, "percent": command.percent}
    text = (
        f"Accepted, still running (state {command.state}). Do not call this tool again for the"
        f" same work: call command_status with command_id {command.id} to get the result."
    )
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text), link(command)],
        structured_content=body,
        _meta={META: about(command, accepted)},
    )


def about(command: Standing, accepted: Accepted | None) -> dict[str, Any]:
    """What a machine may want to know of the command behind a result."""
    made: dict[str, Any] = {
        "id": str(command.id),
        "state": str(command.state),
        "attempt": command.attempt,
    }
    if accepted is not None:
        made |= {"replayed": accepted.replayed, "deduplicated": accepted.deduplicated}
    return made


def final_reply(
    command: Command, accepted: Accepted | None, *, inline_bytes_max: int
) -> types.CallToolResult:
    """The outcome. A result over the limit comes by link; every failure is `isError`."""
    assert command.final
    shown = {META: about(command, accepted)}
    if command.state is not State.SUCCEEDED:
        body: dict[str, Any] = {"command_id": str(command.id)}
        if len(orjson.dumps(command.error)) <= inline_bytes_max:
            body["error"] = command.error
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=failure_text(command)), link(command)],
            structured_content=body,
            is_error=True,
            _meta=shown,
        )
    if command.purged_at is not None:
        return purged_reply(command, shown)
    result = command.result if isinstance(command.result, dict) else {"result": command.result}
    written = orjson.dumps(result)
    text = written.decode()
    if len(written) > inline_bytes_max:
        note = (
            f"Succeeded. The result has {len(written)} bytes, too many to inline: read the"
            f" resource {URI}{command.id}. It begins: {text[:500]}"
        )
        return types.CallToolResult(
            content=[types.TextContent(type="text", text=note), link(command)],
            structured_content={
                "status": "succeeded",
                "command_id": str(command.id),
                "truncated": True,
                "result_bytes": len(written),
                "result_uri": f"{URI}{command.id}",
            },
            _meta=shown,
        )
    native = native_content(result)
    if native is not None:
        native.meta = shown
        return native
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)],
        structured_content=result,
        _meta=shown,
    )


def purged_reply(command: Command, shown: dict[str, Any]) -> types.CallToolResult:
    """A success whose result is purged: no error, as the work was done, and no result either."""
    assert command.purged_at is not None
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=f"Succeeded. {PURGED}"), link(command)],
        structured_content={
            "status": "succeeded",
            "command_id": str(command.id),
            "purged_at": instant(command.purged_at),
        },
        _meta=shown,
    )


def native_content(result: dict[str, Any]) -> types.CallToolResult | None:
    """An adapter may answer in MCP's own content blocks: `{"mcp": {"content": […], …}}`.

    What is not of MCP's shape is a result like any other.
    """
    if set(result) != {"mcp"}:
        return None
    try:
        return types.CallToolResult.model_validate(result["mcp"])
    except ValidationError:
        return None


def protocol_error(command: Command) -> types.ErrorData | None:
    """An adapter may end a call in a JSON-RPC error: `{…, "mcp": {"code": …, "message": …}}`.

    It is for what is not the tool's own failure; those are results with `isError`.
    """
    if command.state is not State.FAILED or "mcp" not in (command.error or {}):
        return None
    try:
        return types.ErrorData.model_validate((command.error or {})["mcp"])
    except ValidationError:
        return None


def failure_text(command: Command) -> str:
    """What went wrong and what to do, for a model to read."""
    error = command.error or {}
    if command.purged_at is not None:
        return f"The command ended {command.state} ({error.get('code')}). {PURGED}"
    said = str(error.get("message") or error.get("code") or "no reason given")[:REASON_MAX]
    match command.state:
        case State.FAILED:
            text = f"The tool failed: {said}"
        case State.CANCELLED:
            text = f"The command was cancelled: {said}"
        case State.TIMED_OUT:
            text = f"The command did not end by its deadline: {said}"
        case _:
            text = f"The command was given up and an operator can see it: {said}"
    if command.outcome_unknown:
        text += " Whether it had an effect is unknown; check before you repeat it."
    return f"{text} (command {command.id}, attempt {command.attempt})"


def problem_reply(error: BrokerError) -> types.CallToolResult:
    """A refusal: nothing was started."""
    metrics.REFUSED.labels(error.code).inc()
    hint = (
        " Use tools/list to see what you may call." if isinstance(error, UnknownToolError) else ""
    )
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=f"{error.title}. {error.detail}{hint}")],
        structured_content={"error": {"code": error.code, "detail": error.detail, **error.fields}},
        is_error=True,
    )


def status_reply(command: Command, *, inline_bytes_max: int) -> types.CallToolResult:
    """A command's state as a tool's result: structured, never an error in itself."""
    shown = view(command)
    text = orjson.dumps(shown, default=str).decode()
    if len(text.encode()) > inline_bytes_max:
        for large in ("result", "error"):
            shown.pop(large, None)
        shown["result_uri"] = f"{URI}{command.id}"
        text = orjson.dumps(shown, default=str).decode()
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text), link(command)],
        structured_content=shown,
    )
