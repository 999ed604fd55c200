"""The table of deliveries: leased by a relay, sent, and recorded; listed by operators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.postgres.engine import dump
from app.webhooks.kind import NO_EVENTS, PROBES

# Of each endpoint with something due so many as it has room for: a slow one holds up itself. One
# that fails is asked once at a time. Leased deliveries are those whose lease is set and not over.
CLAIM: Final = text("""
    WITH room AS (
        SELECT w.id, w.enabled,
               (CASE WHEN w.failing_since IS NULL THEN CAST(:each AS integer) ELSE 1 END)
               - (SELECT count(*) FROM webhook_deliveries f
                   WHERE f.endpoint_id = w.id AND f.state = 'waiting' AND f.lease IS NOT NULL
                     AND f.due_at > now()) AS free
          FROM webhook_endpoints w
         WHERE (w.expires_at IS NULL OR w.expires_at > now())
           AND EXISTS (SELECT FROM webhook_deliveries d
                        WHERE d.endpoint_id = w.id AND d.state = 'waiting' AND d.due_at <= now()
                          AND (w.enabled OR d.kind = ANY (CAST(:probes AS text[]))))
         ORDER BY random()
         LIMIT :limit
    ), due AS (
        SELECT d.id
          FROM room r
         CROSS JOIN LATERAL (
               SELECT id FROM webhook_deliveries
                WHERE endpoint_id = r.id AND state = 'waiting' AND due_at <= now()
                  AND (r.enabled OR kind = ANY (CAST(:probes AS text[])))
                ORDER BY due_at
                LIMIT greatest(r.free, 0)
                  FOR UPDATE SKIP LOCKED) d
         LIMIT :limit
    ), leased AS (
        UPDATE webhook_deliveries d
           SET lease = :lease, due_at = now() + make_interval(secs => :lease_s)
          FROM due
         WHERE d.id = due.id
        RETURNING d.*
    )
    SELECT l.id, l.tenant_id, l.endpoint_id, l.kind, l.event_id, CAST(l.xid AS text) AS xid,
           l.occurred_at, l.data, l.attempts, w.user_id, w.url, w.template, w.secret,
           CASE WHEN w.secret_before_until > now() THEN w.secret_before END AS secret_before,
           w.failing_since, c.traceparent, now() AS now,
           CASE WHEN w.user_id IS NOT NULL THEN (
               SELECT CAST(min(o.xid) AS text) FROM webhook_deliveries o
                WHERE o.endpoint_id = l.endpoint_id AND o.state = 'waiting' AND o.id <> l.id
                  AND NOT o.kind = ANY (CAST(:probes AS text[]))) END AS oldest_other
      FROM leased l
      JOIN webhook_endpoints w ON w.id = l.endpoint_id
      LEFT JOIN commands c ON c.id = CAST(l.data ->> 'command_id' AS uuid)
""")

RECORD: Final = text("""
    UPDATE webhook_deliveries
       SET state = CAST(:state AS text), attempts = attempts + 1, lease = NULL,
           due_at = now() + make_interval(secs => :pause_s),
           last_status = CAST(:status AS integer), last_error = CAST(:error AS text),
           last_at = now(), answer = CAST(:answer AS text),
           ended_at = CASE WHEN CAST(:state AS text) <> 'waiting' THEN now() END
     WHERE id = :id AND lease = :lease AND state = 'waiting'
    RETURNING id
""")

# Once in ten seconds is enough to know that it takes what it is sent.
TOOK: Final = text("""
    UPDATE webhook_endpoints
       SET failing_since = NULL, last_error = NULL, last_delivered_at = now()
     WHERE id = :id
       AND (failing_since IS NOT NULL OR last_delivered_at IS NULL
            OR last_delivered_at < now() - interval '10 seconds')
""")
FAILED: Final = text("""
    UPDATE webhook_endpoints
       SET failing_since = coalesce(failing_since, now()), last_error = :error
     WHERE id = :id
    RETURNING failing_since < now() - make_interval(secs => :disable_after_s)
""")
DISABLE: Final = text("""
    UPDATE webhook_endpoints
       SET enabled = false, reason = :reason, disabled_at = now()
     WHERE id = :id AND enabled
    RETURNING id
""")

PROBE: Final = text("""
    INSERT INTO webhook_deliveries
           (tenant_id, endpoint_id, kind, event_id, xid, occurred_at, data)
    VALUES (:tenant_id, :endpoint_id, :kind, gen_random_uuid(), pg_current_xact_id(), now(),
            CAST(:data AS jsonb))
    RETURNING id
""")
SHOWN: Final = """
    id, kind, event_id, occurred_at, data, state, attempts, due_at, last_status, last_error,
    last_at, answer, created_at, ended_at
"""
FIND: Final = text(f"""
    SELECT {SHOWN} FROM webhook_deliveries
     WHERE id = :id AND tenant_id = :tenant_id AND endpoint_id = :endpoint_id
""")
LIST: Final = text(f"""
    SELECT {SHOWN}
      FROM webhook_deliveries
     WHERE tenant_id = :tenant_id AND endpoint_id = :endpoint_id
       AND (CAST(:state AS text) IS NULL OR state = :state)
       AND (CAST(:before AS uuid) IS NULL
            OR (created_at, id) < (SELECT created_at, id FROM webhook_deliveries
                                    WHERE id = :before AND endpoint_id = :endpoint_id))
     ORDER BY created_at DESC, id DESC
     LIMIT :limit
""")
AGAIN: Final = text("""
    UPDATE webhook_deliveries
       SET state = 'waiting', attempts = 0, due_at = now(), lease = NULL, ended_at = NULL
     WHERE id = :id AND tenant_id = :tenant_id AND endpoint_id = :endpoint_id
       AND NOT kind = ANY (CAST(:probes AS text[]))
    RETURNING id
