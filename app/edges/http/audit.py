"""What auditors and administrators read over HTTP, of their own tenant."""

from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from app.audit.store import events as audit_events
from app.catalog import store as catalog_store
from app.contract import instant
from app.edges.auth.scopes import ADMINISTER, AUDIT, need
from app.edges.http.replies import identity_of, reply
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.errors import BadRequestError, NotFoundError
from app.postgres.engine import tenant_transaction


def router(broker: Parts) -> APIRouter:
    """The routes; a change of limits and grants is `broker tenant`, with a database role."""
    made = APIRouter(route_class=StrictRoute)
    engine = broker.database.engine

    @made.get("/auditor/events")
    async def events(
        request: Request,
        kind: Annotated[str | None, Query(max_length=64, alias="type")] = None,
        user: Annotated[str | None, Query(max_length=255)] = None,
        before: Annotated[str | None, Query(max_length=80)] = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Response:
        """The tenant's audit events, newest first; `before` of one page leads to the next."""
        who = identity_of(request)
        need(who, AUDIT)
        at, event_id = cursor(before)
        async with tenant_transaction(engine, who.tenant_id) as conn:
            found = await audit_events.newest(
                conn,
                tenant_id=who.tenant_id,
                kind=kind,
                user_id=user,
                before_at=at,
                before_id=event_id,
                limit=limit,
            )
        more = None
        if len(found) == limit:
            more = cursor_of(found[-1]["at"], found[-1]["event_id"])
        events_shown = [{**one, "at": instant(one["at"])} for one in found]
        return reply(200, {"events": events_shown, "before": more})

    @made.get("/auditor/commands/{command_id}")
    async def story(request: Request, command_id: UUID) -> Response:
        """What happened to one command, oldest first."""
        who = identity_of(request)
        need(who, AUDIT)
        async with tenant_transaction(engine, who.tenant_id) as conn:
            found = await audit_events.story(conn, command_id)
        if not found:
            raise NotFoundError(f"There is no command {command_id} in your tenant's trail.")
        return reply(200, {"history": [{**one, "at": instant(one["at"])} for one in found]})

    @made.get("/admin/tenant")
    async def tenant(request: Request) -> Response:
        """The tenant's limits and grants, as the database has them."""
        who = identity_of(request)
        need(who, ADMINISTER)
        async with tenant_transaction(engine, who.tenant_id) as conn:
            found = await catalog_store.tenant(conn, who.tenant_id)
            grants = await catalog_store.grants(conn, who.tenant_id)
        if found is None:
            raise NotFoundError(f"Tenant {who.tenant_id!r} is not set up.")
        shown: dict[str, Any] = asdict(found) | {"grants": [asdict(one) for one in grants]}
        return reply(200, shown)

    return made


def cursor_of(at: datetime, event_id: UUID) -> str:
    """What leads to the page behind an event."""
    return f"{at.isoformat()}_{event_id}"


def cursor(text: str | None) -> tuple[datetime | None, UUID | None]:
    """The event that a page ended with.

    Raises:
        BadRequestError: it is not what a page gave.
    """
    if text is None:
        return None, None
    at, _, event_id = text.partition("_")
    try:
        parsed, found = datetime.fromisoformat(at), UUID(event_id)
    except ValueError as error:
        raise BadRequestError("before is what the page before gave.") from error
    if parsed.tzinfo is None:
        raise BadRequestError("before is what the page before gave.")
    return parsed, found
