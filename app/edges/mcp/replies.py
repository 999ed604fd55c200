"""How a command looks to an MCP client: results, "accepted, still running", and refusals."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import orjson
from mcp import types
from pydantic import ValidationError

from app import metrics
from app.commands.state import State
from app.commands.store.commands import Command
from app.commands.view import PURGED, waiting_for
from app.contract import instant
from app.edges.calls import Accepted
from app.edges.mcp.shown import link
from app.edges.mcp.words import (
    FAILED_NEXT,
    LINE_MAX,
    URI,
    failure_text,
    large_next,
    next_step_of,
    running_next,
    waits_of,
)
from app.edges.parts import Parts
from app.errors import BrokerError

META: Final = "dev.mcpbroker/command"
POLL_MS: Final = 2000
MISFIT: Final = (
    "The work is done, and its result is not of the shape that the tool lists: do not call the tool"
    " again."
)
JOINED: Final = "This call joined an identical one of yours: the work is done once."
AGAIN: Final = "Try again soon; with the same idempotency key nothing is done twice."
NEXT_STEPS: Final = {
    "bad_request": "Correct the call and send it again.",
    "invalid_arguments": "Correct the arguments and call again.",
    "invalid_definition": "Correct the saga and send it again.",
    "declined": "Do not call it again unless the user asks for it.",
    "unanswered": "Give these arguments yourself if you know them, or ask the user for them.",
    "oversize": "Nothing was started: send less, or a reference to it.",
    "unknown_tool": "Nothing was started: use tools/list to see what you may call.",
    "idempotency_conflict": "Nothing new was started: use a new key for a new request.",
    "not_found": "Use command_list to see your commands.",
    "held": "Tell the user that an operator holds this; do not try again now.",
    "queue_full": AGAIN,
    "unavailable": AGAIN,
}
"""By an error's code: what a model is to do about a refusal."""


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


def accepted_reply(
    command: Standing, accepted: Accepted, *, page: str | None = None
) -> types.CallToolResult:
    """A normal result that says: it runs, do not call again. `page`: where its caller decides."""
    waits = waits_of(command) if isinstance(command, Command) else None
    next_step = running_next(command.id, waits=waits, page=page)
    text = f"Accepted; it {waits}." if waits else "Accepted, still running."
    if accepted.deduplicated:
        next_step = f"{JOINED} {next_step}"
    body = {
        "status": "accepted",
        "command_id": str(command.id),
        "state": str(command.state),
        "waiting_for": waiting_for(command) if waits and isinstance(command, Command) else None,
        "approval_url": page,
        "deduplicated": accepted.deduplicated or None,
        "stage": command.stage,
        "percent": command.percent,
        "deadline_at": instant(command.deadline_at),
        "poll_after_ms": POLL_MS,
        "result_uri": f"{URI}{command.id}",
        "next_step": next_step,
    }
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=f"{text} {next_step}")],
        structured_content={name: value for name, value in body.items() if value is not None},
        _meta={META: about(command, accepted)},
    )


def about(command: Standing, accepted: Accepted | None) -> dict[str, Any]:
    """What a machine may want to know of the command behind a result."""
    made: dict[str, Any] = {
        "command_id": str(command.id),
        "state": str(command.state),
        "attempt": command.attempt,
    }
    if accepted is not None:
        made |= {"replayed": accepted.replayed, "deduplicated": accepted.deduplicated}
    return made


async def outcome_reply(
    broker: Parts, command: Command, accepted: Accepted | None
) -> types.CallToolResult:
    """How a command ended; what it shows fits the schema that its tool lists."""
    found = await broker.catalog.find(command.tool, command.method)
    made = final_reply(
        command,
        output=None if found is None else found.output,
        inline_bytes_max=broker.settings.result_inline_bytes_max,
    )
    made.meta = {META: about(command, accepted)}
    if accepted is not None and accepted.deduplicated:
        made.content.append(types.TextContent(type="text", text=JOINED))
    return made


