"""A wakeup goes out at once where none went lately; a burst is gathered."""

import asyncio

import asyncpg
import pytest

from app.postgres.wakeups import COMMANDS, OUTBOX, Notifier
from app.supervision import Supervisor
from devstack.stack import Dsns
from tests.support.stack import wait_for

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


@pytest.mark.guarantee("watch:told-again")
async def test_a_wakeup_that_could_not_be_sent_is_sent_when_that_goes_again(
    database: Dsns, caplog: pytest.LogCaptureFixture
) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    name = database.app.rpartition("/")[2]
    admin = await asyncpg.connect(database.owner.replace(name, "postgres"))
    conn = await asyncpg.connect(database.app)
    await conn.add_listener(OUTBOX, lambda *said: heard.put_nowait(str(said[2])))
    async with asyncpg.create_pool(database.app, min_size=0, max_size=1) as pool:
        notifier = Notifier(pool, coalesce_ms=1)
        saying = asyncio.create_task(notifier.run())
        try:
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
            notifier.outbox()

            async def failed() -> bool:
                return "wakeup not sent" in caplog.text

            assert await wait_for(failed)
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            assert await asyncio.wait_for(heard.get(), 10) == OUTBOX
        finally:
            saying.cancel()
            await admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
            await admin.close()
            await conn.close()


@pytest.mark.guarantee("watch:supervised")
async def test_a_loop_that_ends_is_started_again_and_told_of() -> None:
    runs: asyncio.Queue[int] = asyncio.Queue()

    async def loop() -> None:
        runs.put_nowait(1)
        if runs.qsize() == 1:
            raise RuntimeError("unforeseen")
        await asyncio.Event().wait()

    supervisor = Supervisor()
    supervisor.start("feed", loop)
    try:

        async def again() -> bool:
            return runs.qsize() == 2

        assert await wait_for(again)
        assert supervisor.ended_lately() == ["feed"]
    finally:
        supervisor.stop()
