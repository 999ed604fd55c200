"""How a saga looks from outside: its status, its progress, and the end of its own command."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from app.commands.state import Event
from app.commands.store.commands import Command
from app.contract import instant
from app.sagas.state import OPEN, PASSED, WAITING, State, StepState
from app.sagas.store.sagas import SagaRow, StepRow

NAMED_MAX: Final = 5
"""Steps that a line of progress names."""


def ending(
    saga: SagaRow, steps: Sequence[StepRow], commands: Mapping[UUID, Command]
) -> tuple[Event, Any, dict[str, Any] | None]:
    """How the saga's own command ends: the event, its result, or its error."""
    if saga.state is State.COMPLETED:
        results = {
            row.step: commands[row.command_id].result
            for row in steps
            if row.state is StepState.SUCCEEDED and row.command_id is not None
        }
        return Event.RESULT_OK, {"state": str(saga.state), "steps": results}, None
    reason = saga.reason or {}
    why = str(reason.get("message", "")).rstrip(".") + "."
    states = {row.step: str(row.state) for row in steps}
    if saga.state is State.COMPENSATION_FAILED:
        message = (
            f"{why} Not all of what was done could be undone; an operator has to see to it. Do not"
            " repeat the call."
        )
        return (
            Event.EXHAUST,
            None,
            {"code": "compensation_failed", "message": message, "steps": states},
        )
    event = {"cancelled": Event.CANCEL, "deadline": Event.EXPIRE}.get(
        reason.get("code", ""), Event.RESULT_ERROR
    )
    message = f"{why} What was done has been undone."
    return (
        event,
        None,
        {"code": "compensated", "message": message, "cause": reason, "steps": states},
    )


def progress(
    saga: SagaRow, steps: Sequence[StepRow], *, asking: Collection[UUID]
) -> tuple[str, float, str]:
    """Stage, percent of the steps that are done, and a line for people.

    `asking` are the commands that wait for somebody's approval.
    """
    percent = round(100 * sum(row.state in PASSED for row in steps) / max(1, len(steps)), 1)
    open_ = [row for row in steps if row.state in OPEN | {StepState.COMPENSATING}]
    named = _named([row.step for row in open_])
    asks = [row.step for row in open_ if row.command_id in asking]
    if saga.state in WAITING:
        line = f"waits for an operator: {(saga.reason or {}).get('message', '')}"
    elif saga.state is State.COMPENSATING:
        line = f"undoing {named}"
    elif asks:
        line = f"step {named}; an approval of {_named(asks)} is waited for"
    else:
        line = f"step {named}" if named else "between two steps"
    return str(saga.state), percent, line


def _named(steps: Sequence[str]) -> str:
    return ", ".join(steps[:NAMED_MAX]) + (", …" if len(steps) > NAMED_MAX else "")


def view(saga: SagaRow, steps: Sequence[StepRow]) -> dict[str, Any]:
    """A saga as `saga_status` and HTTP show it."""
    shown: dict[str, Any] = {
        "saga_id": str(saga.id),
        "kind": saga.kind,
        "name": saga.name,
        "version": saga.version or None,
        "state": str(saga.state),
        "final": saga.finished_at is not None,
        "needs_operator": saga.state in WAITING,
        "reason": saga.reason,
        "steps": [_step(row) for row in steps],
        "created_at": instant(saga.created_at),
        "finished_at": None if saga.finished_at is None else instant(saga.finished_at),
        "idle_at": None if saga.idle_at is None else instant(saga.idle_at),
    }
    return {name: value for name, value in shown.items() if value is not None}


def _step(row: StepRow) -> dict[str, Any]:
    shown = {
        "step": row.step,
        "state": str(row.state),
        "command_id": None if row.command_id is None else str(row.command_id),
        "reconcile_id": None if row.reconcile_id is None else str(row.reconcile_id),
        "undo_id": None if row.undo_id is None else str(row.undo_id),
        "completed": row.done_seq,
        "reason": row.reason,
    }
    return {name: value for name, value in shown.items() if value is not None}
