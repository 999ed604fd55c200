"""A saga's turn: what became of its steps, what is to be done next, in one transaction.

Locks are taken in one order: the saga, then heads, then commands. A turn makes one move that needs
heads; what follows from it is the next turn's.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final
from uuid import UUID

import orjson
import uuid_utils.compat as uuid_utils
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import control, results, saga_view
from app.catalog import Compiled
from app.command import Event as CommandEvent
from app.command import State as CommandState
from app.db import audit_events, commands, dead_letters, heads, intake, sagas
from app.db.commands import Command
from app.db.sagas import SagaRow, StepRow
from app.envelope import Call as Intent
from app.envelope import Priority, fingerprint
from app.policy import Ordering, ToolPolicy
from app.redaction import redact
from app.results import Word
from app.saga import (
    FINAL,
    Action,
    Cancel,
    Do,
    Event,
    Move,
    Reason,
    Saga,
    State,
    Step,
    StepEvent,
    StepState,
    after,
    decide,
    step_after,
)
from app.saga_definition import Call, Definition, StepKind
from app.saga_definition import Step as DefinedStep
from app.saga_parse import parse
from app.saga_template import TemplateError, render

logger = logging.getLogger(__name__)

ACTOR: Final = "saga"
UNDO_ATTEMPTS: Final = 5
"""An undo is tried at least so often, whatever its tool says."""
FORWARD_ATTEMPTS: Final = 20
"""A retriable step is, before an operator is asked."""

Tools = Callable[[str, str], Awaitable[Compiled | None]]
"""(tool, method) -> the tool, None where it is out of service."""


class UnmadeError(Exception):
    """A step's call could not be made; the message says why."""


@dataclass(slots=True, kw_only=True)
class Turn:
    """One saga in one transaction."""

    conn: AsyncConnection
    tools: Tools
    deadline_s: float
    grace_s: float
    saga: SagaRow
    root: Command | None
    definition: Definition | None
    steps: dict[str, StepRow]
    commands: dict[UUID, Command]
    woken: list[UUID]


async def advance(
    engine: AsyncEngine, saga_id: UUID, *, tools: Tools, deadline_s: float, grace_s: float
) -> Word | None:
    """Take a saga's turn; None where another relay has it, or it is over.

    The word's command is one that changed; `woken` names all of them.
    """
    async with engine.begin() as conn:
        saga = await sagas.lock(conn, saga_id, skip_locked=True)
        if saga is None:
            return None
        await sagas.taken(conn, saga_id)
        if saga.state in FINAL:
            return None
        rows = await sagas.steps(conn, saga_id)
        turn = Turn(
            conn=conn,
            tools=tools,
            deadline_s=deadline_s,
            grace_s=grace_s,
            saga=saga,
            root=await commands.find(conn, saga_id) if saga.kind == "declared" else None,
            definition=None if saga.plan is None else _definition(saga.id, _text(saga.plan)),
            steps={row.step: row for row in rows},
            commands=await _commands(conn, rows),
            woken=[],
        )
        await _absorb(turn)
        while True:
            actions = decide(_seen(turn))
            if not all(isinstance(one, Move) for one in actions) or not actions:
                break
            for one in actions:
                assert isinstance(one, Move)
                await _move(turn, one)
        await _do(turn, actions)
        await sagas.save(conn, turn.saga)
        await _tell(turn)
    shown = turn.root or next(iter(turn.commands.values()), None)
    return None if shown is None else Word(command=shown, woken=tuple(turn.woken), outbox=True)


def _text(plan: Mapping[str, Any]) -> bytes:
    return orjson.dumps(plan)


@lru_cache(maxsize=1024)
def _definition(_saga_id: UUID, plan: bytes) -> Definition:
    return parse(orjson.loads(plan))


async def _commands(conn: AsyncConnection, rows: Sequence[StepRow]) -> dict[UUID, Command]:
    wanted = [
        one
        for row in rows
        for one in (row.command_id, row.reconcile_id, row.undo_id)
        if one is not None
    ]
    return {one.id: one for one in await commands.find_many(conn, wanted)}


