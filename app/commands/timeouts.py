"""What time does to commands: deadlines, lost leases, deliveries that nobody took.

Called by the relay's clock, on any number of relays: each command is looked at again under its
locks, in a transaction of its own, so a second relay finds nothing left to do.
"""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app import metrics
from app.catalog.policy import ToolPolicy
from app.commands import control
from app.commands.attempts import Change, end, lose, redeliver
from app.commands.pauses import NoPauses, Pauses
from app.commands.state import Event, State
from app.commands.store import commands, deadlines, ticks
from app.commands.store.commands import Command
from app.postgres.engine import each_by_itself

Policies = Callable[[str, str], Awaitable[ToolPolicy]]
"""(tool, method) -> policy."""

BATCH_MAX: Final = 200
ACTOR: Final = "clock"


async def expire_deadlines(
    engine: AsyncEngine, policies: Policies, *, grace_s: float, pauses: Pauses | None = None
) -> list[Change]:
    """End what is past its deadline, or record the miss where the caller went on (accept_async)."""
    pauses = pauses or NoPauses()
    async with each_by_itself(engine) as conn:
        late = await deadlines.past_deadline(conn, limit=BATCH_MAX, but=pauses.now())
    return await pauses.each(late, lambda one: _expire(engine, one, policies, grace_s))


async def _expire(
    engine: AsyncEngine, command_id: UUID, policies: Policies, grace_s: float
) -> Change | None:
    async with engine.begin() as conn:
        command = await _current(conn, command_id)
        if command is None or command.final:
            return None
        if not await deadlines.miss_deadline(conn, command, actor=ACTOR):
            return None
        change = None
        if command.ignores_deadline:
            await ticks.enqueue_tick_of(conn, command)
        else:
            change = await control.stop(
                conn,
                command,
                event=Event.EXPIRE,
                policy=await policies(command.tool, command.method),
                actor=ACTOR,
                reason=_missed(command),
                grace_s=grace_s,
            )
    metrics.DEADLINE_MISSES.inc()
    return change


def _missed(command: Command) -> str:
    """Why a command is late, as its caller and the trail are told."""
    if command.hold is None:
        return "The deadline passed."
    return f"The deadline passed while it was held by an operator: {command.hold['reason']}"


async def expire_approvals(
    engine: AsyncEngine, policies: Policies, *, pauses: Pauses | None = None
) -> list[Change]:
    """Escalate calls that wait for a decision for long, and deny those that waited for too long."""
    pauses = pauses or NoPauses()
    async with each_by_itself(engine) as conn:
        due = await deadlines.approvals_due(conn, limit=BATCH_MAX, but=pauses.now())
    return await pauses.each(due, lambda one: _undecided(engine, one, policies))


async def _undecided(engine: AsyncEngine, command_id: UUID, policies: Policies) -> Change | None:
    async with engine.begin() as conn:
        command = await _current(conn, command_id)
        if command is None:
            return None
        due, over = await deadlines.approval_stands(conn, command_id)
        if not due:
            return None
        policy = await policies(command.tool, command.method)
        return await control.escalate_or_expire(
            conn, command, over=over, policy=policy, actor=ACTOR
        )


async def expire_leases(
    engine: AsyncEngine,
    policies: Policies,
    *,
    grace_s: float,
    random: Random,
    pauses: Pauses | None = None,
) -> list[Change]:
    """Decide on attempts that nobody speaks for any more."""
    pauses = pauses or NoPauses()
    async with each_by_itself(engine) as conn:
        silent = await deadlines.past_lease(conn, limit=BATCH_MAX, but=pauses.now())
    return await pauses.each(silent, lambda one: _silent(engine, one, policies, grace_s, random))


async def _silent(
    engine: AsyncEngine, command_id: UUID, policies: Policies, grace_s: float, random: Random
) -> Change | None:
    async with engine.begin() as conn:
        command = await _current(conn, command_id)
        if command is None or not await deadlines.lease_is_over(conn, command_id):
            return None
        policy = await policies(command.tool, command.method)
        if command.state is State.DISPATCHED:
            # Nobody claimed it, so nothing was done: EDA is behind, or lost it in a crash.
            return await redeliver(conn, command, actor=ACTOR)
        assert command.state is State.RUNNING
        if command.cancel_target is not None:
            return await _grace_over(conn, command, policy)
        if await deadlines.runtime_is_over(conn, command_id):
            return await control.stop(
                conn,
                command,
                event=Event.EXPIRE,
                policy=policy,
                actor=ACTOR,
                reason="The longest running time of the tool passed.",
                grace_s=grace_s,
            )
        return await _lost(conn, command, policy, random)


async def _grace_over(conn: AsyncConnection, command: Command, policy: ToolPolicy) -> Change:
    """The adapter was asked to stop and did not answer: it may still be at work."""
    event = Event.CANCEL if command.cancel_target == State.CANCELLED else Event.EXPIRE
    message = f"{command.cancel_reason} The adapter did not acknowledge in time."
    error = {"code": f"{command.cancel_target}_unacknowledged", "message": message}
    return await end(
        conn,
        command,
        policy=policy,
        event=event,
        actor=ACTOR,
        error=error,
        lost=True,
    )


async def _lost(
    conn: AsyncConnection, command: Command, policy: ToolPolicy, random: Random
) -> Change:
    """The lease is lost: what the adapter did is unknown, not failed."""
    message = "The adapter fell silent; what it did is unknown."
    error = {"code": "lease_lost", "message": message, "adapter": command.adapter}
    return await lose(conn, command, policy=policy, actor=ACTOR, error=error, random=random)


async def _current(conn: AsyncConnection, command_id: UUID) -> Command | None:
    found = await commands.find(conn, command_id)
    return None if found is None else await control.locked(conn, found)
