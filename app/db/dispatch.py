"""The outbox as the relay sees it: what may go next, claimed for a while; what Kafka has, deleted.

The claim of commands runs under one advisory lock, so windows, rates and shares are exact however
many relays run; it takes milliseconds a batch, and publishing happens outside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

from app.db.commands import COLUMNS
from app.db.heads import RELEASE_SQL

LOCK: Final = "SELECT pg_advisory_xact_lock(hashtextextended('mcpbroker.dispatch', 0))"

# 1. The lanes that have ready rows, by a loose index scan: its cost is their number, not the
#    rows' (50,000 waiting calls of one tenant are four probes).
# 2. The oldest rows of each lane, with the tier that waiting has earned them. Written as a range
#    that only the lane's index has in order: with `=` and ORDER BY id the planner takes the primary
#    key, and a lane of one row walks past every waiting row of all the others.
# 3. What the tool's window leaves, then what the tenant's window and budget leave, in the order
#    tier, share (in flight and position, by weight), age. Undo work is exempt from all three.
CLAIM: Final = f"""
    WITH RECURSIVE lane AS (
        (SELECT tenant_id, tool, method, priority
           FROM outbox
          WHERE status = 'ready' AND kind = 'command'
          ORDER BY tenant_id, tool, method, priority
          LIMIT 1)
        UNION ALL
        SELECT following.*
          FROM lane
         CROSS JOIN LATERAL (
            SELECT o.tenant_id, o.tool, o.method, o.priority
              FROM outbox o
             WHERE o.status = 'ready' AND o.kind = 'command'
               AND (o.tenant_id, o.tool, o.method, o.priority)
                   > (lane.tenant_id, lane.tool, lane.method, lane.priority)
             ORDER BY o.tenant_id, o.tool, o.method, o.priority
             LIMIT 1
         ) following
    ), busy AS (
        SELECT tenant_id, tool, method, count(*) AS n
          FROM (SELECT tenant_id, tool, method
                  FROM commands
                 WHERE state IN ('dispatched', 'running')
                   AND saga_role IS DISTINCT FROM 'saga'
                 UNION ALL
                SELECT tenant_id, tool, method
                  FROM outbox
                 WHERE status = 'claimed' AND kind = 'command') AS in_flight
         GROUP BY tenant_id, tool, method
    ), tenant AS (
        SELECT t.tenant_id, t.weight, t.in_flight_max, t.rate_per_s,
               coalesce((SELECT sum(n) FROM busy WHERE busy.tenant_id = t.tenant_id), 0) AS n,
               CASE WHEN t.rate_per_s IS NOT NULL THEN
                   least(t.rate_burst, coalesce(b.tokens + t.rate_per_s * greatest(0,
                       extract(epoch FROM statement_timestamp() - b.refilled_at)), t.rate_burst))
               END AS tokens
          FROM tenants t
          LEFT JOIN tenant_budgets b USING (tenant_id)
         WHERE t.state = 'active' AND t.tenant_id IN (SELECT tenant_id FROM lane)
    ), tool AS (
        SELECT l.tool, l.method, coalesce(max(t.in_flight_max), $1) AS in_flight_max,
               coalesce((SELECT sum(n) FROM busy
                          WHERE busy.tool = l.tool AND busy.method = l.method), 0) AS n
          FROM (SELECT DISTINCT tool, method FROM lane) AS l
          LEFT JOIN tools t USING (tool, method)
         GROUP BY l.tool, l.method
    ), candidate AS (
        SELECT o.id, o.tenant_id, o.tool, o.method, o.exempt, tenant.weight, tenant.n,
               least(3, o.priority + floor(extract(
                   epoch FROM statement_timestamp() - o.created_at) / $2::float8)) AS tier
          FROM lane
          JOIN tenant USING (tenant_id)
         CROSS JOIN LATERAL (
            SELECT * FROM outbox
             WHERE status = 'ready' AND kind = 'command'
               AND (tenant_id, tool, method, priority)
                   >= (lane.tenant_id, lane.tool, lane.method, lane.priority)
               AND (tenant_id, tool, method, priority)
                   <= (lane.tenant_id, lane.tool, lane.method, lane.priority)
             ORDER BY tenant_id, tool, method, priority, id
             LIMIT $3
         ) o
    ), shared AS (
        SELECT c.*, (c.n + row_number() OVER (
                   PARTITION BY c.tenant_id ORDER BY c.exempt DESC, c.tier DESC, c.id))
                   / c.weight::float8 AS share
          FROM candidate c
    ), in_tool AS (
        SELECT s.*, row_number() OVER (
                   PARTITION BY s.tool, s.method, s.exempt ORDER BY s.tier DESC, s.share, s.id)
                   AS place
          FROM shared s
    ), in_tenant AS (
        SELECT i.*, row_number() OVER (
                   PARTITION BY i.tenant_id, i.exempt ORDER BY i.tier DESC, i.share, i.id)
                   AS turn
          FROM in_tool i
          JOIN tool USING (tool, method)
         WHERE i.exempt OR i.place <= tool.in_flight_max - tool.n
    ), chosen AS (
        SELECT i.id, i.tenant_id, i.exempt
          FROM in_tenant i
          JOIN tenant USING (tenant_id)
         WHERE i.exempt
            OR i.turn <= least(tenant.in_flight_max - tenant.n,
                               coalesce(floor(tenant.tokens), 2147483647))
         ORDER BY i.exempt DESC, i.tier DESC, i.share, i.id
         LIMIT $3
    ), spent AS (
        INSERT INTO tenant_budgets AS b (tenant_id, tokens, refilled_at)
        SELECT tenant.tenant_id, tenant.tokens - count(chosen.id) FILTER (WHERE NOT chosen.exempt),
               statement_timestamp()
          FROM tenant
          LEFT JOIN chosen USING (tenant_id)
         WHERE tenant.rate_per_s IS NOT NULL
         GROUP BY tenant.tenant_id, tenant.tokens
            ON CONFLICT (tenant_id)
            DO UPDATE SET tokens = excluded.tokens, refilled_at = excluded.refilled_at
    )
    UPDATE outbox o
       SET status = 'claimed', claimed_by = $4,
           claimed_until = now() + make_interval(secs => $5::float8)
      FROM chosen
      JOIN commands c ON true
      LEFT JOIN tools t ON t.tool = c.tool AND t.method = c.method
     WHERE o.id = chosen.id AND o.status = 'ready' AND c.id = o.command_id
    RETURNING o.id AS outbox_id, o.event_id, o.kind, o.topic, o.key,
              coalesce(t.policy ->> 'args', 'inline') = 'by_reference' AS by_reference,
              {COLUMNS}
