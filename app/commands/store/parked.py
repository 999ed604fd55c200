"""Outbox rows that Kafka refuses: parked with the reason, until an operator has them go again.

Every verb here is an operator's, under a database role of their own, which the audit trail names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

LIST: Final = text("""
    SELECT id, tenant_id, kind, topic, command_id, attempt, status, refusal, refused_at
      FROM outbox
     WHERE refusal IS NOT NULL AND status IN ('parked', 'delayed')
     ORDER BY id
     LIMIT :limit
""")

AUDITED: Final = """
    INSERT INTO audit.events (tenant_id, type, actor, command_id, attempt, body)
    SELECT tenant_id, CAST(:type AS text), 'db:' || session_user, command_id, attempt,
           json_build_object('kind', kind, 'topic', topic, 'reason', CAST(:reason AS text))
      FROM gone
"""

CHOSEN: Final = """
    status = 'parked' AND (CAST(:ids AS bigint[]) IS NULL OR id = ANY (CAST(:ids AS bigint[])))
       AND (CAST(:topic AS text) IS NULL OR topic = :topic)
"""

REDRIVE: Final = text(f"""
    WITH gone AS (
        UPDATE outbox
           SET status = 'ready', refusal = NULL, refused_at = NULL
         WHERE {CHOSEN}
        RETURNING id, tenant_id, kind, topic, command_id, attempt
    ), audited AS ({AUDITED})
    SELECT id, pg_notify('broker_outbox', '') FROM gone
""")

# A command is given up by a cancel: that frees its key and tells its caller.
DISCARD: Final = text(f"""
    WITH gone AS (
        DELETE FROM outbox
         WHERE {CHOSEN} AND kind <> 'command'
        RETURNING id, tenant_id, kind, topic, command_id, attempt
    ), audited AS ({AUDITED})
    SELECT id FROM gone
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedRow:
    """A row that Kafka did not take."""

    id: int
    tenant_id: str
    kind: str
    topic: str
    command_id: UUID | None
    attempt: int | None
    status: str  # parked: an operator's; delayed: tried again by itself
    refusal: str
    refused_at: datetime


async def refused(conn: AsyncConnection, *, limit: int) -> list[RefusedRow]:
    """What Kafka refused and does not have yet, oldest first."""
    rows = await conn.execute(LIST, {"limit": limit})
    return [RefusedRow(**row) for row in rows.mappings()]


async def redrive(
    conn: AsyncConnection, *, ids: Sequence[int] | None, topic: str | None, reason: str
) -> list[int]:
    """Have parked rows go again: these, or all of a topic, or all; returns which did."""
    return await _act(conn, REDRIVE, "outbox.redriven", ids=ids, topic=topic, reason=reason)


async def discard(
    conn: AsyncConnection, *, ids: Sequence[int] | None, topic: str | None, reason: str
) -> list[int]:
    """Drop parked events for good; the command's row still says what they would have."""
    return await _act(conn, DISCARD, "outbox.discarded", ids=ids, topic=topic, reason=reason)


async def _act(
    conn: AsyncConnection,
    statement: TextClause,
    kind: str,
    *,
    ids: Sequence[int] | None,
    topic: str | None,
    reason: str,
) -> list[int]:
    values = {"ids": None if ids is None else list(ids), "topic": topic}
    rows = await conn.execute(statement, values | {"type": kind, "reason": reason})
    return sorted(row[0] for row in rows)
