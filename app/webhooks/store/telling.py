"""From the audit trail to deliveries: what happened, for each endpoint that wants to know.

The trail is written by the transaction that it tells of, so whatever happened is in it, and its
order is that of transaction ids below the oldest that is open: nothing can come to lie before a
position that was read. The position moves in the transaction that writes the deliveries.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.sagas.store.occurrences import BEHIND, WHAT
from app.sagas.store.occurrences import IS as MCP_IS
from app.webhooks.kind import Kind

WINDOW: Final = 2_000
"""Transactions that one reading goes through, of all tenants."""
STEP: Final = 100
"""A position moves by so many at least where nothing was found: an idle broker writes nothing."""
WITHIN_MAX: Final = 1_000
"""Events that one redelivery by time, or one replay, takes up."""

LOCK: Final = text("SELECT name FROM turns WHERE name = 'webhooks' FOR UPDATE")
TRY: Final = text("SELECT name FROM turns WHERE name = 'webhooks' FOR UPDATE SKIP LOCKED")
PLACE: Final = text("""
    SELECT CAST(p.xid AS text) AS at,
           CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS closed,
           CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS open,
           (SELECT CAST(min(w.from_xid) AS text) FROM webhook_endpoints w WHERE w.enabled) AS first,
           EXISTS (SELECT FROM webhook_endpoints w
                    WHERE w.enabled AND w.from_xid >= pg_snapshot_xmax(pg_current_snapshot()))
               AS foreign
      FROM webhook_position p
     WHERE p.name = 'deliveries'
""")
MOVE: Final = text("""
    UPDATE webhook_position SET xid = CAST(CAST(:xid AS text) AS xid8) WHERE name = 'deliveries'
""")

# What an event is, to webhooks: one can be of two kinds.
IS: Final = MCP_IS | {
    "dead_letter": "(e.state_to = 'dead_lettered' AND e.state_from IS DISTINCT FROM e.state_to)",
    "approval.escalated": "e.type = 'approval.escalated'",
}
KINDS: Final = f"""
    unnest(array_remove(ARRAY[
        {", ".join(f"CASE WHEN {IS[kind]} THEN '{kind}' END" for kind in Kind)}
    ], NULL)) AS k (kind)
"""
INSERT: Final = f"""
    INSERT INTO webhook_deliveries
           (tenant_id, endpoint_id, kind, event_id, xid, occurred_at, data)
    SELECT e.tenant_id, w.id, k.kind, e.event_id, e.xid, e.occurred_at,
           jsonb_strip_nulls(jsonb_build_object(
               'command_id', e.command_id, 'saga_id', e.saga_id,
               'tool', e.tool, 'method', e.method,
               'state', CASE WHEN e.type LIKE 'saga.%' THEN substr(e.type, 6)
                             ELSE e.state_to END,
               'outcome_unknown', c.outcome_unknown, 'labels', c.labels))
      FROM audit.events e
      JOIN webhook_endpoints w ON w.tenant_id = e.tenant_id
      LEFT JOIN commands c ON c.id = e.command_id
     CROSS JOIN LATERAL {KINDS}
     WHERE k.kind = ANY (w.kinds)
       AND (w.user_id IS NULL OR w.user_id = e.user_id)
       AND (w.tool IS NULL OR (w.tool = e.tool AND (w.method IS NULL OR w.method = e.method)))
"""
TELL: Final = text(f"""
    {INSERT}
       AND e.xid >= CAST(CAST(:since AS text) AS xid8)
       AND e.xid < CAST(CAST(:until AS text) AS xid8)
       AND w.enabled AND (w.expires_at IS NULL OR w.expires_at > now())
       AND (e.xid >= w.from_xid OR w.from_xid >= CAST(CAST(:open AS text) AS xid8))
        ON CONFLICT (endpoint_id, event_id, kind) DO NOTHING
""")
WITHIN: Final = text(f"""
    {INSERT}
       AND w.tenant_id = :tenant_id AND w.id = :id
       AND e.tenant_id = :tenant_id AND e.occurred_at >= :since AND e.occurred_at < :until
     ORDER BY e.occurred_at, e.event_id
     LIMIT :limit
        ON CONFLICT (endpoint_id, event_id, kind) DO UPDATE
       SET state = 'waiting', attempts = 0, due_at = now(), lease = NULL, ended_at = NULL
     WHERE webhook_deliveries.state <> 'waiting'
""")
REPLAY: Final = text(f"""
    {INSERT}
       AND w.tenant_id = :tenant_id AND w.id = :id
       AND e.tenant_id = :tenant_id
       AND {BEHIND}
     ORDER BY e.xid DESC, e.occurred_at DESC, e.event_id DESC
     LIMIT :limit
        ON CONFLICT (endpoint_id, event_id, kind) DO NOTHING
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """How far the trail was read, and how far it can be."""

    at: int
    closed: int
    """Every transaction below has ended."""
    open: int
    """The first that nobody has had."""
    first: int | None
    """From which on some endpoint wants to be told; None where there is none."""


async def try_turn(conn: AsyncConnection) -> bool:
    """Be the one who moves the position until the transaction ends; False: another one is."""
    return await conn.scalar(TRY) is not None


async def take_turn(conn: AsyncConnection) -> None:
    """Keep the position where it is until the transaction ends."""
    assert await conn.scalar(LOCK) is not None, "the migration made it"


async def place(conn: AsyncConnection) -> Place:
    """How far it is now."""
    row = (await conn.execute(PLACE)).one()
    first = None if row.first is None else int(row.first)
    if row.foreign:  # begun in another database, whose numbers were higher: from the first on
        first = 0
    return Place(at=int(row.at), closed=int(row.closed), open=int(row.open), first=first)


async def tell(conn: AsyncConnection, *, since: int, until: int, unused: int) -> int:
    """Write the deliveries of a range of ended transactions; how many.

    An endpoint that is told from `unused` on is of another database: it is told all of them.
    """
    if until <= since:
        return 0
    values = WHAT | {"since": str(since), "until": str(until), "open": str(unused)}
    return (await conn.execute(TELL, values)).rowcount


async def move(conn: AsyncConnection, *, xid: int) -> None:
    """All before this was told."""
    await conn.execute(MOVE, {"xid": str(xid)})


async def tell_within(
    conn: AsyncConnection, *, tenant_id: str, endpoint_id: UUID, since: datetime, until: datetime
) -> int:
    """Tell an endpoint of a time, again or for the first time; how many, of very many the first."""
    values = {"tenant_id": tenant_id, "id": endpoint_id, "since": since, "until": until}
    return (await conn.execute(WITHIN, WHAT | values | {"limit": WITHIN_MAX})).rowcount


async def replay(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    endpoint_id: UUID,
    xid: int,
    at: datetime,
    event_id: UUID,
    until: int,
    since: datetime,
) -> int:
    """Tell a subscription what lies after a position; how many, of very many the newest."""
    values = {
        "tenant_id": tenant_id,
        "id": endpoint_id,
        "xid": str(xid),
        "at": at,
        "event_id": event_id,
        "until": str(until),
        "since": since,
        "limit": WITHIN_MAX,
    }
    return (await conn.execute(REPLAY, WHAT | values)).rowcount