"""

CLAIM_EVENTS: Final = """
    WITH chosen AS (
        SELECT id
          FROM outbox
         WHERE status = 'ready' AND kind <> 'command'
         ORDER BY id
         LIMIT $1
           FOR UPDATE SKIP LOCKED
    )
    UPDATE outbox o
       SET status = 'claimed', claimed_by = $2,
           claimed_until = now() + make_interval(secs => $3::float8)
      FROM chosen
     WHERE o.id = chosen.id
    RETURNING o.id AS outbox_id, o.event_id, o.kind, o.topic, o.key, o.tenant_id, o.command_id,
              o.attempt, o.payload
"""

LOCK_DELIVERY: Final = """
    SELECT h.tenant_id, h.ordering_key
      FROM ordering_heads h
      JOIN unnest($1::text[], $2::text[]) AS k (tenant_id, ordering_key)
     USING (tenant_id, ordering_key)
     ORDER BY h.tenant_id, h.ordering_key
       FOR UPDATE OF h
"""

# The adapter may have claimed the attempt already: then only the publication is recorded.
PUBLISHED: Final = """
    WITH acked AS (
        SELECT *
          FROM unnest($1::bigint[], $2::int[], $3::bigint[]) AS a (id, kafka_partition, kafka_offset)
    ), gone AS (
        DELETE FROM outbox o
         USING acked a
         WHERE o.id = a.id AND o.status = 'claimed' AND o.claimed_by = $4
        RETURNING o.kind, o.command_id, o.attempt, o.topic, a.kafka_partition, a.kafka_offset
    ), moved AS (
        UPDATE commands c
           SET state = 'dispatched', dispatched_at = now(), deliveries = c.deliveries + 1,
               -- Doubled each time: while EDA is away its topic must not fill with copies.
               lease_until = now() + make_interval(
                   secs => $5::float8 * 2 ^ least(c.deliveries, 10))
          FROM gone g
         WHERE g.kind = 'command' AND c.id = g.command_id AND c.attempt = g.attempt
           AND c.state = 'queued'
        RETURNING c.id
    ), audited AS (
        INSERT INTO audit.events (tenant_id, type, actor, user_id, command_id, saga_id, tool,
                                  method, attempt, state_from, state_to, fingerprint, body)
        SELECT c.tenant_id, 'command.dispatched', 'relay:' || $4, c.user_id, c.id, c.saga_id,
               c.tool, c.method, g.attempt, 'queued',
               CASE WHEN m.id IS NOT NULL THEN 'dispatched' END, c.fingerprint,
               json_build_object('topic', g.topic, 'partition', g.kafka_partition,
                                 'offset', g.kafka_offset)
          FROM gone g
          JOIN commands c ON c.id = g.command_id
          LEFT JOIN moved m ON m.id = c.id
         WHERE g.kind = 'command'
    )
    SELECT id FROM moved