async def _absorb(turn: Turn) -> None:
    """Take in what has ended since, in the order in which it ended."""
    ended: list[tuple[Command, StepRow, StepEvent]] = []
    for row in turn.steps.values():
        of = {
            StepState.DISPATCHED: (row.command_id, outcome),
            StepState.RECONCILING: (row.reconcile_id, found_out),
            StepState.COMPENSATING: (row.undo_id, undone),
        }.get(row.state)
        command = None if of is None or of[0] is None else turn.commands[of[0]]
        if of is not None and command is not None and command.final:
            ended.append((command, row, of[1](command)))
    for command, row, event in sorted(ended, key=lambda one: (one[0].finished_at, one[0].id)):
        said = None
        if event in {StepEvent.FAIL, StepEvent.LOSE, StepEvent.UNDO_FAIL}:
            said = str((command.error or {}).get("message") or command.state)
        changed = row
        if event in {StepEvent.DONE, StepEvent.LOSE} and row.done_seq is None:
            turn.saga = replace(turn.saga, steps_done=turn.saga.steps_done + 1)
            changed = replace(row, done_seq=turn.saga.steps_done)
        await _step(turn, changed, event, reason=said, command_id=command.id)


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
    said = command.result.get("done") if isinstance(command.result, dict) else None
    if command.state is not CommandState.SUCCEEDED or not isinstance(said, bool):
        return StepEvent.LOSE
    return StepEvent.DONE if said else StepEvent.FAIL


def undone(command: Command) -> StepEvent:
    """What an undo's ended command says."""
    ok = command.state is CommandState.SUCCEEDED
    return StepEvent.UNDONE if ok else StepEvent.UNDO_FAIL


def _seen(turn: Turn) -> Saga:
    stop = turn.saga.stop
    if turn.root is not None and stop is None:
        stop = _asked_of(turn.root)
    return Saga(
        state=turn.saga.state,
        closed=turn.saga.closed,
        stop=None if stop is None else Reason(code=stop["code"], message=stop["message"]),
        steps=[_seen_step(turn, row) for row in turn.steps.values()],
    )


def _asked_of(root: Command) -> dict[str, str] | None:
    if root.cancel_requested_at is not None:
        return {"code": "cancelled", "message": root.cancel_reason or "It was cancelled."}
    if root.deadline_missed_at is not None:
        return {"code": "deadline", "message": "The deadline passed."}
    return None


def _seen_step(turn: Turn, row: StepRow) -> Step:
    defined = None if turn.definition is None else turn.definition.step(row.step)
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
        reconcilable=defined.reconcile is not None and row.reconcile_id is None,
        done_seq=row.done_seq,
    )


async def _step(
    turn: Turn, row: StepRow, event: StepEvent, *, reason: str | None, command_id: UUID | None
) -> None:
    """Move a step, with its audit event."""
    changed = replace(row, state=step_after(row.state, event), reason=reason)
    turn.steps[row.step] = changed
    await sagas.save_step(turn.conn, changed)
    body = {"step": row.step, "from": row.state, "to": changed.state, "reason": reason}
    await _audit(turn, "saga.step", body, command_id=command_id)


async def _audit(
    turn: Turn, kind: str, body: Mapping[str, Any], *, command_id: UUID | None = None
) -> None:
    await audit_events.append(
        turn.conn,
        tenant_id=turn.saga.tenant_id,
        kind=kind,
        actor=ACTOR,
        user_id=turn.saga.user_id,
        command_id=command_id,
        saga_id=turn.saga.id,
        body={name: value for name, value in body.items() if value is not None},
    )


