"""What happened to commands that have ended, as their spans are made of it: read by a relay."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

import asyncpg

from app.commands.state import FINAL
from app.traces.life import TOLD, Life, Moment

# The events' table is cut by time, and no event is older than its command.
LIVES: Final = """
    WITH ended AS (
        SELECT c.id, c.tenant_id, c.tool, c.method, c.traceparent, c.saga_step, c.saga_role,
               c.created_at,
               CASE WHEN r.saga_role = 'saga' AND r.id <> c.id THEN r.id END AS saga_id,
               CASE WHEN c.saga_role = 'undo' THEN s.command_id END AS undoes_id
          FROM commands c
          LEFT JOIN commands r ON r.id = c.saga_id
          LEFT JOIN saga_steps s ON s.saga_id = c.saga_id AND s.step = c.saga_step
         WHERE c.id = ANY ($1::uuid[]) AND c.traceparent IS NOT NULL AND c.state = ANY ($2::text[])
    )
    SELECT ended.*, e.type, e.occurred_at, e.attempt, e.body ->> 'topic' AS topic,
           e.body ->> 'adapter' AS run, e.body -> 'error' ->> 'code' AS code
      FROM ended
      JOIN audit.events e ON e.command_id = ended.id AND e.type = ANY ($3::text[])
       AND e.occurred_at >= (SELECT min(created_at) FROM ended)
     ORDER BY ended.id, e.occurred_at
"""


async def of(pool: asyncpg.Pool, ids: Sequence[UUID]) -> list[Life]:
    """The lives of those of the commands that have ended and are of a trace; in no order."""
    rows = await pool.fetch(LIVES, ids, sorted(FINAL), sorted(TOLD))
    by_command: dict[UUID, list[asyncpg.Record]] = {}
    for row in rows:
        by_command.setdefault(row["id"], []).append(row)
    return [_life(events) for events in by_command.values()]


def _life(rows: Sequence[asyncpg.Record]) -> Life:
    first = rows[0]
    moments = [
        Moment(
            type=row["type"],
            at=row["occurred_at"],
            attempt=row["attempt"] or 1,
            topic=row["topic"],
            run=row["run"],
            code=row["code"],
        )
        for row in rows
    ]
    return Life(
        command_id=first["id"],
        tenant_id=first["tenant_id"],
        tool=first["tool"],
        method=first["method"],
        traceparent=first["traceparent"],
        saga_id=first["saga_id"],
        step=first["saga_step"],
        role=first["saga_role"],
        undoes_id=first["undoes_id"],
        moments=moments,
    )
