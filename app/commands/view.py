"""How a command is shown: while it waits and runs, and as the outcome that it ended with."""

from datetime import UTC, datetime
from typing import Any, Final

from app.commands import approvals
from app.commands.state import State
from app.commands.store.commands import Command
from app.contract import Priority, instant

PURGED: Final = (
    "The command ended as its state says; its arguments, result and error text were kept for a"
    " time and are purged. Do not repeat the call to get them: it would do the work again."
)
"""What the owner of a purged command is told in place of its result."""


def view(command: Command) -> dict[str, Any]:
    """A command as the HTTP API and `command_status` show it."""
    shown: dict[str, Any] = {
        "command_id": str(command.id),
        "tool": command.tool,
        "method": command.method,
        "state": str(command.state),
        "final": command.final,
        "attempt": command.attempt,
        "stage": command.stage,
        "percent": command.percent,
        "message": command.message,
        "priority": Priority(command.priority).wire,
        "ordering_key": command.ordering_key,
        "waiting_for": waiting_for(command),
        "hold": hold_of(command),
        "approval": approvals.shown(command),
        "run": run_of(command),
        "idempotency_key": command.idempotency_key,
        "cancel_requested": command.cancel_requested_at is not None,
        "labels": command.labels,
        "asserted_by_caller": command.asserted,
        "saga_id": None if command.saga_id is None else str(command.saga_id),
        "saga_step": command.saga_step,
        "created_at": instant(command.created_at),
        "not_before": None if command.not_before is None else instant(command.not_before),
        "deadline_at": instant(command.deadline_at),
        "finished_at": None if command.finished_at is None else instant(command.finished_at),
    }
    if command.final:
        shown |= {"result": command.result, "error": command.error}
        shown["outcome_unknown"] = command.outcome_unknown
    if command.purged_at is not None:
        shown |= {"purged_at": instant(command.purged_at), "note": PURGED}
    return {name: value for name, value in shown.items() if value is not None}


def run_of(command: Command) -> dict[str, Any] | None:
    """The newest run that an executor has started elsewhere: name, status, link, last lines."""
    if command.run is None:
        return None
    return {name: value for name, value in command.run.items() if value is not None}


def waiting_for(command: Command) -> str | None:
    """Why a command that has not ended does not run yet, for people."""
    if command.state is State.DISPATCHED and command.dispatched_at is not None:
        # Two machines' clocks: it is told, and decides nothing.
        if command.run is not None and command.run["attempt"] == command.attempt:
            return f"the executor: {command.run['name']} is {command.run['status']}"
        since_s = max(0, round((datetime.now(UTC) - command.dispatched_at).total_seconds()))
        return f"the executor: sent to it {since_s} s ago, not taken yet"
    return _queued_for(command) if command.state is State.QUEUED else None


def _queued_for(command: Command) -> str:
    if command.awaits_approval:
        said = approvals.waits_for(command)
        return "approval by an operator" if said == f"waits for {approvals.OPERATOR}" else said
    if command.hold is not None:
        return held_words(command.hold["reason"], _until(command.hold))
    if command.held:
        return f"earlier commands of ordering key {command.ordering_key!r}"
    if starts_later(command):
        assert command.not_before is not None
        return f"its start: not before {instant(command.not_before)}"
    return "its turn"


def hold_of(command: Command) -> dict[str, Any] | None:
    """The hold that keeps a command from starting, as its caller is shown it."""
    if command.hold is None:
        return None
    told = {**command.hold, "until": _until(command.hold)}
    return {name: value for name, value in told.items() if value is not None}


def held_words(reason: str, until: str | None) -> str:
    """That an operator holds something, until when, and why."""
    end = "until it is released" if until is None else f"until {until}"
    return f"held by an operator {end}: {reason}"


def _until(hold: dict[str, Any]) -> str | None:
    until = hold["until"]
    return None if until is None else instant(datetime.fromisoformat(until).astimezone(UTC))


def starts_later(command: Command) -> bool:
    """Whether a command's start is yet to come; told, and decides nothing."""
    return command.not_before is not None and command.not_before > datetime.now(UTC)


ERROR_CHARS_MAX: Final = 1000
"""Of an error's message in an event that has no room for all of it."""


def outcome_by_reference(outcome: dict[str, Any]) -> dict[str, Any]:
    """An outcome without what made it too large for an event: `GET /commands/{id}` has it all."""
    error: dict[str, Any] | None = outcome["error"]
    if error is not None:
        error = {name: error[name] for name in ("code", "message") if name in error}
        error = {name: str(value)[:ERROR_CHARS_MAX] for name, value in error.items()}
    return outcome | {"result": None, "error": error, "result_by_reference": True}


def outcome(command: Command) -> dict[str, Any]:
    """A final command as `mcp.results` and `mcp.deadletter` tell it, by the envelope's names."""
    assert command.finished_at is not None
    purged: dict[str, Any] = {}
    if command.purged_at is not None:
        purged = {"purged_at": instant(command.purged_at), "note": PURGED}
    return purged | {
        "correlation_id": str(command.id),
        "tenant_id": command.tenant_id,
        "tool": command.tool,
        "method": command.method,
        "ordering_key": command.ordering_key,
        "attempt": command.attempt,
        "state": str(command.state),
        "status": "ok" if command.state is State.SUCCEEDED else "error",
        "result": command.result,
        "error": command.error,
        "outcome_unknown": command.outcome_unknown,
        "finished_at": instant(command.finished_at),
    }
