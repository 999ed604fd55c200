"""What operators do over HTTP with holds: see which there are, place one, release one."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field, StringConstraints

from app.commands import holds
from app.commands.store import holds as hold_rows
from app.edges import holds as acts
from app.edges.holds import Wanted, shown
from app.edges.http.operator import operator_of
from app.edges.http.replies import ReasonBody, reply
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.json_values import PlainText
from app.postgres.engine import tenant_transaction


class WhichBody(Wanted):
    """Which calls an operator holds, and why."""

    reason: Annotated[PlainText, StringConstraints(min_length=1, max_length=500)]
    dry_run: bool = Field(default=False, description="Only say how many calls it would be of.")


def router(broker: Parts) -> APIRouter:
    """The routes of holds; each works on the token's own tenant."""
    made = APIRouter(prefix="/operator/holds", route_class=StrictRoute)
    engine = broker.database.engine

    @made.get("")
    async def listed(
        request: Request,
        ended: bool = False,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        """The holds in force, the oldest first; with `ended` all there were, the newest first."""
        who = operator_of(request)
        if not ended:
            found = await holds.in_force(engine, who.tenant_id)
            return reply(200, {"holds": [shown(one) for one in found], "before": None})
        async with tenant_transaction(engine, who.tenant_id) as conn:
            found = await hold_rows.newest(
                conn, tenant_id=who.tenant_id, before=before, limit=limit
            )
        more = str(found[-1].id) if len(found) == limit else None
        return reply(200, {"holds": [shown(one) for one in found], "before": more})

    @made.post("")
    async def place(request: Request, body: WhichBody) -> Response:
        """Hold calls: they are accepted and wait, or are refused. In force when this answers."""
        who = operator_of(request)
        if body.dry_run:
            queued, in_flight = await acts.preview(broker, who, body)
            told = {"dry_run": True, "queued": queued, "in_flight": in_flight}
            return reply(200, told | {"counted_up_to": hold_rows.COUNT_MAX})
        placed = await acts.place(broker, who, body, reason=body.reason)
        told = {"queued": placed.queued, "in_flight": placed.in_flight, "leaving": placed.leaving}
        return reply(201, shown(placed.hold) | told | {"counted_up_to": hold_rows.COUNT_MAX})

    @made.post("/{hold_id}/release")
    async def release(request: Request, hold_id: UUID, body: ReasonBody) -> Response:
        """End a hold: what waits for it goes on."""
        who = operator_of(request)
        found = await acts.release(broker, who, hold_id, reason=body.reason)
        return reply(200, shown(found))

    return made
