"""The outbox as the relay leaves it: what Kafka has, deleted; what it has not, given back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import asyncpg
from uuid_utils import uuid4

from app.commands.store.dispatch_claim import LeasedRow
from app.commands.store.heads import ACTIVATE_NEXT_SQL, LOCK_MANY
from app.postgres.statements import rows_of

REASON_CHARS_MAX: Final = 500

# The adapter may have claimed the attempt already: then only the publication is recorded.
# The commit does not wait for the disk: what a crash of the server undoes is published again, as
# after the death of a relay between Kafka's word and this; and the claim of an adapter, which may
# wait for these rows, would wait for it too.
# Where Kafka put a row is told row by row, as a join with the arrays, like one with `moved`, is at
# times planned as a loop over the batch in a loop over the batch: no statistics know of either. So
# the plan that is kept is as good for 500 rows as for one: 10 ms, where it was 50.
PUBLISHED: Final = """
    WITH gone AS (
        DELETE FROM outbox o
         WHERE o.id = ANY ($1::bigint[]) AND o.status = 'claimed' AND o.claimed_by = $4
           AND (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL
        RETURNING o.kind, o.command_id, o.attempt, o.topic, array_position($1, o.id) AS n
    ), said AS (
        SELECT kind, command_id, attempt, ($6::uuid[])[n] AS event_id, ($7::uuid[])[n] AS salt,
               json_build_object('topic', topic, 'partition', ($2::int[])[n],
                                 'offset', ($3::bigint[])[n]) AS body
          FROM gone
         WHERE kind = 'command'
    ), moved AS (
        UPDATE commands c
           SET state = 'dispatched', dispatched_at = now(), deliveries = c.deliveries + 1,
               -- Doubled each time: while EDA is away its topic must not fill with copies.
               lease_until = now() + make_interval(
                   secs => $5::float8 * 2 ^ least(c.deliveries, 10))
          FROM said s
         WHERE c.id = s.command_id
               -- As a condition of its own the state would offer the index of all that is queued.
           AND CASE c.state WHEN 'queued' THEN c.attempt = s.attempt END
        RETURNING c.tenant_id, c.user_id, c.id, c.saga_id, c.tool, c.method, c.attempt,
                  c.state AS state_to, c.fingerprint, s.event_id, s.salt, s.body
    ), audited AS (
        INSERT INTO audit.events (tenant_id, user_id, command_id, saga_id, tool, method, attempt,
                                  state_to, fingerprint, event_id, salt, body, type, actor,
                                  state_from)
        SELECT tenant_id, user_id, id, saga_id, tool, method, attempt, state_to, fingerprint,
               event_id, uuid_send(salt), body, 'command.dispatched', 'relay:' || $4, 'queued'
          FROM (SELECT * FROM moved
                 UNION ALL
                SELECT c.tenant_id, c.user_id, c.id, c.saga_id, c.tool, c.method, s.attempt, NULL,
                       c.fingerprint, s.event_id, s.salt, s.body
                  FROM said s
                  JOIN commands c ON c.id = s.command_id
                 WHERE s.command_id NOT IN (SELECT id FROM moved)) AS both_kinds
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

ACTIVATE_NEXT: Final = ACTIVATE_NEXT_SQL.format(tenants="$1", keys="$2")

# As after a relay's death: what has moved on while the relay tried needs no publishing. The
# commands are locked: a transaction that ends one, or its attempt, and that left the row to its
# relay must be over, or not begun, before the row may be ready again. No head is taken after them.
CURRENT: Final = """
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
"""
MOVE: Final = """
    UPDATE outbox o
       SET {moved}, claimed_by = NULL, claimed_until = NULL
      FROM given g
     WHERE o.id = g.id AND g.id NOT IN (SELECT id FROM over)
       AND (g.kind <> 'command' OR g.command_id IN (SELECT id FROM current))
"""

READY: Final = MOVE.format(moved="status = 'ready'")

GIVE_BACK: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT id, command_id, attempt, kind
          FROM outbox
         WHERE id = ANY ($1::bigint[]) AND status = 'claimed' AND claimed_by = $2
         ORDER BY id
           FOR UPDATE
    ), {CURRENT.format(locked="")} {READY}
"""

# What Kafka refuses for good is a person's, and the trail says so; what it refuses for now waits.
REFUSED: Final = """
    status = CASE WHEN g.parks THEN 'parked' ELSE 'delayed' END, refusal = g.reason,
    refused_at = now(), available_at = now() + make_interval(secs => $5::float8)
"""
STAND_ASIDE: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT o.id, o.command_id, o.attempt, o.kind, told.reason, told.parks
          FROM outbox o
          JOIN unnest($1::bigint[], $2::text[], $3::bool[]) AS told (id, reason, parks)
         USING (id)
         WHERE o.status = 'claimed' AND o.claimed_by = $4
         ORDER BY o.id
           FOR UPDATE OF o
    ), {CURRENT.format(locked="")}, aside AS (
        {MOVE.format(moved=REFUSED)}
        RETURNING o.tenant_id, o.kind, o.topic, o.command_id, o.attempt, o.status, o.refusal
    )
    INSERT INTO audit.events (tenant_id, type, actor, user_id, command_id, saga_id, tool, method,
                              attempt, fingerprint, body)
    SELECT a.tenant_id, 'outbox.parked', 'relay:' || $4, c.user_id, a.command_id, c.saga_id,
           c.tool, c.method, a.attempt, c.fingerprint,
           json_build_object('kind', a.kind, 'topic', a.topic, 'reason', a.refusal)
      FROM aside a
      LEFT JOIN commands c ON c.id = a.command_id
     WHERE a.status = 'parked'
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

# A relay died between its claim and its acknowledgement, or the database's clock was set back: a
# lease that ends later than any does is over too. The timers wait for nobody: a row whose
# command is locked has its turn at the next tick.
GIVE_BACK_EXPIRED: Final = f"""
    WITH given AS MATERIALIZED (
        SELECT id, command_id, attempt, kind
          FROM outbox
         WHERE status = 'claimed'
           AND (claimed_until < now()
                OR claimed_until > now() + make_interval(secs => $2::float8))
         ORDER BY claimed_until
         LIMIT $1
           FOR UPDATE SKIP LOCKED
    ), {CURRENT.format(locked="SKIP LOCKED")} {READY}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Acked:
    """Where Kafka put a claimed row."""

    claimed: LeasedRow
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """A claimed row that Kafka did not take: never as it is (`parks`), or not now."""

    claimed: LeasedRow
    reason: str
    parks: bool


async def published(
    pool: asyncpg.Pool, acked: Sequence[Acked], *, relay: str, claim_wait_s: float
) -> list[UUID]:
    """Delete what Kafka acknowledged and move its commands on; returns those dispatched.

    Commands ordered by delivery let the next of their key go here.
    """
    delivered = [one.claimed for one in acked if one.claimed.ordering == "delivery"]
    keys = sorted({(one.tenant_id, one.ordering_key or "") for one in delivered})
    tenants, names = [key[0] for key in keys], [key[1] for key in keys]
    values = (
        [one.claimed.outbox_id for one in acked],
        [one.partition for one in acked],
        [one.offset for one in acked],
        relay,
        claim_wait_s,
        [uuid4() for _ in acked],
        [uuid4() for _ in acked],
    )
    if not keys:
        return [row["id"] for row in await pool.fetch(PUBLISHED, *values)]
    async with pool.acquire() as conn, conn.transaction():
        await conn.fetch(LOCK_MANY, tenants, names)
        rows = await conn.fetch(PUBLISHED, *values)
        ids = [one.command_id for one in delivered]
        await conn.execute(FREE_DELIVERED, tenants, names, ids)
        await conn.fetch(ACTIVATE_NEXT, tenants, names)
    return [row["id"] for row in rows]


async def give_back(pool: asyncpg.Pool, claimed: Sequence[LeasedRow], *, relay: str) -> None:
    """Give back what could not be published, for any relay to take at once."""
    await pool.execute(GIVE_BACK, [one.outbox_id for one in claimed], relay)


async def stand_aside(
    pool: asyncpg.Pool, refused: Sequence[RefusedRow], *, relay: str, pause_s: float
) -> None:
    """Park what Kafka never takes, with its audit event; try the rest again after a pause."""
    await pool.execute(
        STAND_ASIDE,
        [one.claimed.outbox_id for one in refused],
        [one.reason[:REASON_CHARS_MAX] for one in refused],
        [one.parks for one in refused],
        relay,
        pause_s,
    )


async def wake_due(pool: asyncpg.Pool, *, limit: int) -> int:
    """Make delayed rows ready whose time has come; returns how many."""
    return rows_of(await pool.execute(DUE, limit))


async def give_back_expired(pool: asyncpg.Pool, *, limit: int, lease_s: float) -> int:
    """Free the rows of relays that died; returns how many are ready again.

    `lease_s` is the longest that a relay may have one.
    """
    return rows_of(await pool.execute(GIVE_BACK_EXPIRED, limit, lease_s))
