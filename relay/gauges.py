"""The gauges of the relay's metrics: read from PostgreSQL every few seconds, by any relay alike."""

import asyncio
import logging
import time

import asyncpg

from app import metrics
from app.db import audit_seals, gauges
from app.db.engine import AWAY
from relay import waits

logger = logging.getLogger(__name__)


async def keep(pool: asyncpg.Pool, stop: asyncio.Event, *, every_s: float) -> None:
    """Read them until told to stop; while PostgreSQL is away they keep their last values."""
    while not stop.is_set():
        try:
            await read(pool)
        except AWAY as error:
            logger.info("gauges wait for postgres: %r", error)
        await waits.until(stop, every_s)


async def read(pool: asyncpg.Pool) -> None:
    """Read them once."""
    found = await gauges.read(pool)
    mark = await audit_seals.watermark(pool)
    metrics.SEAL_LAG_S.set(await audit_seals.lag_s(pool, after=mark.xid))
    for status in ("ready", "held", "delayed", "claimed"):
        metrics.OUTBOX_ROWS.labels(status).set(getattr(found, status))
    for state in ("queued", "dispatched", "running"):
        metrics.COMMANDS.labels(state).set(getattr(found, state))
    metrics.OUTBOX_AGE_S.set(found.oldest_ready_s)
    metrics.DEAD_LETTERS.set(found.dead_letters)
    metrics.BLOCKED_KEYS.set(found.blocked_keys)
    metrics.WAITING_SAGAS.set(found.waiting_sagas)
    metrics.READ_AT_S.set(time.time())
