"""What MCP clients subscribe to by webhook (SEP-3415): for a while, verified before it is told.

A subscription is one of user, URL, event and arguments; asked for again it is refreshed. It is kept
in the database, so that no replica or restart forgets it before its end.
"""

import base64
import hashlib
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.postgres.engine import tenant_transaction
from app.webhooks import payload
from app.webhooks.endpoints import outcome
from app.webhooks.kind import VERIFICATION, Kind
from app.webhooks.signing import SealedByAnotherError, Sealer
from app.webhooks.store import deliveries, telling
from app.webhooks.store import subscriptions as store
from app.webhooks.store.subscriptions import Key, Status

TTL_S: Final = 3600.0
TTL_MIN_S: Final = 60.0
TTL_MAX_S: Final = 86_400.0
"""Nothing is granted for ever: what a client that is gone has left ends within a day."""
GRACE_S: Final = 300.0
"""For so long the secret before a refresh signs, too."""
CHALLENGE_S: Final = 20.0
CHALLENGES_MAX: Final = 10
"""Challenges that one user has sent within a minute."""
CHALLENGE_BYTES: Final = 24
REASONS: Final = frozenset(
    {"connection_refused", "timeout", "tls_error", "http_4xx", "http_5xx", "challenge_failed"}
)


class CallbackError(Exception):
    """The receiver did not show that it wants this; `reason` is one of SEP-3415's."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class TooManyError(Exception):
    """A bound is reached: `limit` names it."""

    def __init__(self, limit: str, most: int) -> None:
        super().__init__(limit)
        self.limit = limit
        self.most = most


@dataclass(frozen=True, slots=True, kw_only=True)
class From:
    """Where delivery begins: a position of the trail's order, and no older than that."""

    xid: int
    at: datetime
    event_id: UUID
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """A subscription as it was granted."""

    id: str
    expires_at: datetime
    cursor: str
    skipped: bool
    before: Status | None
    """How it stood before, where it was refreshed."""


def key_of(
    *, tenant_id: str, user_id: str, url: str, kind: Kind, tool: tuple[str, str] | None
) -> Key:
    """The key of a subscription: the same id for the same of all of these."""
    said = [tenant_id, user_id, url, kind, *(tool or ())]
    digest = hashlib.sha256(b"mcpbroker subscription v1" + orjson.dumps(said)).digest()
    name, method = (None, None) if tool is None else tool
    return Key(
        id=UUID(bytes=digest[:16]),
        tenant_id=tenant_id,
        user_id=user_id,
        url=url,
        kind=kind,
        tool=name,
        method=method,
    )


def granted_s(ttl_ms: int | None) -> float:
    """For how long it is granted, of what was asked; asked for ever, the most there is."""
    if ttl_ms is None:
        return TTL_MAX_S
    return max(TTL_MIN_S, min(ttl_ms / 1000, TTL_MAX_S))


async def subscribe(
    engine: AsyncEngine,
    sealer: Sealer,
    key: Key,
    *,
    secret: bytes,
    ttl_s: float,
    begin: From | None,
    subscriptions_max: int,
) -> Granted:
    """Subscribe or refresh; a receiver that was not verified yet is, before this returns.

    Raises:
        CallbackError: the receiver did not echo the challenge; the subscription is not there.
        TooManyError: the user has as many as they may, or had too many challenges sent.
    """
    sealed = sealer.seal(secret, tenant_id=key.tenant_id, endpoint_id=key.id)
    async with tenant_transaction(engine, key.tenant_id) as conn:
        before = await store.find(conn, key)
        if before is None and await store.others(conn, key) >= subscriptions_max:
            raise TooManyError("subscriptions", subscriptions_max)
        known = before is not None and before.verified_at is not None
        known = known or await store.verified(conn, key)
        if not known and await store.challenged(conn, key) >= CHALLENGES_MAX:
            raise TooManyError("challenges", CHALLENGES_MAX)
        await store.upsert(
            conn,
            key,
            secret=sealed,
            same=before is not None and _same(sealer, key, before.secret, secret),
            ttl_s=ttl_s,
            grace_s=GRACE_S,
        )
    if not known:
        await _verify(engine, key)
    async with tenant_transaction(engine, key.tenant_id) as conn:
        skipped = await _activate(conn, key, begin)
        now = await store.find(conn, key)
        oldest = await store.oldest_waiting(conn, key)
        reached = (await telling.place(conn)).at
    if now is None:  # it was ended meanwhile, by another request
        raise CallbackError("challenge_failed")
    mark = max(reached, now.from_xid) if oldest is None else oldest
    return Granted(
        id=payload.subscription_id(key.id),
        expires_at=now.expires_at,
        cursor=payload.before(mark, datetime.now(UTC)),
        skipped=skipped,
        before=before if before is not None and before.verified_at is not None else None,
    )


async def _activate(conn: AsyncConnection, key: Key, begin: From | None) -> bool:
    """Have it told from a position on, or from now; whether some of it was left out.

    Where it is told already, it stays where it is: its client's position lies behind that.
    """
    if begin is None:
        await store.activate(conn, key, from_xid=None)
        return False
    await telling.take_turn(conn)  # nothing is told meanwhile, so nothing falls between
    reached = (await telling.place(conn)).at
    if not await store.activate(conn, key, from_xid=max(reached, begin.xid)):
        return False
    told = await telling.replay(
        conn,
        tenant_id=key.tenant_id,
        endpoint_id=key.id,
        xid=begin.xid,
        at=begin.at,
        event_id=begin.event_id,
        until=reached,
        since=begin.since,
    )
    return told >= telling.WITHIN_MAX


def _same(sealer: Sealer, key: Key, sealed: bytes, secret: bytes) -> bool:
    try:
        return sealer.open(sealed, tenant_id=key.tenant_id, endpoint_id=key.id) == secret
    except SealedByAnotherError:
        return False


async def _verify(engine: AsyncEngine, key: Key) -> None:
    """Ask the receiver whether it wants this; what it does not want goes."""
    challenge = base64.urlsafe_b64encode(secrets.token_bytes(CHALLENGE_BYTES)).decode()
    async with tenant_transaction(engine, key.tenant_id) as conn:
        made = await deliveries.probe(
            conn,
            tenant_id=key.tenant_id,
            endpoint_id=key.id,
            kind=VERIFICATION,
            data={"challenge": challenge},
        )
    found = await outcome(engine, key.tenant_id, key.id, made, wait_s=CHALLENGE_S)
    if found.state == "delivered":
        return
    async with tenant_transaction(engine, key.tenant_id) as conn:
        await store.silence(conn, key)
    raise CallbackError(reason_of(found.state, found.last_status, found.last_error))


def reason_of(state: str, status: int | None, error: str | None) -> str:
    """Why a challenge failed, as one of the reasons that SEP-3415 has."""
    if state == "waiting":
        return "timeout"
    if status is not None:
        kind = f"http_{status // 100}xx"
        return kind if kind in REASONS else "challenge_failed"
    return error if error in REASONS else "connection_refused"


async def unsubscribe(engine: AsyncEngine, key: Key) -> bool:
    """End it at once; False where there was none."""
    async with tenant_transaction(engine, key.tenant_id) as conn:
        return await store.delete(conn, key)
