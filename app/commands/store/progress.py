"""The progress table: what adapters said on the way, numbered per command."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """One progress report of an adapter."""

    seq: int
    attempt: int
    stage: str
    percent: float | None
    message: str | None
    at: datetime


AFTER: Final = text("""
    SELECT seq, attempt, stage, percent, message, at
      FROM progress
     WHERE command_id = :command_id AND seq > :after
     ORDER BY seq
     LIMIT :limit
""")


async def after(
    conn: AsyncConnection, command_id: UUID, *, seq: int, limit: int = 500
) -> Sequence[Progress]:
    """The reports after a number, oldest first."""
    values = {"command_id": command_id, "after": seq, "limit": limit}
    rows = await conn.execute(AFTER, values)
    return [Progress(**row) for row in rows.mappings()]
