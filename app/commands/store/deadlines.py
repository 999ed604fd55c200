"""The commands table as the clock sees it: what is late, and that a deadline was missed."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.commands import COLUMNS, Command
from app.commands.store.moves import AUDIT, audited

PAST_DEADLINE: Final = text("""
    SELECT id
      FROM commands
     WHERE state IN ('queued', 'dispatched', 'running') AND deadline_missed_at IS NULL
       AND deadline_at <= now() AND id <> ALL (CAST(:but AS uuid[]))
     ORDER BY deadline_at
     LIMIT :limit
""")

MISS_DEADLINE: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET deadline_missed_at = now()
         WHERE c.id = :id AND c.deadline_missed_at IS NULL
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT 1 FROM moved
""")

APPROVAL_DUE: Final = text("""
    SELECT id
      FROM commands
     WHERE approval = 'pending' AND state = 'queued' AND approval_due IS NOT NULL
       AND approval_due <= now() AND id <> ALL (CAST(:but AS uuid[]))
     ORDER BY approval_due
     LIMIT :limit
""")

APPROVAL_STANDS: Final = text("""
    SELECT approval_due <= clock_timestamp() AS due,
           coalesce(approval_until <= clock_timestamp(), false) AS over
      FROM commands
     WHERE id = :id AND approval = 'pending' AND state = 'queued' AND approval_due IS NOT NULL
""")

PAST_LEASE: Final = text("""
    SELECT id
      FROM commands
     WHERE state IN ('dispatched', 'running') AND lease_until <= now()
       AND id <> ALL (CAST(:but AS uuid[]))
     ORDER BY lease_until
     LIMIT :limit
""")

LEASE_IS_OVER: Final = text("""
    SELECT state IN ('dispatched', 'running') AND lease_until <= clock_timestamp()
      FROM commands
     WHERE id = :id
""")

RUNTIME_IS_OVER: Final = text("""
    SELECT hard_stop_at <= clock_timestamp() FROM commands WHERE id = :id
""")

LEFT_S: Final = text(
    "SELECT CAST(extract(epoch FROM CAST(:until AS timestamptz) - clock_timestamp()) AS float8)"
)


async def past_deadline(
    conn: AsyncConnection, *, limit: int, but: Sequence[UUID] = ()
) -> list[UUID]:
    """Open commands whose deadline has passed and is not recorded, longest past first."""
    values = {"limit": limit, "but": list(but)}
    return list((await conn.execute(PAST_DEADLINE, values)).scalars())


async def miss_deadline(conn: AsyncConnection, command: Command, *, actor: str) -> bool:
    """Record that the deadline passed; once a command."""
    values = audited(command, kind="command.deadline_missed", actor=actor, body={})
    return bool(await conn.scalar(MISS_DEADLINE, values))


async def approvals_due(
    conn: AsyncConnection, *, limit: int, but: Sequence[UUID] = ()
) -> list[UUID]:
    """Commands whose approval is to escalate, or was not decided in time; longest due first."""
    values = {"limit": limit, "but": list(but)}
    return list((await conn.execute(APPROVAL_DUE, values)).scalars())


async def approval_stands(conn: AsyncConnection, command_id: UUID) -> tuple[bool, bool]:
    """Whether the locked command's approval is due, and whether the time to decide is over."""
    row = (await conn.execute(APPROVAL_STANDS, {"id": command_id})).one_or_none()
    return (False, False) if row is None else (bool(row.due), bool(row.over))


async def past_lease(conn: AsyncConnection, *, limit: int, but: Sequence[UUID] = ()) -> list[UUID]:
    """Commands whose adapter, or whose delivery, has been silent for too long."""
    values = {"limit": limit, "but": list(but)}
    return list((await conn.execute(PAST_LEASE, values)).scalars())


async def lease_is_over(conn: AsyncConnection, command_id: UUID) -> bool:
    """Whether the locked command's lease has ended, by the database's clock."""
    return bool(await conn.scalar(LEASE_IS_OVER, {"id": command_id}))


async def runtime_is_over(conn: AsyncConnection, command_id: UUID) -> bool:
    """Whether the locked command has run for as long as its tool may."""
    return bool(await conn.scalar(RUNTIME_IS_OVER, {"id": command_id}))


async def left_s(conn: AsyncConnection, until: datetime) -> float:
    """Seconds up to a time, by the database's clock."""
    return float(await conn.scalar(LEFT_S, {"until": until}))