"""

# By their names, which are indexed: nothing else finds a head by its active command.
FREE_DELIVERED: Final = """
    UPDATE ordering_heads h
       SET active_id = NULL, moved_at = now()
      FROM unnest($1::text[], $2::text[]) AS k (tenant_id, ordering_key)
     WHERE h.tenant_id = k.tenant_id AND h.ordering_key = k.ordering_key
       AND h.active_id = ANY ($3::uuid[])
"""

RELEASE: Final = RELEASE_SQL.format(tenants="$1", keys="$2")

# As after a relay's death: what has moved on while the relay tried needs no publishing. The commands
# are locked: a transaction that ends one, or its attempt, and that left the row to its relay must be
# over, or not begun, before the row may be ready again. No head is taken after them.
FREE: Final = """
    current AS (
        SELECT c.id, c.state, c.attempt
          FROM commands c
         WHERE c.id IN (SELECT command_id FROM given WHERE kind = 'command')
         ORDER BY c.id
           FOR NO KEY UPDATE {locked}
    ), over AS (
        DELETE FROM outbox o
         USING given g
          JOIN current c ON c.id = g.command_id
         WHERE o.id = g.id AND g.kind = 'command'
           AND (c.state <> 'queued' OR c.attempt <> g.attempt)
        RETURNING o.id
    )
    UPDATE outbox o
       SET status = 'ready', claimed_by = NULL, claimed_until = NULL
      FROM given g
     WHERE o.id = g.id AND g.id NOT IN (SELECT id FROM over)
       AND (g.kind <> 'command' OR g.command_id IN (SELECT id FROM current))
"""

UNCLAIM: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT id, command_id, attempt, kind
          FROM outbox
         WHERE id = ANY ($1::bigint[]) AND status = 'claimed' AND claimed_by = $2
         ORDER BY id
           FOR UPDATE
    ), {FREE.format(locked="")}
"""

DUE: Final = """
    UPDATE outbox
       SET status = 'ready'
     WHERE id IN (SELECT id FROM outbox
                   WHERE status = 'delayed' AND available_at <= now()
                   ORDER BY available_at
                   LIMIT $1
                     FOR UPDATE SKIP LOCKED)
"""

# A relay died between its claim and its acknowledgement. The timers wait for nobody: a row whose
# command is locked has its turn at the next tick.
RECLAIM: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT id, command_id, attempt, kind
          FROM outbox
         WHERE status = 'claimed' AND claimed_until < now()
         ORDER BY claimed_until
         LIMIT $1
           FOR UPDATE SKIP LOCKED
    ), {FREE.format(locked="SKIP LOCKED")}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """An outbox row that this relay may publish until its lease ends."""

    outbox_id: int
    event_id: UUID
    kind: str
    topic: str
    key: str
    tenant_id: str
    command_id: UUID | None
    ordering_key: str | None
    ordering: str | None
    attempt: int | None
    traceparent: str | None
    by_reference: bool
    command: Mapping[str, Any] | None  # a command's row, for its envelope
    payload: str | None  # JSON text, for every other kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """Where Kafka put a claimed row."""

    claimed: Claimed
    partition: int
    offset: int


