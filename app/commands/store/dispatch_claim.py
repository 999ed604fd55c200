"""What goes next: the commands and events that a relay may publish, leased for a while.

The lease of commands runs under the lock of one row, so windows, rates and shares are exact however
many relays run; it takes milliseconds a batch, and publishing happens outside it. No advisory lock:
any login of the database could hold one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from app.postgres import statements
from app.postgres.statements import begun

# A plan of the lease costs several times what the lease of some rows does, so one is kept. It may
# be made while the outbox is empty, for which reading it whole is as good as any index: hence no
# scans.
# A lease that a crash of the server undoes is a row that is leased again, as after a relay's death,
# so its commit does not wait for the disk: what is recorded later is on the disk after it.
LOCK: Final = """
    SET LOCAL synchronous_commit = off;
    SET LOCAL plan_cache_mode = force_generic_plan;
    SET LOCAL enable_seqscan = off;
    SELECT FROM turns WHERE name = 'dispatch' FOR UPDATE
"""

# With the lock, in its round trip: most wakeups find what another one has taken. Each is asked for
# in its index's order: with none, statistics of a time when all was ready have another one walked.
READY: Final = """
    (SELECT 1 FROM outbox WHERE status = 'ready' AND kind = 'command' AND NOT exempt
      ORDER BY priority, tenant_id, tool, method, id LIMIT 1)
     UNION ALL
    (SELECT 1 FROM outbox WHERE status = 'ready' AND kind = 'command' AND exempt
      ORDER BY priority DESC, id LIMIT 1)
     LIMIT 1
"""
NONE: Final = "SELECT 0"

SPARED: Final = 8
"""One place in so many of a tool's window is spared; a window of fewer spares none."""

LEASE: Final = statements.beside(__file__, "dispatch_claim.sql")
"""The order in which commands go, and what may go at all; its comments say how."""

# By the claim, in its own transaction: the rows are its own, and nobody else's locks are asked for.
# What their tenants paid for them is theirs again.
KEPT_BACK: Final = """
    WITH back AS (
        UPDATE outbox o
           SET status = 'on_hold', hold_id = kept.hold_id, claimed_by = NULL, claimed_until = NULL
          FROM unnest($1::bigint[], $2::uuid[]) AS kept (id, hold_id)
         WHERE o.id = kept.id
        RETURNING o.tenant_id, o.exempt
    )
    UPDATE tenant_budgets b
       SET tokens = b.tokens + paid.n
      FROM (SELECT tenant_id, count(*) AS n FROM back WHERE NOT exempt GROUP BY tenant_id) AS paid
      JOIN tenants t ON t.tenant_id = paid.tenant_id AND t.rate_per_s IS NOT NULL
     WHERE b.tenant_id = paid.tenant_id
"""

LEASE_EVENTS: Final = """
    WITH chosen AS (
        SELECT id
          FROM outbox
         WHERE status = 'ready' AND kind <> 'command'
           AND (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL  -- as above
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


PASSES_MAX: Final = 50
"""Of a claim that comes upon what is held; what it has not passed by then is the next one's."""

Conn = asyncpg.Connection | PoolConnectionProxy


class Asked(NamedTuple):
    """The first parameters of LEASE, in order."""

    window: int
    aging_s: float
    batch_max: int
    relay: str
    lease_s: float


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
    ready_at: datetime  # since when it waits for its place, its window or its key
    ordering_key: str | None = None
    ordering: str | None = None
    traceparent: str | None = None
    deliveries: int = 0  # of this attempt, before this one
    by_reference: bool = False
    target: str | None = None  # where the tool's adapter works, by name
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
"""What the leases of commands and of events read alike."""


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
    """Lease commands that go next, at most `batch_max`; none only where none may go now.

    `window` is the most in flight of a tool that sets none. `top_only` takes those of the highest
    priority that waits, where any of them may go, and does not ask what others have earned by
    waiting: urgent calls then wait for no look at each lane. Whoever leases so must lease without
    it as often. In the order of their outbox rows, so that a key's commands, where several may go,
    stay in order.
    """
    async with pool.acquire() as conn, begun(conn, f"{LOCK}; {READY}") as found:
        if found == NONE:
            return []
        asked = Asked(window, aging_s, batch_max, relay, lease_s)
        rows = await _take(conn, asked, top_only=top_only)
        if top_only and not rows:
            rows = await _take(conn, asked, top_only=False)
    leased = [_command(row) for row in rows]
    return sorted(leased, key=lambda one: one.outbox_id)


async def _take(conn: Conn, asked: Asked, *, top_only: bool) -> list[asyncpg.Record]:
    """Lease what may go, and keep back what an operator holds of it: others have its place.

    A hold's rows are kept back when it is placed, so few come here, each once; with none that
    waits for a hold this is one statement.
    """
    taken: list[asyncpg.Record] = []
    for _ in range(PASSES_MAX):
        left = asked.batch_max - len(taken)
        rows = await conn.fetch(LEASE, *asked._replace(batch_max=left), top_only, SPARED)
        held = [row for row in rows if row["hold_id"] is not None]
        taken += [row for row in rows if row["hold_id"] is None]
        if not held:
            break
        ids = [row["outbox_id"] for row in held], [row["hold_id"] for row in held]
        await conn.execute(KEPT_BACK, *ids)
        if len(taken) == asked.batch_max:
            break
    return taken


async def lease_events(
    pool: asyncpg.Pool, *, relay: str, batch_max: int, lease_s: float
) -> list[LeasedRow]:
    """Lease the events of commands and seals: oldest first, never throttled."""
    rows = await pool.fetch(LEASE_EVENTS, batch_max, relay, lease_s)
    return sorted((_event(row) for row in rows), key=lambda one: one.outbox_id)


def _command(row: asyncpg.Record) -> LeasedRow:
    command = dict(row)
    # As they stand: they go into the envelope, and nobody here reads them.
    for name in ("args", "compensation"):
        if command[name] is not None:
            command[name] = orjson.Fragment(command[name])
    return _leased(
        row,
        command_id=row["id"],
        ordering_key=row["ordering_key"],
        ordering=row["ordering"],
        traceparent=row["traceparent"],
        deliveries=row["deliveries"],
        by_reference=row["by_reference"],
        target=row["target"],
        command=command,
    )


def _event(row: asyncpg.Record) -> LeasedRow:
    return _leased(row, command_id=row["command_id"], payload=row["payload"])


def _leased(row: asyncpg.Record, **more: Any) -> LeasedRow:
    return LeasedRow(**{name: row[name] for name in OF_BOTH}, **more)
