"""A saga's tick: what became of its steps, what is to be done next, in one transaction.

Locks are taken in one order: the saga, then heads, then commands. A tick makes one move that needs
heads; what follows from it is the next tick's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.audit.store import events
from app.catalog.policy import ToolPolicy
from app.commands import attempts, control
from app.commands.attempts import Change
from app.commands.state import Event as CommandEvent
from app.commands.state import State as CommandState
from app.commands.store import commands, dead_letters, heads, moves, ticks
from app.commands.store.commands import Command
from app.intake import store as intake_store
from app.intake.call import Call as Intent
from app.sagas import view
from app.sagas.decide import Action, Cancel, Do, Move, Reason, Saga, Step, decide
from app.sagas.definition import Definition, StepKind
from app.sagas.parse import parse
from app.sagas.state import FINAL, Event, State, StepEvent, StepState, after, step_after
from app.sagas.step_calls import ACTOR, SagaTick, Tools, UnmadeError, intent
from app.sagas.store import sagas
from app.sagas.store.sagas import StepRow

REASON_MAX: Final = 1000
"""Characters of an adapter's error that a step tells; its command has all of them."""

ISSUED: Final[Mapping[StepEvent, str]] = {
    StepEvent.START: "command_id",
    StepEvent.RECONCILE: "reconcile_id",
    StepEvent.UNDO: "undo_id",
}
"""Where a step keeps the command that was written for it."""


async def advance(
    engine: AsyncEngine, saga_id: UUID, *, tools: Tools, deadline_s: float, grace_s: float
) -> Change | None:
    """Take a saga's tick; None where another relay has it, or it is over.

    The change's command is one that changed; `woken` names all of them.
    """
    async with engine.begin() as conn:
        saga = await sagas.lock(conn, saga_id, skip_locked=True)
        if saga is None:
            return None
        await ticks.take_ticks(conn, saga_id)
        if saga.state in FINAL:
            return None
        rows = await sagas.steps(conn, saga_id)
        known = await _commands(conn, rows)
        tick = SagaTick(
            conn=conn,
            tools=tools,
            deadline_s=deadline_s,
            grace_s=grace_s,
            saga=saga,
            root=await commands.find(conn, saga_id) if saga.kind == "declared" else None,
            definition=None if saga.plan is None else _definition(orjson.dumps(saga.plan)),
            steps={row.step: row for row in rows},
            commands=known,
            woken=[],
            ended=[],
            asking={one.id for one in known.values() if one.awaits_approval},
        )
        await _absorb(tick)
        actions = decide(_seen(tick))
        while actions and isinstance(actions[0], Move):  # a move comes alone
            await _move(tick, actions[0])
            actions = decide(_seen(tick))
        await _do(tick, actions)
        await sagas.save(conn, tick.saga)
        await _tell(tick)
    shown = tick.root or next(iter(tick.commands.values()), None)
    if shown is None:
        return None
    woken, ended = tuple(tick.woken), tuple(tick.ended)
    return Change(command=shown, woken=woken, outbox=True, ended=ended)


@lru_cache(maxsize=1024)
def _definition(plan: bytes) -> Definition:
    """Read once, however many ticks and sagas have it."""
    return parse(orjson.loads(plan))


async def _commands(conn: AsyncConnection, rows: Sequence[StepRow]) -> dict[UUID, Command]:
    wanted = [
        one
        for row in rows
        for one in (row.command_id, row.reconcile_id, row.undo_id)
        if one is not None
    ]
    return {one.id: one for one in await commands.find_many(conn, wanted)}


