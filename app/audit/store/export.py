"""The audit trail as auditors read it: a whole log in order, and the database's own verification.

Runs as any role that may read the tenant; row-level security decides what that is.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from app.audit.event import Event
from app.audit.proof import Fault, Member, SignedSeal
from app.audit.seal import Kind, Seal

ROWS_AHEAD: Final = 2000

VERIFY: Final = "SELECT * FROM audit.verify($1)"

NOW: Final = "SELECT clock_timestamp()"

KEYS: Final = "SELECT key_id, public_key FROM audit.keys ORDER BY key_id"

SEAL: Final = """
    SELECT tenant_id, seal_no, kind, seq_from, seq_to, retired_before, root, frontier, previous,
           key_id, sealed_at, checkpoint, digest, attestation, request, retired_digest,
           transactions
      FROM audit.seals
"""

SEALS: Final = f"""
    {SEAL}
     WHERE tenant_id = $1 AND seal_no BETWEEN $2 AND $3
     ORDER BY seal_no
"""

RETIREMENT: Final = f"""
    {SEAL}
     WHERE tenant_id = $1 AND kind = 'retirement' AND request IS NOT NULL
     ORDER BY retired_before DESC, seal_no
     LIMIT 1
"""

# The last seals up to a number, of about as many events; one seal has as many as it has.
PART = """
    SELECT coalesce((SELECT b.seal_no
                       FROM audit.seals b
                      WHERE b.tenant_id = $1 AND b.seal_no < h.seal_no
                        AND b.seq_to <= h.seq_to - $3
                      ORDER BY b.seq_to DESC, b.seal_no DESC
                      LIMIT 1), 0) + 1 AS first,
           h.seal_no AS last, h.checkpoint, h.sealed_at
      FROM audit.seals h
     WHERE h.tenant_id = $1 AND h.seal_no <= $2
     ORDER BY h.seal_no DESC
     LIMIT 1
"""

# Joined to the event by all that a member says of it; what it says is checked, not believed.
MEMBERS: Final = """
    SELECT m.seq, m.event_id, m.occurred_at, m.leaf, e.event_id IS NOT NULL AS there, e.tenant_id,
           e.type, e.actor, e.user_id, e.command_id, e.saga_id, e.tool, e.method, e.attempt,
           e.state_from, e.state_to, e.fingerprint, e.body::text AS body, e.salt, e.commitment,
           e.erased_by, e.xid::text::bigint AS xid
      FROM audit.members m
      LEFT JOIN audit.events e
        ON e.tenant_id = m.tenant_id AND e.occurred_at = m.occurred_at AND e.event_id = m.event_id
     WHERE m.tenant_id = $1 AND m.seq BETWEEN $2 AND $3
     ORDER BY m.seq
"""

MAY_BE_NULL: Final = frozenset({"retired_before", "request", "retired_digest", "transactions"})

SEQ_MAX: Final = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Seals of a log that are read together, with what the last of them says."""

    first: int
    last: int
    checkpoint: str
    sealed_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What audit.verify has found; `ok` is None where there is nothing to verify."""

    ok: bool | None
    seq: int | None
    event_id: UUID | None
    seal_no: int | None
    reason: str | None
    events: int
    seals: int
    size: int
    root: bytes | None
    retired: int
    late: int
    unsealed: int
    unsealed_from: datetime | None
    beyond: list[str]  # what SQL cannot tell


async def verify(conn: asyncpg.Connection, tenant_id: str) -> Verified:
    """The database's own verification: fast, and as honest as the database."""
    row = await conn.fetchrow(VERIFY, tenant_id)
    assert row is not None
    return Verified(**dict(row))


def failed(reason: str) -> Verified:
    """What stands for the word of a database that has none."""
    return Verified(
        ok=False,
        seq=None,
        event_id=None,
        seal_no=None,
        reason=reason,
        events=0,
        seals=0,
        size=0,
        root=None,
        retired=0,
        late=0,
        unsealed=0,
        unsealed_from=None,
        beyond=[],
    )


