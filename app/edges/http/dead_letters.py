"""Dead letters over HTTP: list and show them, redrive or discard them."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.audit.store import events
from app.commands import control
from app.commands.store import dead_letters
from app.commands.store.commands import Command
from app.commands.store.dead_letters import Wanted
from app.commands.view import view
from app.contract import instant
from app.edges.commands import find
from app.edges.http.operator import operator_of
from app.edges.http.replies import ReasonBody, reply
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.edges.settling import discard, redrive
from app.errors import NotCancellableError
from app.identity import Identity
from app.postgres.engine import tenant_transaction

AGE_MAX_S = 10 * 365 * 86_400


class Filter(BaseModel):
    """Which dead letters: those that fit all that is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: str | None = Field(default=None, max_length=128)
    method: str | None = Field(default=None, max_length=128)
    code: str | None = Field(default=None, max_length=128, description="Of the error.")
    outcome_unknown: bool | None = Field(default=None)
    older_than_s: float | None = Field(default=None, ge=0, le=AGE_MAX_S)
    newer_than_s: float | None = Field(default=None, ge=0, le=AGE_MAX_S)

    def wanted(self) -> Wanted:
        """The same, to the database."""
        return Wanted(**{name: getattr(self, name) for name in Filter.model_fields})


class Page(Filter):
    """A part of the list."""

    after: UUID | None = None
    limit: int = Field(default=50, ge=1, le=200)


class RedriveMany(Filter):
    """Which dead letters go again, and how fast."""

    reason: str = Field(min_length=1, max_length=500)
    limit: int = Field(default=100, ge=1, le=1000)
    per_s: float | None = Field(
        default=None, gt=0, le=1000, description="At most so many a second; all at once without."
    )
    dry_run: bool = Field(default=True, description="Only say which they are.")


async def redrive_each(
    broker: Parts, who: Identity, found: list[Command], body: RedriveMany
) -> tuple[list[str], dict[str, str]]:
    """Those that went again, or would in a dry run, and why the others did not."""
    taken: list[str] = []
    refused: dict[str, str] = {}
    for one in found:
        pause_s = 0 if body.per_s is None else len(taken) / body.per_s
        try:
            if body.dry_run:
                control.must_be_redrivable(one)
            else:
                await redrive(broker, who, one.id, reason=body.reason, pause_s=pause_s)
        except NotCancellableError as error:  # or another operator was first
            refused[str(one.id)] = error.detail
        else:
            taken.append(str(one.id))
    return taken, refused


def router(broker: Parts) -> APIRouter:
    """The routes of dead letters; each works on the token's own tenant."""
    made = APIRouter(prefix="/operator/dead-letters", route_class=StrictRoute)

    async def listed(
        who: Identity, wanted: Wanted, *, after: UUID | None = None, limit: int
    ) -> list[Command]:
        async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
            return await dead_letters.list_oldest(
                conn, tenant_id=who.tenant_id, wanted=wanted, after=after, limit=limit
            )

    @made.get("")
    async def dead(request: Request, page: Annotated[Page, Query()]) -> Response:
        """The tenant's dead letters that are not settled, oldest first."""
        who = operator_of(request)
        found = await listed(who, page.wanted(), after=page.after, limit=page.limit)
        more = str(found[-1].id) if len(found) == page.limit else None
        return reply(200, {"dead_letters": [view(one) for one in found], "after": more})

    @made.get("/{command_id}")
    async def dead_one(request: Request, command_id: UUID) -> Response:
        """One command with the history of its attempts, from the audit trail."""
        who = operator_of(request)
        found = await find(broker, who, command_id)
        async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
            story = await events.story(conn, command_id)
        history: list[dict[str, Any]] = [{**one, "at": instant(one["at"])} for one in story]
        return reply(200, view(found) | {"history": history})

    @made.post("/{command_id}/redrive")
    async def redrive_one(request: Request, command_id: UUID, body: ReasonBody) -> Response:
        """Give one dead letter a new attempt."""
        who = operator_of(request)
        return reply(200, view(await redrive(broker, who, command_id, reason=body.reason)))

    @made.post("/redrive")
    async def redrive_many(request: Request, body: RedriveMany) -> Response:
        """Give many a new attempt, oldest first; by default only say which they would be."""
        who = operator_of(request)
        found = await listed(who, body.wanted(), limit=body.limit)
        taken, refused = await redrive_each(broker, who, found, body)
        return reply(200, {"dry_run": body.dry_run, "commands": taken, "refused": refused})

    @made.post("/{command_id}/discard")
    async def discard_one(request: Request, command_id: UUID, body: ReasonBody) -> Response:
        """Settle a dead letter by hand."""
        who = operator_of(request)
        return reply(200, view(await discard(broker, who, command_id, reason=body.reason)))

    return made
