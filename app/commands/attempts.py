"""How an attempt is over: ended, tried again or sent again; each within its caller's transaction.

An adapter's report (results.py), a person's decision (control.py), the clock (timeouts.py) and a
saga (conductor.py) all end an attempt here, with its command locked.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog.policy import Dedupe, ToolPolicy
from app.commands.state import Event, State
from app.commands.store import heads, moves, outbox
from app.commands.store.commands import Command
from app.commands.view import outcome
from app.contract import DEADLETTER, RESULTS

RETRY_AFTER_MAX_S: Final = 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The answer to a progress or result: what the broker made of it."""

    command: Command
    cancel_requested: bool = False
    repeated: bool = False
    woken: tuple[UUID, ...] = ()  # commands whose row changed, for the wakeup
    outbox: bool = False  # whether outbox rows became ready
    ended: tuple[Command, ...] = ()  # by this change, and none before it
    retried: bool = False  # whether an attempt is over and the next one is queued


async def conclude(
    conn: AsyncConnection,
    command: Command,
    *,
    policy: ToolPolicy,
    actor: str,
    result: Any,
    error: Mapping[str, Any] | None,
    random: Random,
) -> Change:
    """End the current attempt by a result: succeeded, tried again, failed or cancelled."""
    if error is None:
        return await end(
            conn, command, policy=policy, event=Event.RESULT_OK, actor=actor, result=result
        )
    unknown = outcome_is_unknown(error)
    if command.cancel_target is not None:
        event = Event.CANCEL if command.cancel_target == State.CANCELLED else Event.EXPIRE
        return await end(
            conn, command, policy=policy, event=event, actor=actor, error=error, lost=unknown
        )
    if unknown:
        return await lose(conn, command, policy=policy, actor=actor, error=error, random=random)
    again = policy.retry.on_error and error.get("retryable", True)
    if again and command.attempt < command.attempts_max:
        return await retry(
            conn, command, policy=policy, actor=actor, reason="error", error=error, random=random
        )
    exhausted = command.attempts_max > 1 and again
    event = Event.EXHAUST if exhausted else Event.RESULT_ERROR
    return await end(conn, command, policy=policy, event=event, actor=actor, error=error)


def outcome_is_unknown(error: Mapping[str, Any] | None) -> bool:
    """Whether an adapter says that nobody knows what its attempt did."""
    return error is not None and error.get("outcome_unknown") is True


async def lose(
    conn: AsyncConnection,
    command: Command,
    *,
    policy: ToolPolicy,
    actor: str,
    error: Mapping[str, Any],
    random: Random,
) -> Change:
    """End a locked command's attempt of which nobody knows what it did.

    It is made again where that does no harm; else the command is a dead letter in doubt.
    """
    if (policy.idempotent or command.saga_retries) and command.attempt < command.attempts_max:
        return await retry(
            conn,
            command,
            policy=policy,
            actor=actor,
            reason=str(error["code"]) if "code" in error else "outcome_unknown",
            error=error,
            random=random,
            lost=True,
        )
    return await end(
        conn, command, policy=policy, event=Event.EXHAUST, actor=actor, error=error, lost=True
    )


async def end(
    conn: AsyncConnection,
    command: Command,
    *,
    policy: ToolPolicy,
    event: Event,
    actor: str,
    result: Any = None,
    error: Mapping[str, Any] | None = None,
    lost: bool = False,
) -> Change:
    """End a locked command: its state, its audit event, its outbox rows and its key, at once.

    The key's head must be locked already. `lost` says that nobody told what the attempt did: the
    outcome is unknown then, unless it may simply be done again, and blocks the key where the tool
    says so.
    """
    outcome_unknown = lost and not (policy.idempotent or command.saga_retries)
    body: dict[str, Any] = {} if error is None else {"error": dict(error)}
    keeps_dedupe = policy.dedupe is Dedupe.WINDOW and event is Event.RESULT_OK
    ended = await moves.end(
        conn,
        command,
        event=event,
        actor=actor,
        result=result,
        error=error,
        body=body,
        outcome_unknown=outcome_unknown,
        lost=lost,
        dedupe_s=policy.dedupe_window_s if keeps_dedupe else None,
    )
    assert ended is not None, "the row is locked and its state was read under the lock"
    await outbox.withdraw(conn, ended.id)
    reported = outcome(ended)
    await outbox.append(conn, ended, kind="result", topic=RESULTS, payload=reported)
    if ended.state is State.DEAD_LETTERED:
        await outbox.append(conn, ended, kind="deadletter", topic=DEADLETTER, payload=reported)
    released: list[UUID] = []
    if ended.ordering_key is not None:
        blocks = outcome_unknown and policy.on_unknown == "block"
        await heads.clear_active(
            conn,
            tenant_id=ended.tenant_id,
            ordering_key=ended.ordering_key,
            command_id=ended.id,
            blocked_reason=blocked_reason(ended) if blocks else None,
        )
        released = await heads.activate_next(conn, [(ended.tenant_id, ended.ordering_key)])
    return Change(command=ended, woken=(ended.id, *released), outbox=True, ended=(ended,))


async def retry(
    conn: AsyncConnection,
    command: Command,
    *,
    policy: ToolPolicy,
    actor: str,
    reason: str,
    error: Mapping[str, Any] | None = None,
    random: Random,
    lost: bool = False,
) -> Change:
    """Give up a locked command's attempt and queue the next after a pause; its key stays taken."""
    # A redrive grants a round of attempts: its pauses begin anew, not where the last round ended.
    earlier = max(0, command.attempts_max - policy.retry.attempts_max)
    pause_s = policy.retry.pause_s(max(1, command.attempt - earlier), random)
    if error is not None:  # what a target wishes for
        pause_s = max(pause_s, min(float(error.get("retry_after_s") or 0), RETRY_AFTER_MAX_S))
    body = {"reason": reason, "error": error, "pause_s": pause_s, "attempt_over": command.attempt}
    queued = await moves.requeue(
        conn, command, event=Event.RETRY, actor=actor, body=body, lost=lost
    )
    assert queued is not None, "the row is locked and its state was read under the lock"
    await outbox.withdraw(conn, queued.id)
    await outbox.append_attempt(conn, queued, pause_s=pause_s)
    return Change(command=queued, woken=(queued.id,), outbox=True, retried=True)


async def redeliver(
    conn: AsyncConnection,
    command: Command,
    *,
    actor: str,
    reason: str = "unclaimed",
    error: Mapping[str, Any] | None = None,
    pause_s: float = 0,
) -> Change:
    """Send a locked command's unclaimed attempt once more; the claim still takes it once."""
    body = {"reason": reason} | ({} if error is None else {"error": error, "pause_s": pause_s})
    queued = await moves.requeue(conn, command, event=Event.REDELIVER, actor=actor, body=body)
    assert queued is not None, "the row is locked and its state was read under the lock"
    await outbox.append_attempt(conn, queued, pause_s=pause_s)
    return Change(command=queued, woken=(queued.id,), outbox=True)


def blocked_reason(command: Command) -> str:
    """What a key says that waits for this command's outcome; only its own report lifts it."""
    return f"outcome of {command.id} unknown"
