"""What a saga does next: a pure decision over its state and its steps."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from app.sagas.definition import StepKind
from app.sagas.state import BAD, OPEN, PASSED, Event, State, StepEvent, StepState


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
    """Why a saga stopped, or waits: a code for machines, and a sentence for people."""

    code: str
    message: str
    step: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As it is kept and shown."""
        body = {"code": self.code, "message": self.message, "step": self.step}
        return {name: value for name, value in body.items() if value is not None}


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
    cause = {
        StepState.FAILED: ("step_failed", "failed"),
        StepState.UNKNOWN: ("step_unknown", "may or may not have been done"),
        StepState.COMPENSATION_FAILED: ("undo_failed", "could not be undone"),
    }
    code, sentence = cause[step.state]
    return Reason(code=code, message=f"Step {step.id!r} {sentence}.", step=step.id)
