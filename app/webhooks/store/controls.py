"""What MCP clients' receivers are told of their subscriptions: gaps and ends (SEP-3415)."""

from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.postgres.engine import dump
from app.webhooks import payload
from app.webhooks.kind import GAP, TERMINATED

FORBIDDEN: Final = -32024
REVOKED: Final[dict[str, Any]] = {
    "code": FORBIDDEN,
    "message": "Forbidden",
    "data": {"reason": "Access revoked"},
}
"""The error of a subscription that is ended: SEP-3415's, in each way of delivery."""

INSERT: Final = """
    INSERT INTO webhook_deliveries
           (tenant_id, endpoint_id, kind, event_id, xid, occurred_at, data)
    SELECT w.tenant_id, w.id, CAST(:kind AS text), gen_random_uuid(), pg_current_xact_id(), now(),
           CAST(:data AS jsonb)
"""
SKIPPED: Final = text(f"""
    {INSERT}
      FROM webhook_endpoints w
     WHERE w.user_id IS NOT NULL AND w.enabled AND w.expires_at > now()
""")
# A user's groups are not known here: what depends on them is looked at when it is refreshed.
TERMINATE: Final = text(f"""
    WITH w AS (
        UPDATE webhook_endpoints e
           SET enabled = false, reason = CAST(:kind AS text), disabled_at = now()
         WHERE e.user_id IS NOT NULL AND e.verified_at IS NOT NULL AND e.expires_at > now()
           AND e.reason IS DISTINCT FROM CAST(:kind AS text)
           AND (NOT EXISTS (SELECT FROM tenants t
                             WHERE t.tenant_id = e.tenant_id AND t.state = 'active')
                OR e.tool IS NOT NULL
                   AND NOT EXISTS (SELECT FROM tools t
                                    WHERE t.tool = e.tool AND t.method = e.method
                                      AND t.retired_at IS NULL))
        RETURNING e.id, e.tenant_id
    )
    {INSERT}
      FROM w
""")
OVER: Final = text("""
    DELETE FROM webhook_endpoints WHERE id = :id AND reason = CAST(:kind AS text)
""")


async def skipped(conn: AsyncConnection, *, closed: int) -> None:
    """Tell each subscription that it may have missed something, and from where on it is told."""
    data = dump({"cursor": payload.before(closed, datetime.now(UTC))})
    await conn.execute(SKIPPED, {"kind": GAP, "data": data})


async def terminate(conn: AsyncConnection) -> int:
    """End those whose tenant is suspended, or whose tool is out of service; how many."""
    values = {"kind": TERMINATED, "data": dump({"error": REVOKED})}
    return (await conn.execute(TERMINATE, values)).rowcount


async def over(conn: AsyncConnection, endpoint_id: UUID) -> None:
    """Forget one that was ended, once its receiver has been told or was given up."""
    await conn.execute(OVER, {"id": endpoint_id, "kind": TERMINATED})
