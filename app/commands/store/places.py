"""Where a command stands in line: behind how many of its lane, or of its ordering key."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.commands import Command

COUNT_MAX: Final = 1000

# Of its own lane; other lanes and tenants are served beside it, by priority and fair share.
LANE: Final = text("""
    SELECT count(*)
      FROM (SELECT
              FROM outbox mine
              JOIN outbox o
                ON o.tenant_id = mine.tenant_id AND o.tool = mine.tool
               AND o.method = mine.method AND o.priority = mine.priority AND o.id < mine.id
             WHERE mine.command_id = :id AND mine.kind = 'command' AND mine.status = 'ready'
               AND o.status = 'ready' AND o.kind = 'command' AND NOT o.exempt
             LIMIT :most) ahead
""")

KEY: Final = text("""
    SELECT (SELECT count(*)
              FROM (SELECT
                      FROM commands w
                     WHERE w.held AND w.tenant_id = c.tenant_id
                       AND w.ordering_key = c.ordering_key AND w.key_seq < c.key_seq
                     LIMIT :most) ahead) AS ahead,
           h.active_id, h.blocked_reason, h.saga_id
      FROM commands c
      JOIN ordering_heads h
        ON h.tenant_id = c.tenant_id AND h.ordering_key = c.ordering_key
     WHERE c.id = :id
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class OfKey:
    """What a command that is held waits for."""

    ahead: int  # further commands that wait before it, up to a bound
    active_id: UUID | None
    blocked_reason: str | None
    saga_id: UUID | None


async def in_lane(conn: AsyncConnection, command: Command) -> int:
    """How many ready commands of its tool and priority are sent before it, up to COUNT_MAX."""
    found = await conn.scalar(LANE, {"id": command.id, "most": COUNT_MAX})
    return int(found or 0)


async def of_key(conn: AsyncConnection, command: Command) -> OfKey | None:
    """What its ordering key does meanwhile; None for a command without one."""
    row = (await conn.execute(KEY, {"id": command.id, "most": COUNT_MAX})).mappings().one_or_none()
    return None if row is None else OfKey(**row)