""")

FORGET: Final = text("""
    DELETE FROM webhook_deliveries
     WHERE id IN (SELECT id FROM webhook_deliveries
                   WHERE ended_at < now() - make_interval(secs => :kept_s)
                   ORDER BY ended_at LIMIT :limit)
""")
GIVE_UP: Final = text("""
    UPDATE webhook_deliveries d
       SET state = 'abandoned', ended_at = now(), lease = NULL, last_error = 'disabled'
      FROM webhook_endpoints w
     WHERE w.id = d.endpoint_id AND NOT w.enabled AND d.state = 'waiting'
       AND w.disabled_at < now() - make_interval(secs => :kept_s)
""")
EXPIRE: Final = text("DELETE FROM webhook_endpoints WHERE expires_at < now()")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leased:
    """A delivery that a relay is to send, with all that it needs for that."""

    id: UUID
    lease: UUID
    tenant_id: str
    endpoint_id: UUID
    kind: str
    event_id: UUID
    xid: int
    occurred_at: datetime
    data: Mapping[str, Any]
    attempts: int
    user_id: str | None
    url: str
    template: Mapping[str, Any] | None
    secret: bytes
    secret_before: bytes | None
    failing_since: datetime | None
    traceparent: str | None
    now: datetime
    oldest_other: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A delivery as operators see it."""

    id: UUID
    kind: str
    event_id: UUID
    occurred_at: datetime
    data: Mapping[str, Any]
    state: str
    attempts: int
    due_at: datetime
    last_status: int | None
    last_error: str | None
    last_at: datetime | None
    answer: str | None
    created_at: datetime
    ended_at: datetime | None


async def claim(
    conn: AsyncConnection, *, limit: int, each: int, lease_s: float
) -> Sequence[Leased]:
    """Lease deliveries that are due, at most `each` of an endpoint at a time."""
    lease = uuid4()
    values = {"limit": limit, "each": each, "lease": lease, "lease_s": lease_s}
    rows = await conn.execute(CLAIM, values | {"probes": list(NO_EVENTS)})
    found: list[Leased] = []
    for row in rows.mappings():
        other = row["oldest_other"]
        values: dict[str, Any] = dict(row)
        values |= {"xid": int(row["xid"]), "lease": lease}
        values["oldest_other"] = None if other is None else int(other)
        found.append(Leased(**values))
    return found


async def record(
    conn: AsyncConnection,
    one: Leased,
    *,
    state: str,
    pause_s: float = 0,
    status: int | None,
    error: str | None,
    answer: str | None = None,
) -> bool:
    """Say what became of an attempt; False where its lease was over and another has it."""
    values = {
        "id": one.id,
        "lease": one.lease,
        "state": state,
        "pause_s": pause_s,
        "status": status,
        "error": error,
        "answer": answer,
    }
    return await conn.scalar(RECORD, values) is not None


async def took(conn: AsyncConnection, endpoint_id: UUID) -> None:
    """The endpoint takes what it is sent."""
    await conn.execute(TOOK, {"id": endpoint_id})


async def failed(
    conn: AsyncConnection, endpoint_id: UUID, *, error: str, disable_after_s: float
) -> bool:
    """The endpoint did not take it; whether it has not for so long that it is to be disabled."""
    values = {"id": endpoint_id, "error": error, "disable_after_s": disable_after_s}
    return bool(await conn.scalar(FAILED, values))


async def disable(conn: AsyncConnection, endpoint_id: UUID, *, reason: str) -> bool:
    """Tell the endpoint no more; False where it was disabled, or is gone."""
    return await conn.scalar(DISABLE, {"id": endpoint_id, "reason": reason}) is not None


async def probe(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    endpoint_id: UUID,
    kind: str,
    data: Mapping[str, Any],
) -> UUID:
    """Have something sent once, whatever the endpoint wants."""
    assert kind in PROBES
    values = {"tenant_id": tenant_id, "endpoint_id": endpoint_id, "kind": kind}
    made = await conn.scalar(PROBE, values | {"data": dump(data)})
    assert made is not None
    return made


async def find(
    conn: AsyncConnection, *, tenant_id: str, endpoint_id: UUID, delivery_id: UUID
) -> Delivery | None:
    """One delivery of an endpoint."""
    values = {"tenant_id": tenant_id, "endpoint_id": endpoint_id, "id": delivery_id}
    row = (await conn.execute(FIND, values)).mappings().one_or_none()
    return None if row is None else Delivery(**row)


async def listed(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    endpoint_id: UUID,
    state: str | None,
    before: UUID | None,
    limit: int,
) -> list[Delivery]:
    """An endpoint's deliveries, newest first, older than the one that is named."""
    values = {
        "tenant_id": tenant_id,
        "endpoint_id": endpoint_id,
        "state": state,
        "before": before,
        "limit": limit,
    }
    return [Delivery(**row) for row in (await conn.execute(LIST, values)).mappings()]


async def again(
    conn: AsyncConnection, *, tenant_id: str, endpoint_id: UUID, delivery_id: UUID
) -> bool:
    """Send one again, now; False where there is none, or it was a test."""
    values = {"tenant_id": tenant_id, "endpoint_id": endpoint_id, "id": delivery_id}
    return await conn.scalar(AGAIN, values | {"probes": list(PROBES)}) is not None


async def clean(conn: AsyncConnection, *, kept_s: float, limit: int) -> None:
    """Forget what has ended long ago, and subscriptions that are over."""
    await conn.execute(EXPIRE)
    await conn.execute(GIVE_UP, {"kept_s": kept_s})
    await conn.execute(FORGET, {"kept_s": kept_s, "limit": limit})
