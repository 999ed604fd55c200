"""What time has made due, of commands and sagas: one look before any timer works."""

from dataclasses import dataclass
from typing import Final

import asyncpg

# Each part is the first entry of a partial index: with nothing due, eight pages are read.
LOOK: Final = """
    SELECT EXISTS (SELECT FROM outbox WHERE status = 'delayed' AND available_at <= now())
           OR EXISTS (SELECT FROM outbox
                       WHERE status = 'claimed'
                         AND (claimed_until < now()
                              OR claimed_until > now() + make_interval(secs => $1::float8)))
               AS rows,
           EXISTS (SELECT FROM commands
                    WHERE state IN ('queued', 'dispatched', 'running')
                      AND deadline_missed_at IS NULL AND deadline_at <= now()) AS deadlines,
           EXISTS (SELECT FROM commands
                    WHERE state IN ('dispatched', 'running') AND lease_until <= now()) AS leases,
           EXISTS (SELECT FROM commands
                    WHERE approval = 'pending' AND state = 'queued' AND approval_due IS NOT NULL
                      AND approval_due <= now()) AS approvals,
           EXISTS (SELECT FROM sagas WHERE idle_at <= now()) AS idle_sagas,
           EXISTS (SELECT FROM holds WHERE released_at IS NULL AND until <= now())
           OR EXISTS (SELECT FROM holds WHERE released_at IS NOT NULL AND freed_at IS NULL)
               AS holds,
           EXISTS (SELECT FROM commands WHERE held AND saga_id IS NOT NULL) AS sagas_wait,
           extract(epoch FROM clock_timestamp())::float8 AS at
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Due:
    """What there is to do; `at` is the database's time, in seconds since the epoch."""

    rows: bool
    deadlines: bool
    leases: bool
    approvals: bool
    idle_sagas: bool
    holds: bool
    sagas_wait: bool
    at: float


async def look(pool: asyncpg.Pool, *, row_lease_s: float) -> Due:
    """What is due now; `row_lease_s` is the longest that a relay may have an outbox row."""
    return Due(**dict(await pool.fetchrow(LOOK, row_lease_s)))
