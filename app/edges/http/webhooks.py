"""Webhooks over HTTP: who of a tenant is told of what happens, and what became of it."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from app.contract import Method, Name, instant
from app.edges.http.operator import operator_of
from app.edges.http.replies import ReasonBody, reply, wait_s
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.errors import NotFoundError
from app.json_values import KeptObject
from app.postgres.engine import tenant_transaction
from app.webhooks import addresses, endpoints
from app.webhooks.endpoints import Operator, Wanted
from app.webhooks.kind import Kind
from app.webhooks.signing import Sealer
from app.webhooks.store import deliveries
from app.webhooks.store import endpoints as store
from app.webhooks.store.deliveries import Delivery
from app.webhooks.store.endpoints import Endpoint

KEEP_MAX_S = 30 * 86_400
TEST_WAIT_S = 30.0

Url = Annotated[str, StringConstraints(min_length=1, max_length=addresses.URL_MAX)]


class NewWebhook(BaseModel):
    """An endpoint that is to be told."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: Url = Field(description="https; http and private addresses only where a setting says so.")
    events: list[Kind] = Field(min_length=1, max_length=len(Kind))
    tool: Name | None = Field(default=None, description="Only what happens to its calls.")
    method: Method | None = Field(default=None, description="Of the tool.")
    template: KeptObject | None = Field(
        default=None, description="A body of your own, with {{fields}} in its strings."
    )


class RotateBody(BaseModel):
    """How a secret is replaced."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keep_s: float = Field(
        default=86_400,
        ge=0,
        le=KEEP_MAX_S,
        allow_inf_nan=False,
        description="How long the secret before signs, too.",
    )


class RedeliverBody(BaseModel):
    """Which time is told again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    since: AwareDatetime
    until: AwareDatetime | None = Field(default=None, description="Now, without it.")


def shown(one: Endpoint) -> dict[str, Any]:
    """An endpoint, to an operator of its tenant; its secret is shown when it is made only."""
    times = ("disabled_at", "failing_since", "last_delivered_at", "secret_before_until")
    body: dict[str, Any] = {
        "webhook_id": str(one.id),
        "url": one.url,
        "events": list(one.kinds),
        "tool": one.tool,
        "method": one.method,
        "template": one.template,
        "enabled": one.enabled,
        "reason": one.reason,
        "last_error": one.last_error,
        "waiting": one.waiting,
        "created_by": one.created_by,
        "created_at": instant(one.created_at),
    }
    for name in times:
        at: datetime | None = getattr(one, name)
        body[name] = None if at is None else instant(at)
    return body


def shown_delivery(one: Delivery) -> dict[str, Any]:
    """A delivery, to an operator."""
    body: dict[str, Any] = {
        "delivery_id": str(one.id),
        "event": one.kind,
        "data": one.data,
        "state": one.state,
        "attempts": one.attempts,
        "status": one.last_status,
        "error": one.last_error,
        "answer": one.answer,
        "occurred_at": instant(one.occurred_at),
        "created_at": instant(one.created_at),
        "next_at": instant(one.due_at) if one.state == "waiting" else None,
    }
    for name in ("last_at", "ended_at"):
        at: datetime | None = getattr(one, name)
        body[name] = None if at is None else instant(at)
    return body


def who_of(request: Request) -> Operator:
    """Which operator asks. Raises ForbiddenError without the scope."""
    who = operator_of(request)
    return Operator(tenant_id=who.tenant_id, user_id=who.user_id)


def router(broker: Parts) -> APIRouter:
    """The routes of webhooks; each works on the token's own tenant."""
    made = APIRouter(prefix="/operator/webhooks", route_class=StrictRoute)
    engine = broker.database.engine

    def sealer() -> Sealer:
        return Sealer(broker.settings.webhook_keys)

    @made.post("")
    async def add(request: Request, body: NewWebhook) -> Response:
        """A new endpoint, and its secret, which is shown now and never again."""
        found, secret = await endpoints.add(
            engine,
            sealer(),
            who_of(request),
            Wanted(
                url=body.url,
                kinds=list(dict.fromkeys(body.events)),
                tool=body.tool,
                method=body.method,
                template=body.template,
            ),
            allowed=broker.settings.webhook_networks,
            endpoints_max=broker.settings.webhook_endpoints_max,
        )
        return reply(201, shown(found) | {"secret": secret})

    @made.get("")
    async def listed(request: Request) -> Response:
        """The tenant's endpoints, oldest first."""
        who = who_of(request)
        async with tenant_transaction(engine, who.tenant_id) as conn:
            found = await store.listed(conn, tenant_id=who.tenant_id)
        return reply(200, {"webhooks": [shown(one) for one in found]})

    @made.get("/{webhook_id}")
    async def show(request: Request, webhook_id: UUID) -> Response:
        """One endpoint."""
        return reply(
            200, shown(await endpoints.find(engine, who_of(request).tenant_id, webhook_id))
        )

    @made.delete("/{webhook_id}")
    async def remove(request: Request, webhook_id: UUID) -> Response:
        """Forget an endpoint, and what it was to be told."""
        return reply(200, shown(await endpoints.remove(engine, who_of(request), webhook_id)))

    @made.post("/{webhook_id}/rotate")
    async def rotate(request: Request, webhook_id: UUID, body: RotateBody) -> Response:
        """A new secret, shown once; the one before signs beside it for a while."""
        found, secret = await endpoints.rotate(
            engine, sealer(), who_of(request), webhook_id, keep_s=body.keep_s
        )
        return reply(200, shown(found) | {"secret": secret})

    _states(broker, made)
    _deliveries(broker, made)
    return made


