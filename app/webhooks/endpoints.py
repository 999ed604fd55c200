"""What operators do with their tenant's endpoints; a use case is one transaction, and audited."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.audit.store import events
from app.errors import (
    InvalidArgumentsError,
    LimitReachedError,
    NotFoundError,
    WebhooksOffError,
)
from app.postgres.engine import tenant_transaction
from app.webhooks import addresses, signing, template
from app.webhooks.addresses import Network
from app.webhooks.kind import PING, Kind
from app.webhooks.signing import Sealer
from app.webhooks.store import deliveries, telling
from app.webhooks.store import endpoints as store
from app.webhooks.store.deliveries import Delivery
from app.webhooks.store.endpoints import Endpoint

LOOK_S: Final = 0.1
"""Between two looks for the outcome of a test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """An endpoint as an operator asks for it."""

    url: str
    kinds: Sequence[Kind]
    tool: str | None = None
    method: str | None = None
    template: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """Who acts, and on which tenant."""

    tenant_id: str
    user_id: str

    @property
    def actor(self) -> str:
        """As the audit trail names them."""
        return f"operator:{self.user_id}"


def check_url(url: str, allowed: Sequence[Network]) -> None:
    """Look at a URL before it is kept: what can be known without asking for its name's address.

    Raises:
        InvalidArgumentsError: nothing would be delivered there.
    """
    try:
        place = addresses.place_of(url)
    except addresses.BadUrlError as error:
        raise InvalidArgumentsError(f"url: {error}. Nothing was kept.") from error
    address = addresses.literal(place.host)
    why = None
    if address is not None:
        why = addresses.refusal(address, https=place.https, allowed=allowed)
    elif not place.https and not allowed:
        why = "http goes to networks only that MCP_BROKER_WEBHOOK_NETWORKS names"
    if why is not None:
        raise InvalidArgumentsError(f"url: {why}. Nothing was kept.")


def need_keys(sealer: Sealer) -> None:
    """Raises WebhooksOffError where no secret can be kept."""
    if not sealer:
        raise WebhooksOffError(
            "Webhooks are off here: set MCP_BROKER_WEBHOOK_KEYS at the app and the relay."
        )


async def add(
    engine: AsyncEngine,
    sealer: Sealer,
    who: Operator,
    wanted: Wanted,
    *,
    allowed: Sequence[Network],
    endpoints_max: int,
) -> tuple[Endpoint, str]:
    """A new endpoint, told of what happens from now on; and its secret, which is shown once.

    Raises:
        InvalidArgumentsError: its URL or template is not good.
        LimitReachedError: the tenant has as many as it may.
        WebhooksOffError: no key is set.
    """
    need_keys(sealer)
    check_url(wanted.url, allowed)
    if wanted.template is not None:
        try:
            template.check(wanted.template)
        except template.BadTemplateError as error:
            raise InvalidArgumentsError(f"template: {error}. Nothing was kept.") from error
    made, secret = uuid4(), signing.new_secret()
    async with tenant_transaction(engine, who.tenant_id) as conn:
        if await store.count(conn, tenant_id=who.tenant_id) >= endpoints_max:
            raise LimitReachedError(f"The tenant has {endpoints_max} endpoints, as many as it may.")
        found = await store.insert(
            conn,
            endpoint_id=made,
            tenant_id=who.tenant_id,
            url=wanted.url,
            kinds=wanted.kinds,
            tool=wanted.tool,
            method=wanted.method,
            template=wanted.template,
            secret=sealer.seal(secret, tenant_id=who.tenant_id, endpoint_id=made),
            created_by=who.user_id,
        )
        said = {"kinds": list(wanted.kinds), "tool": wanted.tool, "method": wanted.method}
        await _audit(conn, who, "webhook.added", found, **said)
    return found, signing.shown(secret)


async def find(engine: AsyncEngine, tenant_id: str, endpoint_id: UUID) -> Endpoint:
    """One endpoint.

    Raises:
        NotFoundError: the tenant has none of that id.
    """
    async with tenant_transaction(engine, tenant_id) as conn:
        return await _of(conn, tenant_id, endpoint_id)


async def rotate(
    engine: AsyncEngine, sealer: Sealer, who: Operator, endpoint_id: UUID, *, keep_s: float
) -> tuple[Endpoint, str]:
    """A new secret; the one before signs beside it for so long.

    Raises:
        NotFoundError: the tenant has no such endpoint.
        WebhooksOffError: no key is set.
    """
    secret = signing.new_secret()
    async with tenant_transaction(engine, who.tenant_id) as conn:
        found = await _of(conn, who.tenant_id, endpoint_id)
        need_keys(sealer)
        until = await store.rotate(
            conn,
            tenant_id=who.tenant_id,
            endpoint_id=endpoint_id,
            secret=sealer.seal(secret, tenant_id=who.tenant_id, endpoint_id=endpoint_id),
            keep_s=keep_s,
        )
        await _audit(conn, who, "webhook.rotated", found, keep_s=keep_s)
    return replace(found, secret_before_until=until), signing.shown(secret)


