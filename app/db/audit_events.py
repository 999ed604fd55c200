"""The audit trail as writers see it: events that belong to no command's move."""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db.engine import dump

APPEND: Final = text("""
    INSERT INTO audit.events
           (tenant_id, type, actor, user_id, command_id, saga_id, tool, method, body)
    VALUES (:tenant_id, :type, :actor, :user_id, :command_id, :saga_id, :tool, :method,
            CAST(:body AS json))
""")


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
