"""What a caller or an operator does with a command, whichever protocol asks."""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog.policy import ToolPolicy
from app.commands import approvals, control
from app.commands.attempts import Change
from app.commands.state import State
from app.commands.store import commands, decisions
from app.commands.store.commands import Command
from app.edges.auth.scopes import OPERATE
from app.edges.parts import Parts
from app.errors import ForbiddenError, NotFoundError
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


async def decidable(broker: Parts, who: Identity, command_id: UUID) -> Command:
    """A command that the caller may see, or may decide about.

    Raises:
        NotFoundError: no such command, in the same words whoever's it is.
    """
    async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
        command = await commands.find(conn, command_id)
    operator = OPERATE in who.scopes
    if command is not None and approvals.may_decide(command, who, operator=operator):
        return command
    return await find(broker, who, command_id)


async def to_decide(
    broker: Parts, who: Identity, *, before: UUID | None, limit: int
) -> list[Command]:
    """The tenant's calls that wait for an approval which this person may give, newest first."""
    async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
        return await decisions.waiting(
            conn,
            tenant_id=who.tenant_id,
            groups=sorted(who.groups),
            operator=OPERATE in who.scopes,
            before=before,
            limit=limit,
        )


async def decide(
    broker: Parts,
    who: Identity,
    found: Command,
    *,
    approve: bool,
    reason: str,
    route: approvals.Route = "named",
) -> Change:
    """Count a decision about a command that waits for approvals: it waits on, goes, or ends.

    Raises:
        ForbiddenError: the decision is not this person's; it is audited.
        NotCancellableError: it does not wait for one.
    """
    operator = OPERATE in who.scopes
    actor = f"{'operator' if operator and route == 'named' else 'user'}:{who.user_id}"
    policy = await broker.catalog.policy(found.tool, found.method)
    refusal = change = None
    async with tenant_transaction(broker.database.engine, found.tenant_id) as conn:
        command = await control.locked(conn, found)
        if command.awaits_approval:
            refusal = approvals.refusal(
                command, who, approve=approve, route=route, operator=operator
            )
        if refusal is None:
            change = await control.decide(
                conn,
                command,
                approve=approve,
                user_id=who.user_id,
                policy=policy,
                actor=actor,
                reason=reason,
            )
        else:
            needed = approvals.Needed.of(command)
            body = {"reason": reason, "approve": approve, "policy": needed.policy}
            await decisions.refuse(conn, command, actor=actor, body=body | {"refused": refusal})
    if change is None:
        raise ForbiddenError(refusal or "")
    broker.announce(change)
    return change
