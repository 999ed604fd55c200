"""The gauges of the relay's metrics: read from PostgreSQL every few seconds, by any relay alike."""

import asyncio
import logging
import time
from typing import Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from app import metrics
from app.audit.store import seals
from app.commands.store import gauges
from app.postgres.engine import AWAY
from app.webhooks.store import gauges as webhooks
from relay import waits

logger = logging.getLogger(__name__)

# Each relay counts for itself, and rests so many times as long as that took: counting is a
# twentieth of one connection's work at most, however much there is. A lock that let one relay
# count at a time would leave old figures at the others, and the maximum over relays would lie.
REST: Final = 20


async def keep(pool: asyncpg.Pool, stop: asyncio.Event, *, every_s: float) -> None:
    """Read them until told to stop; while PostgreSQL is away they keep their last values."""
    while not stop.is_set():
        cost_s = 0.0
        try:
            async with pool.acquire() as conn:
                cost_s = await _read_for(conn)
        except AWAY as error:
            logger.info("gauges wait for postgres: %r", error)
        await waits.until(stop, max(every_s, REST * cost_s))


async def _read_for(conn: PoolConnectionProxy) -> float:
    """Read them once; for how many seconds. One that the server ended as too long has a cost too.

    Raises:
        AWAY: PostgreSQL is away.
    """
    began = time.monotonic()
    try:
        await read(conn)
    except asyncpg.QueryCanceledError as error:
        logger.warning("the gauges were not read: %r", error)
    return time.monotonic() - began


async def read(conn: asyncpg.Connection | PoolConnectionProxy) -> None:
    """Read them once."""
    found = await gauges.read(conn)
    mark = await seals.watermark(conn)
    metrics.SEAL_LAG_S.set(await seals.lag_s(conn, after=mark.xid))
    metrics.UNSEALED.set(await seals.waiting(conn, after=mark.xid, limit=metrics.UNSEALED_MAX))
    for status in ("ready", "held", "delayed", "leased", "parked", "on_hold"):
        metrics.OUTBOX_ROWS.labels(status).set(getattr(found, status))
    for state in ("queued", "dispatched", "running"):
        metrics.COMMANDS.labels(state).set(getattr(found, state))
    metrics.OUTBOX_AGE_S.set(found.oldest_ready_s)
    metrics.UNCLAIMED.set(found.unclaimed)
    metrics.DEAD_LETTERS.set(found.dead_letters)
    metrics.HOLDS.set(found.holds)
    metrics.BLOCKED_KEYS.set(found.blocked_keys)
    metrics.WAITING_SAGAS.set(found.waiting_sagas)
    told = await webhooks.read(conn)
    metrics.WEBHOOKS_WAITING.set(told.waiting)
    metrics.WEBHOOKS_OLDEST_S.set(told.oldest_s)
    metrics.WEBHOOKS_FAILING.set(told.failing)
    metrics.READ_AT_S.set(time.time())
