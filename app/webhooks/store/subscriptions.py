"""Endpoints that MCP clients subscribe for their user: kept for a while, known by their key."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.webhooks.kind import NO_EVENTS, TERMINATED, UNVERIFIED, VERIFICATION

# The secret before signs for a while too, where the client gives another one.
UPSERT: Final = text("""
    INSERT INTO webhook_endpoints AS w
           (id, tenant_id, user_id, url, kinds, tool, method, secret, enabled, reason, expires_at,
            created_by)
    VALUES (:id, :tenant_id, :user_id, :url, ARRAY[CAST(:kind AS text)], CAST(:tool AS text),
            CAST(:method AS text), :secret, false, CAST(:unverified AS text),
            now() + make_interval(secs => :ttl_s), :user_id)
        ON CONFLICT (id) DO UPDATE
       SET expires_at = excluded.expires_at,
           secret_before = CASE WHEN :same THEN w.secret_before ELSE w.secret END,
           secret_before_until = CASE WHEN :same THEN w.secret_before_until
                                      ELSE now() + make_interval(secs => :grace_s) END,
           secret = excluded.secret
""")
# A refresh goes on with a subscription that was suspended.
ACTIVATE: Final = text("""
    UPDATE webhook_endpoints
       SET enabled = true, reason = NULL, disabled_at = NULL, failing_since = NULL,
           verified_at = coalesce(verified_at, now()),
           from_xid = coalesce(CAST(CAST(:from_xid AS text) AS xid8), pg_current_xact_id())
     WHERE id = :id AND tenant_id = :tenant_id AND user_id = :user_id AND NOT enabled
    RETURNING id
""")
SILENCE: Final = text("""
    UPDATE webhook_endpoints
       SET expires_at = least(expires_at, now() + interval '1 minute')
     WHERE id = :id AND tenant_id = :tenant_id AND user_id = :user_id AND verified_at IS NULL
""")
FIND: Final = text("""
    SELECT enabled, secret, verified_at, last_delivered_at, last_error, failing_since, expires_at,
           CAST(from_xid AS text) AS from_xid
      FROM webhook_endpoints
     WHERE id = :id AND tenant_id = :tenant_id AND user_id = :user_id AND expires_at > now()
       AND reason IS DISTINCT FROM :terminated
       FOR UPDATE
""")
DELETE: Final = text("""
    DELETE FROM webhook_endpoints
     WHERE id = :id AND tenant_id = :tenant_id AND user_id = :user_id
    RETURNING expires_at > now() AND verified_at IS NOT NULL
              AND reason IS DISTINCT FROM :terminated AS live
""")
OVER: Final = text("""
    DELETE FROM webhook_endpoints
     WHERE id = :id AND tenant_id = :tenant_id AND user_id = :user_id
       AND (expires_at <= now() OR reason = :terminated)
""")
COUNT: Final = text("""
    SELECT count(*) FROM webhook_endpoints
     WHERE tenant_id = :tenant_id AND user_id = :user_id AND id <> :id AND expires_at > now()
""")
VERIFIED: Final = text("""
    SELECT EXISTS (SELECT FROM webhook_endpoints
                    WHERE tenant_id = :tenant_id AND user_id = :user_id AND url = :url
                      AND verified_at IS NOT NULL AND expires_at > now()
                      AND reason IS DISTINCT FROM :terminated)
""")
CHALLENGED: Final = text("""
    SELECT count(*)
      FROM webhook_deliveries d
      JOIN webhook_endpoints w ON w.id = d.endpoint_id
     WHERE d.tenant_id = :tenant_id AND d.kind = :kind AND w.user_id = :user_id
       AND d.created_at > now() - interval '1 minute'
""")
OLDEST: Final = text("""
    SELECT CAST(min(xid) AS text) FROM webhook_deliveries
     WHERE endpoint_id = :id AND state = 'waiting' AND NOT kind = ANY (CAST(:probes AS text[]))
""")
ENDED: Final = {"terminated": TERMINATED}
"""One that was ended is there until its receiver knows, and nothing else is left of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """What makes a subscription the same one; its id is derived from it."""

    id: UUID
    tenant_id: str
    user_id: str
    url: str
    kind: str
    tool: str | None
    method: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How it stands."""

    enabled: bool
    secret: bytes
    verified_at: datetime | None
    last_delivered_at: datetime | None
    last_error: str | None
    failing_since: datetime | None
    expires_at: datetime
    from_xid: int


def _named(key: Key) -> dict[str, object]:
    return {"id": key.id, "tenant_id": key.tenant_id, "user_id": key.user_id}


async def find(conn: AsyncConnection, key: Key) -> Status | None:
    """A subscription that is not over, locked until the transaction ends."""
    row = (await conn.execute(FIND, _named(key) | ENDED)).mappings().one_or_none()
    if row is None:
        return None
    values: dict[str, Any] = dict(row)
    values["from_xid"] = int(row["from_xid"])
    return Status(**values)


async def upsert(
    conn: AsyncConnection,
    key: Key,
    *,
    secret: bytes,
    same: bool,
    ttl_s: float,
    grace_s: float,
) -> None:
    """Make it, silent yet, or give it its new end and secret; `same`: the secret is as before."""
    await conn.execute(OVER, _named(key) | ENDED)  # one that is over goes with what it waited for
    values = {
        **_named(key),
        "url": key.url,
        "kind": key.kind,
        "tool": key.tool,
        "method": key.method,
        "secret": secret,
        "same": same,
        "ttl_s": ttl_s,
        "grace_s": grace_s,
        "unverified": UNVERIFIED,
    }
    await conn.execute(UPSERT, values)


async def activate(conn: AsyncConnection, key: Key, *, from_xid: int | None) -> bool:
    """Tell it what happens from transaction `from_xid` on, without one from this on.

    False where it is told already.
    """
    values = _named(key) | {"from_xid": None if from_xid is None else str(from_xid)}
    return await conn.scalar(ACTIVATE, values) is not None


async def silence(conn: AsyncConnection, key: Key) -> None:
    """Its receiver does not want it: it goes soon, and is counted until then."""
    await conn.execute(SILENCE, _named(key))


async def delete(conn: AsyncConnection, key: Key) -> bool:
    """End it; False where there was none."""
    return bool(await conn.scalar(DELETE, _named(key) | ENDED))


async def others(conn: AsyncConnection, key: Key) -> int:
    """How many more its user has."""
    return (await conn.scalar(COUNT, _named(key))) or 0


async def verified(conn: AsyncConnection, key: Key) -> bool:
    """Whether this user's receiver at this URL has been asked, and has said yes."""
    return bool(await conn.scalar(VERIFIED, {**_named(key), **ENDED, "url": key.url}))


async def challenged(conn: AsyncConnection, key: Key) -> int:
    """How many challenges its user had sent within a minute."""
    return (await conn.scalar(CHALLENGED, {**_named(key), "kind": VERIFICATION})) or 0


async def oldest_waiting(conn: AsyncConnection, key: Key) -> int | None:
    """The transaction of its oldest event that was not taken yet."""
    found = await conn.scalar(OLDEST, {"id": key.id, "probes": list(NO_EVENTS)})
    return None if found is None else int(found)
