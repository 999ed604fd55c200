"""What operators do over HTTP to a tenant's commands: resolve them, and see blocked keys."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.commands.store import heads
from app.commands.view import view
from app.contract import instant
from app.edges.auth.scopes import OPERATE, need
from app.edges.http.replies import ReasonBody, identity_of, reply
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.edges.settling import resolve as settle
from app.identity import Identity
from app.postgres.engine import tenant_transaction


class ResolveBody(ReasonBody):
    """What a command did whose outcome was unknown."""

    outcome: Literal["succeeded", "failed"]


def operator_of(request: Request) -> Identity:
    """Who asks. Raises ForbiddenError without the operator's scope."""
    who = identity_of(request)
    need(who, OPERATE)
    return who


def router(broker: Parts) -> APIRouter:
    """The routes of operators; each works on the token's own tenant."""
    made = APIRouter(prefix="/operator", route_class=StrictRoute)

    @made.post("/commands/{command_id}/resolve")
    async def resolve(request: Request, command_id: UUID, body: ResolveBody) -> Response:
        """Say what a command did that ended in doubt; its ordering key goes on."""
        who = operator_of(request)
        found = await settle(broker, who, command_id, outcome=body.outcome, reason=body.reason)
        return reply(200, view(found))

    @made.get("/keys/blocked")
    async def blocked_keys(
        request: Request,
        after: Annotated[str | None, Query(max_length=256)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        """Ordering keys that wait to know what a command did; by name, after one of them."""
        who = operator_of(request)
        async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
            found = await heads.list_blocked(
                conn, tenant_id=who.tenant_id, after=after, limit=limit
            )
        keys = [
            {
                "ordering_key": one.ordering_key,
                "command_id": str(one.command_id),
                "reason": one.blocked_reason,
                "blocked_at": instant(one.blocked_at),
                "waiting": one.waiting,
            }
            for one in found
        ]
        more = found[-1].ordering_key if len(found) == limit else None
        return reply(200, {"keys": keys, "after": more})

    return made
