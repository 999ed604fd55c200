"""What ended commands lose with time: their idempotency keys, and their arguments and results.

On asyncpg, as the relay. A statement looks at a window of rows in the order of their ends, so its
cost is bounded however many of them must stay; rows that another relay has are skipped.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

# A saga's member stays whole as long as its saga is not over for that time, and a dead letter
# until it is discarded: both may be needed again. A legal hold keeps what was alive in its time.
MAY_GO: Final = """
    (c.state <> 'dead_lettered' OR c.discarded_at IS NOT NULL)
    AND NOT EXISTS (SELECT FROM sagas s
                     WHERE s.id = c.saga_id
                       AND (s.finished_at IS NULL
                            OR s.finished_at > now() - make_interval(secs => $1)))
    AND NOT EXISTS (SELECT FROM audit.holds h
                     WHERE h.tenant_id = c.tenant_id AND h.released_at IS NULL
                       AND coalesce(h.from_at, '-infinity') <= c.finished_at
                       AND coalesce(h.to_at, 'infinity') > c.created_at)
"""

# $1 kept for seconds, $2 and $3 the last row of the window before, $4 rows. What makes a row due
# is asked again under its lock: another relay may have purged it since this one's snapshot.
PURGE: Final = """
    WITH seen AS MATERIALIZED (
        SELECT c.id, c.finished_at
          FROM commands c
         WHERE {index} AND c.finished_at < now() - make_interval(secs => $1)
           AND (c.finished_at, c.id) > ($2, $3)
         ORDER BY c.finished_at, c.id
         LIMIT $4
    ), old AS (
        SELECT c.id
          FROM commands c
          JOIN seen USING (id)
         WHERE {index} AND {may_go}
           FOR UPDATE OF c SKIP LOCKED
    ), {purged}
    SELECT (SELECT count(*) FROM seen) AS seen, (SELECT count(*) FROM purged) AS purged,
           last.finished_at, last.id
      FROM (VALUES (true)) AS one (row)
      LEFT JOIN (SELECT * FROM seen ORDER BY finished_at DESC, id DESC LIMIT 1) AS last ON true
"""

KEYS: Final = PURGE.format(
    index="c.finished_at IS NOT NULL AND c.idempotency_key IS NOT NULL",
    may_go=MAY_GO,
    purged="""
    purged AS (
        UPDATE commands c
           SET idempotency_key = NULL, dedupe_key = NULL
          FROM old
         WHERE c.id = old.id
        RETURNING c.id
    )""",
)

# Of an error its code stays: it says how the command ended and quotes nobody.
BODIES: Final = PURGE.format(
    index="c.finished_at IS NOT NULL AND c.purged_at IS NULL",
    may_go=MAY_GO,
    purged="""
    purged AS (
        UPDATE commands c
           SET args = NULL, result = NULL, message = NULL, stage = NULL, compensation = NULL,
               cancel_reason = NULL, approvals = NULL, run = c.run - 'log', purged_at = now(),
               error = CASE WHEN c.error IS NOT NULL
                            THEN jsonb_build_object('code', c.error -> 'code') END
          FROM old
         WHERE c.id = old.id
        RETURNING c.id, c.saga_id
    ), said AS (
        DELETE FROM progress p USING purged WHERE p.command_id = purged.id
    ), step AS (
        UPDATE saga_steps t
           SET compensation = NULL, reason = NULL
          FROM purged
         WHERE t.saga_id = purged.saga_id AND t.command_id = purged.id
    ), saga AS (
        UPDATE sagas s
           SET input = NULL, plan = NULL, stop = NULL,
               reason = CASE WHEN s.reason IS NOT NULL
                             THEN jsonb_build_object('code', s.reason -> 'code') END
         WHERE s.id IN (SELECT saga_id FROM purged)
    )""",
)

FORGOTTEN: Final = text("""
    SELECT c.id
      FROM commands c
     WHERE c.state = 'dead_lettered' AND c.discarded_at IS NULL
       AND c.finished_at < now() - make_interval(secs => :kept_s)
       AND NOT EXISTS (SELECT FROM audit.holds h
                        WHERE h.tenant_id = c.tenant_id AND h.released_at IS NULL)
       -- Those that a key waits for stay, and must not fill the window before younger ones. The
       -- reasons are results.blocked_reason's; discard asks again under the key's lock.
       AND NOT EXISTS (SELECT FROM ordering_heads k
                        WHERE k.tenant_id = c.tenant_id AND k.ordering_key = c.ordering_key
                          AND k.blocked_reason = 'outcome of ' || c.id || ' unknown')
     ORDER BY c.tenant_id, c.finished_at
     LIMIT :limit
""")

START: Final = (datetime.min.replace(tzinfo=UTC), UUID(int=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What became of a window of rows; `after` is where the next begins, None at the end."""

    purged: int
    after: tuple[datetime, UUID] | None


async def purge_keys(
    pool: asyncpg.Pool, *, kept_s: float, after: tuple[datetime, UUID] = START, limit: int
) -> Window:
    """Let a window of ended commands go of their idempotency keys: the keys are free again."""
    return await _purge(pool, KEYS, kept_s, after, limit)


async def purge_bodies(
    pool: asyncpg.Pool, *, kept_s: float, after: tuple[datetime, UUID] = START, limit: int
) -> Window:
    """Take args, result, progress and error text from a window of ended commands."""
    return await _purge(pool, BODIES, kept_s, after, limit)


async def forgotten(conn: AsyncConnection, *, kept_s: float, limit: int) -> list[UUID]:
    """Dead letters that nobody settled for so long, and no hold or waiting key keeps."""
    rows = await conn.execute(FORGOTTEN, {"kept_s": kept_s, "limit": limit})
    return list(rows.scalars())


async def _purge(
    pool: asyncpg.Pool, statement: str, kept_s: float, after: tuple[datetime, UUID], limit: int
) -> Window:
    row = await pool.fetchrow(statement, kept_s, *after, limit)
    assert row is not None
    last = (row["finished_at"], row["id"]) if row["seen"] == limit else None
    return Window(purged=row["purged"], after=last)
