"""Beginning a saga, adding to it, ending it, and what operators may do to one that waits for them.

Only the relay moves a saga (conductor.py): what is done here leaves it a tick.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import asyncpg
from asyncpg.pool import PoolConnectionProxy
from sqlalchemy.ext.asyncio import AsyncConnection

from app.audit.store import events
from app.commands.store import ticks
from app.errors import NotCancellableError, NotFoundError, SagaClosedError
from app.intake import store as intake_store
from app.intake.call import Call
from app.intake.store import Written
from app.sagas.definition import Definition, StepKind, as_json
from app.sagas.state import (
    BAD,
    STEP_TRANSITIONS,
    WAITING,
    Event,
    State,
    StepEvent,
    StepState,
    after,
    step_after,
)
from app.sagas.store import begin as saga_writes
from app.sagas.store import sagas
from app.sagas.store.sagas import SagaRow, StepRow

Conn = asyncpg.Connection | PoolConnectionProxy

STEPS_MAX: Final = 1000
"""Of an ad hoc saga."""


async def begin(
    conn: Conn, call: Call, definition: Definition, given: Mapping[str, Any]
) -> Written | None:
    """Write a declared saga with its own command, in the caller's transaction.

    Returns as `intake.write`: None where the call's key names a saga already.
    """
    [written] = await intake_store.write(conn, [call])
    if written is not None:
        await saga_writes.begin(
            conn,
            call,
            name=definition.name,
            version=definition.version,
            plan=as_json(definition),
            given=given,
            steps=[step.id for step in definition.steps],
        )
    return written


async def add(conn: Conn, call: Call, *, on_idle: str, idle_timeout_s: float) -> Written | None:
    """Write an ad hoc step with its command; the first call of a saga_id begins the saga.

    Returns as `intake.write`, or the earlier command of the call's key.

    Raises:
        SagaClosedError: it takes no more steps, or has a step of this name.
        NotFoundError: the saga is another user's.
    """
    assert call.saga_id is not None
    assert call.saga_step is not None
    saga = await saga_writes.open_adhoc(conn, call, on_idle=on_idle, idle_timeout_s=idle_timeout_s)
    if saga is None or saga["user_id"] != call.user_id:
        raise NotFoundError(f"You have no saga {call.saga_id}.")
    [earlier] = await intake_store.find_earlier(conn, [call])
    if earlier is not None:
        return earlier  # a repeat is answered even where the saga is over
    if saga["state"] != State.RUNNING or saga["closed"] or saga["stop"] is not None:
        raise SagaClosedError(
            f"Saga {call.saga_id} takes no more steps: it is {_said_of(saga)}."
            " Nothing was started.",
            state=saga["state"],
        )
    if saga["steps"] >= STEPS_MAX:
        raise SagaClosedError(f"Saga {call.saga_id} has {STEPS_MAX} steps, the limit.")
    if not await saga_writes.add_step(conn, call, position=saga["steps"]):
        raise SagaClosedError(
            f"Saga {call.saga_id} has a step {call.saga_step!r}; name each step once."
        )
    [written] = await intake_store.write(conn, [call])
    if written is not None and call.ordering_key is not None:
        await intake_store.activate_next(conn, [(call.tenant_id, call.ordering_key)])
    return written


def _said_of(saga: Mapping[str, Any]) -> str:
    reason = (saga["reason"] or saga["stop"]) or {}
    return ": ".join(filter(None, [str(saga["state"]), reason.get("message")]))


async def close(conn: AsyncConnection, saga: SagaRow, *, actor: str) -> None:
    """Say that no more steps come: it completes when those it has succeeded. Said twice is once.

    Raises:
        SagaClosedError: it is being undone, or was.
    """
    if saga.kind != "adhoc":
        raise SagaClosedError(f"Saga {saga.id} is no ad hoc saga: it has all its steps.")
    if saga.closed and saga.stop is None:
        return
    if saga.state is not State.RUNNING or saga.stop is not None:
        raise SagaClosedError(f"Saga {saga.id} cannot be committed: it is {saga.state}.")
    await sagas.ask(conn, saga, stop=None, closed=True)
    await _audit(conn, saga, "saga.committed", actor, {})


async def abort(conn: AsyncConnection, saga: SagaRow, *, actor: str, reason: str) -> None:
    """Ask an ad hoc saga to undo what it did. Asked twice is once.

    Raises:
        SagaClosedError: it has completed.
    """
    if saga.state is State.COMPLETED:
        raise SagaClosedError(f"Saga {saga.id} has completed; nothing undoes it now.")
    if saga.state is not State.RUNNING or saga.stop is not None:
        return
    await sagas.ask(conn, saga, stop={"code": "cancelled", "message": reason}, closed=True)
    await _audit(conn, saga, "saga.abort", actor, {"reason": reason})


Verb = Literal["retry", "skip", "resolve"]
Outcome = Literal["succeeded", "failed", "compensated"]

EVENT_OF: Final[Mapping[tuple[Verb, Outcome | None], StepEvent]] = {
    ("retry", None): StepEvent.RETRY,
    ("skip", None): StepEvent.SKIP,
    ("resolve", "succeeded"): StepEvent.DONE,
    ("resolve", "failed"): StepEvent.FAIL,
    ("resolve", "compensated"): StepEvent.UNDONE,
}


async def settle(
    conn: AsyncConnection,
    saga: SagaRow,
    *,
    step: str,
    verb: Verb,
    outcome: Outcome | None,
    actor: str,
    reason: str,
) -> None:
    """An operator's decision on a step that a saga waits for; the saga goes on with it.

    `retry` does the step, or its undo, again. `skip` goes on without. `resolve` says what became of
    it: a step that did, or did not, succeed; an undo that was made by hand.

    Raises:
        NotFoundError: no such step.
        NotCancellableError: the saga waits for nobody, or this step is none that it waits for.
    """
    if saga.state not in WAITING:
        raise NotCancellableError(f"Saga {saga.id} is {saga.state}; it waits for no operator.")
    rows = {row.step: row for row in await sagas.steps(conn, saga.id)}
    if step not in rows:
        raise NotFoundError(f"Saga {saga.id} has no step {step!r}.")
    event = _event_of(saga, rows[step], verb, outcome)
    if (rows[step].state, event) not in STEP_TRANSITIONS:
        raise NotCancellableError(f"Step {step!r} is {rows[step].state} already.")
    changed = replace(rows[step], state=step_after(rows[step].state, event), reason=reason)
    if event is StepEvent.DONE and changed.done_seq is None:
        saga = replace(saga, steps_done=saga.steps_done + 1)
        changed = replace(changed, done_seq=saga.steps_done)
    await sagas.save_step(conn, changed)
    body = {
        "step": step,
        "verb": verb,
        "from": rows[step].state,
        "to": changed.state,
        "reason": reason,
    }
    await _audit(conn, saga, "saga.settled", actor, body)
    others = [row for name, row in rows.items() if name != step and waits(saga, row)]
    if not others:
        saga = replace(saga, state=after(saga.state, Event.RESUME))
        await sagas.save(conn, saga)
        await _audit(conn, saga, f"saga.{saga.state}", actor, {"reason": reason})
    await ticks.enqueue_tick(conn, tenant_id=saga.tenant_id, saga_id=saga.id)


def waits(saga: SagaRow, row: StepRow) -> bool:
    """Whether this step is one that the saga waits for an operator for."""
    if saga.state is State.COMPENSATION_FAILED:
        return row.state is StepState.COMPENSATION_FAILED
    return row.state in BAD


def _event_of(saga: SagaRow, row: StepRow, verb: Verb, outcome: Outcome | None) -> StepEvent:
    if not waits(saga, row):
        raise NotCancellableError(
            f"Step {row.step!r} is {row.state}; the saga does not wait for it."
        )
    undo = saga.state is State.COMPENSATION_FAILED
    if verb == "resolve" and (outcome == "compensated") != undo:
        known = "compensated" if undo else "succeeded or failed"
        raise NotCancellableError(f"Step {row.step!r} is {row.state}; resolve it as {known}.")
    if verb == "skip" and not undo and _is_pivot(saga, row.step):
        raise NotCancellableError(
            f"Step {row.step!r} is the pivot: what comes next depends on it. Resolve or retry it."
        )
    return EVENT_OF[verb, outcome]


def _is_pivot(saga: SagaRow, step: str) -> bool:
    plan = saga.plan or {}
    return any(one["id"] == step and one["kind"] == StepKind.PIVOT for one in plan.get("steps", ()))


async def _audit(
    conn: AsyncConnection, saga: SagaRow, kind: str, actor: str, body: Mapping[str, Any]
) -> None:
    await events.append(
        conn,
        tenant_id=saga.tenant_id,
        kind=kind,
        actor=actor,
        user_id=saga.user_id,
        saga_id=saga.id,
        body=body,
    )


def offers(saga: SagaRow, row: StepRow) -> list[tuple[Verb, Outcome | None]]:
    """What an operator may do to a step now: the ways of `settle` that it does not refuse."""
    if saga.state not in WAITING or not waits(saga, row):
        return []
    undo = saga.state is State.COMPENSATION_FAILED
    found: list[tuple[Verb, Outcome | None]] = []
    for (verb, outcome), event in EVENT_OF.items():
        fits = verb != "resolve" or (outcome == "compensated") == undo
        pivot = verb == "skip" and not undo and _is_pivot(saga, row.step)
        if fits and not pivot and (row.state, event) in STEP_TRANSITIONS:
            found.append((verb, outcome))
    return found


def led_to(
    saga: SagaRow, rows: Sequence[StepRow], row: StepRow, verb: Verb, outcome: Outcome | None
) -> tuple[StepState, State]:
    """What step and saga would be after `settle`; the relay goes on from there."""
    others = [one for one in rows if one.step != row.step and waits(saga, one)]
    state = saga.state if others else after(saga.state, Event.RESUME)
    return step_after(row.state, EVENT_OF[verb, outcome]), state
