"""Counting what there is costs a bounded share of the server's time, whatever there is."""

import asyncio
import time
from typing import Literal

import asyncpg
import pytest
from prometheus_client import REGISTRY

from devstack.stack import Dsns
from relay import gauges
from tests.support.stack import wait_for

EVERY_S = 0.02

WAITER = """
    SELECT pid
      FROM pg_locks
     WHERE relation = 'sagas'::regclass
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
       AND clock_timestamp() - waitstart > make_interval(secs => $1)
"""


def read_at() -> float:
    found = REGISTRY.get_sample_value("mcpbroker_gauges_read_timestamp_seconds")
    assert found is not None
    return found


async def read_after(moment: float) -> float:
    """When they are next read after a moment."""

    async def read() -> float:
        return read_at() if read_at() > moment else 0

    return await wait_for(read)


@pytest.mark.parametrize(
    ("end", "held_s"), [("let go", 0.05), ("cancelled", 0.05), ("cut off", 0.2)]
)
async def test_after_a_read_that_took_long_the_server_has_its_rest(
    database: Dsns, end: Literal["let go", "cancelled", "cut off"], held_s: float
) -> None:
    owner = await asyncpg.connect(database.owner)
    pool = await asyncpg.create_pool(database.relay, min_size=1, max_size=1)
    stop = asyncio.Event()
    keeping = asyncio.create_task(gauges.keep(pool, stop, every_s=EVERY_S))
    try:
        await read_after(await read_after(time.time()))
        async with owner.transaction():
            await owner.execute("LOCK TABLE sagas IN ACCESS EXCLUSIVE MODE")
            pid = await wait_for(lambda: owner.fetchval(WAITER, held_s))
            match end:
                case "let go":
                    pass
                case "cancelled":  # as the server does at its statement_timeout
                    await owner.fetchval("SELECT pg_cancel_backend($1)", pid)
                case "cut off":
                    await owner.fetchval("SELECT pg_terminate_backend($1)", pid)
            over = time.time()
        if end == "let go":
            over = await read_after(over)
        rested_s = await read_after(over) - over
        if end == "cut off":
            assert rested_s < gauges.REST * held_s, "what cost the server nothing is tried again"
        else:
            assert rested_s >= gauges.REST * held_s
    finally:
        stop.set()
        await asyncio.wait_for(keeping, 5)
        await pool.close()
        await owner.close()
