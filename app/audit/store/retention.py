"""What may leave the audit trail: retirements, legal holds, erasures of a person's data.

Several parties, so that none of them can make events vanish alone. A retention officer signs a
request, with a key that neither the database nor the relay has. The relay seals what was asked for
so, and cannot drop it. The retention role drops what was sealed, places holds and erases, through
the database's own functions (migration 0018), and cannot seal. No role that serves calls can do
any of it.
"""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from app.audit.request import Month

ASKED: Final = """
    SELECT retirement_id, request, now() AS now
      FROM audit.retirements
     WHERE signed_at IS NULL AND refused_at IS NULL
     ORDER BY retirement_id
     LIMIT $1
"""

MARK_SIGNED: Final = "UPDATE audit.retirements SET signed_at = now() WHERE retirement_id = $1"

# The row is another's word; that it was refused, and why, is the relay's, and an event.
MARK_REFUSED: Final = """
    WITH refused AS (
        UPDATE audit.retirements SET refused_at = now(), refusal = $2
         WHERE retirement_id = $1 AND refused_at IS NULL
        RETURNING retirement_id, asked_by
    )
    INSERT INTO audit.events (tenant_id, type, actor, body)
    SELECT '_broker', 'retirement.refused', 'relay:sealer',
           json_build_object('retirement', retirement_id, 'asked_by', asked_by, 'reason', $2::text)
      FROM refused
"""

ASK: Final = "SELECT audit.ask_retirement($1)"

OUTCOME: Final = "SELECT signed_at, refusal FROM audit.retirements WHERE retirement_id = $1"

DROP_OLDEST: Final = "SELECT * FROM audit.drop_oldest()"

HOLD: Final = "SELECT audit.hold($1, $2, $3, $4)"

RELEASE: Final = "SELECT audit.release($1, $2)"

PLAN_ERASURE: Final = "SELECT * FROM audit.plan_erasure($1, $2, $3)"

ERASE: Final = "SELECT * FROM audit.erase($1, $2, $3, $4, $5, $6)"


ASKED_MAX: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A retirement that somebody has asked for; `request` is what they say that it rests on."""

    retirement_id: int
    request: str | None
    now: datetime  # by the database's clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One batch of what an erasure would blank: which events, and their digest by month."""

    ids: list[UUID]
    ats: list[datetime]
    commands: int
    kept: int
    months: dict[str, Month]


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


async def asked(pool: asyncpg.Pool) -> list[Asked]:
    """The retirements that were asked for, and neither sealed nor refused yet; oldest first."""
    return [Asked(**dict(row)) for row in await pool.fetch(ASKED, ASKED_MAX)]


async def mark_signed(pool: asyncpg.Pool, retirement_id: int) -> None:
    """What was asked for is in the logs now."""
    await pool.execute(MARK_SIGNED, retirement_id)


async def mark_refused(pool: asyncpg.Pool, retirement_id: int, *, reason: str) -> None:
    """What was asked for will not be sealed; an event says why."""
    await pool.execute(MARK_REFUSED, retirement_id, reason)


async def ask(conn: asyncpg.Connection, note: str) -> int:
    """Hand a signed request for a retirement to the relay; its number.

    Raises:
        asyncpg.InvalidParameterValueError: it is no such request, or its date is not past.
    """
    made = await conn.fetchval(ASK, note)
    assert made is not None
    return made


async def outcome(conn: asyncpg.Connection, request: int) -> tuple[bool, str | None]:
    """Whether a relay has sealed what was asked for, and why it will not."""
    row = await conn.fetchrow(OUTCOME, request)
    assert row is not None
    return row["signed_at"] is not None, row["refusal"]


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


async def plan_erasure(
    conn: asyncpg.Connection, tenant_id: str, user_id: str, *, batch: int
) -> Plan:
    """What the next batch of a person's erasure would be: what its request is to be signed over."""
    row = await conn.fetchrow(PLAN_ERASURE, tenant_id, user_id, batch)
    assert row is not None
    months = {name: Month(**month) for name, month in json.loads(row["months"] or "{}").items()}
    return Plan(
        ids=row["ids"], ats=row["ats"], commands=row["commands"], kept=row["kept"], months=months
    )


async def erase(
    conn: asyncpg.Connection,
    tenant_id: str,
    user_id: str,
    *,
    plan: Plan,
    request: str,
    batch: int,
) -> Erasure:
    """Erase one batch of what events and ended commands hold of a person, as was signed for.

    Raises:
        asyncpg.ObjectNotInPrerequisiteStateError: a legal hold, or the person has open work, or
            the events are not those of the request.
    """
    row = await conn.fetchrow(ERASE, tenant_id, user_id, request, plan.ids, plan.ats, batch)
    assert row is not None
    return Erasure(**dict(row))
