"""What every edge works with, and the few things that they all do with a command."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any
from uuid import UUID

from asyncpg.pool import PoolConnectionProxy
from sqlalchemy.ext.asyncio import AsyncConnection

from app import metrics
from app.catalog.cache import Catalog, Request
from app.catalog.policy import Tool, ToolPolicy
from app.catalog.store import Tenant
from app.commands import control
from app.commands.attempts import PURGED, Word
from app.commands.results import Leases
from app.commands.state import State
from app.commands.store import commands
from app.commands.store.commands import Command
from app.commands.watch import Hub
from app.config import Settings
from app.contract import Priority, instant
from app.edges.auth.certificates import Certificates
from app.edges.auth.refusals import Refusals
from app.edges.auth.tokens import OPERATE, Verifier
from app.edges.mcp.legacy.sessions import Stops
from app.errors import NotFoundError, QueueFullError
from app.identity import Identity
from app.intake.batches import Intake, Write
from app.intake.call import Call
from app.intake.store import Written
from app.postgres.engine import Database, tenant_transaction
from app.postgres.wakeups import Notifier
from app.sagas import runs

logger = logging.getLogger(__name__)

Verb = Callable[[AsyncConnection, Command, ToolPolicy], Awaitable[Word]]
"""What is done to a locked command, by its tool's policy, in the caller's transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """The parts of one app process."""

    settings: Settings
    database: Database
    notifier: Notifier
    catalog: Catalog
    intake: Intake
    hub: Hub
    stops: Stops
    verifier: Verifier
    certificates: Certificates
    refusals: Refusals
    random: Random

    @property
    def leases(self) -> Leases:
        """The adapters' time limits."""
        return Leases(lease_s=self.settings.lease_s, cancel_grace_s=self.settings.cancel_grace_s)

    def say(self, word: Word) -> None:
        """Wake whoever waits for what a committed transaction changed."""
        moved = {"correlation_id": str(word.command.id), "attempt": word.command.attempt}
        logger.info(str(word.command.state), extra=moved)
        self.hub.changed(word.woken)
        self.notifier.commands(word.woken)
        if word.outbox:
            self.notifier.outbox()
        if word.command.saga_id is not None:
            self.notifier.sagas()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """An accepted call."""

    written: Written
    tool: Tool
    deduplicated: bool
    wait_s: float

    @property
    def replayed(self) -> bool:
        """Whether the command was there before this call."""
        return not self.written.new


async def submit(
    broker: Broker, who: Identity, request: Request, *, wait_s: float | None = None
) -> Accepted:
    """Accept a call: durable when this returns.

    Raises:
        BrokerError: as `Catalog.prepare`, `Catalog.check_queue` and `Intake.accept` say;
            nothing was written.
    """
    call, tool = await broker.catalog.prepare(who, request)
    if call.compensation is not None:
        # What could not be called could not undo anything either.
        undo = Request(**call.compensation)
        await broker.catalog.prepare(who, undo)
    return await accept(broker, who, call, tool, wait_s=wait_s)


async def accept(
    broker: Broker,
    who: Identity,
    call: Call,
    tool: Tool,
    *,
    write: Write | None = None,
    wait_s: float | None = None,
) -> Accepted:
    """Accept a prepared call; with `write`, in a transaction that writes more than the call.

    Raises as `submit`.
    """
    if call.saga_role == "step":
        write = _adhoc(broker, call)
    view = await broker.catalog.tenant(who.tenant_id)
    assert view is not None, "prepare knows the tenant"
    try:
        await broker.catalog.check_queue(view.tenant)
    except QueueFullError:
        # Who repeats a call whose answer was lost must not be told that nothing was started.
        earlier = await broker.intake.earlier(call)
        if earlier is None:
            raise
        written = earlier
    else:
        written = await (
            broker.intake.accept(call) if write is None else broker.intake.accept_with(call, write)
        )
    (metrics.ACCEPTED_NEW if written.new else metrics.ACCEPTED_AGAIN).inc()
    if logger.isEnabledFor(logging.INFO):
        logger.info(
            "accepted" if written.new else "found again",
            extra={
                "correlation_id": str(written.id),
                "tenant_id": who.tenant_id,
                "tool": call.tool,
                "method": call.method,
            },
        )
    bound_s = wait_bound_s(broker, tool, view.tenant)
    return Accepted(
        written=written,
        tool=tool,
        deduplicated=not written.new and call.dedupe_key is not None,
        wait_s=bound_s if wait_s is None else min(bound_s, wait_s),
    )