async def _move(turn: Turn, move: Move) -> None:
    """Move the saga itself; at its end its keys are free and its own command ends."""
    before = turn.saga.state
    state = after(before, move.event)
    reason = turn.saga.reason
    if move.reason is not None and (reason is None or state is not State.COMPENSATION_FAILED):
        reason = _told(turn, move.reason)
    if move.event is Event.PIVOTED:
        reason = None
    turn.saga = replace(turn.saga, state=state, reason=reason)
    body: dict[str, Any] = {"from": before, "to": state, "reason": reason}
    if state is State.COMPENSATION_FAILED and move.reason is not None:
        body["undo"] = _told(turn, move.reason)
    await _audit(turn, f"saga.{state}", body)
    if state in FINAL:
        freed = await heads.let_go(turn.conn, tenant_id=turn.saga.tenant_id, saga_id=turn.saga.id)
        turn.woken += freed
    if state in FINAL or state is State.COMPENSATION_FAILED:
        await _end_root(turn)


def _told(turn: Turn, reason: Reason) -> dict[str, Any]:
    said = reason.as_json()
    row = None if reason.step is None else turn.steps[reason.step]
    if row is not None and row.reason is not None:
        said["message"] = f"{reason.message} {row.reason}"
    return said


async def _end_root(turn: Turn) -> None:
    """End the saga's own command: with its results, or with why there are none."""
    if turn.root is None:
        return
    root = await commands.lock(turn.conn, turn.root.id)
    assert root is not None, "commands are never deleted while they are read"
    if root.final:
        # It was given up when an undo failed; now an operator has seen to that.
        await dead_letters.discard(turn.conn, root, actor=ACTOR, reason="the saga is settled")
        return
    event, result, error = saga_view.ending(turn.saga, list(turn.steps.values()), turn.commands)
    word = await results.end(
        turn.conn,
        root,
        policy=ToolPolicy(),
        event=event,
        actor=ACTOR,
        result=result,
        error=error,
    )
    turn.root = word.command
    turn.woken += word.woken


async def _do(turn: Turn, actions: Sequence[Action]) -> None:
    cancels = [one.step for one in actions if isinstance(one, Cancel)]
    if cancels:
        await _cancel(turn, cancels)
        return
    calls: list[tuple[StepRow, StepEvent, Intent]] = []
    for one in actions:
        assert isinstance(one, Do)
        row = turn.steps[one.step]
        try:
            calls.append((row, one.event, await _intent(turn, row, one.event)))
        except UnmadeError as error:
            await _unmade(turn, row, one.event, str(error))
    if calls:
        await _issue(turn, calls)


async def _unmade(turn: Turn, row: StepRow, event: StepEvent, reason: str) -> None:
    """A step's call could not be made: it did nothing, and the next turn goes on from that."""
    if event is StepEvent.RECONCILE:
        # It was tried, and what is not known stays so.
        turn.steps[row.step] = replace(row, reconcile_id=row.command_id, reason=reason)
        await sagas.save_step(turn.conn, turn.steps[row.step])
    else:
        fail = StepEvent.UNDO_FAIL if event is StepEvent.UNDO else StepEvent.FAIL
        await _step(turn, row, fail, reason=reason, command_id=None)
    await sagas.turn(turn.conn, tenant_id=turn.saga.tenant_id, saga_id=turn.saga.id)


async def _cancel(turn: Turn, names: Sequence[str]) -> None:
    """Ask each open step's command to stop: at once where no adapter has it."""
    found = [
        turn.commands[row.command_id]
        for row in map(turn.steps.__getitem__, names)
        if row.command_id
    ]
    keyed = sorted({one.ordering_key for one in found if one.ordering_key is not None})
    for key in keyed:
        await heads.lock(turn.conn, tenant_id=turn.saga.tenant_id, ordering_key=key)
    for one in sorted(found, key=lambda command: command.id):
        tool = await turn.tools(one.tool, one.method)
        word = await control.stop(
            turn.conn,
            await control.locked(turn.conn, one),
            event=CommandEvent.CANCEL,
            policy=ToolPolicy() if tool is None else tool.tool.policy,
            actor=ACTOR,
            reason=f"The saga stops: {(turn.saga.reason or {}).get('message', '')}",
            grace_s=turn.grace_s,
        )
        turn.woken += word.woken


