"""What may leave the audit trail: retirements, legal holds, erasures of a person's data.

Three parties, so that none of them can make events vanish alone. The relay signs that events may
be gone, and cannot drop them. The retention role drops what was signed for, places holds and
erases, through the database's own functions (migration 0008), and cannot sign. No role that serves
calls can do either.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

ASKED: Final = "SELECT max(before) FROM audit.retirements WHERE signed_at IS NULL"

MARK_SIGNED: Final = """
    UPDATE audit.retirements SET signed_at = now() WHERE signed_at IS NULL AND before <= $1
"""

# By policy: the newest month that has been over for as long as events are kept, asked for once.
ASK_BY_POLICY: Final = """
    INSERT INTO audit.retirements (before, reason, asked_by)
    SELECT due.before, 'policy: events_kept_s', 'clock'
      FROM (SELECT date_trunc('month', (now() - make_interval(secs => $1)) AT TIME ZONE 'UTC')
                       AT TIME ZONE 'UTC') AS due (before)
     WHERE NOT EXISTS (SELECT FROM audit.retirements r WHERE r.before >= due.before)
       AND EXISTS (SELECT FROM audit.events e WHERE e.occurred_at < due.before)
"""

ASK: Final = "SELECT audit.ask_retirement($1, $2)"

SIGNED: Final = "SELECT signed_at IS NOT NULL FROM audit.retirements WHERE retirement_id = $1"

DROP_OLDEST: Final = "SELECT * FROM audit.drop_oldest()"

HOLD: Final = "SELECT audit.hold($1, $2, $3, $4)"

RELEASE: Final = "SELECT audit.release($1, $2)"

ERASE: Final = "SELECT * FROM audit.erase($1, $2, $3, $4)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """The oldest partition: dropped, or why not."""

    partition: str
    upto: datetime
    events: int
    dropped: bool
    reason: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What one batch of an erasure has done; `kept` events are of a form that holds no salt."""

    erasure: UUID | None
    events: int
    commands: int
    kept: int
    more: bool


async def asked(pool: asyncpg.Pool) -> datetime | None:
    """The newest date that a retirement was asked for and not signed."""
    return await pool.fetchval(ASKED)


async def mark_signed(pool: asyncpg.Pool, *, before: datetime) -> None:
    """What was asked for up to this date is in the logs now."""
    await pool.execute(MARK_SIGNED, before)


async def ask_by_policy(pool: asyncpg.Pool, *, kept_s: float) -> None:
    """Ask for the retirement of the months that are older than events are kept."""
    await pool.execute(ASK_BY_POLICY, kept_s)


async def ask(conn: asyncpg.Connection, before: datetime, *, reason: str) -> int:
    """Ask the relay to sign that events before a date may be gone; the request's number.

    Raises:
        asyncpg.InvalidParameterValueError: the date is not past.
    """
    made = await conn.fetchval(ASK, before, reason)
    assert made is not None
    return made


async def is_signed(conn: asyncpg.Connection, request: int) -> bool:
    """Whether a relay has signed what was asked for."""
    return bool(await conn.fetchval(SIGNED, request))


async def drop_retired(conn: asyncpg.Connection) -> AsyncGenerator[Partition]:
    """Drop partitions that every log in them calls retired, oldest first, a transaction each.

    Ends with the first that may not go, and why, or when nothing is left to look at.
    """
    while row := await conn.fetchrow(DROP_OLDEST):
        found = Partition(**dict(row))
        yield found
        if not found.dropped:
            return


async def hold(
    conn: asyncpg.Connection,
    tenant_id: str,
    *,
    reason: str,
    from_at: datetime | None,
    to_at: datetime | None,
) -> UUID:
    """Place a legal hold; returns its id."""
    made = await conn.fetchval(HOLD, tenant_id, reason, from_at, to_at)
    assert made is not None
    return made


async def release(conn: asyncpg.Connection, hold_id: UUID, *, reason: str) -> str | None:
    """Release a hold; its tenant, or None where there is no such hold (any more)."""
    return await conn.fetchval(RELEASE, hold_id, reason)


async def erase(
    conn: asyncpg.Connection, tenant_id: str, user_id: str, *, reason: str, batch: int = 5000
) -> AsyncGenerator[Erasure]:
    """Erase what events and ended commands hold of a person, a transaction a batch.

    Raises:
        asyncpg.ObjectNotInPrerequisiteStateError: a legal hold, or the person has open work.
    """
    while row := await conn.fetchrow(ERASE, tenant_id, user_id, reason, batch):
        found = Erasure(**dict(row))
        yield found
        if not found.more:
            return
