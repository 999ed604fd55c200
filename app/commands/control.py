"""What users and operators may do to a command: cancel, decide, redrive, discard, resolve.

Each takes a command that `locked` gave, in the caller's transaction.
"""

from typing import Any, Final, Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog.policy import ToolPolicy
from app.commands import approvals
from app.commands.attempts import Change, blocked_reason, end
from app.commands.state import Event, State
from app.commands.store import commands, dead_letters, decisions, heads, moves, outbox, ticks
from app.commands.store.commands import Command
from app.contract import CONTROL
from app.errors import NotCancellableError

FOREVER_S: Final = 1e9
"""No grace ends a saga: it is over when its last undo is."""


async def cancel(
    conn: AsyncConnection,
    command: Command,
    *,
    policy: ToolPolicy,
    actor: str,
    reason: str,
    grace_s: float,
) -> Change:
    """Cancel a locked command: at once where no adapter has it, else ask the adapter to stop.

    A command that has ended, or was asked before, is left as it is. A saga's own command is
    asked to stop, too: it ends when what was done is undone.

    Raises:
        NotCancellableError: it undoes, or carries forward, what a saga has begun.
    """
    if command.saga_retries and not command.final:
        raise NotCancellableError(
            f"Command {command.id} brings saga {command.saga_id} to its end ({command.saga_role})"
            " and is not cancelled."
        )
    return await stop(
        conn,
        command,
        event=Event.CANCEL,
        policy=policy,
        actor=actor,
        reason=reason,
        grace_s=grace_s,
    )


async def stop(
    conn: AsyncConnection,
    command: Command,
    *,
    event: Event,
    policy: ToolPolicy,
    actor: str,
    reason: str,
    grace_s: float,
) -> Change:
    """Cancel or expire a locked command, by the same rule."""
    assert event in {Event.CANCEL, Event.EXPIRE}
    if command.final:
        return Change(command=command, repeated=True)
    if command.state is not State.RUNNING:
        code = "cancelled" if event is Event.CANCEL else "deadline"
        error = {"code": code, "message": reason}
        return await end(conn, command, policy=policy, event=event, actor=actor, error=error)
    goal = State.CANCELLED if event is Event.CANCEL else State.TIMED_OUT
    asked = await moves.request_cancel(
        conn,
        command,
        cancel_target=goal,
        reason=reason,
        actor=actor,
        grace_s=FOREVER_S if command.saga_role == "saga" else grace_s,
    )
    if asked is None:
        return Change(command=command, cancel_requested=True, repeated=True)
    if asked.saga_role == "saga":
        await ticks.enqueue_tick_of(conn, asked)
        return Change(command=asked, cancel_requested=True, woken=(asked.id,))
    message = {
        "action": "cancel",
        "correlation_id": str(asked.id),
        "tenant_id": asked.tenant_id,
        "tool": asked.tool,
        "method": asked.method,
        "attempt": asked.attempt,
        "adapter": asked.adapter,
        "reason": reason,
    }
    await outbox.append(conn, asked, kind="control", topic=CONTROL, payload=message)
    return Change(command=asked, cancel_requested=True, woken=(asked.id,), outbox=True)


async def decide(
    conn: AsyncConnection,
    command: Command,
    *,
    approve: bool,
    user_id: str,
    policy: ToolPolicy,
    actor: str,
    reason: str,
) -> Change:
    """Count a decision on a command that waits for approvals: it waits on, goes, or ends.

    The caller has asked `approvals.refusal` under the same lock. A second yes of one person
    changes nothing.

    Raises:
        NotCancellableError: it does not wait for one, or the time to decide is over.
    """
    needed = approvals.Needed.of(command)
    body = {"reason": reason, "policy": needed.policy, "quorum": needed.quorum}
    if not approve:
        return await _denied(conn, command, policy=policy, actor=actor, body=body)
    if command.awaits_approval and approvals.has_approved(command, user_id):
        return Change(command=command, repeated=True)
    goes = approvals.missing(command) <= 1
    counted = len(command.approvals or ()) + 1
    decided = await decisions.approve(
        conn,
        command,
        user_id=user_id,
        goes=goes,
        actor=actor,
        body=body | {"counted": counted},
    )
    if decided is None:
        over = "any more: the time to decide is over" if command.awaits_approval else "for approval"
        raise NotCancellableError(f"Command {command.id} does not wait {over}.")
    if goes and not decided.held:
        await outbox.make_ready(conn, decided.id)
    if goes and decided.saga_id is not None:  # its progress says what is waited for
        await ticks.enqueue_tick(conn, tenant_id=decided.tenant_id, saga_id=decided.saga_id)
    return Change(command=decided, woken=(decided.id,), outbox=goes)


async def _denied(
    conn: AsyncConnection, command: Command, *, policy: ToolPolicy, actor: str, body: dict[str, Any]
) -> Change:
    decided = await decisions.deny(conn, command, actor=actor, body=body)
    if decided is None:
        raise NotCancellableError(f"Command {command.id} does not wait for approval.")
    error = {"code": "denied", "message": body["reason"]}
    return await end(conn, decided, policy=policy, event=Event.CANCEL, actor=actor, error=error)


