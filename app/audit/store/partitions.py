"""The months of `audit.events`: a write finds none only where neither app nor relay has run."""

from typing import Final

import asyncpg

ENSURE: Final = "SELECT audit.ensure_partitions()"
AHEAD_S: Final = "SELECT audit.partitions_ahead_s()"


async def ensure(pool: asyncpg.Pool) -> int:
    """Make those of now and of the next two months that are missing; returns how many."""
    return await pool.fetchval(ENSURE)


async def ahead_s(pool: asyncpg.Pool) -> float:
    """For how long from now on there is a month for every write."""
    return await pool.fetchval(AHEAD_S)
