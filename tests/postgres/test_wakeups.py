"""A wakeup goes out at once where none went lately; a burst is gathered."""

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from app.postgres import wakeups
from app.postgres.wakeups import (
    BURST,
    BURSTS,
    CALLS,
    CATALOG,
    COMMANDS,
    MOVES,
    OUTBOX,
    Notifier,
    mark,
)
from app.supervision import Supervisor
from devstack.stack import Dsns
from tests.support.stack import wait_for

PERIOD_MS = 600_000


async def test_the_first_wakeups_wait_for_no_period_and_those_after_them_are_gathered(
    database: Dsns,
) -> None:
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
            for _ in range(BURST):
                for _ in range(100):
                    notifier.outbox()
                assert await asyncio.wait_for(heard.get(), 10) == OUTBOX
            notifier.outbox()  # gathered until the period is over
            await conn.execute("NOTIFY marker")
            assert await asyncio.wait_for(heard.get(), 10) == "marker"
            saying.cancel()
    finally:
        await conn.close()


async def test_moves_wait_for_what_is_said_next_and_are_said_soon_by_themselves(
    database: Dsns,
) -> None:
    heard: asyncio.Queue[tuple[str, str]] = asyncio.Queue()

    def hear(_conn: object, _pid: int, channel: str, payload: object) -> None:
        heard.put_nowait((channel, str(payload)))

    conn = await asyncpg.connect(database.app)
    try:
        for channel in (OUTBOX, COMMANDS, MOVES):
            await conn.add_listener(channel, hear)
        async with asyncpg.create_pool(database.app, min_size=1, max_size=1) as pool:
            notifier = Notifier(pool, coalesce_ms=1)
            saying = asyncio.create_task(notifier.run())
            one, two = uuid4(), uuid4()
            notifier.moves([one])
            notifier.calls()
            said = [await asyncio.wait_for(heard.get(), 10) for _ in range(2)]
            assert said == [(OUTBOX, CALLS), (MOVES, mark(one))]
            notifier.moves([two])
            assert await asyncio.wait_for(heard.get(), 10) == (MOVES, mark(two))
            notifier.calls()
            notifier.outbox()  # of more than calls
            assert await asyncio.wait_for(heard.get(), 10) == (OUTBOX, "")
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


async def test_changes_of_the_catalog_that_follow_each_other_are_each_heard_at_once(
    database: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeups, "GAP_S", 60.0)  # beyond the test: what waits for it is not heard
    heard: list[str] = []
    listening = asyncio.create_task(
        wakeups.listen(database.app, {CATALOG: heard.append}, name="changes")
    )
    conn = await asyncpg.connect(database.owner)
    try:

        async def so_many(count: int) -> None:
            async def there() -> bool:
                return len(heard) >= count

            await wait_for(there, timeout_s=10)

        await so_many(1)  # it listens
        for number in range(BURSTS[CATALOG]):
            await conn.execute("SELECT pg_notify($1, '')", CATALOG)
            await so_many(number + 2)
        await conn.execute("SELECT pg_notify($1, '')", CATALOG)
        await conn.execute("SELECT pg_notify($1, 'last')", CATALOG)
        await so_many(BURSTS[CATALOG] + 2)
        assert heard[-1] == "last", "no more than a burst"
    finally:
        await conn.close()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