async def now(conn: asyncpg.Connection) -> datetime:
    """The time by the database's clock."""
    found = await conn.fetchval(NOW)
    assert isinstance(found, datetime)
    return found


async def retirement(conn: asyncpg.Connection, tenant_id: str) -> SignedSeal | Fault | None:
    """The seal that says what may be gone."""
    row = await conn.fetchrow(RETIREMENT, tenant_id)
    return None if row is None else _signed_seal(row)


async def keys(conn: asyncpg.Connection | asyncpg.Pool) -> dict[str, bytes]:
    """The public keys that the database knows."""
    return {row["key_id"]: row["public_key"] for row in await conn.fetch(KEYS)}


async def seal(conn: asyncpg.Connection, tenant_id: str, seal_no: int) -> SignedSeal | Fault | None:
    """One seal."""
    row = await conn.fetchrow(SEALS, tenant_id, seal_no, seal_no)
    return None if row is None else _signed_seal(row)


async def part(conn: asyncpg.Connection, tenant_id: str, *, last: int, most: int) -> Part | None:
    """The seals up to a number that have about so many events; None where there is no seal."""
    row = await conn.fetchrow(PART, tenant_id, last, most)
    return None if row is None else Part(**dict(row))


async def log(
    conn: asyncpg.Connection, tenant_id: str, *, first: int = 1, last: int = SEQ_MAX
) -> AsyncGenerator[SignedSeal | Member | Fault]:
    """Seals of a range of numbers, each with its members behind it; in the caller's transaction.

    Members that no seal covers come at the end of a log that is read to its end.
    """
    start = await conn.fetchval(
        "SELECT seq_from FROM audit.seals WHERE tenant_id = $1 AND seal_no = $2", tenant_id, first
    )
    stop = await conn.fetchval(
        "SELECT seq_to FROM audit.seals WHERE tenant_id = $1 AND seal_no = $2", tenant_id, last
    )
    members = conn.cursor(
        MEMBERS,
        tenant_id,
        -SEQ_MAX if start is None else start,
        SEQ_MAX if stop is None else stop,
        prefetch=ROWS_AHEAD,
    ).__aiter__()
    row = await anext(members, None)
    async for sealed in conn.cursor(SEALS, tenant_id, first, last, prefetch=ROWS_AHEAD):
        yield _signed_seal(sealed)
        if sealed["seq_to"] is None:
            return
        while row is not None and row["seq"] <= sealed["seq_to"]:
            yield _member(row)
            row = await anext(members, None)
    while row is not None:
        yield _member(row)
        row = await anext(members, None)


def _signed_seal(row: asyncpg.Record) -> SignedSeal | Fault:
    fields: dict[str, Any] = {name: row[name] for name in Seal.__slots__}
    missing = [name for name, value in row.items() if value is None and name not in MAY_BE_NULL]
    if missing or row["kind"] not in set(Kind):
        reason = f"seal has no {', '.join(missing) or 'known kind'}"
        return Fault(reason=reason, seal_no=row["seal_no"])
    fields["kind"] = Kind(row["kind"])
    return SignedSeal(seal=Seal(**fields), digest=row["digest"], attestation=row["attestation"])


def _member(row: asyncpg.Record) -> Member | Fault:
    fields = {name: row[name] for name in Event.__slots__}
    if None in (row["leaf"], row["event_id"], row["occurred_at"]) or (
        row["there"] and None in (row["type"], row["actor"], row["body"])
    ):
        reason = "member or event was altered: it lacks what each one has"
        return Fault(reason=reason, seq=row["seq"], event_id=row["event_id"])
    return Member(
        seq=row["seq"],
        event_id=row["event_id"],
        occurred_at=row["occurred_at"],
        leaf=row["leaf"],
        xid=row["xid"],
        event=Event(**fields) if row["there"] else None,
    )
