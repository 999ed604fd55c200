"""The table of endpoints: who is told of what, and whether they take it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.postgres.engine import dump

COLUMNS: Final = """
    id, tenant_id, user_id, url, kinds, tool, method, template, secret, secret_before,
    secret_before_until, enabled, reason, disabled_at, failing_since, last_error,
    last_delivered_at, verified_at, expires_at, created_by, created_at
"""

INSERT: Final = text(f"""
    INSERT INTO webhook_endpoints
           (id, tenant_id, url, kinds, tool, method, template, secret, created_by)
    VALUES (CAST(:id AS uuid), :tenant_id, :url, CAST(:kinds AS text[]), CAST(:tool AS text),
            CAST(:method AS text), CAST(:template AS jsonb), :secret, :created_by)
    RETURNING {COLUMNS}
""")

COUNT: Final = text("""
    SELECT count(*) FROM webhook_endpoints WHERE tenant_id = :tenant_id AND user_id IS NULL
""")

LIST: Final = text(f"""
    SELECT {COLUMNS},
           (SELECT count(*) FROM webhook_deliveries d
             WHERE d.endpoint_id = w.id AND d.state = 'waiting') AS waiting
      FROM webhook_endpoints w
     WHERE tenant_id = :tenant_id AND user_id IS NULL
       AND (CAST(:id AS uuid) IS NULL OR id = :id)
     ORDER BY created_at, id
""")

ROTATE: Final = text("""
    UPDATE webhook_endpoints
       SET secret_before = secret, secret = :secret,
           secret_before_until = now() + make_interval(secs => :keep_s)
     WHERE id = :id AND tenant_id = :tenant_id AND user_id IS NULL
    RETURNING secret_before_until
""")

# What happened while it was disabled is not told: `redeliver` does, where it is asked to.
ENABLE: Final = text("""
    UPDATE webhook_endpoints
       SET enabled = true, reason = NULL, disabled_at = NULL, failing_since = NULL,
           last_error = NULL, from_xid = pg_current_xact_id()
     WHERE id = :id AND tenant_id = :tenant_id AND user_id IS NULL AND NOT enabled
    RETURNING id
""")
HASTEN: Final = text("""
    UPDATE webhook_deliveries
       SET due_at = now(), attempts = 0
     WHERE endpoint_id = :id AND tenant_id = :tenant_id AND state = 'waiting'
""")

DISABLE: Final = text("""
    UPDATE webhook_endpoints
       SET enabled = false, reason = :reason, disabled_at = now()
     WHERE id = :id AND tenant_id = :tenant_id AND user_id IS NULL AND enabled
    RETURNING id
""")

REMOVE: Final = text("""
    DELETE FROM webhook_endpoints
     WHERE id = :id AND tenant_id = :tenant_id AND user_id IS NULL
    RETURNING url
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One of them; its secrets are sealed."""

    id: UUID
    tenant_id: str
    user_id: str | None
    url: str
    kinds: Sequence[str]
    tool: str | None
    method: str | None
    template: Mapping[str, Any] | None
    secret: bytes
    secret_before: bytes | None
    secret_before_until: datetime | None
    enabled: bool
    reason: str | None
    disabled_at: datetime | None
    failing_since: datetime | None
    last_error: str | None
    last_delivered_at: datetime | None
    verified_at: datetime | None
    expires_at: datetime | None
    created_by: str
    created_at: datetime
    waiting: int = 0

    @classmethod
    def of(cls, row: RowMapping) -> "Endpoint":
        """A row as an endpoint."""
        return cls(**row)


async def insert(
    conn: AsyncConnection,
    *,
    endpoint_id: UUID,
    tenant_id: str,
    url: str,
    kinds: Sequence[str],
    tool: str | None,
    method: str | None,
    template: Mapping[str, Any] | None,
    secret: bytes,
    created_by: str,
) -> Endpoint:
    """An operator's endpoint, told of what happens from this transaction on."""
    values = {
        "id": endpoint_id,
        "tenant_id": tenant_id,
        "url": url,
        "kinds": list(kinds),
        "tool": tool,
        "method": method,
        "template": None if template is None else dump(template),
        "secret": secret,
        "created_by": created_by,
    }
    return Endpoint.of((await conn.execute(INSERT, values)).mappings().one())


async def count(conn: AsyncConnection, *, tenant_id: str) -> int:
    """How many endpoints a tenant's operators have."""
    return (await conn.scalar(COUNT, {"tenant_id": tenant_id})) or 0


async def listed(conn: AsyncConnection, *, tenant_id: str) -> list[Endpoint]:
    """A tenant's endpoints, oldest first; there are few."""
    rows = await conn.execute(LIST, {"tenant_id": tenant_id, "id": None})
    return [Endpoint.of(row) for row in rows.mappings()]


async def find(conn: AsyncConnection, *, tenant_id: str, endpoint_id: UUID) -> Endpoint | None:
    """One endpoint of a tenant's operators."""
    rows = await conn.execute(LIST, {"tenant_id": tenant_id, "id": endpoint_id})
    row = rows.mappings().one_or_none()
    return None if row is None else Endpoint.of(row)


async def rotate(
    conn: AsyncConnection, *, tenant_id: str, endpoint_id: UUID, secret: bytes, keep_s: float
) -> datetime | None:
    """Give it a new secret; until when the one before signs, too. None: there is no such one."""
    values = {"id": endpoint_id, "tenant_id": tenant_id, "secret": secret, "keep_s": keep_s}
    return await conn.scalar(ROTATE, values)


async def enable(conn: AsyncConnection, *, tenant_id: str, endpoint_id: UUID) -> bool:
    """Tell it again, from now on, and what waits at once; False where it was enabled."""
    values = {"id": endpoint_id, "tenant_id": tenant_id}
    if await conn.scalar(ENABLE, values) is None:
        return False
    await conn.execute(HASTEN, values)
    return True


async def disable(conn: AsyncConnection, *, tenant_id: str, endpoint_id: UUID, reason: str) -> bool:
    """Tell it nothing until it is enabled; False where it was disabled."""
    values = {"id": endpoint_id, "tenant_id": tenant_id, "reason": reason}
    return await conn.scalar(DISABLE, values) is not None


async def remove(conn: AsyncConnection, *, tenant_id: str, endpoint_id: UUID) -> str | None:
    """Forget it, and what it was to be told; its URL, or None where there was none."""
    return await conn.scalar(REMOVE, {"id": endpoint_id, "tenant_id": tenant_id})
