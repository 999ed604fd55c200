"""The audit trail as writers see it: events that belong to no command's move."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.json_values import showable
from app.postgres.engine import dump

APPEND: Final = text("""
    INSERT INTO audit.events
           (tenant_id, type, actor, user_id, command_id, saga_id, tool, method, body)
    VALUES (:tenant_id, :type, :actor, :user_id, :command_id, :saga_id, :tool, :method,
            CAST(:body AS json))
""")


NEWEST: Final = text("""
    SELECT event_id, occurred_at AS at, type, actor, user_id, command_id, saga_id, tool, method,
           attempt, state_from, state_to, body
      FROM audit.events
     WHERE tenant_id = :tenant_id
       AND (CAST(:type AS text) IS NULL OR type = :type)
       AND (CAST(:user_id AS text) IS NULL OR user_id = :user_id)
       AND (CAST(:before_at AS timestamptz) IS NULL
            OR (occurred_at, event_id) < (:before_at, CAST(:before_id AS uuid)))
     ORDER BY occurred_at DESC, event_id DESC
     LIMIT :limit
""")

STORY: Final = text("""
    SELECT occurred_at AS at, type AS what, actor, attempt, state_from, state_to, body
      FROM audit.events
     WHERE command_id = :command_id
     ORDER BY occurred_at
     LIMIT 1000
""")


async def newest(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    kind: str | None,
    user_id: str | None,
    before_at: datetime | None,
    before_id: UUID | None,
    limit: int,
) -> list[dict[str, Any]]:
    """A tenant's events, newest first, older than the one that is named."""
    values = {
        "tenant_id": tenant_id,
        "type": kind,
        "user_id": user_id,
        "before_at": before_at,
        "before_id": before_id,
        "limit": limit,
    }
    return [_shown(row) for row in (await conn.execute(NEWEST, values)).mappings()]


async def story(conn: AsyncConnection, command_id: UUID) -> list[dict[str, Any]]:
    """What happened to a command, oldest first: at, what, actor, attempt, states, body."""
    rows = await conn.execute(STORY, {"command_id": command_id})
    return [_shown(row) for row in rows.mappings()]


def _shown(row: RowMapping) -> dict[str, Any]:
    """An event for people; `export` has its body as it is."""
    return {**row, "body": showable(row["body"])}


async def append(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    kind: str,
    actor: str,
    user_id: str | None = None,
    command_id: UUID | None = None,
    saga_id: UUID | None = None,
    tool: str | None = None,
    method: str | None = None,
    body: Mapping[str, Any],
) -> None:
    """Record what happened; it lasts exactly if the caller's transaction does."""
    await conn.execute(
        APPEND,
        {
            "tenant_id": tenant_id,
            "type": kind,
            "actor": actor,
            "user_id": user_id,
            "command_id": command_id,
            "saga_id": saga_id,
            "tool": tool,
            "method": method,
            "body": dump(body),
        },
    )
