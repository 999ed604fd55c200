"""What a user may be told of their own calls and sagas, in one order at every replica.

The audit trail is written by the transaction that it tells of, so what it has has happened, at any
replica. Its order is that of transaction ids, below the oldest that is still open: nothing can
come to lie before a position that was read, as with a sequence's numbers, which commit in any
order. A transaction that stays open makes all of it late, and loses nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.state import FINAL
from app.sagas.state import FINAL as SAGA_FINAL
from app.sagas.state import WAITING

WINDOW: Final = 200_000
"""Transactions that one reading looks through: of other tenants' too, as their ids are mixed."""


class Kind(StrEnum):
    """What can be told of."""

    COMMAND_ENDED = "command.ended"
    APPROVAL_WAITING = "approval.waiting"
    SAGA_ENDED = "saga.ended"
    SAGA_WAITING = "saga.waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """All of an event stream that lies before or at this was told."""

    xid: int
    at: datetime
    event_id: UUID

    @classmethod
    def before(cls, xid: int) -> "Position":
        """Nothing of this transaction was told, and all of those before it."""
        return cls(xid=xid, at=datetime.fromtimestamp(0, UTC), event_id=UUID(int=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Occurrence:
    """One thing that happened."""

    position: Position
    type: str
    command_id: UUID | None
    saga_id: UUID | None
    tool: str | None
    method: str | None
    state: str | None
    outcome_unknown: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """What was read, up to where, and whether there is more of it now."""

    found: Sequence[Occurrence]
    position: Position
    more: bool
    strange: bool = False
    """The position was of another database, whose numbers were higher; now it is the end."""


EDGE: Final = text("""
    SELECT CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS closed,
           CAST(pg_snapshot_xmax(pg_current_snapshot()) AS text) AS open
""")

# What an event is, by the name that it is told under; what the parameters are is WHAT.
IS: Final = {
    "command.ended": """(e.state_to = ANY (CAST(:ends AS text[]))
                         AND e.state_from IS DISTINCT FROM e.state_to)""",
    "approval.waiting": "(e.type = 'command.accepted' AND e.body ->> 'approval' = 'pending')",
    "saga.ended": "e.type = ANY (CAST(:saga_ends AS text[]))",
    "saga.waiting": "e.type = ANY (CAST(:saga_waits AS text[]))",
}
WHAT: Final[dict[str, Any]] = {
    "ends": sorted(FINAL),
    "saga_ends": [f"saga.{state}" for state in sorted(SAGA_FINAL)],
    "saga_waits": [f"saga.{state}" for state in sorted(WAITING)],
}

# Behind a position, up to a transaction, and not older than a time.
BEHIND: Final = """
           e.xid >= CAST(CAST(:xid AS text) AS xid8)
       AND e.xid < CAST(CAST(:until AS text) AS xid8)
       AND (e.xid, e.occurred_at, e.event_id)
           > (CAST(CAST(:xid AS text) AS xid8), CAST(:at AS timestamptz), CAST(:event_id AS uuid))
       AND e.occurred_at >= :since
"""

NEXT: Final = text(f"""
    SELECT e.event_id, CAST(e.xid AS text) AS xid, e.occurred_at, e.type, e.command_id, e.saga_id,
           e.tool, e.method, e.state_to, c.outcome_unknown
      FROM audit.events e
      LEFT JOIN commands c ON c.id = e.command_id
     WHERE e.tenant_id = :tenant_id
       AND e.user_id = :user_id
       AND {BEHIND}
       AND (CAST(:tool AS text) IS NULL OR (e.tool = :tool AND e.method = :method))
       AND CASE CAST(:kind AS text)
           {" ".join(f"WHEN '{kind}' THEN {IS[kind]}" for kind in Kind)}
           END
     ORDER BY e.xid, e.occurred_at, e.event_id
     LIMIT :limit
""")


async def edge(conn: AsyncConnection) -> tuple[Position, int]:
    """Where the stream ends now, and the first transaction id that nobody has had."""
    row = (await conn.execute(EDGE)).one()
    return Position.before(int(row.closed)), int(row.open)


async def following(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    user_id: str,
    kind: Kind,
    tool: tuple[str, str] | None,
    position: Position,
    since: datetime,
    limit: int,
) -> Read:
    """What follows a position, oldest first; a part of it where there is much."""
    end, unused = await edge(conn)
    if position.xid > unused:
        return Read(found=(), position=end, more=False, strange=True)
    # By a later snapshot, which sees all that was closed by the one above.
    until = min(end.xid, position.xid + WINDOW)
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "user_id": user_id,
        "kind": kind,
        **WHAT,
        "tool": None if tool is None else tool[0],
        "method": None if tool is None else tool[1],
        "xid": str(position.xid),
        "at": position.at,
        "event_id": position.event_id,
        "until": str(until),
        "since": since,
        "limit": limit,
    }
    rows = (await conn.execute(NEXT, values)).all()
    found = [
        Occurrence(
            position=Position(xid=int(row.xid), at=row.occurred_at, event_id=row.event_id),
            type=row.type,
            command_id=row.command_id,
            saga_id=row.saga_id,
            tool=row.tool,
            method=row.method,
            state=row.state_to,
            outcome_unknown=row.outcome_unknown,
        )
        for row in rows
    ]
    if len(found) == limit:
        return Read(found=found, position=found[-1].position, more=True)
    read_to = max(until, position.xid)
    reached = Position.before(read_to) if read_to > position.xid else position
    return Read(found=found, position=reached, more=until < end.xid)