async def _absorb(tick: SagaTick) -> None:
    """Take in what has ended since, in the order in which it ended."""
    ended: list[tuple[Command, StepRow, StepEvent]] = []
    for row in tick.steps.values():
        of = {
            StepState.DISPATCHED: (row.command_id, outcome),
            StepState.RECONCILING: (row.reconcile_id, found_out),
            StepState.COMPENSATING: (row.undo_id, undone),
        }.get(row.state)
        command = None if of is None or of[0] is None else tick.commands[of[0]]
        if of is not None and command is not None and command.final:
            ended.append((command, row, of[1](command)))
    for command, row, event in sorted(ended, key=lambda one: (one[0].finished_at, one[0].id)):
        reason = None
        if event in {StepEvent.FAIL, StepEvent.LOSE, StepEvent.UNDO_FAIL}:
            reason = str((command.error or {}).get("message") or command.state)[:REASON_MAX]
        changed = row
        if event in {StepEvent.DONE, StepEvent.LOSE} and row.done_seq is None:
            tick.saga = replace(tick.saga, steps_done=tick.saga.steps_done + 1)
            changed = replace(row, done_seq=tick.saga.steps_done)
        await _step(tick, changed, event, reason=reason, command_id=command.id)


def outcome(command: Command) -> StepEvent:
    """What a step's ended command says of the step.

    Unknown is what nobody told: an attempt that fell silent, or running work that was cut off.
    """
    if command.state is CommandState.SUCCEEDED:
        return StepEvent.DONE
    cut = command.state in {CommandState.CANCELLED, CommandState.TIMED_OUT}
    if command.outcome_unknown or command.attempts_lost or (cut and command.started_at is not None):
        return StepEvent.LOSE
    return StepEvent.FAIL


def found_out(command: Command) -> StepEvent:
    """What a reconcile call says: `{"done": true | false}`; anything else tells nothing."""
    done = command.result.get("done") if isinstance(command.result, dict) else None
    if command.state is not CommandState.SUCCEEDED or not isinstance(done, bool):
        return StepEvent.LOSE
    return StepEvent.DONE if done else StepEvent.FAIL


def undone(command: Command) -> StepEvent:
    """What an undo's ended command says."""
    ok = command.state is CommandState.SUCCEEDED
    return StepEvent.UNDONE if ok else StepEvent.UNDO_FAIL


def _seen(tick: SagaTick) -> Saga:
    stop = tick.saga.stop
    if tick.root is not None and stop is None:
        stop = _asked_of(tick.root)
    return Saga(
        state=tick.saga.state,
        closed=tick.saga.closed,
        stop=None if stop is None else Reason(code=stop["code"], message=stop["message"]),
        steps=[_seen_step(tick, row) for row in tick.steps.values()],
    )


def _asked_of(root: Command) -> dict[str, str] | None:
    if root.cancel_requested_at is not None:
        return {"code": "cancelled", "message": root.cancel_reason or "It was cancelled."}
    if root.deadline_missed_at is not None:
        return {"code": "deadline", "message": "The deadline passed."}
    return None


def _seen_step(tick: SagaTick, row: StepRow) -> Step:
    defined = None if tick.definition is None else tick.definition.step(row.step)
    if defined is None:
        return Step(
            id=row.step,
            kind=StepKind.COMPENSATABLE,
            state=row.state,
            undoable=row.compensation is not None,
            done_seq=row.done_seq,
        )
    return Step(
        id=row.step,
        kind=defined.kind,
        state=row.state,
        needs=defined.needs,
        undoable=defined.compensate is not None,
        reconcilable=defined.reconcile is not None
        and row.reconcile_id is None
        and not row.reconcile_unmade,
        done_seq=row.done_seq,
    )


async def _step(
    tick: SagaTick, row: StepRow, event: StepEvent, *, reason: str | None, command_id: UUID | None
) -> None:
    """Move a step, with its audit event."""
    changed = replace(row, state=step_after(row.state, event), reason=reason)
    tick.steps[row.step] = changed
    await sagas.save_step(tick.conn, changed)
    body = {"step": row.step, "from": row.state, "to": changed.state, "reason": reason}
    await _audit(tick, "saga.step", body, command_id=command_id)


