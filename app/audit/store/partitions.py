"""The months of `audit.events`: a write finds none only where neither app nor relay has run."""

import asyncio
import logging
from typing import Final

import asyncpg

from app.postgres.engine import AWAY

logger = logging.getLogger(__name__)

EVERY_S: Final = 5.0

ENSURE: Final = "SELECT audit.ensure_partitions()"
AHEAD_S: Final = "SELECT audit.partitions_ahead_s()"


async def ensure(pool: asyncpg.Pool) -> int:
    """Make those of now and of the next two months that are missing; returns how many."""
    return await pool.fetchval(ENSURE)


async def ahead_s(pool: asyncpg.Pool) -> float:
    """For how long from now on there is a month for every write."""
    return await pool.fetchval(AHEAD_S)


async def keep(pool: asyncpg.Pool) -> None:
    """Make the months that are missing, every few seconds, whether a relay runs or not."""
    while True:
        try:
            made = await ensure(pool)
            if made:
                logger.info("months of the audit log made", extra={"partitions": made})
        except AWAY as error:
            logger.warning("months of the audit log are not made: %r", error)
        await asyncio.sleep(EVERY_S)
