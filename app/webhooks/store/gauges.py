"""How much waits for endpoints, for the relay's metrics: all tenants together."""

from dataclasses import dataclass
from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

READ: Final = """
    SELECT count(d.id) AS waiting,
           coalesce(extract(epoch FROM now() - min(d.created_at)), 0)::float8 AS oldest_s,
           (SELECT count(*) FROM webhook_endpoints
             WHERE enabled AND failing_since IS NOT NULL) AS failing
      FROM webhook_endpoints w
      JOIN webhook_deliveries d ON d.endpoint_id = w.id AND d.state = 'waiting'
     WHERE w.enabled
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """One look."""

    waiting: int
    oldest_s: float
    failing: int


async def read(conn: asyncpg.Connection | PoolConnectionProxy) -> Gauges:
    """Look at the tables."""
    row = await conn.fetchrow(READ)
    assert row is not None
    return Gauges(**dict(row))
