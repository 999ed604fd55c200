"""The ticks of sagas: rows that say which saga has something to look at."""

from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.commands import Command

ENQUEUE: Final = text("INSERT INTO saga_turns (tenant_id, saga_id) VALUES (:tenant_id, :saga_id)")
DUE: Final = text("""
    SELECT saga_id FROM saga_turns WHERE due_at <= now() ORDER BY due_at, id LIMIT :limit
""")
TAKE: Final = text("DELETE FROM saga_turns WHERE saga_id = :saga_id")
POSTPONE: Final = text("""
    UPDATE saga_turns SET due_at = now() + make_interval(secs => :pause_s) WHERE saga_id = :saga_id
""")


async def enqueue_tick(conn: AsyncConnection, *, tenant_id: str, saga_id: UUID) -> None:
    """Give a saga a tick, with what the caller's transaction changes."""
    await conn.execute(ENQUEUE, {"tenant_id": tenant_id, "saga_id": saga_id})


async def enqueue_tick_of(conn: AsyncConnection, command: Command) -> None:
    """Give the saga of this command a tick, where it is a saga's own."""
    if command.saga_role == "saga":
        await enqueue_tick(conn, tenant_id=command.tenant_id, saga_id=command.id)


async def due_ticks(conn: AsyncConnection, *, limit: int) -> list[UUID]:
    """Sagas that have a tick, longest waiting first, each once."""
    rows = await conn.execute(DUE, {"limit": limit})
    return list(dict.fromkeys(rows.scalars()))


async def take_ticks(conn: AsyncConnection, saga_id: UUID) -> None:
    """Its ticks up to now are taken. Call it before what they are about is read."""
    await conn.execute(TAKE, {"saga_id": saga_id})


async def postpone_ticks(conn: AsyncConnection, saga_id: UUID, *, pause_s: float) -> None:
    """Its tick failed: let others go first."""
    await conn.execute(POSTPONE, {"saga_id": saga_id, "pause_s": pause_s})