async def _audit(
    tick: SagaTick, kind: str, body: Mapping[str, Any], *, command_id: UUID | None = None
) -> None:
    await events.append(
        tick.conn,
        tenant_id=tick.saga.tenant_id,
        kind=kind,
        actor=ACTOR,
        user_id=tick.saga.user_id,
        command_id=command_id,
        saga_id=tick.saga.id,
        body={name: value for name, value in body.items() if value is not None},
    )


async def _move(tick: SagaTick, move: Move) -> None:
    """Move the saga itself; at its end its keys are free and its own command ends."""
    before = tick.saga.state
    state = after(before, move.event)
    reason = tick.saga.reason
    if move.reason is not None and (reason is None or state is not State.COMPENSATION_FAILED):
        reason = _told(tick, move.reason)
    if move.event is Event.PIVOTED:
        reason = None
    tick.saga = replace(tick.saga, state=state, reason=reason)
    body: dict[str, Any] = {"from": before, "to": state, "reason": reason}
    if state is State.COMPENSATION_FAILED and move.reason is not None:
        body["undo"] = _told(tick, move.reason)
    await _audit(tick, f"saga.{state}", body)
    if state in FINAL:
        freed = await heads.release_saga_keys(
            tick.conn, tenant_id=tick.saga.tenant_id, saga_id=tick.saga.id
        )
        tick.woken += freed
    if state in FINAL or state is State.COMPENSATION_FAILED:
        await _end_root(tick)


def _told(tick: SagaTick, reason: Reason) -> dict[str, Any]:
    details = reason.as_json()
    row = None if reason.step is None else tick.steps[reason.step]
    if row is not None and row.reason is not None:
        details["message"] = f"{reason.message} {row.reason}"
    return details


async def _end_root(tick: SagaTick) -> None:
    """End the saga's own command: with its results, or with why there are none."""
    if tick.root is None:
        return
    root = await commands.lock(tick.conn, tick.root.id)
    assert root is not None, "commands are never deleted while they are read"
    if root.final:
        # It was given up when an undo failed; now an operator has seen to that.
        await dead_letters.discard(tick.conn, root, actor=ACTOR, reason="the saga is settled")
        return
    event, result, error = view.ending(tick.saga, list(tick.steps.values()), tick.commands)
    change = await attempts.end(
        tick.conn,
        root,
        policy=ToolPolicy(),
        event=event,
        actor=ACTOR,
        result=result,
        error=error,
    )
    tick.root = change.command
    tick.woken += change.woken
    tick.ended += change.ended


async def _do(tick: SagaTick, actions: Sequence[Action]) -> None:
    cancels = [one.step for one in actions if isinstance(one, Cancel)]
    if cancels:
        await _cancel(tick, cancels)
        return
    calls: list[tuple[StepRow, StepEvent, Intent]] = []
    for one in actions:
        assert isinstance(one, Do)
        row = tick.steps[one.step]
        try:
            calls.append((row, one.event, await intent(tick, row, one.event)))
        except UnmadeError as error:
            await _unmade(tick, row, one.event, str(error))
    if calls:
        await _issue(tick, calls)


async def _unmade(tick: SagaTick, row: StepRow, event: StepEvent, reason: str) -> None:
    """A step's call could not be made: it did nothing, and the next tick goes on from that."""
    if event is StepEvent.RECONCILE:
        # It was tried, and what is not known stays so.
        tick.steps[row.step] = replace(row, reconcile_unmade=True, reason=reason)
        await sagas.save_step(tick.conn, tick.steps[row.step])
    else:
        fail = StepEvent.UNDO_FAIL if event is StepEvent.UNDO else StepEvent.FAIL
        await _step(tick, row, fail, reason=reason, command_id=None)
    await ticks.enqueue_tick(tick.conn, tenant_id=tick.saga.tenant_id, saga_id=tick.saga.id)


