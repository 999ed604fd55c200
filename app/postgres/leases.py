"""Work that one relay does at a time. The epoch fences a predecessor that thinks it still does."""

from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

# A lease that ends later than any does was taken while the database's clock was ahead. Relays may
# differ in how long they take one for, hence the double.
TAKE: Final = """
    INSERT INTO leases AS l (name, owner, until)
    VALUES ($1, $2, now() + make_interval(secs => $3::float8))
        ON CONFLICT (name)
        DO UPDATE SET owner = excluded.owner, until = excluded.until,
                      epoch = l.epoch + (l.owner <> excluded.owner)::int
                WHERE l.owner = excluded.owner OR l.until < now()
                   OR l.until > now() + 2 * make_interval(secs => $3::float8)
    RETURNING epoch
"""

HOLD: Final = """
    SELECT 1 FROM leases WHERE name = $1 AND owner = $2 AND epoch = $3 FOR UPDATE
"""

GIVE_BACK: Final = "UPDATE leases SET until = now() WHERE name = $1 AND owner = $2"


async def take(pool: asyncpg.Pool, *, name: str, owner: str, lease_s: float) -> int | None:
    """Take or renew the lease; its epoch, or None while another owner has it."""
    return await pool.fetchval(TAKE, name, owner, lease_s)


async def hold(
    conn: asyncpg.Connection | PoolConnectionProxy, *, name: str, owner: str, epoch: int
) -> bool:
    """Keep the lease from changing hands until the caller's transaction ends; False: it has."""
    return await conn.fetchval(HOLD, name, owner, epoch) is not None


async def give_back(pool: asyncpg.Pool, *, name: str, owner: str) -> None:
    """Let another owner take it at once."""
    await pool.execute(GIVE_BACK, name, owner)
