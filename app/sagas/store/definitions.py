"""Sagas' definitions: each registration is a new version, and no version ever changes."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.postgres.engine import dump


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered:
    """One version of a definition."""

    name: str
    version: int
    definition: Mapping[str, Any]
    digest: bytes
    registered_by: str
    registered_at: datetime


LOCK: Final = text("SELECT FROM turns WHERE name = 'saga definitions' FOR UPDATE")


async def lock(conn: AsyncConnection) -> None:
    """Until the caller's transaction ends, nobody else registers a definition."""
    await conn.execute(LOCK)


INSERT: Final = text("""
    INSERT INTO saga_definitions (tenant_id, name, version, definition, digest, registered_by)
    SELECT :tenant_id, :name, coalesce(max(version), 0) + 1, CAST(:definition AS jsonb), :digest,
           :registered_by
      FROM saga_definitions
     WHERE tenant_id = :tenant_id
       AND name = :name
    RETURNING name, version, definition, digest, registered_by, registered_at
""")


async def insert(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    name: str,
    definition: Mapping[str, Any],
    digest: bytes,
    registered_by: str,
) -> Registered:
    """Write the next version; the caller holds `lock`."""
    parameters = {
        "tenant_id": tenant_id,
        "name": name,
        "definition": dump(definition),
        "digest": digest,
        "registered_by": registered_by,
    }
    row = (await conn.execute(INSERT, parameters)).mappings().one()
    return Registered(**row)


FIND: Final = text("""
    SELECT name, version, definition, digest, registered_by, registered_at
      FROM saga_definitions
     WHERE tenant_id = :tenant_id
       AND name = :name
       AND (version = :version OR CAST(:version AS integer) IS NULL)
     ORDER BY version DESC
     LIMIT 1
""")


async def find(
    conn: AsyncConnection, *, tenant_id: str, name: str, version: int | None = None
) -> Registered | None:
    """A version, the newest where none is named."""
    parameters = {"tenant_id": tenant_id, "name": name, "version": version}
    row = (await conn.execute(FIND, parameters)).mappings().one_or_none()
    return None if row is None else Registered(**row)


NEWEST: Final = text("""
    SELECT DISTINCT ON (name) name, version, definition, digest, registered_by, registered_at
      FROM saga_definitions
     WHERE tenant_id = :tenant_id
       AND (name > :after OR CAST(:after AS text) IS NULL)
     ORDER BY name, version DESC
     LIMIT :limit
""")


async def newest(
    conn: AsyncConnection, *, tenant_id: str, after: str | None, limit: int
) -> list[Registered]:
    """The newest version of each, by name, after one of them."""
    assert limit > 0
    parameters = {"tenant_id": tenant_id, "after": after, "limit": limit}
    rows = await conn.execute(NEWEST, parameters)
    return [Registered(**row) for row in rows.mappings()]


VERSIONS: Final = text("""
    SELECT name, version, definition, digest, registered_by, registered_at
      FROM saga_definitions
     WHERE tenant_id = :tenant_id
       AND name = :name
       AND (version < :before OR CAST(:before AS integer) IS NULL)
     ORDER BY version DESC
     LIMIT :limit
""")


async def versions(
    conn: AsyncConnection, *, tenant_id: str, name: str, before: int | None, limit: int
) -> list[Registered]:
    """The versions of one, newest first, before one of them."""
    assert limit > 0
    parameters = {"tenant_id": tenant_id, "name": name, "before": before, "limit": limit}
    rows = await conn.execute(VERSIONS, parameters)
    return [Registered(**row) for row in rows.mappings()]
