"""The saga's state machine: two tables, of sagas and of their steps; pure.

Sagas as of Garcia-Molina and Salem (1987), with a pivot: before it a saga goes back, after it only
forward. What was done is undone one by one, in the reverse order of completion.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class State(StrEnum):
    """Where a saga stands."""

    RUNNING = "running"
    STOPPING = "stopping"  # no further step starts; what is under way is awaited
    STUCK = "stuck"  # past the pivot a step does not succeed, or the pivot's outcome is unknown
    COMPENSATING = "compensating"
    COMPENSATION_FAILED = "compensation_failed"
    COMPLETED = "completed"
    COMPENSATED = "compensated"


class Event(StrEnum):
    """What can happen to a saga."""

    COMPLETE = "complete"
    STOP = "stop"  # a step failed, or somebody or the time asked for it
    PIVOTED = "pivoted"  # while it was stopping the pivot was done: it goes forward after all
    DRAINED = "drained"  # nothing is under way any more, and the pivot was not done
    STALL = "stall"
    UNDONE = "undone"
    UNDO_FAILED = "undo_failed"
    RESUME = "resume"  # an operator's decision


TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (State.RUNNING, Event.COMPLETE): State.COMPLETED,
    (State.RUNNING, Event.STOP): State.STOPPING,
    (State.RUNNING, Event.STALL): State.STUCK,
    (State.STOPPING, Event.STALL): State.STUCK,
    (State.STOPPING, Event.PIVOTED): State.RUNNING,
    (State.STOPPING, Event.DRAINED): State.COMPENSATING,
    (State.STUCK, Event.RESUME): State.RUNNING,
    (State.COMPENSATING, Event.UNDONE): State.COMPENSATED,
    (State.COMPENSATING, Event.UNDO_FAILED): State.COMPENSATION_FAILED,
    (State.COMPENSATION_FAILED, Event.RESUME): State.COMPENSATING,
}
FINAL: Final = frozenset({State.COMPLETED, State.COMPENSATED})
WAITING: Final = frozenset({State.STUCK, State.COMPENSATION_FAILED})
"""Those that only an operator's decision moves on."""


class StepState(StrEnum):
    """Where a step stands."""

    PENDING = "pending"
    DISPATCHED = "dispatched"
    SUCCEEDED = "succeeded"
    FAILED = "failed"  # it had no effect
    UNKNOWN = "unknown"  # it may have had its effect
    RECONCILING = "reconciling"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    COMPENSATION_FAILED = "compensation_failed"
    SKIPPED = "skipped"  # by an operator


class StepEvent(StrEnum):
    """What can happen to a step."""

    START = "start"
    DONE = "done"
    FAIL = "fail"
    LOSE = "lose"  # a time-out, a cancel of running work, a lost lease
    RECONCILE = "reconcile"
    UNDO = "undo"
    UNDONE = "undone"
    UNDO_FAIL = "undo_fail"
    RETRY = "retry"
    SKIP = "skip"


STEP_TRANSITIONS: Final[Mapping[tuple[StepState, StepEvent], StepState]] = {
    (StepState.PENDING, StepEvent.START): StepState.DISPATCHED,
    (StepState.PENDING, StepEvent.FAIL): StepState.FAILED,  # its arguments could not be made
    (StepState.DISPATCHED, StepEvent.DONE): StepState.SUCCEEDED,
    (StepState.DISPATCHED, StepEvent.FAIL): StepState.FAILED,
    (StepState.DISPATCHED, StepEvent.LOSE): StepState.UNKNOWN,
    (StepState.UNKNOWN, StepEvent.RECONCILE): StepState.RECONCILING,
    (StepState.RECONCILING, StepEvent.DONE): StepState.SUCCEEDED,
    (StepState.RECONCILING, StepEvent.FAIL): StepState.FAILED,
    (StepState.RECONCILING, StepEvent.LOSE): StepState.UNKNOWN,
    (StepState.SUCCEEDED, StepEvent.UNDO): StepState.COMPENSATING,
    (StepState.UNKNOWN, StepEvent.UNDO): StepState.COMPENSATING,
    (StepState.SUCCEEDED, StepEvent.UNDO_FAIL): StepState.COMPENSATION_FAILED,
    (StepState.UNKNOWN, StepEvent.UNDO_FAIL): StepState.COMPENSATION_FAILED,
    (StepState.COMPENSATING, StepEvent.UNDONE): StepState.COMPENSATED,
    (StepState.COMPENSATING, StepEvent.UNDO_FAIL): StepState.COMPENSATION_FAILED,
    # What an operator says of a step that the saga waits for.
    (StepState.COMPENSATION_FAILED, StepEvent.RETRY): StepState.UNKNOWN,
    (StepState.COMPENSATION_FAILED, StepEvent.UNDONE): StepState.COMPENSATED,
    (StepState.COMPENSATION_FAILED, StepEvent.SKIP): StepState.SKIPPED,
    (StepState.FAILED, StepEvent.RETRY): StepState.PENDING,
    (StepState.UNKNOWN, StepEvent.RETRY): StepState.PENDING,
    (StepState.FAILED, StepEvent.SKIP): StepState.SKIPPED,
    (StepState.UNKNOWN, StepEvent.SKIP): StepState.SKIPPED,
    (StepState.FAILED, StepEvent.DONE): StepState.SUCCEEDED,
    (StepState.UNKNOWN, StepEvent.DONE): StepState.SUCCEEDED,
    (StepState.UNKNOWN, StepEvent.FAIL): StepState.FAILED,
}
PASSED: Final = frozenset({StepState.SUCCEEDED, StepState.SKIPPED})
OPEN: Final = frozenset({StepState.DISPATCHED, StepState.RECONCILING})
BAD: Final = frozenset({StepState.FAILED, StepState.UNKNOWN})


def after(state: State, event: Event) -> State:
    """The state that an event leads to. Raises KeyError where it does not apply."""
    return TRANSITIONS[state, event]


def step_after(state: StepState, event: StepEvent) -> StepState:
    """The state that an event leads a step to. Raises KeyError where it does not apply."""
    return STEP_TRANSITIONS[state, event]


def diagram() -> str:
    """Both tables as Mermaid state diagrams, for the docs."""
    parts = ["```mermaid\nstateDiagram-v2", "    [*] --> running"]
    parts += [f"    {source} --> {to}: {event}" for (source, event), to in TRANSITIONS.items()]
    parts += [f"    {state} --> [*]" for state in State if state in FINAL]
    parts += ["```", "", "```mermaid\nstateDiagram-v2", "    [*] --> pending"]
    parts += [f"    {source} --> {to}: {event}" for (source, event), to in STEP_TRANSITIONS.items()]
    return "\n".join([*parts, "```"])