async def _issue(turn: Turn, calls: Sequence[tuple[StepRow, StepEvent, Intent]]) -> None:
    """Write the commands, and that their steps have them."""
    for row, _, _ in calls:
        await _unblock(turn, row)
    raw = (await turn.conn.get_raw_connection()).driver_connection
    intents = [intent for _, _, intent in calls]
    written = await intake.write(raw, intents)  # pyright: ignore[reportArgumentType]
    keys = sorted({(one.tenant_id, one.ordering_key) for one in intents if one.ordering_key})
    if keys:
        await intake.release(raw, keys)  # pyright: ignore[reportArgumentType]
    for (row, event, intent), one in zip(calls, written, strict=True):
        assert one is not None, "the key names this saga, step and issue"
        names = {
            StepEvent.START: "command_id",
            StepEvent.RECONCILE: "reconcile_id",
            StepEvent.UNDO: "undo_id",
        }
        changed = replace(row, issues=row.issues + 1, **{names[event]: intent.correlation_id})
        await _step(turn, changed, event, reason=None, command_id=intent.correlation_id)
        turn.woken.append(intent.correlation_id)


async def _unblock(turn: Turn, row: StepRow) -> None:
    """The key that waits for this step's outcome is the saga's: what it does now settles that."""
    for command_id in (row.command_id, row.undo_id):
        command = None if command_id is None else turn.commands.get(command_id)
        if command is not None and command.ordering_key is not None and command.outcome_unknown:
            key = command.ordering_key
            await heads.lock(turn.conn, tenant_id=command.tenant_id, ordering_key=key)
            await heads.unblock(
                turn.conn,
                tenant_id=command.tenant_id,
                ordering_key=key,
                blocked_reason=results.blocked_reason(command),
            )


async def _intent(turn: Turn, row: StepRow, event: StepEvent) -> Intent:
    """The call that starts, finds out about, or undoes a step.

    Raises:
        UnmadeError: a reference finds nothing, the arguments do not fit, or the tool is gone.
    """
    defined = None if turn.definition is None else turn.definition.step(row.step)
    call, role = _call(row, defined, event)
    try:
        args = render(call.args, _scope(turn)) if defined is not None else dict(call.args)
        key = _ordering_key(turn, row, defined, event)
    except TemplateError as error:
        raise UnmadeError(str(error)) from error
    found = await turn.tools(call.tool, call.method)
    tool = None if found is None else found.tool
    if tool is None and event is not StepEvent.UNDO:
        raise UnmadeError(f"There is no tool {call.path!r} any more.")
    if found is not None:
        for problem in found.validator.iter_errors(args):
            raise UnmadeError(f"{found.tool.name}: {problem.message}")
    policy = ToolPolicy() if tool is None else tool.policy
    if key is None and event is StepEvent.START and policy.ordering_key is not None:
        value = args.get(policy.ordering_key)
        key = None if value is None else f"{call.tool}/{call.method}:{value}"[:255]
    return Intent(
        correlation_id=uuid_utils.uuid7(),
        tenant_id=turn.saga.tenant_id,
        user_id=turn.saga.user_id,
        actor=ACTOR,
        tool=call.tool,
        method=call.method,
        args=args,
        args_audited=redact(args, None if tool is None else tool.input_schema),
        idempotency_key=f"saga:{turn.saga.id}:{row.step}:{row.issues + 1}",
        key_source="saga",
        dedupe_key=None,
        fingerprint=fingerprint(
            user_id=turn.saga.user_id,
            tool=call.tool,
            method=call.method,
            args=args,
            ordering_key=key,
            saga_id=turn.saga.id,
            saga_step=row.step,
        ),
        ordering_key=key,
        ordering=None if key is None else _ordering(policy, event),
        deadline_s=_timeout_s(defined, event) or policy.deadline_s or turn.deadline_s,
        priority=Priority.CRITICAL if role != "step" else Priority.named(policy.priority),
        accept_async=False,
        accept_partials=False,
        attempts_max=_attempts(policy, defined, role),
        approval=_approval(policy, defined) if event is StepEvent.START else None,
        saga_id=turn.saga.id,
        saga_step=row.step,
        saga_role=role,
        traceparent=None if turn.root is None else turn.root.traceparent,
    )