def final_reply(command: Command, *, output: Any, inline_bytes_max: int) -> types.CallToolResult:
    """The outcome. A result over the limit comes by link; every failure is `isError`.

    `output` checks the tool's own output, where it lists a schema.
    """
    assert command.final
    if command.state is not State.SUCCEEDED:
        return failed_reply(command, inline_bytes_max=inline_bytes_max)
    if command.purged_at is not None:
        return _done(command, f"Succeeded. {PURGED}", PURGED, purged_at=instant(command.purged_at))
    result = command.result if isinstance(command.result, dict) else {"result": command.result}
    written = orjson.dumps(result)
    if len(written) > inline_bytes_max:
        next_step = large_next(command.id)
        note = (
            f"Succeeded. The result has {len(written)} bytes, too many to inline. {next_step}"
            f" It begins: {written.decode()[:500]}"
        )
        uri = f"{URI}{command.id}"
        done = _done(
            command, note, next_step, truncated=True, result_bytes=len(written), result_uri=uri
        )
        done.content.append(link(command))
        return done
    native = native_content(result)
    if native is not None:
        return native if fits(output, native) else _reshaped(command, native)
    text = written.decode()
    if output is not None and not output.is_valid(command.result):
        return _done(command, f"{text} {MISFIT}", MISFIT, result=command.result)
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], structured_content=result
    )


def _done(command: Command, text: str, next_step: str, **more: Any) -> types.CallToolResult:
    """A success in our own shape: no error, as the work was done."""
    shown = {"status": "succeeded", "command_id": str(command.id), "next_step": next_step}
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], structured_content=shown | more
    )


def _reshaped(command: Command, native: types.CallToolResult) -> types.CallToolResult:
    """An adapter's own content, whose structured part clients would not take."""
    shown: dict[str, Any] = {"command_id": str(command.id)}
    if native.is_error:
        error = {"code": "tool_error", "message": "The tool says what in its content."}
        shown |= {"status": "failed", "error": error, "next_step": FAILED_NEXT}
    else:
        shown |= {"status": "succeeded", "next_step": MISFIT}
        if native.structured_content is not None:
            shown["result"] = native.structured_content
    native.structured_content = shown
    return native


def fits(output: Any, native: types.CallToolResult) -> bool:
    """Whether clients take an adapter's own content as an answer of its tool."""
    if output is None:
        return True
    if native.structured_content is None:
        return bool(native.is_error)
    return output.is_valid(native.structured_content)


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


def failed_reply(command: Command, *, inline_bytes_max: int) -> types.CallToolResult:
    """An end without a result: the reason, and what to do, in words and as fields."""
    next_step = next_step_of(command)
    error: dict[str, Any] = command.error or {"code": str(command.state)}
    shown: dict[str, Any] = {
        "status": str(command.state),
        "command_id": str(command.id),
        "error": error,
        "outcome_unknown": command.outcome_unknown,
        "next_step": next_step,
    }
    text = f"{failure_text(command)} {next_step}"
    content: list[types.ContentBlock] = [types.TextContent(type="text", text=text)]
    if len(orjson.dumps(error)) > inline_bytes_max:
        shown["error"] = {"code": str(error.get("code"))[:LINE_MAX], "truncated": True}
        shown["result_uri"] = f"{URI}{command.id}"
        content.append(link(command))
    return types.CallToolResult(content=content, structured_content=shown, is_error=True)


def problem_reply(error: BrokerError) -> types.CallToolResult:
    """A refusal: nothing was started."""
    metrics.REFUSED.labels(error.code).inc()
    next_step = NEXT_STEPS.get(error.code, "Do not repeat it unchanged; tell the user.")
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=f"{error.title}. {error.detail} {next_step}")],
        structured_content={
            "status": "refused",
            "error": {"code": error.code, "detail": error.detail, **error.fields},
            "next_step": next_step,
        },
        is_error=True,
    )
