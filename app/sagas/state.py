"""The saga's state machine: two tables decide, and `decide` says what is to be done next; pure.

Sagas as of Garcia-Molina and Salem (1987), with a pivot: before it a saga goes back, after it only
forward. What was done is undone one by one, in the reverse order of completion.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from app.sagas.definition import StepKind


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
    RESUME = "resume"  # an operator's word


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
"""Those that only an operator's word moves on."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A step as the decision sees it."""

    id: str
    kind: StepKind
    state: StepState
    needs: tuple[str, ...] = ()
    undoable: bool = False
    reconcilable: bool = False  # there is a call that finds out, and it was not tried
    done_seq: int | None = None  # the order of completion


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """Why a saga stopped, or waits: a word for the machine, and one for people."""

    code: str
    message: str
    step: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As it is kept and shown."""
        said = {"code": self.code, "message": self.message, "step": self.step}
        return {name: value for name, value in said.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Saga:
    """A saga as the decision sees it."""

    state: State
    steps: Sequence[Step]
    stop: Reason | None = None  # somebody, or the time, asks for its end
    closed: bool = True  # no further step will be added: always so where it was declared

    @property
    def pivot(self) -> Step | None:
        """The point of no return."""
        return next((one for one in self.steps if one.kind is StepKind.PIVOT), None)

    @property
    def pivoted(self) -> bool:
        """Whether it goes forward only."""
        return self.pivot is not None and self.pivot.state is StepState.SUCCEEDED


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """The saga itself moves."""

    event: Event
    reason: Reason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Do:
    """A command for a step: START, RECONCILE or UNDO it."""

    event: StepEvent
    step: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """The step's command is to be cancelled."""

    step: str


Action = Move | Do | Cancel


def decide(saga: Saga) -> list[Action]:
    """What is to be done now: one move of the saga, or what its steps need; nothing is a wait."""
    match saga.state:
        case State.RUNNING:
            return list(_running(saga))
        case State.STOPPING:
            return list(_stopping(saga))
        case State.COMPENSATING:
            return list(_compensating(saga))
        case _:
            return []


def _running(saga: Saga) -> Iterator[Action]:
    move = _moved_by(saga)
    if move is not None:
        yield move
        return
    yield from _reconciled(saga)
    passed = {one.id for one in saga.steps if one.state in PASSED}
    for one in saga.steps:
        if one.state is StepState.PENDING and passed.issuperset(one.needs):
            yield Do(event=StepEvent.START, step=one.id)


def _moved_by(saga: Saga) -> Move | None:
    bad = [one for one in saga.steps if one.state in BAD and not _asks(one)]
    for one in bad:
        if saga.pivoted or _lost_pivot(one):
            return Move(event=Event.STALL, reason=_blame(one))
    if bad:
        return Move(event=Event.STOP, reason=_blame(bad[0]))
    if saga.stop is not None and not saga.pivoted:
        return Move(event=Event.STOP, reason=saga.stop)
    if saga.closed and all(one.state in PASSED for one in saga.steps):
        return Move(event=Event.COMPLETE)
    return None


def _stopping(saga: Saga) -> Iterator[Action]:
    asked = list(_reconciled(saga))
    yield from asked
    for one in saga.steps:
        if one.state is StepState.DISPATCHED:
            yield Cancel(step=one.id)
    if asked or any(one.state in OPEN for one in saga.steps):
        return
    if saga.pivoted:
        yield Move(event=Event.PIVOTED)
    elif saga.pivot is not None and _lost_pivot(saga.pivot):
        yield Move(event=Event.STALL, reason=_blame(saga.pivot))
    else:
        yield Move(event=Event.DRAINED)


def _compensating(saga: Saga) -> Iterator[Action]:
    if any(one.state is StepState.COMPENSATING for one in saga.steps):
        return
    for one in saga.steps:
        if one.state is StepState.COMPENSATION_FAILED:
            yield Move(event=Event.UNDO_FAILED, reason=_blame(one))
            return
    done = [one for one in saga.steps if one.undoable and one.state in UNDONE_FROM]
    if done:
        newest = max(done, key=lambda one: one.done_seq or 0)
        yield Do(event=StepEvent.UNDO, step=newest.id)
    else:
        yield Move(event=Event.UNDONE)


UNDONE_FROM: Final = frozenset({StepState.SUCCEEDED, StepState.UNKNOWN})


def _reconciled(saga: Saga) -> Iterator[Do]:
    for one in saga.steps:
        if _asks(one):
            yield Do(event=StepEvent.RECONCILE, step=one.id)


def _asks(step: Step) -> bool:
    return step.state is StepState.UNKNOWN and step.reconcilable


def _lost_pivot(step: Step) -> bool:
    return step.kind is StepKind.PIVOT and step.state is StepState.UNKNOWN and not _asks(step)


def _blame(step: Step) -> Reason:
    said = {
        StepState.FAILED: ("step_failed", "failed"),
        StepState.UNKNOWN: ("step_unknown", "may or may not have been done"),
        StepState.COMPENSATION_FAILED: ("undo_failed", "could not be undone"),
    }
    code, words = said[step.state]
    return Reason(code=code, message=f"Step {step.id!r} {words}.", step=step.id)


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
