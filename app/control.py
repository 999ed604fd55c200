"""What users and operators may do to an accepted command: cancel, approve, redrive, discard."""

from sqlalchemy.ext.asyncio import AsyncConnection

from app.command import Event, State
from app.db import commands, heads, outbox
from app.db.commands import Command
from app.envelope import CONTROL
from app.policy import ToolPolicy
from app.results import Word, end


async def cancel(
    conn: AsyncConnection,
    command: Command,
    *,
    policy: ToolPolicy,
    actor: str,
    reason: str,
    grace_s: float,
) -> Word:
    """Cancel a locked command: at once where no adapter has it, else ask the adapter to stop.

    A command that has ended, or was asked before, is left as it is.
    """
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
) -> Word:
    """Cancel or expire a locked command, by the same rule."""
    assert event in {Event.CANCEL, Event.EXPIRE}
    if command.final:
        return Word(command=command, repeated=True)
    if command.state is not State.RUNNING:
        code = "cancelled" if event is Event.CANCEL else "deadline"
        error = {"code": code, "message": reason}
        return await end(conn, command, policy=policy, event=event, actor=actor, error=error)
    goal = State.CANCELLED if event is Event.CANCEL else State.TIMED_OUT
    asked = await commands.request_cancel(
        conn, command, cancel_target=goal, reason=reason, grace_s=grace_s, actor=actor
    )
    if asked is None:
        return Word(command=command, cancel_requested=True, repeated=True)
    said = {
        "action": "cancel",
        "correlation_id": str(asked.id),
        "tenant_id": asked.tenant_id,
        "tool": asked.tool,
        "method": asked.method,
        "attempt": asked.attempt,
        "adapter": asked.adapter,
        "reason": reason,
    }
    await outbox.append(conn, asked, kind="control", topic=CONTROL, payload=said)
    return Word(command=asked, cancel_requested=True, woken=(asked.id,), outbox=True)


async def locked(conn: AsyncConnection, command: Command) -> Command:
    """The command as it is now, its key's head and its row locked, in that order."""
    if command.ordering_key is not None:
        await heads.lock(conn, tenant_id=command.tenant_id, ordering_key=command.ordering_key)
    found = await commands.lock(conn, command.id)
    assert found is not None, "commands are never deleted while they are read"
    return found
