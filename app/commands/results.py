"""What adapters say: claim, progress, result, reject. Each is one transaction, fenced."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any, Final, TypedDict
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.catalog import store as catalog_store
from app.catalog.policy import ToolPolicy
from app.catalog.redaction import Secrets, mask
from app.commands import runs
from app.commands.attempts import Change, blocked_reason, conclude, end
from app.commands.bound import locked, owner
from app.commands.report import GONE, Answer, Kind, Report, ended, go, heard
from app.commands.state import Event, State
from app.commands.store import deadlines, heads, moves
from app.commands.store.commands import Command
from app.errors import ContradictionError, StaleAttemptError
from app.identity import Identity
from app.postgres.engine import tenant_transaction

ENDED_BADLY: Final = frozenset(
    {State.FAILED, State.DEAD_LETTERED, State.CANCELLED, State.TIMED_OUT}
)
"""States that an error report may have led to: a cancel's acknowledgement is one, too."""


class About(TypedDict):
    """What every report says."""

    adapter: Identity
    policy: ToolPolicy
    command_id: UUID
    attempt: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The answer to a claim: go on with these arguments, or stop before any side effect."""

    proceed: bool
    command: Command
    lease_s: float = 0
    reason: str = ""
    work: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of one that goes on: its adapter and target, if its tool names one, and `left_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a report: its answer, the change if there was one, the command it claimed."""

    answer: Answer
    change: Change | None = None
    granted: Command | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """How long an adapter may be silent, where its tool's policy does not say."""

    lease_s: float


async def apply(
    engine: AsyncEngine,
    report: Report,
    *,
    policy: ToolPolicy,
    hidden: Secrets,
    leases: LeaseTimes,
    random: Random,
    misfit: str | None = None,
) -> Applied:
    """Apply one report by itself; `hidden` are the call's secrets, `misfit` is told of the result.

    Raises:
        StaleAttemptError, ContradictionError, NotFoundError
    """
    about: About = {
        "adapter": report.adapter,
        "policy": policy,
        "command_id": report.command_id,
        "attempt": report.attempt,
    }
    match report.kind:
        case Kind.CLAIM:
            claimed = await claim(
                engine, **about, run=report.run, named=report.named, leases=leases
            )
            return _claimed(claimed, idempotent=policy.idempotent)
        case Kind.PROGRESS:
            change = await progress(
                engine,
                **about,
                stage=mask(report.stage, hidden),
                percent=report.percent,
                message=mask(report.message, hidden),
                leases=leases,
            )
            return Applied(answer=heard(cancel_requested=change.cancel_requested), change=change)
        case Kind.RESULT:
            error = mask(report.error, hidden)
            change = await finish(engine, **about, result=report.result, error=error, random=random)
        case Kind.RUN:
            masked = replace(report, error=mask(report.error, hidden), log=mask(report.log, hidden))
            answer, moved = await runs.heard_of(
                engine, masked, policy=policy, lease_s=leases.lease_s, random=random
            )
            return Applied(answer=answer, change=moved)
        case Kind.REJECT:
            change = await reject(engine, **about, reason=mask(report.reason, hidden))
    answer = ended(change.command.state, repeated=change.repeated, misfit=misfit)
    return Applied(answer=answer, change=None if change.repeated else change)


def _claimed(claimed: Claim, *, idempotent: bool) -> Applied:
    command = claimed.command
    if not claimed.proceed:
        gone = claimed.reason in GONE or command.final
        body = {"proceed": False, "reason": claimed.reason}
        return Applied(answer=Answer(status=410 if gone else 409, body=body))
    body = go({**asdict(command), **claimed.work}, claimed.lease_s, idempotent=idempotent)
    return Applied(
        answer=Answer(status=200, body=body),
        change=Change(command=command, woken=(command.id,)),
        granted=command,
    )


async def claim(
    engine: AsyncEngine,
    *,
    adapter: Identity,
    policy: ToolPolicy,
    command_id: UUID,
    attempt: int | None,
    run: str,
    leases: LeaseTimes,
    named: tuple[str, str, str] | None = None,
) -> Claim:
    """Let one run of an adapter take an attempt; a repeat by the same run gets the same answer.

    `run` names one run, not one program: it is what tells a redelivered event from a lost answer.
    `named` is the tenant, tool and method of the event that the adapter acts on: where they are
    not the command's, the event was forged or mixed up, and nothing may be done for it.
    """
    assert attempt is not None, "the edge refuses a claim without one"
    lease_s = policy.lease_s or leases.lease_s
    tenant_id = await owner(engine, adapter, command_id)
    async with tenant_transaction(engine, tenant_id) as conn:
        command = await locked(conn, adapter, command_id)
        if named is not None and named != (command.tenant_id, command.tool, command.method):
            return await _refused(conn, command, adapter, "claim_mismatch", attempt, run)
        if command.state is State.RUNNING and (command.attempt, command.adapter) == (attempt, run):
            work = await _work(conn, command)
            return Claim(proceed=True, command=command, lease_s=lease_s, work=work)
        taken = await moves.claim(
            conn,
            command,
            attempt=attempt,
            adapter=run,
            actor=f"adapter:{adapter.client_id}",
            lease_s=lease_s,
            max_runtime_s=policy.max_runtime_s,
        )
        if taken is not None:
            work = await _work(conn, taken)
            return Claim(proceed=True, command=taken, lease_s=lease_s, work=work)
        return await _refused(conn, command, adapter, refusal(command, attempt), attempt, run)


