"""What adapters say: claim, progress, result, reject. Each is one transaction, fenced.

`end` and `retry` are the two ways an attempt is over; control.py and timeouts.py use them too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.command import Event, State
from app.db import commands, heads, outbox
from app.db.commands import Command
from app.db.engine import tenant_transaction
from app.envelope import COMMANDS, DEADLETTER, RESULTS, instant
from app.errors import ContradictionError, NotBoundError, NotFoundError, StaleAttemptError
from app.policy import Dedupe, Identity, ToolPolicy, allowed_by_binding

PURGED: Final = (
    "The command ended as its state says; its arguments, result and error text were kept for a"
    " time and are purged. Do not repeat the call to get them: it would do the work again."
)
"""What the owner of a purged command is told in place of its result."""

ENDED_BADLY: Final = frozenset({State.FAILED, State.DEAD_LETTERED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The answer to a claim: go on with these arguments, or stop before any side effect."""

    proceed: bool
    command: Command
    lease_s: float = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """The answer to a progress or result: what the broker made of it."""

    command: Command
    cancel_requested: bool = False
    repeated: bool = False
    woken: tuple[UUID, ...] = ()  # commands whose row changed, for the wakeup
    outbox: bool = False  # whether outbox rows became ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Leases:
    """How long an adapter may be silent, where its tool's policy does not say."""

    lease_s: float
    cancel_grace_s: float


async def owner(engine: AsyncEngine, adapter: Identity, command_id: UUID) -> str:
    """The tenant of a command that this adapter may speak for.

    Raises:
        NotFoundError: no such command, or one of a tenant that the adapter is not bound to.
    """
    async with engine.connect() as conn:
        tenant_id = await commands.tenant_of(conn, command_id)
    if tenant_id is None:
        raise NotFoundError(f"There is no command {command_id}.", correlation_id=str(command_id))
    if adapter.tenants is not None and tenant_id not in adapter.tenants:
        raise NotBoundError(f"There is no command {command_id}.", correlation_id=str(command_id))
    return tenant_id


async def subject(engine: AsyncEngine, adapter: Identity, command_id: UUID) -> Command:
    """A command that this adapter may speak for, as it is now.

    Raises:
        NotFoundError: no such command of the adapter's tenants and tools.
    """
    tenant_id = await owner(engine, adapter, command_id)
    async with tenant_transaction(engine, tenant_id) as conn:
        command = await commands.find(conn, command_id)
    if command is None:
        raise NotFoundError(f"There is no command {command_id}.", correlation_id=str(command_id))
    if not allowed_by_binding(adapter, command.tool, command.method):
        raise NotBoundError(f"There is no command {command_id}.", correlation_id=str(command_id))
    return command


async def _locked(conn: AsyncConnection, adapter: Identity | None, command_id: UUID) -> Command:
    found = await commands.find(conn, command_id)
    if found is not None and found.ordering_key is not None:
        await heads.lock(conn, tenant_id=found.tenant_id, ordering_key=found.ordering_key)
    command = None if found is None else await commands.lock(conn, command_id)
    if (
        command is None
        or command.saga_role == "saga"
        or not allowed_by_binding(adapter, command.tool, command.method)
    ):
        raise NotFoundError(f"There is no command {command_id}.", correlation_id=str(command_id))
    return command


async def claim(
    engine: AsyncEngine,
    *,
    adapter: Identity,
    policy: ToolPolicy,
    command_id: UUID,
    attempt: int,
    run: str,
    leases: Leases,
) -> Claim:
    """Let one run of an adapter take an attempt; a repeat by the same run gets the same answer.

    `run` names one run, not one program: it is what tells a redelivered event from a lost answer.
    """
    lease_s = policy.lease_s or leases.lease_s
    tenant_id = await owner(engine, adapter, command_id)
    async with tenant_transaction(engine, tenant_id) as conn:
        command = await _locked(conn, adapter, command_id)
        if command.state is State.RUNNING and (command.attempt, command.adapter) == (attempt, run):
            return Claim(proceed=True, command=command, lease_s=lease_s)
        taken = await commands.claim(
            conn,
            command,
            attempt=attempt,
            adapter=run,
            actor=f"adapter:{adapter.client_id}",
            lease_s=lease_s,
            max_runtime_s=policy.max_runtime_s,
        )
        if taken is not None:
            return Claim(proceed=True, command=taken, lease_s=lease_s)
        reason = refusal(command, attempt)
        body = {"reason": reason, "attempt": attempt, "run": run}
        actor = f"adapter:{adapter.client_id}"
        await commands.note(conn, command, kind="claim.refused", actor=actor, body=body)
        return Claim(proceed=False, command=command, reason=reason)


