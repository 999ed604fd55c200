"""What was written while the database's clock was ahead: its times lie too far off.

Deadlines are times that were promised, and stay. A pause and a lease are spans: each is counted
from now where the row shows that it was written later than now.
"""

from typing import Final

import asyncpg

from app.postgres.statements import rows_of

# A second is granted to a transaction that began before another's commit. A call that may not start
# before a time may not now.
DELAYED: Final = """
    UPDATE outbox o
       SET created_at = now(),
           available_at = greatest(now() + (o.available_at - o.created_at),
                                   (SELECT not_before FROM commands c WHERE c.id = o.command_id))
     WHERE o.id IN (SELECT id
                      FROM outbox
                     WHERE status = 'delayed' AND created_at > now() + interval '1 second'
                     ORDER BY created_at
                     LIMIT $1
                       FOR UPDATE SKIP LOCKED)
"""

# No lease is made shorter than a new one would be: an adapter at work renews it in time. One that
# was renewed while the clock was ahead shows nothing of it ($4: all are looked at). What is locked
# is being moved: it has its turn the next time. A saga's own lease has no end.
LEASES: Final = """
    UPDATE commands c
       SET lease_until = fresh.lease_until
      FROM (SELECT o.id, now() + make_interval(secs => l.lease_s) AS lease_until
              FROM commands o
              LEFT JOIN tools t USING (tool, method)
             CROSS JOIN LATERAL (SELECT CASE o.state
                WHEN 'dispatched' THEN $2::float8 * 2 ^ least(o.deliveries - 1, 10)
                ELSE coalesce((t.policy ->> 'lease_s')::float8, $3::float8) END AS lease_s) l
             WHERE o.state IN ('dispatched', 'running') AND o.lease_until < 'infinity'
               AND o.lease_until > now() + make_interval(secs => l.lease_s)
               AND ($4 OR o.dispatched_at > now() + interval '1 second'
                    OR o.started_at > now() + interval '1 second')
             ORDER BY o.id
             LIMIT $1
               FOR UPDATE OF o SKIP LOCKED) fresh
     WHERE c.id = fresh.id
"""


async def count_pauses_anew(pool: asyncpg.Pool, *, limit: int) -> int:
    """Count the pauses of delayed rows from the future from now on; returns of how many."""
    return rows_of(await pool.execute(DELAYED, limit))


async def count_leases_anew(
    pool: asyncpg.Pool, *, limit: int, claim_wait_s: float, lease_s: float, every: bool
) -> int:
    """Let leases from the future end when a new one would; returns how many.

    `lease_s` is the lease of tools that set none. `every`: of all in flight, as the clock was seen
    to be set back.
    """
    return rows_of(await pool.execute(LEASES, limit, claim_wait_s, lease_s, every))
