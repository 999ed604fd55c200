"""How a tenant's calls do, by tool: what waits, what is in flight, how long calls take and fail.

The views of schema `ops` have the figures of every tenant, for operators of the broker; these are
one tenant's own, under its row-level security, and of a bounded number of its newest calls.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.search import WINDOW, first_of

DONE: Final = text("""
    SELECT c.tool, c.method, count(*) AS calls,
           CAST(avg(CAST(c.state IN ('failed', 'timed_out', 'dead_lettered') AS integer))
                AS double precision) AS error_rate,
           percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (
               ORDER BY CAST(greatest(0, EXTRACT(
                   epoch FROM c.finished_at - greatest(c.created_at, c.not_before)
               )) AS double precision)
           ) AS took_s
      FROM (SELECT c.*
              FROM commands c
             WHERE c.tenant_id = :tenant_id AND c.id >= :since
             ORDER BY c.id DESC
             LIMIT :window) c
     WHERE c.finished_at IS NOT NULL AND c.purged_at IS NULL
     GROUP BY c.tool, c.method
""")
QUEUED: Final = text("""
    SELECT c.tool, c.method, count(*) AS calls
      FROM (SELECT c.tool, c.method
              FROM commands c
             WHERE c.tenant_id = :tenant_id AND c.state = 'queued'
             LIMIT :window) c
     GROUP BY c.tool, c.method
""")
IN_FLIGHT: Final = text("""
    SELECT c.tool, c.method, count(*) AS calls
      FROM (SELECT c.tool, c.method
              FROM commands c
             WHERE c.tenant_id = :tenant_id AND c.state IN ('dispatched', 'running')
               AND c.saga_role IS DISTINCT FROM 'saga'
             LIMIT :window) c
     GROUP BY c.tool, c.method
""")

Path = tuple[str, str]
"""A tool and its method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """Of the calls that were accepted since a time and have ended; seconds from their start on."""

    calls: int
    error_rate: float
    p50_s: float
    p95_s: float
    p99_s: float


async def done(conn: AsyncConnection, *, tenant_id: str, since: datetime) -> dict[Path, Done]:
    """How calls did, by tool: of the newest `WINDOW` that were accepted since then."""
    values = {"tenant_id": tenant_id, "since": first_of(since), "window": WINDOW}
    found: dict[Path, Done] = {}
    for row in (await conn.execute(DONE, values)).mappings():
        p50, p95, p99 = row["took_s"]
        found[row["tool"], row["method"]] = Done(
            calls=row["calls"], error_rate=row["error_rate"], p50_s=p50, p95_s=p95, p99_s=p99
        )
    return found


async def queued(conn: AsyncConnection, *, tenant_id: str) -> dict[Path, int]:
    """How many calls wait, by tool, counted up to `WINDOW` of all."""
    return _counts(await conn.execute(QUEUED, {"tenant_id": tenant_id, "window": WINDOW}))


async def in_flight(conn: AsyncConnection, *, tenant_id: str) -> dict[Path, int]:
    """How many calls are dispatched or run, by tool, counted up to `WINDOW` of all."""
    return _counts(await conn.execute(IN_FLIGHT, {"tenant_id": tenant_id, "window": WINDOW}))


def _counts(rows: Any) -> dict[Path, int]:
    return {(row.tool, row.method): row.calls for row in rows}
