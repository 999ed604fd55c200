"""The holds table: placing, releasing and reading holds, and the rows that wait for them.

A hold is placed and released under the lock of the claim (`dispatch_claim.LOCK`), so a claim knows
each hold from the moment at which it is in force. What waits is moved afterwards, some rows at a
time: until then the claim itself keeps back what it comes upon.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.hold_match import MATCH
from app.postgres.engine import dump
from app.postgres.wakeups import HOLDS

COUNT_MAX: Final = 10_000
"""Up to which a preview counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """A hold's row. Its calls fit all that is given of tool, method, key and argument."""

    id: UUID
    tenant_id: str
    tool: str | None
    method: str | None
    ordering_key: str | None
    args_path: list[str] | None
    args_value: Any
    effect: str
    reason: str
    until: datetime | None
    placed_by: str
    placed_at: datetime
    released_at: datetime | None
    released_by: str | None


NAMES: Final = tuple(field.name for field in fields(Hold))
COLUMNS: Final = ", ".join(f"h.{name}" for name in NAMES)

LOCK: Final = text("SELECT FROM turns WHERE name = 'dispatch' FOR UPDATE")
ANNOUNCE: Final = text("SELECT pg_notify(:channel, '')")

ACTIVE: Final = text(f"""
    SELECT {COLUMNS}
      FROM holds h
     WHERE h.tenant_id = :tenant_id AND h.released_at IS NULL
     ORDER BY h.id
     LIMIT :limit
""")

LOGIN: Final = text("SELECT session_user")

FIND: Final = text(f"""
    SELECT {COLUMNS}
      FROM holds h
     WHERE h.id = :id AND h.tenant_id = :tenant_id AND h.released_at IS NULL
""")

NEWEST: Final = text(f"""
    SELECT {COLUMNS}
      FROM holds h
     WHERE h.tenant_id = :tenant_id
       AND (CAST(:before AS uuid) IS NULL OR h.id < :before)
     ORDER BY h.id DESC
     LIMIT :limit
""")

AUDIT: Final = """
    INSERT INTO audit.events (tenant_id, type, actor, tool, method, body)
    SELECT tenant_id, CAST(:type AS text), CAST(:actor AS text), tool, method,
           CAST(CAST(:said AS jsonb) || jsonb_strip_nulls(jsonb_build_object(
               'hold_id', id, 'ordering_key', ordering_key, 'args_path', args_path,
               'effect', effect, 'placed_by', placed_by, 'until', until))
               || CASE WHEN args_path IS NULL THEN CAST('{}' AS jsonb)
                       ELSE jsonb_build_object('args_value', args_value) END AS json)
      FROM changed
"""

PLACE: Final = text(f"""
    WITH changed AS (
        INSERT INTO holds AS h (id, tenant_id, tool, method, ordering_key, args_path, args_value,
                                effect, reason, until, placed_by)
        VALUES (:id, :tenant_id, :tool, :method, :ordering_key, CAST(:args_path AS text[]),
                CAST(:args_value AS jsonb), :effect, :reason, :until, :actor)
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM changed
""")

RELEASE: Final = text(f"""
    WITH changed AS (
        UPDATE holds h
           SET released_at = clock_timestamp(), released_by = :actor
         WHERE h.id = :id AND h.released_at IS NULL
           AND (NOT :due OR h.until <= clock_timestamp())
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM changed
""")

DUE: Final = text("""
    SELECT id, tenant_id
      FROM holds
     WHERE released_at IS NULL AND until <= clock_timestamp()
     ORDER BY until
     LIMIT :limit
""")

# Rows that somebody has locked are left to the claim.
KEEP_BACK: Final = text(f"""
    WITH these AS (
        SELECT o.id
          FROM holds h
          JOIN commands c ON {MATCH}
          JOIN outbox o ON o.command_id = c.id AND o.kind = 'command' AND o.status = 'ready'
         WHERE h.id = :id AND h.released_at IS NULL AND c.state = 'queued'
         LIMIT :limit
           FOR UPDATE OF o SKIP LOCKED
    )
    UPDATE outbox o
       SET status = 'on_hold', hold_id = :id
      FROM these
     WHERE o.id = these.id
    RETURNING 1
""")

# They are due from now on: how long an operator held them is no part of the queue's wait.
FREE: Final = text("""
    WITH these AS (
        SELECT o.id
          FROM outbox o
         WHERE o.hold_id = :id AND o.status = 'on_hold'
         ORDER BY o.id
         LIMIT :limit
           FOR UPDATE SKIP LOCKED
    )
    UPDATE outbox o
       SET status = 'ready', hold_id = NULL, available_at = greatest(o.available_at, now())
      FROM these
     WHERE o.id = these.id
    RETURNING 1
""")

UNFREED: Final = text("""
    SELECT id
      FROM holds
     WHERE released_at IS NOT NULL AND freed_at IS NULL
     ORDER BY released_at
     LIMIT :limit
""")

# A statement that began before the release may still keep a row back for a moment.
FREED: Final = text("""
    UPDATE holds h
       SET freed_at = now()
     WHERE h.id = :id AND h.released_at < now() - interval '1 minute'
       AND NOT EXISTS (SELECT FROM outbox o WHERE o.hold_id = h.id AND o.status = 'on_hold')
""")

WAITING: Final = text("""
    SELECT count(*)
      FROM (SELECT FROM outbox o
             WHERE o.hold_id = :id AND o.status = 'on_hold'
             LIMIT :most) few
""")

LEAVING: Final = text(f"""
    SELECT count(*)
      FROM holds h
      JOIN outbox o ON o.tenant_id = h.tenant_id AND o.status = 'claimed' AND o.kind = 'command'
      JOIN commands c ON c.id = o.command_id AND {MATCH}
     WHERE h.id = :id
""")