def refusal(command: Command, attempt: int) -> str:
    """Why a claim was refused: a word for the machine."""
    if command.final:
        return f"ended_{command.state}"
    if attempt != command.attempt:
        return "stale_attempt"
    if command.state is State.RUNNING:
        return "already_claimed"
    if command.cancel_requested_at is not None:
        return "cancelled"
    if command.held or command.approval in {"pending", "denied"}:
        return "not_released"
    return "deadline_passed"


async def progress(
    engine: AsyncEngine,
    *,
    adapter: Identity,
    policy: ToolPolicy,
    command_id: UUID,
    attempt: int | None,
    stage: str,
    percent: float | None,
    message: str | None,
    leases: Leases,
) -> Word:
    """Record progress and renew the lease. Without an attempt it counts for the current one.

    Raises:
        StaleAttemptError: the attempt is not the current one, or the command has ended.
        NotFoundError: no such command of the adapter's tenants and tools.
    """
    tenant_id = await owner(engine, adapter, command_id)
    async with tenant_transaction(engine, tenant_id) as conn:
        command = await _locked(conn, adapter, command_id)
        if not command.final and command.attempt == (attempt or command.attempt):
            running = await _running(conn, command, adapter, policy, leases)
            if running is not None:
                await commands.progress(
                    conn,
                    running,
                    stage=stage,
                    percent=percent,
                    message=message,
                    lease_s=policy.lease_s or leases.lease_s,
                )
                asked = running.cancel_requested_at is not None
                return Word(command=running, cancel_requested=asked, woken=(running.id,))
    raise StaleAttemptError(
        f"Attempt {attempt or command.attempt} of command {command_id} is over: "
        f"{refusal(command, attempt or command.attempt)}. Stop the work.",
        correlation_id=str(command_id),
        state=str(command.state),
        attempt=command.attempt,
    )


async def _running(
    conn: AsyncConnection,
    command: Command,
    adapter: Identity,
    policy: ToolPolicy,
    leases: Leases,
) -> Command | None:
    """The command, running. An adapter that spoke without a claim claims by speaking."""
    if command.state is State.RUNNING:
        return command
    return await commands.claim(
        conn,
        command,
        attempt=command.attempt,
        adapter=f"unclaimed:{adapter.client_id}",
        actor=f"adapter:{adapter.client_id}",
        lease_s=policy.lease_s or leases.lease_s,
        max_runtime_s=policy.max_runtime_s,
    )


async def finish(
    engine: AsyncEngine,
    *,
    adapter: Identity,
    policy: ToolPolicy,
    command_id: UUID,
    attempt: int | None,
    result: Any = None,
    error: Mapping[str, Any] | None = None,
    random: Random,
) -> Word:
    """Apply an adapter's last word: the first one wins.

    A repeat changes nothing and says so. A word for an older attempt, or against the one that
    ended the command, is recorded in the audit trail and then refused.

    Raises:
        StaleAttemptError, ContradictionError, NotFoundError
    """
    actor = f"adapter:{adapter.client_id}"
    tenant_id = await owner(engine, adapter, command_id)
    async with tenant_transaction(engine, tenant_id) as conn:
        command = await _locked(conn, adapter, command_id)
        current = command.attempt == (attempt or command.attempt)
        if current and not command.final:
            return await conclude(
                conn, command, policy=policy, actor=actor, result=result, error=error, random=random
            )
        if current and _same_word(command, result, error):
            return Word(command=command, repeated=True)
        said = {"attempt": attempt, "status": "ok" if error is None else "error", "error": error}
        await commands.note(conn, command, kind="result.late", actor=actor, body=said)
        if current and command.outcome_unknown and command.ordering_key is not None:
            # What was unknown is known now: the key that waited for it may go on.
            await heads.unblock(
                conn,
                tenant_id=command.tenant_id,
                ordering_key=command.ordering_key,
                blocked_reason=blocked_reason(command),
            )
            await heads.release(conn, [(command.tenant_id, command.ordering_key)])
    fields = {"correlation_id": str(command_id), "state": str(command.state)}
    if current:
        raise ContradictionError(
            f"Command {command_id} has ended {command.state}; your word is recorded, not applied.",
            **fields,
        )
    raise StaleAttemptError(
        f"Attempt {attempt} of command {command_id} was given up; your word is recorded.", **fields
    )


def _same_word(command: Command, result: Any, error: Mapping[str, Any] | None) -> bool:
    if error is not None:
        return command.state in ENDED_BADLY and (command.error or {}) == dict(error)
    return command.state is State.SUCCEEDED and command.result == result


