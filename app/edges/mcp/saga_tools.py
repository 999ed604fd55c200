"""The tools for sagas: saga_run, saga_status, saga_cancel."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import anyio
import orjson
from mcp import types
from pydantic import StrictBool, ValidationError

from app.edges import sagas
from app.edges.calls import Accepted
from app.edges.commands import find as find_command
from app.edges.mcp import follow
from app.edges.mcp.calls import Context
from app.edges.mcp.shapes import shown_tool
from app.edges.mcp.words import next_step_of
from app.edges.parts import Parts
from app.errors import InvalidArgumentsError, cut
from app.identity import Identity
from app.intake.prepare import PROBLEMS_MAX, CallRequest
from app.sagas import registry
from app.sagas import view as saga_view

WAIT_S_MAX: Final = 45
WAIT_S: Final = 20
ID: Final = {
    "type": "string",
    "format": "uuid",
    "description": "The command_id that saga_run answered, or your own saga_id.",
}
REASON: Final = {
    "type": "string",
    "maxLength": 500,
    "description": "Why, in at most 500 characters; it is audited.",
}
"""Of a cancel, a saga's or a command's."""
GOES_ON: Final = "It goes on: ask saga_status again; do not run the saga again."
WAITS: Final = "A person has to decide: tell the user, and do not run the saga again."
NO_TASK: Final = types.ToolExecution(task_support="forbidden")

STATUS: Final = types.Tool(
    name="saga_status",
    title="Ask how a saga is doing",
    description=(
        "Ask how a saga is doing instead of running it again: its state and each step's, what is"
        " done, what is being undone, and why. Waits up to wait_s seconds for the end."
        " `compensated` means that it failed and everything was undone; `needs_operator` means that"
        " a person has to decide, so tell the user and do not run it again."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "saga_id": ID,
            "wait_s": {
                "type": "number",
                "default": WAIT_S,
                "description": f"Seconds to wait for the end, 0 to {WAIT_S_MAX}.",
            },
        },
        "required": ["saga_id"],
        "additionalProperties": False,
    },
    annotations=types.ToolAnnotations(read_only_hint=True, open_world_hint=False),
    execution=NO_TASK,
)
CANCEL: Final = types.Tool(
    name="saga_cancel",
    title="Cancel a saga and undo what it did",
    description=(
        "Stop a saga: no further step starts, and the steps that were done are undone in reverse"
        " order; saga_status tells when that is over. After its point of no return (a `pivot`"
        " step) a saga is not undone but goes on to its end."
    ),
    input_schema={
        "type": "object",
        "properties": {
            "saga_id": ID,
            "reason": REASON,
        },
        "required": ["saga_id"],
        "additionalProperties": False,
    },
    annotations=types.ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=False
    ),
    execution=NO_TASK,
)
RUN: Final = shown_tool(sagas.RUN)
TOOLS: Final = (RUN, STATUS, CANCEL)
ASKED: Final = {tool.name: tool.input_schema for tool in (STATUS, CANCEL)}


class Asked(sagas.Which):
    """The arguments of saga_run."""

    dry_run: StrictBool = False


async def run(
    broker: Parts, who: Identity, request: CallRequest, *, wait_s: float | None
) -> Accepted | types.CallToolResult:
    """Accept a saga whole, or show its plan.

    Raises:
        BrokerError: as `sagas.run`; nothing was started.
    """
    args = {name: value for name, value in request.args.items() if value is not None}
    try:
        asked = Asked.model_validate(args)
    except ValidationError as error:
        problems = [
            {"at": cut("/" + "/".join(map(str, one["loc"]))), "problem": cut(one["msg"])}
            for one in error.errors(include_input=False, include_url=False)[:PROBLEMS_MAX]
        ]
        said = "; ".join(f"{one['at']}: {one['problem']}" for one in problems)
        raise InvalidArgumentsError(
            f"saga_run: {said}. Nothing was started.", problems=problems
        ) from error
    which = sagas.Which.model_validate(asked.model_dump(exclude={"dry_run"}, exclude_unset=True))
    if asked.dry_run:
        definition = await sagas.definition_for(broker, who, which)
        return _said(registry.dry_run(definition, which.input))
    accepted: Accepted | None = None
    with anyio.CancelScope(shield=True):  # as for any call: whole or not at all
        accepted = await sagas.run(broker, who, which, request, wait_s=wait_s)
    assert accepted is not None
    return accepted


async def ask(
    broker: Parts, ctx: Context, who: Identity, name: str, arguments: Mapping[str, Any]
) -> types.CallToolResult:
    """Serve saga_status or saga_cancel; their arguments have been checked.

    Raises:
        NotFoundError, SagaClosedError
    """
    saga_id = UUID(arguments["saga_id"])
    if name == CANCEL.name:
        reason = arguments.get("reason") or "cancelled by the caller"
        return _said(await sagas.stop(broker, who, saga_id, reason=reason))
    saga, steps = await sagas.find(broker, who, saga_id)
    wait_s = min(WAIT_S_MAX, float(arguments.get("wait_s", WAIT_S)))
    if saga.kind == "declared" and saga.finished_at is None and wait_s > 0:
        await follow.ended(broker, ctx, who, saga_id, wait_s=wait_s)
        saga, steps = await sagas.find(broker, who, saga_id)
    body = saga_view.view(saga, steps)
    if saga.kind == "declared":
        command = await find_command(broker, who, saga_id)
        if command.final:
            body |= {"result": command.result, "error": command.error}
            body["next_step"] = next_step_of(command)
        else:
            body["message"] = command.message
            body["next_step"] = WAITS if body["needs_operator"] else GOES_ON
    return _said({name: value for name, value in body.items() if value is not None})


def _said(body: Mapping[str, Any]) -> types.CallToolResult:
    text = orjson.dumps(body, default=str).decode()
    return types.CallToolResult(
        content=[types.TextContent(type="text", text=text)], structured_content=dict(body)
    )