COUNT: Final = text(f"""
    WITH h AS (
        SELECT CAST(:tenant_id AS text) AS tenant_id, CAST(:tool AS text) AS tool,
               CAST(:method AS text) AS method, CAST(:ordering_key AS text) AS ordering_key,
               CAST(:args_path AS text[]) AS args_path, CAST(:args_value AS jsonb) AS args_value
    ), few AS (
        (SELECT c.state FROM h JOIN commands c ON {MATCH}
          WHERE c.state = 'queued' AND c.saga_role IS DISTINCT FROM 'saga' LIMIT :most)
         UNION ALL
        (SELECT c.state FROM h JOIN commands c ON {MATCH}
          WHERE c.state IN ('dispatched', 'running') AND c.saga_role IS DISTINCT FROM 'saga'
          LIMIT :most)
    )
    SELECT count(*) FILTER (WHERE state = 'queued') AS queued,
           count(*) FILTER (WHERE state <> 'queued') AS in_flight
      FROM few
""")


async def lock(conn: AsyncConnection) -> None:
    """Let no claim run until the transaction ends: for what takes a moment."""
    await conn.execute(LOCK)


async def announce(conn: AsyncConnection) -> None:
    """Tell every replica on the caller's commit that holds changed; rare, so it may ride in it."""
    await conn.execute(ANNOUNCE, {"channel": HOLDS})


async def login(conn: AsyncConnection) -> str:
    """Whose connection it is."""
    return str(await conn.scalar(LOGIN))


async def active(conn: AsyncConnection, *, tenant_id: str, limit: int) -> list[Hold]:
    """A tenant's holds in force, the oldest first."""
    rows = await conn.execute(ACTIVE, {"tenant_id": tenant_id, "limit": limit})
    return [Hold(**row) for row in rows.mappings()]


async def find(conn: AsyncConnection, hold_id: UUID, *, tenant_id: str) -> Hold | None:
    """A tenant's hold that is in force."""
    row = (await conn.execute(FIND, {"id": hold_id, "tenant_id": tenant_id})).mappings().first()
    return None if row is None else Hold(**row)


async def newest(
    conn: AsyncConnection, *, tenant_id: str, before: UUID | None, limit: int
) -> list[Hold]:
    """A tenant's holds, released ones too, the newest first."""
    values = {"tenant_id": tenant_id, "before": before, "limit": limit}
    return [Hold(**row) for row in (await conn.execute(NEWEST, values)).mappings()]


async def place(conn: AsyncConnection, **values: Any) -> Hold:
    """Write a hold and its audit event. Take the lock first."""
    values["args_value"] = None if values["args_path"] is None else dump(values["args_value"])
    said = {"type": "hold.placed", "said": dump({"reason": values["reason"]})}
    row = (await conn.execute(PLACE, {**values, **said})).mappings().one()
    return Hold(**row)


async def release(
    conn: AsyncConnection, hold_id: UUID, *, actor: str, reason: str | None
) -> Hold | None:
    """End a hold, with its audit event; None where it has ended. Take the lock first.

    Without a reason it is time that ends it, if its end has passed.
    """
    due = reason is None
    values = {
        "id": hold_id,
        "actor": actor,
        "due": due,
        "type": "hold.expired" if due else "hold.released",
        "said": dump({} if reason is None else {"reason": reason}),
    }
    row = (await conn.execute(RELEASE, values)).mappings().one_or_none()
    return None if row is None else Hold(**row)


async def due(conn: AsyncConnection, *, limit: int) -> Sequence[tuple[UUID, str]]:
    """Holds whose end has passed, with their tenants."""
    rows = await conn.execute(DUE, {"limit": limit})
    return [(row.id, row.tenant_id) for row in rows]


async def keep_back(conn: AsyncConnection, hold_id: UUID, *, limit: int) -> int:
    """Take ready rows of a hold out of what claims look at; returns how many."""
    return len((await conn.execute(KEEP_BACK, {"id": hold_id, "limit": limit})).all())


async def free(conn: AsyncConnection, hold_id: UUID, *, limit: int) -> int:
    """Make rows ready that wait for a hold; returns how many. A later hold keeps them back anew."""
    return len((await conn.execute(FREE, {"id": hold_id, "limit": limit})).all())


async def unfreed(conn: AsyncConnection, *, limit: int) -> list[UUID]:
    """Released holds for which something may wait yet."""
    return list((await conn.execute(UNFREED, {"limit": limit})).scalars())


async def freed(conn: AsyncConnection, hold_id: UUID) -> None:
    """Nothing waits for a hold that was released a while ago."""
    await conn.execute(FREED, {"id": hold_id})


async def waiting(conn: AsyncConnection, hold_id: UUID, *, most: int) -> int:
    """Calls whose turn had come and that wait for a hold, up to `most`."""
    return int(await conn.scalar(WAITING, {"id": hold_id, "most": most}) or 0)


async def leaving(conn: AsyncConnection, hold_id: UUID) -> int:
    """Calls of a hold that a relay had taken before it was in force."""
    return int(await conn.scalar(LEAVING, {"id": hold_id}) or 0)


async def count(conn: AsyncConnection, **values: Any) -> tuple[int, int]:
    """Calls that a hold would be of: that wait, and that are in flight; each up to a bound."""
    values["args_value"] = None if values["args_path"] is None else dump(values["args_value"])
    row = (await conn.execute(COUNT, {**values, "most": COUNT_MAX})).mappings().one()
    return row["queued"], row["in_flight"]
