"""What an operator does with a command that was given up, or whose outcome is unknown."""

from typing import Literal
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog.policy import ToolPolicy
from app.commands import control
from app.commands.attempts import Change
from app.commands.store.commands import Command
from app.edges.commands import act, find
from app.edges.parts import Parts
from app.identity import Identity


async def redrive(
    broker: Parts, who: Identity, command_id: UUID, *, reason: str, pause_s: float = 0
) -> Command:
    """Give a dead letter a new attempt, after a pause.

    Raises:
        NotFoundError: no such command in the operator's tenant.
        NotCancellableError: as `control.redrive`.
    """

    async def verb(conn: AsyncConnection, command: Command, policy: ToolPolicy) -> Change:
        return await control.redrive(
            conn,
            command,
            policy=policy,
            actor=f"operator:{who.user_id}",
            reason=reason,
            deadline_s=policy.deadline_s or broker.settings.deadline_s,
            pause_s=pause_s,
        )

    return (await act(broker, await find(broker, who, command_id), verb)).command


async def discard(broker: Parts, who: Identity, command_id: UUID, *, reason: str) -> Command:
    """Settle a dead letter by hand.

    Raises:
        NotFoundError: no such command in the operator's tenant.
        NotCancellableError: as `control.discard`.
    """

    async def verb(conn: AsyncConnection, command: Command, _: ToolPolicy) -> Change:
        actor = f"operator:{who.user_id}"
        return await control.discard(conn, command, actor=actor, reason=reason)

    return (await act(broker, await find(broker, who, command_id), verb)).command


async def resolve(
    broker: Parts,
    who: Identity,
    command_id: UUID,
    *,
    outcome: Literal["succeeded", "failed"],
    reason: str,
) -> Command:
    """Say what a command did that ended in doubt; its ordering key goes on.

    Raises:
        NotFoundError: no such command in the operator's tenant.
        NotCancellableError: its outcome is not in doubt.
    """

    async def verb(conn: AsyncConnection, command: Command, _: ToolPolicy) -> Change:
        actor = f"operator:{who.user_id}"
        return await control.resolve(conn, command, outcome=outcome, actor=actor, reason=reason)

    return (await act(broker, await find(broker, who, command_id), verb)).command