def _states(broker: Parts, made: APIRouter) -> None:
    """The routes that switch an endpoint on and off, and try it."""
    engine = broker.database.engine

    @made.post("/{webhook_id}/enable")
    async def enable(request: Request, webhook_id: UUID, body: ReasonBody) -> Response:
        """Tell it again of what happens from now on, and of what waited."""
        who = who_of(request)
        return reply(
            200, shown(await endpoints.enable(engine, who, webhook_id, reason=body.reason))
        )

    @made.post("/{webhook_id}/disable")
    async def disable(request: Request, webhook_id: UUID, body: ReasonBody) -> Response:
        """Tell it nothing until it is enabled."""
        who = who_of(request)
        found = await endpoints.disable(engine, who, webhook_id, reason=body.reason)
        return reply(200, shown(found))

    @made.post("/{webhook_id}/test")
    async def test(
        request: Request,
        webhook_id: UUID,
        prefer: Annotated[str | None, Header()] = None,
    ) -> Response:
        """Have a signed ping sent, once, and see the answer: 202 where none is there yet."""
        asked_s = wait_s(prefer)
        found = await endpoints.ping(
            engine,
            who_of(request),
            webhook_id,
            wait_s=TEST_WAIT_S if asked_s is None else min(asked_s, TEST_WAIT_S),
        )
        return reply(202 if found.state == "waiting" else 200, shown_delivery(found))


def _deliveries(broker: Parts, made: APIRouter) -> None:
    """The routes of an endpoint's deliveries."""
    engine = broker.database.engine

    @made.get("/{webhook_id}/deliveries")
    async def listed(
        request: Request,
        webhook_id: UUID,
        state: Annotated[Literal["waiting", "delivered", "abandoned"] | None, Query()] = None,
        before: Annotated[UUID | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        """An endpoint's deliveries, newest first; `before` of one page leads to the next."""
        who = who_of(request)
        await endpoints.find(engine, who.tenant_id, webhook_id)
        async with tenant_transaction(engine, who.tenant_id) as conn:
            found = await deliveries.listed(
                conn,
                tenant_id=who.tenant_id,
                endpoint_id=webhook_id,
                state=state,
                before=before,
                limit=limit,
            )
        more = str(found[-1].id) if len(found) == limit else None
        return reply(200, {"deliveries": [shown_delivery(one) for one in found], "before": more})

    @made.post("/{webhook_id}/deliveries/{delivery_id}/redeliver")
    async def redeliver(request: Request, webhook_id: UUID, delivery_id: UUID) -> Response:
        """Send one delivery again, whatever became of it."""
        who = who_of(request)
        await endpoints.redeliver(engine, who, webhook_id, delivery_id)
        async with tenant_transaction(engine, who.tenant_id) as conn:
            found = await deliveries.find(
                conn, tenant_id=who.tenant_id, endpoint_id=webhook_id, delivery_id=delivery_id
            )
        if found is None:
            raise NotFoundError("The endpoint was removed meanwhile.")
        return reply(200, shown_delivery(found))

    @made.post("/{webhook_id}/redeliver")
    async def redeliver_within(request: Request, webhook_id: UUID, body: RedeliverBody) -> Response:
        """Tell of a time again, and of what was not told in it: 1,000 deliveries at most."""
        until = body.until or datetime.now(body.since.tzinfo)
        count = await endpoints.redeliver_within(
            engine, who_of(request), webhook_id, since=body.since, until=until
        )
        return reply(200, {"deliveries": count})
