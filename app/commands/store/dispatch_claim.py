"""What goes next: the commands and events that a relay may publish, claimed for a while.

The claim of commands runs under one advisory lock, so windows, rates and shares are exact however
many relays run; it takes milliseconds a batch, and publishing happens outside it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson

# A plan of the claim costs several times what the claim of some rows does, so one is kept. It may be
# made while the outbox is empty, for which reading it whole is as good as any index: hence no scans.
LOCK: Final = """
    SET LOCAL plan_cache_mode = force_generic_plan;
    SET LOCAL enable_seqscan = off;
    SELECT pg_advisory_xact_lock(hashtextextended('mcpbroker.dispatch', 0))
"""

# What an envelope says (app.envelope), and the order that holds the command's key.
ENVELOPE: Final = """
    c.id, c.idempotency_key, c.tenant_id, c.user_id, c.tool, c.method, c.args, c.ordering_key,
    c.ordering, c.priority, c.accept_partials, c.accept_async, c.saga_id, c.saga_step,
    c.compensation, c.attempt, c.deadline_at, c.created_at, c.traceparent
"""

SPARED: Final = 8
"""One place in so many of a tool's window is spared; a window of fewer spares none."""

# 1. Undo work, by an index of its own: exempt from windows, rates and shares.
# 2. The lanes that have ready rows, by a loose index scan: its cost is their number, not the
#    rows' (50,000 waiting calls of one tenant are four probes), about 20 us each. With $6 those of
#    the highest priority alone. Those whose tenant or tool has no room are left out, so that they
#    take nobody's place.
# 3. The oldest rows of each lane, about twice the batch in all, with the tier that waiting has
#    earned them. Written as a range that only the lane's index has in order: with `=` and ORDER BY
#    id the planner takes the primary key, and a lane of one row walks past every waiting row of all
#    the others.
# 4. The order is tier, share (in flight and turn, by weight), age. It is known up to where an
#    unseen row of a lane could come (`cut`), and nothing after that is taken: the claim is a part
#    of the right order from its start, if not always a whole batch of it.
# 5. The last places of a tool's window are for tenants that have nothing of it in flight: whoever
#    fills the window does not make another's first call wait for an end.
LEASE: Final = f"""
    WITH RECURSIVE undo AS (
        SELECT o.id
          FROM outbox o
          JOIN tenants t ON t.tenant_id = o.tenant_id AND t.state = 'active'
         WHERE o.status = 'ready' AND o.kind = 'command' AND o.exempt
         ORDER BY o.priority DESC, o.id
         LIMIT $3
    ), lane AS (
        (SELECT priority, tenant_id, tool, method
           FROM outbox
          WHERE status = 'ready' AND kind = 'command' AND NOT exempt
            AND priority >= CASE WHEN $6 THEN (
                SELECT priority
                  FROM outbox
                 WHERE status = 'ready' AND kind = 'command' AND NOT exempt
                 ORDER BY priority DESC
                 LIMIT 1
                ) ELSE 0 END
          ORDER BY priority, tenant_id, tool, method
          LIMIT 1)
        UNION ALL
        SELECT following.*
          FROM lane
         CROSS JOIN LATERAL (
            SELECT o.priority, o.tenant_id, o.tool, o.method
              FROM outbox o
             WHERE o.status = 'ready' AND o.kind = 'command' AND NOT o.exempt
               AND (o.priority, o.tenant_id, o.tool, o.method)
                   > (lane.priority, lane.tenant_id, lane.tool, lane.method)
             ORDER BY o.priority, o.tenant_id, o.tool, o.method
             LIMIT 1
         ) following
    ), busy AS MATERIALIZED (
        SELECT tenant_id, tool, method, count(*) AS n
          FROM (SELECT tenant_id, tool, method
                  FROM commands
                 WHERE state IN ('dispatched', 'running')
                   AND saga_role IS DISTINCT FROM 'saga'
                 UNION ALL
                SELECT tenant_id, tool, method
                  FROM outbox
                 WHERE status = 'claimed' AND payload IS NULL) AS in_flight
         GROUP BY tenant_id, tool, method
    ), tenant AS MATERIALIZED (
        SELECT t.tenant_id, t.weight, t.rate_per_s, coalesce(b.n, 0) AS n, spendable.tokens,
               least(t.in_flight_max - coalesce(b.n, 0),
                     coalesce(floor(spendable.tokens), 2147483647))::int AS room
          FROM tenants t
          LEFT JOIN (SELECT tenant_id, sum(n)::int AS n FROM busy GROUP BY tenant_id) b
            USING (tenant_id)
          LEFT JOIN tenant_budgets budget USING (tenant_id)
         CROSS JOIN LATERAL (
            SELECT CASE WHEN t.rate_per_s IS NOT NULL THEN
                least(t.rate_burst, coalesce(budget.tokens + t.rate_per_s * greatest(0,
                    extract(epoch FROM statement_timestamp() - budget.refilled_at)), t.rate_burst))
            END AS tokens
         ) spendable
         WHERE t.state = 'active' AND t.tenant_id IN (SELECT tenant_id FROM lane)
    ), tool AS MATERIALIZED (
        SELECT tool, method, coalesce(t.in_flight_max, $1) - coalesce(b.n, 0) AS room,
               coalesce(t.in_flight_max, $1) / {SPARED} AS spare
          FROM (SELECT DISTINCT tool, method FROM lane) AS l
          LEFT JOIN tools t USING (tool, method)
          LEFT JOIN (SELECT tool, method, sum(n)::int AS n FROM busy GROUP BY tool, method) b
            USING (tool, method)
    ), going AS (
        SELECT lane.*, tenant.weight, tenant.n, tenant.room, tool.room AS tool_room, tool.spare,
               least($3, tenant.room, tool.room, ceil(2.0 * $3 * tenant.weight
                   / sum(tenant.weight) OVER (ORDER BY lane.priority DESC)))::bigint AS look
          FROM (SELECT *, (tenant_id, tool, method) NOT IN
                              (SELECT tenant_id, tool, method FROM busy) AS idle
                  FROM lane) AS lane
          JOIN tenant USING (tenant_id)
          JOIN tool USING (tool, method)
         WHERE tenant.room > 0 AND tool.room > CASE WHEN lane.idle THEN 0 ELSE tool.spare END
    ), candidate AS (
        SELECT o.id, going.tenant_id, going.tool, going.method, going.weight, going.n, going.room,
               going.tool_room, going.spare, going.idle,
               row_number() OVER (PARTITION BY going.tenant_id, going.tool, going.method,
                                               going.priority ORDER BY o.id) AS nth,
               going.look,
               least(3, going.priority + floor(extract(
                   epoch FROM statement_timestamp() - o.created_at) / $2::float8)) AS tier
          FROM going
         CROSS JOIN LATERAL (
            SELECT id, created_at FROM outbox
             WHERE status = 'ready' AND kind = 'command' AND NOT exempt
               AND (priority, tenant_id, tool, method)
                   >= (going.priority, going.tenant_id, going.tool, going.method)
               AND (priority, tenant_id, tool, method)
                   <= (going.priority, going.tenant_id, going.tool, going.method)
             ORDER BY priority, tenant_id, tool, method, id
             LIMIT going.look
         ) o
    ), ranked AS (
        SELECT c.*, row_number() OVER (PARTITION BY tenant_id ORDER BY tier DESC, id) AS turn
          FROM candidate c
    ), shared AS (
        SELECT r.*, (n + turn) / weight::float8 AS share,
               idle AND row_number() OVER (
                   PARTITION BY tenant_id, tool, method ORDER BY tier DESC, id) = 1 AS first
          FROM ranked r
         WHERE turn <= room
    ), cut AS (
        SELECT tier, (n + turn + 1) / weight::float8 AS share
          FROM shared
         WHERE nth = look AND nth < tool_room AND turn < room
         ORDER BY tier DESC, (n + turn + 1) / weight::float8
         LIMIT 1
    ), placed AS (
        SELECT s.*,
               row_number() OVER (
                   PARTITION BY tool, method ORDER BY s.tier DESC, s.share, s.id) AS place,
               row_number() OVER (
                   PARTITION BY tool, method, first ORDER BY s.tier DESC, s.share, s.id) AS place_as
          FROM shared s
          LEFT JOIN cut ON true
         WHERE (s.tier > cut.tier OR (s.tier = cut.tier AND s.share < cut.share)) IS NOT FALSE
    ), usual AS (
        SELECT id, tenant_id
          FROM placed
         WHERE place <= tool_room - spare
            OR first AND (place <= tool_room OR place_as <= least(spare, tool_room))
         ORDER BY tier DESC, share, id
         LIMIT greatest(0, $3 - (SELECT count(*) FROM undo))
    ), spent AS (
        INSERT INTO tenant_budgets AS b (tenant_id, tokens, refilled_at)
        SELECT tenant.tenant_id, tenant.tokens - count(usual.id), statement_timestamp()
          FROM tenant
          LEFT JOIN usual USING (tenant_id)
         WHERE tenant.rate_per_s IS NOT NULL
         GROUP BY tenant.tenant_id, tenant.tokens
            ON CONFLICT (tenant_id)
            DO UPDATE SET tokens = excluded.tokens, refilled_at = excluded.refilled_at
    )
    UPDATE outbox o
       SET status = 'claimed', claimed_by = $4,
           claimed_until = now() + make_interval(secs => $5::float8)
      FROM (SELECT id FROM undo UNION ALL SELECT id FROM usual) AS chosen
      JOIN commands c ON true
      LEFT JOIN tools t ON t.tool = c.tool AND t.method = c.method
     WHERE o.id = chosen.id AND o.status = 'ready' AND c.id = o.command_id
    RETURNING o.id AS outbox_id, o.event_id, o.kind, o.topic, o.key,
              greatest(o.created_at, o.available_at) AS ready_at,
              coalesce(t.policy ->> 'args', 'inline') = 'by_reference' AS by_reference,
              {ENVELOPE}
"""