JSON_COLUMNS: Final = ("args", "compensation")


async def claim_commands(
    pool: asyncpg.Pool, *, relay: str, batch_max: int, window: int, aging_s: float, lease_s: float
) -> list[Claimed]:
    """Claim the commands that go next, best first."""
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute(LOCK)
        rows = await conn.fetch(CLAIM, window, aging_s, batch_max, relay, lease_s)
    claimed = [_command(row) for row in rows]
    return sorted(claimed, key=lambda one: one.outbox_id)


async def claim_events(
    pool: asyncpg.Pool, *, relay: str, batch_max: int, lease_s: float
) -> list[Claimed]:
    """Claim what is said of commands and seals: oldest first, never throttled."""
    rows = await pool.fetch(CLAIM_EVENTS, batch_max, relay, lease_s)
    return sorted((_event(row) for row in rows), key=lambda one: one.outbox_id)


def _command(row: asyncpg.Record) -> Claimed:
    command = dict(row)
    for name in JSON_COLUMNS:
        if command[name] is not None:
            command[name] = orjson.loads(command[name])
    return Claimed(
        outbox_id=row["outbox_id"],
        event_id=row["event_id"],
        kind=row["kind"],
        topic=row["topic"],
        key=row["key"],
        tenant_id=row["tenant_id"],
        command_id=row["id"],
        ordering_key=row["ordering_key"],
        ordering=row["ordering"],
        attempt=row["attempt"],
        traceparent=row["traceparent"],
        by_reference=row["by_reference"],
        command=command,
        payload=None,
    )


def _event(row: asyncpg.Record) -> Claimed:
    return Claimed(
        outbox_id=row["outbox_id"],
        event_id=row["event_id"],
        kind=row["kind"],
        topic=row["topic"],
        key=row["key"],
        tenant_id=row["tenant_id"],
        command_id=row["command_id"],
        ordering_key=None,
        ordering=None,
        attempt=row["attempt"],
        traceparent=None,
        by_reference=False,
        command=None,
        payload=row["payload"],
    )


async def published(
    pool: asyncpg.Pool, acked: Sequence[Acked], *, relay: str, claim_wait_s: float
) -> list[UUID]:
    """Delete what Kafka acknowledged and move its commands on; returns those dispatched.

    Commands ordered by delivery let the next of their key go here.
    """
    delivered = [one.claimed for one in acked if one.claimed.ordering == "delivery"]
    keys = sorted({(one.tenant_id, one.ordering_key or "") for one in delivered})
    tenants, names = [key[0] for key in keys], [key[1] for key in keys]
    async with pool.acquire() as conn, conn.transaction():
        if keys:
            await conn.fetch(LOCK_DELIVERY, tenants, names)
        rows = await conn.fetch(
            PUBLISHED,
            [one.claimed.outbox_id for one in acked],
            [one.partition for one in acked],
            [one.offset for one in acked],
            relay,
            claim_wait_s,
        )
        if keys:
            ids = [one.command_id for one in delivered]
            await conn.execute(FREE_DELIVERED, tenants, names, ids)
            await conn.fetch(RELEASE, tenants, names)
    return [row["id"] for row in rows]


async def unclaim(pool: asyncpg.Pool, claimed: Sequence[Claimed], *, relay: str) -> None:
    """Give back what could not be published, for any relay to take at once."""
    await pool.execute(UNCLAIM, [one.outbox_id for one in claimed], relay)


async def wake_due(pool: asyncpg.Pool, *, limit: int) -> int:
    """Make delayed rows ready whose time has come; returns how many."""
    return _count(await pool.execute(DUE, limit))


async def reclaim(pool: asyncpg.Pool, *, limit: int) -> int:
    """Free the rows of relays that died; returns how many are ready again."""
    return _count(await pool.execute(RECLAIM, limit))


def _count(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
