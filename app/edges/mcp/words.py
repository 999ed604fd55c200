"""What a model is told of a command in words: how it is doing, how it ended, what to do next."""

from typing import Any, Final
from uuid import UUID

from app.commands.approvals import waits_for
from app.commands.state import State
from app.commands.store.commands import Command
from app.commands.view import PURGED, starts_later, waiting_for
from app.contract import instant

URI: Final = "command://"
REASON_MAX: Final = 2000
"""Characters of an adapter's reason in an answer's text."""
LINE_MAX: Final = 200
"""Characters of a line that says how a command is doing."""
FAILED_NEXT: Final = "It has ended so: call again only after what caused this is corrected."
UNKNOWN_NEXT: Final = "Whether it had an effect is unknown; check before you repeat it."
ENDED_NEXT: Final = {
    State.SUCCEEDED: "It has succeeded: use its result; do not call the tool again.",
    State.FAILED: FAILED_NEXT,
    State.CANCELLED: ("What it did until then stays done; call again only if it is wanted again."),
    State.TIMED_OUT: "Nothing was done; call again only if it is still wanted.",
    State.DEAD_LETTERED: "Do not call again: an operator has to look at it. Tell the user.",
}


def line_of(*parts: str | None) -> str:
    """One short line for a person, of the parts that say anything."""
    return ": ".join(part for part in parts if part)[:LINE_MAX]


def state_line(command: Command) -> str:
    """How a command that has not ended is doing: why it waits, or what its adapter says."""
    waits = approval_of(command) or waiting_for(command)
    line = line_of(waits, command.stage, command.message)
    if command.percent is None or not line:
        return line
    percent = f" ({command.percent:.3g} %)"
    return line[: LINE_MAX - len(percent)] + percent


def ended_line(command: Command) -> str:
    """How a command has ended; what its adapter said on the way is over."""
    if command.state is State.SUCCEEDED:
        return "succeeded"
    return failure_text(command)[:LINE_MAX]


def later_of(command: Command) -> str | None:
    """In words, what a command waits for that may take longer than its caller.

    That is an operator's hold, or the start that was asked for.
    """
    if command.state is State.QUEUED and command.hold is not None:
        return f"is {waiting_for(command)}"
    if command.state is State.QUEUED and starts_later(command) and command.not_before is not None:
        return f"starts not before {instant(command.not_before)}"
    return None


def approval_of(command: Command) -> str | None:
    """Whose approval a command waits for, in words; None where it waits for none."""
    return waits_for(command) if command.awaits_approval else None


def waits_of(command: Command) -> str | None:
    """What a command waits for that may take longer than its caller: persons, or its start."""
    return approval_of(command) or later_of(command)


def running_next(command_id: UUID, *, waits: str | None, page: str | None = None) -> str:
    """What to do about a command that has not ended; `waits` is for persons, or its start.

    `page` is where the caller may decide about it.
    """
    if waits is not None:
        own = "" if page is None else f", and that they can decide about it at {page}"
        return (
            f"Tell the user that it {waits}{own}. Do not call this tool again:"
            f" command_status with command_id {command_id} tells what became of it."
        )
    return (
        "Do not call this tool again for the same work: call command_status with command_id"
        f" {command_id} to get the result."
    )


def large_next(command_id: UUID) -> str:
    """What to do about a result that is too large to be in an answer."""
    return (
        f"Read it in parts by command_status with command_id {command_id} and offset 0, or as the"
        f" resource {URI}{command_id}; do not call the tool again."
    )


def next_step_of(command: Command) -> str:
    """What to do about a command, for a model to read."""
    if command.outcome_unknown:
        return UNKNOWN_NEXT
    if not command.final:
        return running_next(command.id, waits=waits_of(command))
    if command.state is State.SUCCEEDED and command.purged_at is not None:
        return PURGED
    return ENDED_NEXT[command.state]


def failure_text(command: Command) -> str:
    """What went wrong, for a model to read."""
    error: dict[str, Any] = command.error or {}
    if command.purged_at is not None:
        return f"The command ended {command.state} ({error.get('code')}). {PURGED}"
    reason = str(error.get("message") or error.get("code") or "no reason given")[:REASON_MAX]
    match command.state:
        case State.FAILED:
            text = f"The tool failed: {reason}"
        case State.CANCELLED:
            text = f"The command was cancelled: {reason}"
        case State.TIMED_OUT:
            text = f"The command did not end by its deadline: {reason}"
        case _:
            text = f"The command was given up and an operator can see it: {reason}"
    return f"{text} (command {command.id})."
