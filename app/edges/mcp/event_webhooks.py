"""events/subscribe and events/unsubscribe (SEP-3415): the relay tells a client's own receiver."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final

from mcp import types
from mcp.server import Server
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from app.contract import instant
from app.edges.mcp.calls import Context
from app.edges.mcp.events import (
    NOT_FOUND,
    REPLAY_MAX,
    RESOURCE_EXHAUSTED,
    allowed,
    caller,
    position_of,
    revoked,
    tool_of,
)
from app.edges.parts import Parts
from app.errors import InvalidArgumentsError
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from app.sagas.store import occurrences
from app.sagas.store.occurrences import Kind
from app.webhooks import endpoints, signing, subscriptions
from app.webhooks import kind as webhooks
from app.webhooks.signing import Sealer
from app.webhooks.store.subscriptions import Key
from app.webhooks.subscriptions import CallbackError, From, TooManyError, reason_of

UNSUPPORTED: Final = -32026
CALLBACK_ENDPOINT: Final = -32027
MODE: Final = "webhook"


class Delivery(BaseModel):
    """Where a subscription is delivered, and what signs it."""

    mode: str = MODE
    url: str
    secret: str | None = None


class Subscribe(types.RequestParams):
    """What is subscribed to; `ttl_ms` null asks for no end, which is not granted."""

    name: str
    arguments: dict[str, Any] | None = None
    delivery: Delivery
    cursor: str | None = None
    max_age_ms: int | None = None
    ttl_ms: int | None = int(subscriptions.TTL_S * 1000)


class Unsubscribe(types.RequestParams):
    """Which subscription is to end."""

    name: str
    arguments: dict[str, Any] | None = None
    delivery: Delivery


class EventWebhooks:
    """The two methods; what they make is told by the relay."""

    def __init__(self, broker: Parts) -> None:
        self._broker = broker
        self._sealer = Sealer(broker.settings.webhook_keys)

    def install(self, server: Server[Any]) -> None:
        """Serve the methods."""
        server.add_request_handler("events/subscribe", Subscribe, self._subscribe)
        server.add_request_handler("events/unsubscribe", Unsubscribe, self._unsubscribe)

    async def _subscribe(self, ctx: Context, params: Subscribe) -> dict[str, Any]:
        who = caller(ctx)
        key = await self._key(who, params.name, params.arguments, params.delivery)
        if not await allowed(self._broker, who, None):  # its tool was looked at for the key
            raise revoked()
        try:
            secret = signing.parsed(params.delivery.secret or "")
        except signing.BadSecretError as error:
            text = "delivery.secret is whsec_ and the base64 of 24 to 64 random bytes."
            raise MCPError(types.INVALID_PARAMS, text) from error
        begin, truncated = await self._begin(who, params)
        try:
            granted = await subscriptions.subscribe(
                self._broker.database.engine,
                self._sealer,
                key,
                secret=secret,
                ttl_s=subscriptions.granted_s(params.ttl_ms),
                begin=begin,
                subscriptions_max=self._broker.settings.webhook_endpoints_max,
            )
        except TooManyError as error:
            limit = {"limit": error.limit, "max": error.most}
            text = f"There are too many {error.limit}."
            raise MCPError(RESOURCE_EXHAUSTED, text, limit) from error
        except CallbackError as error:
            text = "The callback endpoint did not echo the challenge, or could not be reached."
            raise MCPError(CALLBACK_ENDPOINT, text, {"reason": error.reason}) from error
        answer: dict[str, Any] = {
            "resultType": "complete",
            "id": granted.id,
            "refreshBefore": instant(granted.expires_at),
            "cursor": granted.cursor,
            "truncated": truncated or granted.skipped,
        }
        if granted.before is not None:
            answer["deliveryStatus"] = status_of(granted.before)
        return answer

    async def _unsubscribe(self, ctx: Context, params: Unsubscribe) -> dict[str, Any]:
        key = await self._key(caller(ctx), params.name, params.arguments, params.delivery)
        if not await subscriptions.unsubscribe(self._broker.database.engine, key):
            raise MCPError(
                NOT_FOUND, "There is no such subscription of yours.", {"kind": "subscription"}
            )
        return {"resultType": "complete"}

    async def _key(
        self, who: Identity, name: str, arguments: dict[str, Any] | None, delivery: Delivery
    ) -> Key:
        """Which subscription is meant.

        Raises:
            MCPError: there is no such event, or it is not delivered so.
        """
        settings = self._broker.settings
        if delivery.mode != MODE or not settings.webhook_keys:
            offered = {"feature": "deliveryMode", "value": delivery.mode[:40]}
            raise MCPError(UNSUPPORTED, "Events are not delivered so here.", offered)
        if name not in set(Kind):
            raise MCPError(NOT_FOUND, "There is no such event.", {"kind": "event"})
        kind = Kind(name)
        tool = await tool_of(self._broker, who, kind, arguments or {})
        if not delivery.url.startswith("https://"):
            raise MCPError(types.INVALID_PARAMS, "delivery.url begins with https://.")
        try:
            endpoints.check_url(delivery.url, settings.webhook_networks)
        except InvalidArgumentsError as error:
            raise MCPError(types.INVALID_PARAMS, f"delivery.{error.detail}") from error
        return subscriptions.key_of(
            tenant_id=who.tenant_id,
            user_id=who.user_id,
            url=delivery.url,
            kind=webhooks.Kind(kind),
            tool=tool,
        )

    async def _begin(self, who: Identity, params: Subscribe) -> tuple[From | None, bool]:
        """Where delivery begins, None for now; and whether that is later than was asked for."""
        if params.cursor is None:
            return None, False
        position, checked = position_of(params.cursor)
        async with tenant_transaction(self._broker.database.engine, who.tenant_id) as conn:
            _, unused = await occurrences.edge(conn)
        if position.xid > unused:  # of another database
            return None, True
        age = REPLAY_MAX
        if params.max_age_ms is not None:
            age = min(age, timedelta(milliseconds=max(0, min(params.max_age_ms, 10**9))))
        since = datetime.now(UTC) - age
        begin = From(xid=position.xid, at=position.at, event_id=position.event_id, since=since)
        return begin, checked < since


def status_of(before: subscriptions.Status) -> dict[str, Any]:
    """How deliveries went until this refresh; nothing of what the receiver answered."""
    error = before.last_error if before.failing_since is not None else None
    told: dict[str, Any] = {
        "active": before.enabled,
        "lastDeliveryAt": None
        if before.last_delivered_at is None
        else instant(before.last_delivered_at),
        "lastError": None if error is None else reason_of("abandoned", None, error),
    }
    if before.failing_since is not None:
        told["failedSince"] = instant(before.failing_since)
    return told