async def _cancel(tick: SagaTick, names: Sequence[str]) -> None:
    """Ask each open step's command to stop: at once where no adapter has it."""
    found = [
        tick.commands[row.command_id]
        for row in map(tick.steps.__getitem__, names)
        if row.command_id
    ]
    await _lock_heads(tick, [one.ordering_key for one in found])
    for one in sorted(found, key=lambda command: command.id):
        locked = await commands.lock(tick.conn, one.id)
        assert locked is not None, "commands are never deleted while they are read"
        tool = await tick.tools(one.tool, one.method)
        change = await control.stop(
            tick.conn,
            locked,
            event=CommandEvent.CANCEL,
            policy=ToolPolicy() if tool is None else tool.tool.policy,
            actor=ACTOR,
            reason=f"The saga stops: {(tick.saga.reason or {}).get('message', '')}",
            grace_s=tick.grace_s,
        )
        tick.woken += change.woken
        tick.ended += change.ended


async def _issue(tick: SagaTick, calls: Sequence[tuple[StepRow, StepEvent, Intent]]) -> None:
    """Write the commands, and that their steps have them."""
    doubtful = [one for row, _, _ in calls for one in _doubtful(tick, row)]
    if doubtful:
        # `write` takes heads in order, too: what is locked before must be all of them.
        keys_of = [*doubtful, *(made for _, _, made in calls)]
        await _lock_heads(tick, [one.ordering_key for one in keys_of])
    for command in doubtful:
        await _unblock(tick, command)
    raw = (await tick.conn.get_raw_connection()).driver_connection
    intents = [made for _, _, made in calls]
    written = await intake_store.write(raw, intents)  # pyright: ignore[reportArgumentType]
    keys = sorted({(one.tenant_id, one.ordering_key) for one in intents if one.ordering_key})
    if keys:
        await intake_store.activate_next(raw, keys)  # pyright: ignore[reportArgumentType]
    for (row, event, made), one in zip(calls, written, strict=True):
        assert one is not None, "the key names this saga, step and issue"
        changed = replace(row, issues=row.issues + 1, **{ISSUED[event]: made.correlation_id})
        await _step(tick, changed, event, reason=None, command_id=made.correlation_id)
        tick.woken.append(made.correlation_id)
        if made.approval == "pending":
            tick.asking.add(made.correlation_id)


def _doubtful(tick: SagaTick, row: StepRow) -> list[Command]:
    """Commands of a step that its key waits for, as nobody knows what they did."""
    found = [tick.commands.get(one) for one in (row.command_id, row.undo_id) if one is not None]
    return [one for one in found if one is not None and one.ordering_key and one.outcome_unknown]


async def _unblock(tick: SagaTick, command: Command) -> None:
    """The key that waits for this outcome is the saga's: what it does now settles that."""
    assert command.ordering_key is not None
    await heads.unblock(
        tick.conn,
        tenant_id=command.tenant_id,
        ordering_key=command.ordering_key,
        blocked_reason=attempts.blocked_reason(command),
    )


async def _lock_heads(tick: SagaTick, keys: Iterable[str | None]) -> None:
    """Lock keys, in the order in which everybody does."""
    for key in sorted({one for one in keys if one is not None}):
        await heads.lock(tick.conn, tenant_id=tick.saga.tenant_id, ordering_key=key)


async def _tell(tick: SagaTick) -> None:
    """Progress of the whole, on the saga's own command."""
    if tick.root is None or tick.root.final:
        return
    stage, percent, message = view.progress(
        tick.saga, list(tick.steps.values()), asking=tick.asking
    )
    if (stage, percent, message) == (tick.root.stage, tick.root.percent, tick.root.message):
        return
    await moves.progress(
        tick.conn,
        tick.root,
        stage=stage,
        percent=percent,
        message=message,
        lease_s=control.FOREVER_S,
    )
    tick.woken.append(tick.root.id)
