"""A wakeup goes out at once where none went lately; a burst is gathered."""

import asyncio

import asyncpg

from app.postgres.wakeups import COMMANDS, OUTBOX, Notifier
from devstack.stack import Dsns

PERIOD_MS = 600_000


async def test_the_first_wakeup_waits_for_no_period_and_a_burst_is_one(database: Dsns) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()

    def hear(_conn: object, _pid: int, channel: str, _payload: object) -> None:
        heard.put_nowait(channel)

    conn = await asyncpg.connect(database.app)
    try:
        for channel in (OUTBOX, COMMANDS, "marker"):
            await conn.add_listener(channel, hear)
        async with asyncpg.create_pool(database.app, min_size=1, max_size=1) as pool:
            notifier = Notifier(pool, coalesce_ms=PERIOD_MS)
            saying = asyncio.create_task(notifier.run())
            for _ in range(100):
                notifier.outbox()
            assert await asyncio.wait_for(heard.get(), 10) == OUTBOX
            notifier.outbox()  # gathered until the period is over
            await conn.execute("NOTIFY marker")
            assert await asyncio.wait_for(heard.get(), 10) == "marker"
            saying.cancel()
    finally:
        await conn.close()
