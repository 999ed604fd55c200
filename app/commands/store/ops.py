"""What `broker status` shows: the views of schema `ops`, which hold figures and no content.

Connects as a member of broker_observer, which may read nothing else.
"""

from typing import Any, Final

import asyncpg

READ: Final = {
    "waiting": "SELECT * FROM ops.waiting ORDER BY oldest_s DESC",
    "holds": "SELECT * FROM ops.holds ORDER BY age_s DESC",
    "tenants": """
        SELECT n.tenant_id, n.queued, n.queued_max, n.oldest_ready_s, n.in_flight, n.in_flight_max,
               coalesce(l.calls, 0) AS calls_1h, l.error_rate, l.call_p95_s
          FROM ops.tenants_now n
          LEFT JOIN ops.tenants l ON l.tenant_id = n.tenant_id AND l.period = '1h'
         ORDER BY n.queued + n.in_flight DESC, calls_1h DESC, n.tenant_id
    """,
    "executors": "SELECT * FROM ops.executors ORDER BY oldest_unclaimed_s DESC, tool, method",
    "outbox": "SELECT * FROM ops.outbox ORDER BY status",
    "webhooks": "SELECT * FROM ops.webhooks ORDER BY disabled + failing DESC, tenant_id",
    "seals": "SELECT * FROM ops.seals ORDER BY age_s",
}
"""Of each part of the screen its rows, those that ask for a look first."""


async def status(conn: asyncpg.Connection) -> dict[str, list[dict[str, Any]]]:
    """Every part, of one moment; the caller's transaction makes it one."""
    return {part: [dict(row) for row in await conn.fetch(sql)] for part, sql in READ.items()}