async def conclude(
    conn: AsyncConnection,
    command: Command,
    *,
    policy: ToolPolicy,
    actor: str,
    result: Any,
    error: Mapping[str, Any] | None,
    random: Random,
) -> Word:
    """End the current attempt by a result: succeeded, tried again, failed or cancelled."""
    if error is None:
        return await end(
            conn, command, policy=policy, event=Event.RESULT_OK, actor=actor, result=result
        )
    if command.cancel_target is not None:
        event = Event.CANCEL if command.cancel_target == State.CANCELLED else Event.EXPIRE
        return await end(conn, command, policy=policy, event=event, actor=actor, error=error)
    again = policy.retry.on_error and error.get("retryable", True)
    if again and command.attempt < command.attempts_max:
        return await retry(
            conn, command, policy=policy, actor=actor, reason="error", error=error, random=random
        )
    exhausted = command.attempts_max > 1 and again
    event = Event.EXHAUST if exhausted else Event.RESULT_ERROR
    return await end(conn, command, policy=policy, event=event, actor=actor, error=error)


async def reject(
    engine: AsyncEngine, *, adapter: Identity, policy: ToolPolicy, command_id: UUID, reason: str
) -> Word:
    """No rule takes this command: it goes to the dead letters, unless it has ended.

    Raises:
        NotFoundError: no such command of the adapter's tenants and tools.
    """
    tenant_id = await owner(engine, adapter, command_id)
    async with tenant_transaction(engine, tenant_id) as conn:
        command = await _locked(conn, adapter, command_id)
        if command.final:
            return Word(command=command, repeated=True)
        error = {"code": "unroutable", "message": reason}
        actor = f"adapter:{adapter.client_id}"
        return await end(
            conn, command, policy=policy, event=Event.EXHAUST, actor=actor, error=error
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
) -> Word:
    """End a locked command: its state, its audit event, its outbox rows and its key, at once.

    The key's head must be locked already. `lost` says that nobody told what the attempt did: the
    outcome is unknown then, unless it may simply be done again, and blocks the key where the tool
    says so.
    """
    outcome_unknown = lost and not (policy.idempotent or command.repeatable)
    body: dict[str, Any] = {} if error is None else {"error": dict(error)}
    keeps_dedupe = policy.dedupe is Dedupe.WINDOW and event is Event.RESULT_OK
    ended = await commands.end(
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
    said = outcome(ended)
    await outbox.append(conn, ended, kind="result", topic=RESULTS, payload=said)
    if ended.state is State.DEAD_LETTERED:
        await outbox.append(conn, ended, kind="deadletter", topic=DEADLETTER, payload=said)
    released: list[UUID] = []
    if ended.ordering_key is not None:
        blocks = outcome_unknown and policy.on_unknown == "block"
        await heads.free(
            conn,
            tenant_id=ended.tenant_id,
            ordering_key=ended.ordering_key,
            command_id=ended.id,
            blocked_reason=blocked_reason(ended) if blocks else None,
        )
        released = await heads.release(conn, [(ended.tenant_id, ended.ordering_key)])
    return Word(command=ended, woken=(ended.id, *released), outbox=True)


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
) -> Word:
    """Give up a locked command's attempt and queue the next after a pause; its key stays taken."""
    # A redrive grants a round of attempts: its pauses begin anew, not where the last round ended.
    earlier = max(0, command.attempts_max - policy.retry.attempts_max)
    pause_s = policy.retry.pause_s(max(1, command.attempt - earlier), random)
    body = {"reason": reason, "error": error, "pause_s": pause_s, "attempt_over": command.attempt}
    queued = await commands.requeue(
        conn, command, event=Event.RETRY, actor=actor, body=body, lost=lost
    )
    assert queued is not None, "the row is locked and its state was read under the lock"
    await outbox.withdraw(conn, queued.id)
    await outbox.append_attempt(conn, queued, topic=COMMANDS, pause_s=pause_s)
    return Word(command=queued, woken=(queued.id,), outbox=True)


async def redeliver(conn: AsyncConnection, command: Command, *, actor: str) -> Word:
    """Send a locked command's unclaimed attempt once more; the claim still takes it once."""
    body = {"reason": "unclaimed"}
    queued = await commands.requeue(conn, command, event=Event.REDELIVER, actor=actor, body=body)
    assert queued is not None, "the row is locked and its state was read under the lock"
    await outbox.append_attempt(conn, queued, topic=COMMANDS, pause_s=0)
    return Word(command=queued, woken=(queued.id,), outbox=True)


def outcome(command: Command) -> dict[str, Any]:
    """A final command as `mcp.results`, `mcp.deadletter` and the HTTP API tell it."""
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


def blocked_reason(command: Command) -> str:
    """What a key says that waits for this command's outcome; only its own word lifts it."""
    return f"outcome of {command.id} unknown"
