"""How much there is of everything, for the relay's metrics: all tenants together, by index."""

from dataclasses import dataclass
from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

READ: Final = """
    SELECT o.*, f.*,
           (SELECT count(*) FROM commands WHERE state = 'queued') AS queued,
           (SELECT count(*) FROM commands WHERE state = 'dead_lettered' AND discarded_at IS NULL)
               AS dead_letters,
           (SELECT count(*) FROM holds WHERE released_at IS NULL) AS holds,
           (SELECT count(*) FROM ordering_heads WHERE blocked_reason IS NOT NULL) AS blocked_keys,
           (SELECT count(*) FROM sagas WHERE state IN ('stuck', 'compensation_failed'))
               AS waiting_sagas
      FROM (SELECT count(*) FILTER (WHERE status = 'ready') AS ready,
                   count(*) FILTER (WHERE status = 'held') AS held,
                   count(*) FILTER (WHERE status = 'delayed') AS delayed,
                   count(*) FILTER (WHERE status = 'claimed') AS leased,
                   count(*) FILTER (WHERE status = 'parked') AS parked,
                   count(*) FILTER (WHERE status = 'on_hold') AS on_hold,
                   coalesce(extract(epoch FROM now() - min(greatest(created_at, available_at))
                       FILTER (WHERE status = 'ready')), 0)::float8 AS oldest_ready_s
              FROM outbox) AS o,
           (SELECT count(*) FILTER (WHERE state = 'dispatched') AS dispatched,
                   count(*) FILTER (WHERE state = 'running') AS running,
                   count(*) FILTER (WHERE state = 'dispatched' AND (
                       deliveries > 1 OR dispatched_at < now() - interval '60 seconds'))
                       AS unclaimed
              FROM commands
             WHERE state IN ('dispatched', 'running') AND saga_role IS DISTINCT FROM 'saga') AS f
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """One look."""

    ready: int
    held: int
    delayed: int
    leased: int
    parked: int
    on_hold: int
    oldest_ready_s: float
    queued: int
    dispatched: int
    running: int
    unclaimed: int
    dead_letters: int
    blocked_keys: int
    holds: int
    waiting_sagas: int


async def read(conn: asyncpg.Connection | PoolConnectionProxy) -> Gauges:
    """Look at the tables."""
    row = await conn.fetchrow(READ)
    assert row is not None
    return Gauges(**dict(row))