async def enable(engine: AsyncEngine, who: Operator, endpoint_id: UUID, *, reason: str) -> Endpoint:
    """Tell it again of what happens from now on, and of what waited when it was disabled.

    Raises:
        NotFoundError: the tenant has no such endpoint.
    """
    async with tenant_transaction(engine, who.tenant_id) as conn:
        found = await _of(conn, who.tenant_id, endpoint_id)
        if await store.enable(conn, tenant_id=who.tenant_id, endpoint_id=endpoint_id):
            await _audit(conn, who, "webhook.enabled", found, reason=reason)
        return await _of(conn, who.tenant_id, endpoint_id)


async def disable(
    engine: AsyncEngine, who: Operator, endpoint_id: UUID, *, reason: str
) -> Endpoint:
    """Tell it nothing until it is enabled.

    Raises:
        NotFoundError: the tenant has no such endpoint.
    """
    async with tenant_transaction(engine, who.tenant_id) as conn:
        found = await _of(conn, who.tenant_id, endpoint_id)
        if await store.disable(
            conn, tenant_id=who.tenant_id, endpoint_id=endpoint_id, reason=reason
        ):
            await _audit(conn, who, "webhook.disabled", found, reason=reason)
        return await _of(conn, who.tenant_id, endpoint_id)


async def remove(engine: AsyncEngine, who: Operator, endpoint_id: UUID) -> Endpoint:
    """Forget it, and what it was to be told.

    Raises:
        NotFoundError: the tenant has no such endpoint.
    """
    async with tenant_transaction(engine, who.tenant_id) as conn:
        found = await _of(conn, who.tenant_id, endpoint_id)
        await store.remove(conn, tenant_id=who.tenant_id, endpoint_id=endpoint_id)
        await _audit(conn, who, "webhook.removed", found)
    return found


async def ping(engine: AsyncEngine, who: Operator, endpoint_id: UUID, *, wait_s: float) -> Delivery:
    """Have a signed ping sent, once, and its outcome; still `waiting` where no relay sent it.

    Raises:
        NotFoundError: the tenant has no such endpoint.
    """
    async with tenant_transaction(engine, who.tenant_id) as conn:
        await _of(conn, who.tenant_id, endpoint_id)
        made = await deliveries.probe(
            conn, tenant_id=who.tenant_id, endpoint_id=endpoint_id, kind=PING, data={}
        )
    return await outcome(engine, who.tenant_id, endpoint_id, made, wait_s=wait_s)


async def outcome(
    engine: AsyncEngine, tenant_id: str, endpoint_id: UUID, delivery_id: UUID, *, wait_s: float
) -> Delivery:
    """A delivery once it has ended, or as it is after so many seconds.

    Raises:
        NotFoundError: its endpoint was removed meanwhile.
    """
    until = asyncio.get_running_loop().time() + wait_s
    while True:
        async with tenant_transaction(engine, tenant_id) as conn:
            found = await deliveries.find(
                conn, tenant_id=tenant_id, endpoint_id=endpoint_id, delivery_id=delivery_id
            )
        if found is None:
            raise NotFoundError("The endpoint was removed meanwhile.")
        if found.state != "waiting" or asyncio.get_running_loop().time() > until:
            return found
        await asyncio.sleep(LOOK_S)


async def redeliver(
    engine: AsyncEngine, who: Operator, endpoint_id: UUID, delivery_id: UUID
) -> None:
    """Send one delivery again, whatever became of it, by its `webhook-id` of before.

    Raises:
        NotFoundError: there is no such delivery of this endpoint.
    """
    async with tenant_transaction(engine, who.tenant_id) as conn:
        found = await _of(conn, who.tenant_id, endpoint_id)
        if not await deliveries.again(
            conn, tenant_id=who.tenant_id, endpoint_id=endpoint_id, delivery_id=delivery_id
        ):
            raise NotFoundError(f"There is no delivery {delivery_id} that can be sent again.")
        await _audit(conn, who, "webhook.redelivered", found, delivery_id=str(delivery_id))


async def redeliver_within(
    engine: AsyncEngine, who: Operator, endpoint_id: UUID, *, since: datetime, until: datetime
) -> int:
    """Tell of a time again, and of what was not told in it; how many, of very many the first.

    Raises:
        NotFoundError: the tenant has no such endpoint.
    """
    async with tenant_transaction(engine, who.tenant_id) as conn:
        found = await _of(conn, who.tenant_id, endpoint_id)
        count = await telling.tell_within(
            conn, tenant_id=who.tenant_id, endpoint_id=endpoint_id, since=since, until=until
        )
        said = {"since": since.isoformat(), "until": until.isoformat(), "deliveries": count}
        await _audit(conn, who, "webhook.redelivered", found, **said)
    return count


async def _of(conn: AsyncConnection, tenant_id: str, endpoint_id: UUID) -> Endpoint:
    found = await store.find(conn, tenant_id=tenant_id, endpoint_id=endpoint_id)
    if found is None:
        raise NotFoundError(f"There is no webhook {endpoint_id}.")
    return found


async def _audit(
    conn: AsyncConnection, who: Operator, kind: str, one: Endpoint, **body: Any
) -> None:
    """Of a URL the trail has the host only: its path can be a credential."""
    said = {"webhook": str(one.id), "host": urlsplit(one.url).hostname} | body
    await events.append(
        conn,
        tenant_id=who.tenant_id,
        kind=kind,
        actor=who.actor,
        body={name: value for name, value in said.items() if value is not None},
    )