def wait_bound_s(broker: Broker, tool: Tool, tenant: Tenant) -> float:
    """How long a call of the tool waits for its outcome where it does not ask for less."""
    return tool.policy.inline_wait_s or tenant.inline_wait_s or broker.settings.inline_wait_s


def _adhoc(broker: Broker, call: Call) -> Write:
    async def write(conn: PoolConnectionProxy) -> Written | None:
        settings = broker.settings
        return await runs.add(
            conn, call, on_idle=settings.saga_on_idle, idle_timeout_s=settings.saga_idle_s
        )

    return write


def may_see(who: Identity, owner: str) -> bool:
    """Whether something of this user's, in the caller's tenant, may be shown to the caller."""
    return owner == who.user_id or OPERATE in who.scopes


def whose(who: Identity, *, everyone: bool) -> str | None:
    """The user whose things a listing has; None is everybody's, where an operator asks for that."""
    return None if everyone and OPERATE in who.scopes else who.user_id


async def find(broker: Broker, who: Identity, command_id: UUID) -> Command:
    """A command of the caller's own; of its whole tenant for an operator.

    Raises:
        NotFoundError: no such command, in the same words whoever's it is.
    """
    async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
        command = await commands.find(conn, command_id)
    if command is None or not may_see(who, command.user_id):
        raise NotFoundError(
            f"You have no command {command_id}. command_list shows those you have.",
            correlation_id=str(command_id),
        )
    return command


async def listing(
    broker: Broker,
    who: Identity,
    *,
    states: Sequence[State] | None,
    tool: str | None,
    before: UUID | None,
    limit: int,
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
            before=before,
            limit=limit,
        )


async def act(broker: Broker, found: Command, verb: Verb) -> Word:
    """Apply a verb to a command that the caller may name, locked, in a transaction of its own."""
    policy = await broker.catalog.policy(found.tool, found.method)
    async with tenant_transaction(broker.database.engine, found.tenant_id) as conn:
        word = await verb(conn, await control.locked(conn, found), policy)
    broker.say(word)
    return word


async def cancel(broker: Broker, who: Identity, command_id: UUID, *, reason: str) -> Word:
    """Cancel a command of the caller's: at once, or by asking its adapter.

    Raises:
        NotFoundError: no such command of the caller's.
    """

    async def verb(conn: AsyncConnection, command: Command, policy: ToolPolicy) -> Word:
        return await control.cancel(
            conn,
            command,
            policy=policy,
            actor=f"user:{who.user_id}",
            reason=reason,
            grace_s=broker.settings.cancel_grace_s,
        )

    return await act(broker, await find(broker, who, command_id), verb)


async def decide(broker: Broker, found: Command, *, approve: bool, actor: str, reason: str) -> Word:
    """Let a command go that waits for an approval, or end it.

    Raises:
        NotCancellableError: it does not wait for one.
    """

    async def verb(conn: AsyncConnection, command: Command, policy: ToolPolicy) -> Word:
        return await control.decide(
            conn, command, approve=approve, policy=policy, actor=actor, reason=reason
        )

    return await act(broker, found, verb)


def view(command: Command) -> dict[str, Any]:
    """A command as the HTTP API and `command_status` show it."""
    shown: dict[str, Any] = {
        "correlation_id": str(command.id),
        "tool": command.tool,
        "method": command.method,
        "state": str(command.state),
        "final": command.final,
        "attempt": command.attempt,
        "stage": command.stage,
        "percent": command.percent,
        "message": command.message,
        "priority": Priority(command.priority).wire,
        "ordering_key": command.ordering_key,
        "waiting_for": waiting_for(command),
        "idempotency_key": command.idempotency_key,
        "cancel_requested": command.cancel_requested_at is not None,
        "saga_id": None if command.saga_id is None else str(command.saga_id),
        "saga_step": command.saga_step,
        "created_at": instant(command.created_at),
        "deadline_at": instant(command.deadline_at),
        "finished_at": None if command.finished_at is None else instant(command.finished_at),
    }
    if command.final:
        shown |= {"result": command.result, "error": command.error}
        shown["outcome_unknown"] = command.outcome_unknown
    if command.purged_at is not None:
        shown |= {"purged_at": instant(command.purged_at), "note": PURGED}
    return {name: value for name, value in shown.items() if value is not None}


def waiting_for(command: Command) -> str | None:
    """Why a queued command does not run yet, in words."""
    if command.state is not State.QUEUED:
        return None
    if command.asks:
        return "approval by an operator"
    if command.held:
        return f"earlier commands of ordering key {command.ordering_key!r}"
    return "its turn"
