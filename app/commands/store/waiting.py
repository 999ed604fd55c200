"""What waits for a person: approvals, most urgent first; dead letters, newest first."""

from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.commands import COLUMNS, LIST_MAX, Command

UNAPPROVED: Final = text(f"""
    SELECT {COLUMNS}
      FROM commands c
     WHERE c.tenant_id = :tenant_id AND c.approval = 'pending' AND c.finished_at IS NULL
     ORDER BY c.deadline_at, c.id
     LIMIT :limit
""")

DEAD: Final = text(f"""
    SELECT {COLUMNS}
      FROM commands c
     WHERE c.tenant_id = :tenant_id AND c.state = 'dead_lettered' AND c.discarded_at IS NULL
     ORDER BY c.finished_at DESC, c.id DESC
     LIMIT :limit
""")

BEHIND: Final = text("""
    SELECT count(*)
      FROM (SELECT
              FROM commands c
              JOIN commands w
                ON w.held AND w.tenant_id = c.tenant_id AND w.ordering_key = c.ordering_key
             WHERE c.id = :id
             LIMIT :most) behind
""")


async def unapproved(conn: AsyncConnection, *, tenant_id: str, limit: int) -> list[Command]:
    """A tenant's commands that wait for an approval, by their deadlines."""
    assert 0 < limit <= LIST_MAX
    rows = await conn.execute(UNAPPROVED, {"tenant_id": tenant_id, "limit": limit})
    return [Command.of(row) for row in rows.mappings()]


async def dead(conn: AsyncConnection, *, tenant_id: str, limit: int) -> list[Command]:
    """A tenant's dead letters that are not settled, newest first."""
    assert 0 < limit <= LIST_MAX
    rows = await conn.execute(DEAD, {"tenant_id": tenant_id, "limit": limit})
    return [Command.of(row) for row in rows.mappings()]


async def behind(conn: AsyncConnection, command_id: UUID, *, most: int) -> int:
    """How many commands are held for the ordering key of this one, up to `most`."""
    return int(await conn.scalar(BEHIND, {"id": command_id, "most": most}) or 0)
