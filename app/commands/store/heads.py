"""The ordering_heads table: one row a (tenant, ordering key), the lock of that key.

A transaction that ends or starts a keyed command takes the head first, then the command row;
at most one command of a key is not held, so nothing downstream can reorder them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A key that goes on only after somebody says what became of a command."""

    ordering_key: str
    command_id: UUID
    blocked_reason: str
    blocked_at: datetime
    waiting: int  # commands that wait for it, counted up to WAITING_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """A saga's command waits for a key that another saga has."""

    saga_id: UUID
    ordering_key: str
    owner_id: UUID


LOCK: Final = text("""
    SELECT active_id
      FROM ordering_heads
     WHERE tenant_id = :tenant_id AND ordering_key = :ordering_key
       FOR UPDATE
""")

# On asyncpg: keys that a batch takes, in the one order in which all batches take them.
LOCK_MANY: Final = """
    SELECT h.ordering_key
      FROM ordering_heads h
      JOIN unnest($1::text[], $2::text[]) AS k (tenant_id, ordering_key)
     USING (tenant_id, ordering_key)
     ORDER BY h.tenant_id, h.ordering_key
       FOR UPDATE OF h
"""

CLEAR_ACTIVE: Final = text("""
    UPDATE ordering_heads
       SET active_id = NULL, blocked_reason = CAST(:blocked_reason AS text), moved_at = now()
     WHERE tenant_id = :tenant_id AND ordering_key = :ordering_key AND active_id = :command_id
""")

UNBLOCK: Final = text("""
    UPDATE ordering_heads
       SET blocked_reason = NULL, moved_at = now()
     WHERE tenant_id = :tenant_id AND ordering_key = :ordering_key
       AND blocked_reason = :blocked_reason
    RETURNING 1
""")

BLOCKS: Final = text("""
    SELECT blocked_reason IS NOT DISTINCT FROM CAST(:blocked_reason AS text)
      FROM ordering_heads
     WHERE tenant_id = :tenant_id AND ordering_key = :ordering_key
""")

# Waiting commands are counted to a bound: a hot key has many.
BLOCKED: Final = text("""
    SELECT h.ordering_key, h.blocked_reason, h.moved_at AS blocked_at,
           CAST(substring(h.blocked_reason FROM '[0-9a-f-]{36}') AS uuid) AS command_id,
           (SELECT count(*)
              FROM (SELECT 1
                      FROM commands c
                     WHERE c.tenant_id = h.tenant_id AND c.ordering_key = h.ordering_key AND c.held
                     LIMIT :waiting_max) few) AS waiting
      FROM ordering_heads h
     WHERE h.tenant_id = :tenant_id AND h.blocked_reason IS NOT NULL
       AND (CAST(:after AS text) IS NULL OR h.ordering_key > :after)
     ORDER BY h.ordering_key
     LIMIT :limit
""")
WAITING_MAX: Final = 1000

# A key that a saga has taken is that saga's until it is over: only its own commands go on.
# Runs in a statement of its own after the head is locked, so its snapshot sees every command
# that was accepted before the lock was ours. One index probe per key, however many wait.
ACTIVATE_NEXT_SQL: Final = """
    WITH head AS (
        SELECT h.tenant_id, h.ordering_key, h.saga_id
          FROM ordering_heads h
          JOIN unnest(CAST({tenants} AS text[]), CAST({keys} AS text[]))
            AS k (tenant_id, ordering_key)
         USING (tenant_id, ordering_key)
         WHERE h.active_id IS NULL AND h.blocked_reason IS NULL
         ORDER BY h.tenant_id, h.ordering_key
           FOR UPDATE OF h
    ), next AS (
        SELECT head.tenant_id, head.ordering_key, waiting.id, waiting.saga_id
          FROM head
         CROSS JOIN LATERAL (
            (SELECT c.id, c.saga_id
               FROM commands c
              WHERE head.saga_id IS NULL AND c.held
                AND c.tenant_id = head.tenant_id AND c.ordering_key = head.ordering_key
              ORDER BY c.key_seq
              LIMIT 1)
             UNION ALL
            (SELECT c.id, c.saga_id
               FROM commands c
              WHERE c.saga_id = head.saga_id AND c.held AND c.ordering_key = head.ordering_key
              ORDER BY c.key_seq
              LIMIT 1)
         ) waiting
    ), activated AS (
        UPDATE ordering_heads h
           SET active_id = next.id, saga_id = next.saga_id, moved_at = now()
          FROM next
         WHERE h.tenant_id = next.tenant_id AND h.ordering_key = next.ordering_key
    ), freed AS (
        UPDATE commands c
           SET held = false
          FROM next
         WHERE c.id = next.id
        RETURNING c.id, c.approval
    )
    UPDATE outbox o
       SET status = CASE WHEN o.available_at > now() THEN 'delayed' ELSE 'ready' END
      FROM freed
     WHERE o.command_id = freed.id AND o.kind = 'command' AND o.status = 'held'
       AND freed.approval IS DISTINCT FROM 'pending'
    RETURNING o.command_id
"""
ACTIVATE_NEXT: Final = text(ACTIVATE_NEXT_SQL.format(tenants=":tenants", keys=":keys"))


async def lock(conn: AsyncConnection, *, tenant_id: str, ordering_key: str) -> UUID | None:
    """Lock a key until the transaction ends; returns its active command."""
    return await conn.scalar(LOCK, {"tenant_id": tenant_id, "ordering_key": ordering_key})


