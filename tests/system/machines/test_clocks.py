"""The database's clock is set forward and back under load: by libfaketime, in PostgreSQL alone.

PostgreSQL's clock decides all that time decides here. Debian's package libfaketime has it.
"""

import asyncio
import contextlib
import os
from pathlib import Path
from random import Random
from typing import Final

import asyncpg
import pytest

from app.commands import results
from app.edges.server import open_broker
from app.postgres.engine import open_database
from app.postgres.wakeups import Notifier
from devstack.postgres import EmbeddedPostgres
from devstack.stack import prepare
from devstack.tokens import DevIssuer
from relay.clock import Clock as Timers
from tests.conftest import AUDIENCE, settings_of
from tests.support.calls import ADAPTER, accept, claim, echo, policy_of
from tests.system.chaos.fleet import AWAY, Fleet, Monkey, open_fleet
from tests.system.chaos.test_chaos import SECONDS, SETTLE_S, only_for_long, ordeal

NAMED: Final = os.environ.get("MCP_BROKER_LIBFAKETIME")
PLACES: Final = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
FOUND: Final = [NAMED] if NAMED else [str(one) for one in PLACES]
STEPS_S: Final = (-3600, -60, -2, 2, 30, 3600)
FAR_S: Final = 100 * 86_400
"""A machine that resumes after a season; the log of its months is not there yet."""


class Clock:
    """What PostgreSQL adds to the time; every one of its processes reads it at each look."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.by_s = 0
        self.set(0)

    def set(self, by_s: int) -> None:
        """Move it to this distance from the truth."""
        self.by_s = by_s
        part = self.file.with_suffix(".part")
        part.write_text(f"{by_s:+d}\n")
        part.chmod(0o644)
        part.rename(self.file)

    @property
    def env(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": FOUND[0],
            "FAKETIME_TIMESTAMP_FILE": str(self.file),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }


def steps_of(clock: Clock) -> type[Monkey]:
    """A monkey for this clock."""

    class Steps(Monkey):
        """Sets the clock, and kills as well: what is left behind is judged by another time."""

        def __init__(self, fleet: Fleet, random: Random, *, slowness: float = 1) -> None:
            super().__init__(fleet, random, slowness=slowness)
            self._moves = {
                "clock": self.step,
                "clock again": self.step,
                "clock and back": self.there_and_back,
                "relay": self.kill_relay,
                "executor": self.kill_executor,
            }

        async def step(self) -> None:
            clock.set(clock.by_s + self._random.choice(STEPS_S))

        async def there_and_back(self) -> None:
            """As a wrong source of time is found and put right."""
            before = clock.by_s
            clock.set(before + self._random.choice(STEPS_S))
            await asyncio.sleep(self._random.uniform(0.5, 2))
            clock.set(before)

        async def rage(self, seconds: float) -> None:
            await super().rage(seconds)
            clock.set(0)  # an hour back or on, whatever was taken meanwhile

    return Steps


needs_faketime = pytest.mark.skipif(not FOUND, reason="needs libfaketime (Debian's package)")


@needs_faketime
@pytest.mark.guarantee("clock:set-back-spans")
async def test_a_lease_that_was_renewed_while_the_clock_was_ahead_ends_when_a_new_one_would(
    issuer: DevIssuer, tmp_path: Path
) -> None:
    false = Clock(readable(tmp_path) / "clock")
    postgres = EmbeddedPostgres(env=false.env)
    await asyncio.to_thread(postgres.start)
    try:
        dsns = await prepare(postgres.dsn)
        settings = settings_of(dsns.relay, issuer)
        async with (
            open_broker(settings_of(dsns.app, issuer)) as broker,
            open_database(settings, name="relay") as relay,
        ):
            notifier = Notifier(relay.pool, coalesce_ms=settings.notify_coalesce_ms)
            clock = Timers(relay.engine, relay.pool, notifier, settings, random=Random(1))
            one = (await accept(broker, echo("a", deadline_s=7200))).written.id
            await claim(broker, one)
            false.set(3600)
            await results.progress(
                broker.database.engine,
                adapter=ADAPTER,
                policy=await policy_of(broker, one),
                command_id=one,
                attempt=1,
                stage="on",
                percent=None,
                message=None,
                leases=broker.leases,
            )
            await clock.tick()
            left = "SELECT extract(epoch FROM lease_until - now()) FROM commands"
            false.set(0)
            assert await relay.pool.fetchval(left) > 3000
            await clock.tick()
            assert 0 < await relay.pool.fetchval(left) <= settings.lease_s
    finally:
        await asyncio.to_thread(postgres.stop)


@pytest.mark.chaos
@only_for_long
@needs_faketime
@pytest.mark.timeout(int(SECONDS + SETTLE_S + 240))
@pytest.mark.guarantee("chaos:clocks")
async def test_however_the_clock_is_set_every_call_ends_once_in_order(
    home: Path, issuer: DevIssuer, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    clock = Clock(readable(tmp_path) / "clock")
    postgres = EmbeddedPostgres(env=clock.env)
    async with open_fleet(home, issuer, AUDIENCE.removesuffix("/mcp"), postgres=postgres) as fleet:
        await ordeal(
            fleet,
            pytestconfig,
            seconds=SECONDS,
            callers=6,
            harm=steps_of(clock),
            clocks_move=True,
        )


@pytest.mark.chaos
@only_for_long
@needs_faketime
@pytest.mark.timeout(int(SETTLE_S + 240))
@pytest.mark.guarantee("chaos:clocks")
async def test_a_machine_that_wakes_up_a_season_later_takes_calls_and_ends_them(
    home: Path, issuer: DevIssuer, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    clock = Clock(readable(tmp_path) / "clock")
    postgres = EmbeddedPostgres(env=clock.env)
    async with open_fleet(home, issuer, AUDIENCE.removesuffix("/mcp"), postgres=postgres) as fleet:

        class Season(Monkey):
            """Sets the clock on once, in the middle of the load, and leaves it there."""

            async def rage(self, seconds: float) -> None:
                await asyncio.sleep(seconds / 3)
                clock.set(FAR_S)
                self.done["season"] += 1
                await asyncio.sleep(seconds * 2 / 3)

        await ordeal(fleet, pytestconfig, seconds=9, callers=4, harm=Season, clocks_move=True)
        with contextlib.suppress(*AWAY):
            conn = await asyncpg.connect(fleet.dsns.owner)
            try:
                late = await conn.fetchval(
                    "SELECT count(*) FROM commands WHERE created_at > now() - interval '1 day'"
                )
            finally:
                await conn.close()
            assert late, "calls were taken after it"


def readable(path: Path) -> Path:
    """A folder that PostgreSQL's own user can look into."""
    for one in (path, *path.parents[:3]):
        with contextlib.suppress(OSError):
            one.chmod(one.stat().st_mode | 0o055)
    return path
