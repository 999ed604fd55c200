"""The command's state machine: one table decides, and every guarded UPDATE follows it."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a command stands."""

    QUEUED = "queued"
    DISPATCHED = "dispatched"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    DEAD_LETTERED = "dead_lettered"


class Event(StrEnum):
    """What can happen to a command."""

    PUBLISHED = "published"  # Kafka acknowledged the attempt
    CLAIMED = "claimed"  # an adapter took the attempt, or spoke for it without a claim
    RESULT_OK = "result_ok"
    RESULT_ERROR = "result_error"
    REDELIVER = "redeliver"  # nobody claimed the attempt: it is sent again, as it is
    RETRY = "retry"  # a failed or lost attempt that may be tried again
    CANCEL = "cancel"
    EXPIRE = "expire"
    EXHAUST = "exhaust"  # no attempt left, no route, or an unknown outcome
    REDRIVE = "redrive"


FINAL: Final = frozenset(
    {State.SUCCEEDED, State.FAILED, State.CANCELLED, State.TIMED_OUT, State.DEAD_LETTERED}
)
OPEN: Final = frozenset(State) - FINAL

TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.QUEUED, Event.PUBLISHED): State.DISPATCHED,
    # Kafka can deliver a command before the relay has recorded that it was published.
    (State.QUEUED, Event.CLAIMED): State.RUNNING,
    (State.DISPATCHED, Event.CLAIMED): State.RUNNING,
    # An adapter that never claims (the seed's) may go straight to its result.
    (State.QUEUED, Event.RESULT_OK): State.SUCCEEDED,
    (State.DISPATCHED, Event.RESULT_OK): State.SUCCEEDED,
    (State.RUNNING, Event.RESULT_OK): State.SUCCEEDED,
    (State.QUEUED, Event.RESULT_ERROR): State.FAILED,
    (State.DISPATCHED, Event.RESULT_ERROR): State.FAILED,
    (State.RUNNING, Event.RESULT_ERROR): State.FAILED,
    # The same attempt: if the first delivery is still on its way, whichever claims first has it.
    (State.DISPATCHED, Event.REDELIVER): State.QUEUED,
    (State.QUEUED, Event.RETRY): State.QUEUED,
    (State.DISPATCHED, Event.RETRY): State.QUEUED,
    (State.RUNNING, Event.RETRY): State.QUEUED,
    # Before the claim a cancel or a deadline ends the command: the fence refuses the claim.
    # After it, the adapter's acknowledgement or the end of the grace period does.
    (State.QUEUED, Event.CANCEL): State.CANCELLED,
    (State.DISPATCHED, Event.CANCEL): State.CANCELLED,
    (State.RUNNING, Event.CANCEL): State.CANCELLED,
    (State.QUEUED, Event.EXPIRE): State.TIMED_OUT,
    (State.DISPATCHED, Event.EXPIRE): State.TIMED_OUT,
    (State.RUNNING, Event.EXPIRE): State.TIMED_OUT,
    (State.QUEUED, Event.EXHAUST): State.DEAD_LETTERED,
    (State.DISPATCHED, Event.EXHAUST): State.DEAD_LETTERED,
    (State.RUNNING, Event.EXHAUST): State.DEAD_LETTERED,
    (State.DEAD_LETTERED, Event.REDRIVE): State.QUEUED,
}


def after(state: State, event: Event) -> State | None:
    """The state that an event leads to, or None where the event does not apply."""
    return TRANSITIONS.get((state, event))


def sources(event: Event) -> tuple[State, ...]:
    """The states in which an event applies: the guard of its UPDATE."""
    return tuple(source for source, known in TRANSITIONS if known is event)


def target(event: Event) -> State:
    """The state that an event leads to, from wherever it applies."""
    found = {state for (_, known), state in TRANSITIONS.items() if known is event}
    assert len(found) == 1, f"{event} has one target"
    return found.pop()