async def clear_active(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    ordering_key: str,
    command_id: UUID,
    blocked_reason: str | None = None,
) -> None:
    """The key's active command is out of the way, or blocks it for a reason. Lock it first."""
    values = {
        "tenant_id": tenant_id,
        "ordering_key": ordering_key,
        "command_id": command_id,
        "blocked_reason": blocked_reason,
    }
    await conn.execute(CLEAR_ACTIVE, values)


async def unblock(
    conn: AsyncConnection, *, tenant_id: str, ordering_key: str, blocked_reason: str
) -> bool:
    """Lift a block of this reason; False where there was none. Another one stays."""
    values = {
        "tenant_id": tenant_id,
        "ordering_key": ordering_key,
        "blocked_reason": blocked_reason,
    }
    return bool(await conn.scalar(UNBLOCK, values))


async def blocks(
    conn: AsyncConnection, *, tenant_id: str, ordering_key: str, blocked_reason: str
) -> bool:
    """Whether the key waits for this reason. Lock it first."""
    values = {
        "tenant_id": tenant_id,
        "ordering_key": ordering_key,
        "blocked_reason": blocked_reason,
    }
    return bool(await conn.scalar(BLOCKS, values))


async def list_blocked(
    conn: AsyncConnection, *, tenant_id: str, after: str | None, limit: int
) -> list[Blocked]:
    """A tenant's keys that wait for somebody's decision, by name, after one of them."""
    values = {"tenant_id": tenant_id, "after": after, "limit": limit, "waiting_max": WAITING_MAX}
    rows = await conn.execute(BLOCKED, values)
    return [Blocked(**row) for row in rows.mappings()]


COUNT_BLOCKED: Final = text("""
    SELECT count(*)
      FROM (SELECT FROM ordering_heads h
             WHERE h.tenant_id = :tenant_id AND h.blocked_reason IS NOT NULL
             ORDER BY h.ordering_key
             LIMIT :most) few
""")


async def count_blocked(conn: AsyncConnection, *, tenant_id: str, most: int) -> int:
    """How many keys of a tenant wait for somebody's decision, up to `most`."""
    values = {"tenant_id": tenant_id, "most": most}
    return int(await conn.scalar(COUNT_BLOCKED, values) or 0)


LOCK_SAGA: Final = text("""
    SELECT ordering_key
      FROM ordering_heads
     WHERE saga_id = :saga_id
     ORDER BY tenant_id, ordering_key
       FOR UPDATE
""")

RELEASE_SAGA_KEYS: Final = text("""
    UPDATE ordering_heads
       SET saga_id = NULL, blocked_reason = NULL, moved_at = now()
     WHERE saga_id = :saga_id
""")

RELEASE_IDLE_SAGA_KEYS: Final = text("""
    UPDATE ordering_heads
       SET saga_id = NULL, moved_at = now()
     WHERE saga_id = :saga_id AND active_id IS NULL AND blocked_reason IS NULL
    RETURNING ordering_key
""")

# Of sagas that have a key themselves: who has none is waited for by nobody.
SAGA_WAITS: Final = text("""
    SELECT DISTINCT c.saga_id, c.ordering_key, h.saga_id AS owner_id
      FROM commands c
      JOIN ordering_heads h USING (tenant_id, ordering_key)
     WHERE c.held AND c.saga_id IS NOT NULL AND h.saga_id <> c.saga_id
       AND EXISTS (SELECT FROM ordering_heads own WHERE own.saga_id = c.saga_id)
       AND (CAST(:among AS uuid[]) IS NULL
            OR c.saga_id = ANY (:among) AND h.saga_id = ANY (:among))
     ORDER BY c.saga_id, c.ordering_key
""")


async def release_saga_keys(conn: AsyncConnection, *, tenant_id: str, saga_id: UUID) -> list[UUID]:
    """Free every key that a saga has, also those that wait for an outcome of its own.

    Returns the commands that are ready by this. No other head may be locked before.
    """
    keys = list((await conn.execute(LOCK_SAGA, {"saga_id": saga_id})).scalars())
    if not keys:
        return []
    await conn.execute(RELEASE_SAGA_KEYS, {"saga_id": saga_id})
    return await activate_next(conn, [(tenant_id, key) for key in keys])


async def release_idle_saga_keys(
    conn: AsyncConnection, *, tenant_id: str, saga_id: UUID
) -> tuple[list[str], list[UUID]]:
    """Free a saga's keys that none of its commands has and that wait for no outcome.

    Returns them, and the commands that are ready by this. No other head may be locked before.
    """
    await conn.execute(LOCK_SAGA, {"saga_id": saga_id})
    keys = list((await conn.execute(RELEASE_IDLE_SAGA_KEYS, {"saga_id": saga_id})).scalars())
    return sorted(keys), await activate_next(conn, [(tenant_id, key) for key in keys])


async def saga_waits(conn: AsyncConnection, *, among: Sequence[UUID] | None = None) -> list[Wait]:
    """Which sagas that have keys wait for keys of which; among some, or all."""
    values = {"among": None if among is None else list(among)}
    return [Wait(**row) for row in (await conn.execute(SAGA_WAITS, values)).mappings()]


async def activate_next(conn: AsyncConnection, keys: Iterable[tuple[str, str]]) -> list[UUID]:
    """Make the next command of each free (tenant, key) ready; returns those made ready."""
    pairs = sorted(set(keys))
    values = {"tenants": [pair[0] for pair in pairs], "keys": [pair[1] for pair in pairs]}
    return list((await conn.execute(ACTIVATE_NEXT, values)).scalars())