async def escalate_or_expire(
    conn: AsyncConnection, command: Command, *, over: bool, policy: ToolPolicy, actor: str
) -> Change | None:
    """What time does to a locked command that waits: more may decide, or `over`, it is denied.

    None where it does not wait any more, or there is nobody more. Here, and nowhere else, a call
    escalates.
    """
    if not command.awaits_approval:
        return None
    needed = approvals.Needed.of(command)
    body: dict[str, Any] = {"policy": needed.policy}
    if over:
        body |= {"reason": approvals.EXPIRED, "approved_by": len(command.approvals or ())}
        return await _denied(conn, command, policy=policy, actor=actor, body=body)
    body["escalate_to"] = list(needed.escalate_to)
    escalated = await decisions.escalate(conn, command, actor=actor, body=body)
    return None if escalated is None else Change(command=escalated, woken=(escalated.id,))


async def redrive(
    conn: AsyncConnection,
    command: Command,
    *,
    policy: ToolPolicy,
    actor: str,
    reason: str,
    deadline_s: float,
    pause_s: float = 0,
) -> Change:
    """Give a dead letter a new attempt after a pause: its key, arguments and place in order stay.

    Where its outcome was unknown, the operator confirms that it may be done again.

    Raises:
        NotCancellableError: it is no dead letter, was settled, belongs to a saga (which has
            gone on without it), or its arguments have been purged.
    """
    must_be_redrivable(command)
    queued = await moves.requeue(
        conn,
        command,
        event=Event.REDRIVE,
        actor=actor,
        body={"reason": reason, "pause_s": pause_s},
        attempts_max=command.attempt + policy.retry.attempts_max,
        deadline_s=deadline_s + pause_s,
        held=command.ordering_key is not None,
    )
    assert queued is not None, "the row is locked and its state was read under the lock"
    await outbox.append_attempt(conn, queued, pause_s=pause_s)
    # Its number is lower than that of whatever waits, so it is the next of its key.
    released = await _go_on(conn, command)
    return Change(command=queued, woken=(queued.id, *released), outbox=True)


def must_be_redrivable(command: Command) -> None:
    """Whether `redrive` would take it. Raises what `redrive` raises."""
    must_be_dead(command)
    if command.saga_id is not None:
        raise NotCancellableError(
            f"Command {command.id} is a step of saga {command.saga_id}, which has gone on without "
            "it; act on the saga instead."
        )
    if command.args is None:
        raise NotCancellableError(
            f"The arguments of command {command.id} were purged after their retention; call the "
            "tool anew."
        )


async def discard(conn: AsyncConnection, command: Command, *, actor: str, reason: str) -> Change:
    """Settle a dead letter by hand: it leaves the list.

    Raises:
        NotCancellableError: it is no dead letter, was settled, or its key waits for its outcome.
    """
    must_be_dead(command)
    if command.ordering_key is not None and await heads.blocks(
        conn,
        tenant_id=command.tenant_id,
        ordering_key=command.ordering_key,
        blocked_reason=blocked_reason(command),
    ):
        raise NotCancellableError(
            f"Ordering key {command.ordering_key!r} waits to know what command {command.id} did. "
            "Find out and resolve it (succeeded or failed), or redrive it."
        )
    discarded = await dead_letters.discard(conn, command, actor=actor, reason=reason)
    assert discarded is not None, "the row is locked and its state was read under the lock"
    return Change(command=discarded, woken=(discarded.id,))


def must_be_dead(command: Command) -> None:
    """Whether `discard` would take it, unless its key waits. Raises what `discard` raises."""
    if command.state is not State.DEAD_LETTERED or command.discarded_at is not None:
        raise NotCancellableError(f"Command {command.id} is not among the dead letters.")


async def resolve(
    conn: AsyncConnection,
    command: Command,
    *,
    outcome: Literal["succeeded", "failed"],
    actor: str,
    reason: str,
) -> Change:
    """Say what a command did that ended in doubt: its key goes on, and its state stays.

    The state stays because its caller was told it; `error.resolved` tells what was found out.

    Raises:
        NotCancellableError: its outcome is not in doubt.
    """
    resolved = await dead_letters.resolve(
        conn, command, outcome=outcome, actor=actor, reason=reason
    )
    if resolved is None:
        raise NotCancellableError(f"The outcome of command {command.id} is not in doubt.")
    released = await _go_on(conn, command)
    return Change(command=resolved, woken=(resolved.id, *released), outbox=True)


async def _go_on(conn: AsyncConnection, command: Command) -> list[UUID]:
    """Lift the block that an unknown outcome put on its key, and release the key's next."""
    if command.ordering_key is None:
        return []
    await heads.unblock(
        conn,
        tenant_id=command.tenant_id,
        ordering_key=command.ordering_key,
        blocked_reason=blocked_reason(command),
    )
    return await heads.activate_next(conn, [(command.tenant_id, command.ordering_key)])


async def locked(conn: AsyncConnection, command: Command) -> Command:
    """The command as it is now, its key's head and its row locked, in that order."""
    if command.ordering_key is not None:
        await heads.lock(conn, tenant_id=command.tenant_id, ordering_key=command.ordering_key)
    found = await commands.lock(conn, command.id)
    assert found is not None, "commands are never deleted while they are read"
    return found
