"""What a retirement is to say in each log, as the sealer finds it before it signs."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from app.audit.rulings import Chain
from app.postgres.statements import Connection

# A tenant under a legal hold is retired up to the hold at most: a retirement is one date, and
# whoever read it could not tell the events that are held from those that may go.
UNRETIRED: Final = """
    WITH log AS (
        SELECT s.tenant_id, max(s.retired_before) FILTER (WHERE s.request IS NOT NULL) AS said
          FROM audit.seals s
         GROUP BY s.tenant_id
    ), bound AS (
        SELECT log.tenant_id, log.said,
               date_trunc('month',
                          least($1, (SELECT min(h.keeps_from) FROM audit.held(log.tenant_id) h))
                              AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' AS before
          FROM log
    )
    SELECT b.tenant_id, b.before, s.retired_before AS said, s.seq_to AS said_upto,
           s.retired_digest AS said_digest
      FROM bound b
      LEFT JOIN LATERAL (
        SELECT x.retired_before, x.seq_to, x.retired_digest
          FROM audit.seals x
         WHERE x.tenant_id = b.tenant_id AND x.kind = 'retirement' AND x.request IS NOT NULL
         ORDER BY x.retired_before DESC, x.seal_no
         LIMIT 1
      ) AS s ON true
     WHERE b.before > coalesce(b.said, '-infinity')
     ORDER BY b.tenant_id
"""

# What a retirement lets go, with a look at each event that is to be there still.
RETIRING: Final = """
    SELECT m.seq, m.event_id, m.occurred_at,
           e.event_id IS NOT NULL AND audit.leaf(e) IS NOT DISTINCT FROM m.leaf AS whole
      FROM audit.members m
      LEFT JOIN audit.events e
        ON e.tenant_id = m.tenant_id AND e.occurred_at = m.occurred_at AND e.event_id = m.event_id
     WHERE m.tenant_id = $1 AND m.occurred_at < $2
     ORDER BY m.seq
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retiring:
    """What a tenant's log is to say: events before a date may be gone, and which these are."""

    tenant_id: str
    before: datetime
    digest: bytes


class BrokenLogError(Exception):
    """What is to be retired is not as it was sealed: a retirement must not cover that."""


async def unretired(pool: asyncpg.Pool, *, before: datetime) -> list[Retiring]:
    """The logs that do not say yet what may be gone, and what they are to say.

    Raises:
        BrokenLogError: what is to go is not as it was sealed.
    """
    found: list[Retiring] = []
    async with pool.acquire() as conn, conn.transaction(isolation="repeatable_read"):
        for row in await conn.fetch(UNRETIRED, before):
            digest = await _retiring(conn, row)
            found.append(Retiring(tenant_id=row["tenant_id"], before=row["before"], digest=digest))
    return found


async def _retiring(conn: Connection, log: asyncpg.Record) -> bytes:
    """The chain over what goes; what went before must be what was said then, the rest be there."""
    chain, earlier = Chain(), Chain()
    said, upto = log["said"], log["said_upto"] or 0
    async for row in conn.cursor(RETIRING, log["tenant_id"], log["before"], prefetch=2000):
        seq, event_id, at = row["seq"], row["event_id"], row["occurred_at"]
        gone_before = said is not None and at < said and seq <= upto
        if gone_before:
            earlier.add(seq=seq, event_id=event_id, occurred_at=at)
        elif not row["whole"]:
            raise BrokenLogError(f"event {event_id} of tenant {log['tenant_id']} is not as sealed")
        chain.add(seq=seq, event_id=event_id, occurred_at=at)
    if said is not None and earlier.digest != log["said_digest"]:
        raise BrokenLogError(f"members of tenant {log['tenant_id']} are not as they were retired")
    return chain.digest
