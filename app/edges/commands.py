"""What a caller or an operator does with a command, whichever protocol asks."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog.policy import ToolPolicy
from app.commands import control
from app.commands.attempts import Change
from app.commands.state import State
from app.commands.store import commands
from app.commands.store.commands import Command
from app.edges.auth.scopes import OPERATE
from app.edges.parts import Parts
from app.errors import NotFoundError
from app.identity import Identity
from app.postgres.engine import tenant_transaction

Verb = Callable[[AsyncConnection, Command, ToolPolicy], Awaitable[Change]]
"""What is done to a locked command, by its tool's policy, in the caller's transaction."""


def may_see(who: Identity, owner: str) -> bool:
    """Whether something of this user's, in the caller's tenant, may be shown to the caller."""
    return owner == who.user_id or OPERATE in who.scopes


def whose(who: Identity, *, everyone: bool) -> str | None:
    """The user whose things a listing has; None is everybody's, where an operator asks for that."""
    return None if everyone and OPERATE in who.scopes else who.user_id


async def find(broker: Parts, who: Identity, command_id: UUID) -> Command:
    """A command of the caller's own; of its whole tenant for an operator.

    Raises:
        NotFoundError: no such command, in the same words whoever's it is.
    """
    async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
        command = await commands.find(conn, command_id)
    if command is None or not may_see(who, command.user_id):
        raise NotFoundError(
            f"You have no command {command_id}. command_list shows those you have.",
            command_id=str(command_id),
        )
    return command


async def listing(
    broker: Parts,
    who: Identity,
    *,
    states: Sequence[State] | None,
    tool: str | None,
    before: UUID | None,
    limit: int,
    method: str | None = None,
    labels: Sequence[str] | None = None,
    everyone: bool = False,
) -> list[Command]:
    """The caller's commands, newest first; its tenant's where an operator asks for everyone's."""
    async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
        return await commands.list_newest(
            conn,
            tenant_id=who.tenant_id,
            user_id=whose(who, everyone=everyone),
            states=states,
            tool=tool,
            method=method,
            labels=labels,
            before=before,
            limit=limit,
        )


async def act(broker: Parts, found: Command, verb: Verb) -> Change:
    """Apply a verb to a command that the caller may name, locked, in a transaction of its own."""
    policy = await broker.catalog.policy(found.tool, found.method)
    async with tenant_transaction(broker.database.engine, found.tenant_id) as conn:
        change = await verb(conn, await control.locked(conn, found), policy)
    broker.announce(change)
    return change


async def cancel(broker: Parts, who: Identity, command_id: UUID, *, reason: str) -> Change:
    """Cancel a command of the caller's: at once, or by asking its adapter.

    Raises:
        NotFoundError: no such command of the caller's.
    """

    async def verb(conn: AsyncConnection, command: Command, policy: ToolPolicy) -> Change:
        return await control.cancel(
            conn,
            command,
            policy=policy,
            actor=f"user:{who.user_id}",
            reason=reason,
            grace_s=broker.settings.cancel_grace_s,
        )

    return await act(broker, await find(broker, who, command_id), verb)


async def decide(
    broker: Parts, found: Command, *, approve: bool, actor: str, reason: str
) -> Change:
    """Let a command go that waits for an approval, or end it.

    Raises:
        NotCancellableError: it does not wait for one.
    """

    async def verb(conn: AsyncConnection, command: Command, policy: ToolPolicy) -> Change:
        return await control.decide(
            conn, command, approve=approve, policy=policy, actor=actor, reason=reason
        )

    return await act(broker, found, verb)