def _call(row: StepRow, defined: DefinedStep | None, event: StepEvent) -> tuple[Call, Any]:
    match event:
        case StepEvent.START:
            assert defined is not None, "an ad hoc step comes with its command"
            role = "retriable" if defined.kind is StepKind.RETRIABLE else "step"
            return defined.call, role
        case StepEvent.RECONCILE:
            assert defined is not None
            assert defined.reconcile is not None
            return defined.reconcile, "reconcile"
        case _:
            if defined is None:
                assert row.compensation is not None
                said = row.compensation
                return Call(tool=said["tool"], method=said["method"], args=said["args"]), "undo"
            assert defined.compensate is not None
            return defined.compensate, "undo"


def _scope(turn: Turn) -> dict[str, Any]:
    done = {
        row.step: {"result": _result(turn, row)}
        for row in turn.steps.values()
        if row.done_seq is not None and _result(turn, row) is not None
    }
    return {"input": turn.saga.input or {}, "steps": done, "saga": {"id": str(turn.saga.id)}}


def _result(turn: Turn, row: StepRow) -> Any:
    """What a step came to; where its outcome was asked for, what the answer says of it."""
    command = turn.commands.get(row.command_id) if row.command_id else None
    if command is not None and command.state is CommandState.SUCCEEDED:
        return command.result
    asked = turn.commands.get(row.reconcile_id) if row.reconcile_id else None
    if asked is not None and isinstance(asked.result, dict):
        return asked.result.get("result")
    return None


def _ordering_key(
    turn: Turn, row: StepRow, defined: DefinedStep | None, event: StepEvent
) -> str | None:
    """An undo waits where its step did; what finds out waits for nobody."""
    if event is StepEvent.RECONCILE:
        return None
    if event is StepEvent.UNDO:
        command = turn.commands.get(row.command_id) if row.command_id else None
        return None if command is None else command.ordering_key
    assert defined is not None
    if defined.ordering_key is None:
        return None
    return str(render(defined.ordering_key, _scope(turn)))[:255]


def _ordering(policy: ToolPolicy, event: StepEvent) -> Ordering:
    return Ordering.COMPLETION if event is StepEvent.UNDO else policy.ordering


def _timeout_s(defined: DefinedStep | None, event: StepEvent) -> float | None:
    return defined.timeout_s if defined is not None and event is StepEvent.START else None


def _attempts(policy: ToolPolicy, defined: DefinedStep | None, role: str) -> int:
    asked = None if defined is None else defined.attempts_max
    match role:
        case "undo":
            return max(policy.retry.attempts_max, UNDO_ATTEMPTS)
        case "retriable":
            return asked or max(policy.retry.attempts_max, FORWARD_ATTEMPTS)
        case "step":
            return asked or policy.retry.attempts_max
        case _:
            return policy.retry.attempts_max


def _approval(policy: ToolPolicy, defined: DefinedStep | None) -> Any:
    asks = policy.approval != "none" or (defined is not None and defined.approval == "ask")
    return "pending" if asks else None


async def _tell(turn: Turn) -> None:
    """Progress of the whole, on the saga's own command."""
    if turn.root is None or turn.root.final:
        return
    stage, percent, message = saga_view.progress(turn.saga, list(turn.steps.values()))
    if (stage, percent, message) == (turn.root.stage, turn.root.percent, turn.root.message):
        return
    await commands.progress(
        turn.conn, turn.root, stage=stage, percent=percent, message=message, lease_s=1e9
    )
    turn.woken.append(turn.root.id)
