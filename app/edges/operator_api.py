"""What operators do over HTTP: approve or deny, look at dead letters, redrive or discard them."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from app import control
from app.db import audit_events, commands
from app.db.commands import Command
from app.db.engine import tenant_transaction
from app.edges.broker import Broker, find, view
from app.edges.http_api import identity_of, reply
from app.edges.identity import OPERATE, need
from app.envelope import instant
from app.errors import NotCancellableError
from app.policy import Identity, ToolPolicy
from app.results import Word


class ReasonBody(BaseModel):
    """Why; it goes into the audit trail."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(min_length=1, max_length=500)


class RedriveBody(ReasonBody):
    """Which dead letters go again."""

    tool: str | None = Field(default=None, max_length=128)
    limit: int = Field(default=100, ge=1, le=1000)
    dry_run: bool = Field(default=True, description="Only say which they are.")


Verb = Callable[[AsyncConnection, Command, ToolPolicy], Awaitable[Word]]


def router(broker: Broker) -> APIRouter:  # noqa: C901, PLR0915 it holds the routes
    """The routes of operators; each works on the token's own tenant."""
    made = APIRouter(prefix="/operator")

    def operator_of(request: Request) -> Identity:
        who = identity_of(request)
        need(who, OPERATE)
        return who

    async def act(who: Identity, command_id: UUID, verb: Verb) -> Command:
        found = await find(broker, who, command_id)
        policy = await broker.catalog.policy(found.tool, found.method)
        async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
            word = await verb(conn, await control.locked(conn, found), policy)
        broker.say(word)
        return word.command

    async def redrive_one(who: Identity, command_id: UUID, reason: str) -> Command:
        async def verb(conn: AsyncConnection, command: Command, policy: ToolPolicy) -> Word:
            return await control.redrive(
                conn,
                command,
                policy=policy,
                actor=f"operator:{who.user_id}",
                reason=reason,
                deadline_s=policy.deadline_s or broker.settings.deadline_s,
            )

        return await act(who, command_id, verb)

    async def decided(
        request: Request, correlation_id: UUID, body: ReasonBody, *, approve: bool
    ) -> Response:
        who = operator_of(request)

        async def verb(conn: AsyncConnection, command: Command, policy: ToolPolicy) -> Word:
            return await control.decide(
                conn,
                command,
                approve=approve,
                policy=policy,
                actor=f"operator:{who.user_id}",
                reason=body.reason,
            )

        return reply(200, view(await act(who, correlation_id, verb)))

    @made.post("/commands/{correlation_id}/approve")
    async def approve(request: Request, correlation_id: UUID, body: ReasonBody) -> Response:
        """Let a command go whose tool asks for an approval."""
        return await decided(request, correlation_id, body, approve=True)

    @made.post("/commands/{correlation_id}/deny")
    async def deny(request: Request, correlation_id: UUID, body: ReasonBody) -> Response:
        """End a command whose tool asks for an approval."""
        return await decided(request, correlation_id, body, approve=False)

    async def waiting(
        who: Identity, *, tool: str | None, after: UUID | None, limit: int
    ) -> list[Command]:
        async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
            return await commands.list_dead(
                conn, tenant_id=who.tenant_id, tool=tool, after=after, limit=limit
            )

    @made.get("/dead-letters")
    async def dead_letters(
        request: Request,
        tool: str | None = None,
        after: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        """The tenant's dead letters that are not discarded, oldest first."""
        found = await waiting(operator_of(request), tool=tool, after=after, limit=limit)
        more = str(found[-1].id) if len(found) == limit else None
        return reply(200, {"dead_letters": [view(one) for one in found], "after": more})

    @made.get("/dead-letters/{correlation_id}")
    async def dead_letter(request: Request, correlation_id: UUID) -> Response:
        """One command with the history of its attempts, from the audit trail."""
        who = operator_of(request)
        found = await find(broker, who, correlation_id)
        async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
            story = await audit_events.story(conn, correlation_id)
        told: list[dict[str, Any]] = [{**one, "at": instant(one["at"])} for one in story]
        return reply(200, view(found) | {"history": told})

    @made.post("/dead-letters/{correlation_id}/redrive")
    async def redrive(request: Request, correlation_id: UUID, body: ReasonBody) -> Response:
        """Give one dead letter a new attempt."""
        who = operator_of(request)
        return reply(200, view(await redrive_one(who, correlation_id, body.reason)))

    @made.post("/dead-letters/redrive")
    async def redrive_many(request: Request, body: RedriveBody) -> Response:
        """Give many a new attempt, oldest first; by default only say which they would be."""
        who = operator_of(request)
        found = await waiting(who, tool=body.tool, after=None, limit=body.limit)
        taken: list[str] = []
        for one in found:
            if not body.dry_run:
                try:
                    await redrive_one(who, one.id, body.reason)
                except NotCancellableError:
                    continue  # another operator was first
            taken.append(str(one.id))
        return reply(200, {"dry_run": body.dry_run, "commands": taken})

    @made.post("/dead-letters/{correlation_id}/discard")
    async def discard(request: Request, correlation_id: UUID, body: ReasonBody) -> Response:
        """Settle a dead letter by hand; its ordering key goes on."""
        who = operator_of(request)

        async def verb(conn: AsyncConnection, command: Command, _: ToolPolicy) -> Word:
            actor = f"operator:{who.user_id}"
            return await control.discard(conn, command, actor=actor, reason=body.reason)

        return reply(200, view(await act(who, correlation_id, verb)))

    return made