async def _work(conn: AsyncConnection, command: Command) -> dict[str, Any]:
    """What a claimed command's adapter works with, beside the command."""
    assert command.hard_stop_at is not None, "a claim sets it"
    until = command.hard_stop_at
    if not command.ignores_deadline:
        until = min(until, command.deadline_at)
    found = await catalog_store.work(
        conn, tenant_id=command.tenant_id, tool=command.tool, method=command.method
    )
    adapter, target = found or (None, None)
    left_s = await deadlines.left_s(conn, until)
    return {"adapter": adapter, "target": target, "left_s": left_s}


async def _refused(
    conn: AsyncConnection, command: Command, adapter: Identity, reason: str, attempt: int, run: str
) -> Claim:
    """Refuse a claim; the first of a command's refusals are audited."""
    await moves.record_rejected_report(
        conn,
        command,
        kind="claim.refused",
        actor=f"adapter:{adapter.client_id}",
        body={"reason": reason, "attempt": attempt, "run": run},
    )
    return Claim(proceed=False, command=command, reason=reason)


def refusal(command: Command, attempt: int) -> str:
    """Why a claim was refused: a code for machines."""
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
    leases: LeaseTimes,
) -> Change:
    """Record progress and renew the lease. Without an attempt it counts for the current one.

    Raises:
        StaleAttemptError: the attempt is not the current one, or the command has ended.
        NotFoundError: no such command of the adapter's tenants and tools.
    """
    tenant_id = await owner(engine, adapter, command_id)
    async with tenant_transaction(engine, tenant_id) as conn:
        command = await locked(conn, adapter, command_id)
        if not command.final and command.attempt == (attempt or command.attempt):
            running = await _running(conn, command, adapter, policy, leases)
            if running is not None:
                await moves.progress(
                    conn,
                    running,
                    stage=stage,
                    percent=percent,
                    message=message,
                    lease_s=policy.lease_s or leases.lease_s,
                )
                asked = running.cancel_requested_at is not None
                return Change(command=running, cancel_requested=asked, woken=(running.id,))
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
    leases: LeaseTimes,
) -> Command | None:
    """The command, running. An adapter that spoke without a claim claims by speaking."""
    if command.state is State.RUNNING:
        return command
    return await moves.claim(
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
) -> Change:
    """Apply an adapter's result: the first one wins.

    A repeat changes nothing and says so. A report for an older attempt, or against the one that
    ended the command, is recorded in the audit trail and then refused.

    Raises:
        StaleAttemptError, ContradictionError, NotFoundError
    """
    actor = f"adapter:{adapter.client_id}"
    tenant_id = await owner(engine, adapter, command_id)
    async with tenant_transaction(engine, tenant_id) as conn:
        command = await locked(conn, adapter, command_id)
        current = command.attempt == (attempt or command.attempt)
        if current and not command.final:
            return await conclude(
                conn, command, policy=policy, actor=actor, result=result, error=error, random=random
            )
        if current and _same_result(command, result, error):
            return Change(command=command, repeated=True)
        if error is not None and await moves.was_retried(conn, command, attempt, error):
            return Change(command=command, repeated=True)
        details = {"attempt": attempt, "status": "ok" if error is None else "error", "error": error}
        await moves.record_rejected_report(
            conn, command, kind="result.late", actor=actor, body=details
        )
        if current and command.outcome_unknown and command.ordering_key is not None:
            # What was unknown is known now: the key that waited for it may go on.
            await heads.unblock(
                conn,
                tenant_id=command.tenant_id,
                ordering_key=command.ordering_key,
                blocked_reason=blocked_reason(command),
            )
            await heads.activate_next(conn, [(command.tenant_id, command.ordering_key)])
    fields = {"correlation_id": str(command_id), "state": str(command.state)}
    if current:
        raise ContradictionError(
            f"Command {command_id} has ended {command.state};"
            " your report is recorded, not applied.",
            **fields,
        )
    raise StaleAttemptError(
        f"Attempt {attempt} of command {command_id} was given up; your report is recorded.",
        **fields,
    )


def _same_result(command: Command, result: Any, error: Mapping[str, Any] | None) -> bool:
    if error is not None:
        return command.state in ENDED_BADLY and (command.error or {}) == dict(error)
    return command.state is State.SUCCEEDED and command.result == result


async def reject(
    engine: AsyncEngine,
    *,
    adapter: Identity,
    policy: ToolPolicy,
    command_id: UUID,
    attempt: int | None,
    reason: str,
) -> Change:
    """No rule takes this attempt: it goes to the dead letters, where nothing runs for it.

    Raises:
        StaleAttemptError: the attempt is not the current one, or an adapter has claimed it.
        NotFoundError: no such command of the adapter's tenants and tools.
    """
    tenant_id = await owner(engine, adapter, command_id)
    async with tenant_transaction(engine, tenant_id) as conn:
        command = await locked(conn, adapter, command_id)
        error = {"code": "unroutable", "message": reason}
        if command.final and command.attempt == attempt and command.error == error:
            return Change(command=command, repeated=True)
        if command.attempt == attempt and command.state in {State.QUEUED, State.DISPATCHED}:
            actor = f"adapter:{adapter.client_id}"
            return await end(
                conn, command, policy=policy, event=Event.EXHAUST, actor=actor, error=error
            )
    raise StaleAttemptError(
        f"Attempt {attempt} of command {command_id} is not one to reject:"
        f" {refusal(command, attempt or 0)}.",
        correlation_id=str(command_id),
        state=str(command.state),
        attempt=command.attempt,
    )