LEASE_EVENTS: Final = """
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
              o.attempt, o.payload, o.created_at AS ready_at
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeasedRow:
    """An outbox row that this relay may publish until its lease ends."""

    outbox_id: int
    event_id: UUID
    kind: str
    topic: str
    key: str
    tenant_id: str
    command_id: UUID | None
    attempt: int | None
    ready_at: datetime  # since when it waits for its turn, its window or its key
    ordering_key: str | None = None
    ordering: str | None = None
    traceparent: str | None = None
    by_reference: bool = False
    command: Mapping[str, Any] | None = None  # a command's row, for its envelope
    payload: str | None = None  # JSON text, for every other kind


OF_BOTH: Final = (
    "outbox_id",
    "event_id",
    "kind",
    "topic",
    "key",
    "tenant_id",
    "attempt",
    "ready_at",
)
"""What the claims of commands and of events read alike."""


async def lease_commands(
    pool: asyncpg.Pool,
    *,
    relay: str,
    batch_max: int,
    window: int,
    aging_s: float,
    lease_s: float,
    top_only: bool = False,
) -> list[LeasedRow]:
    """Claim commands that go next, at most `batch_max`; none only where none may go now.

    `window` is the most in flight of a tool that sets none. `top_only` takes those of the highest
    priority that waits, where any of them may go, and does not ask what others have earned by
    waiting: urgent calls then wait for no look at each lane. Whoever claims so must claim without
    it as often. In the order of their outbox rows, so that a key's commands, where several may go,
    stay in order.
    """
    async with pool.acquire() as conn, conn.transaction():
        await conn.execute(LOCK)
        asked = (window, aging_s, batch_max, relay, lease_s)
        rows = await conn.fetch(LEASE, *asked, top_only)
        if top_only and not rows:
            rows = await conn.fetch(LEASE, *asked, False)
    claimed = [_command(row) for row in rows]
    return sorted(claimed, key=lambda one: one.outbox_id)


async def lease_events(
    pool: asyncpg.Pool, *, relay: str, batch_max: int, lease_s: float
) -> list[LeasedRow]:
    """Claim what is said of commands and seals: oldest first, never throttled."""
    rows = await pool.fetch(LEASE_EVENTS, batch_max, relay, lease_s)
    return sorted((_event(row) for row in rows), key=lambda one: one.outbox_id)


def _command(row: asyncpg.Record) -> LeasedRow:
    command = dict(row)
    # As they stand: they go into the envelope, and nobody here reads them.
    for name in ("args", "compensation"):
        if command[name] is not None:
            command[name] = orjson.Fragment(command[name])
    return _claimed(
        row,
        command_id=row["id"],
        ordering_key=row["ordering_key"],
        ordering=row["ordering"],
        traceparent=row["traceparent"],
        by_reference=row["by_reference"],
        command=command,
    )


def _event(row: asyncpg.Record) -> LeasedRow:
    return _claimed(row, command_id=row["command_id"], payload=row["payload"])


def _claimed(row: asyncpg.Record, **more: Any) -> LeasedRow:
    return LeasedRow(**{name: row[name] for name in OF_BOTH}, **more)
