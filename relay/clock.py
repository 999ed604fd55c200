"""The timers: everything that happens because time has passed. Safe on many relays at once."""

import asyncio
import logging
import time
from random import Random
from typing import Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.store import retention as audit_retention
from app.catalog.cache import Tools
from app.commands import retention, timeouts
from app.commands.attempts import Change
from app.commands.store import dispatch_record
from app.config import Settings
from app.postgres.engine import AWAY
from app.postgres.wakeups import Notifier
from app.sagas import deadlocks
from app.sagas.store import sagas
from relay import waits

logger = logging.getLogger(__name__)

ROWS_MAX: Final = 1000
UPKEEP_S: Final = 3600.0
ANALYZE_S: Final = 5.0
DEADLOCKS_S: Final = 1.0
PARTITIONS: Final = text("SELECT audit.ensure_partitions()")
ANALYZE_GROWN: Final = text("SELECT broker_analyze_grown()")


class Clock:
    """Ticks until told to stop; a tick that fails is logged and the next one tries again."""

    def __init__(
        self,
        engine: AsyncEngine,
        pool: asyncpg.Pool,
        notifier: Notifier,
        settings: Settings,
        *,
        random: Random,
    ) -> None:
        self._engine = engine
        self._pool = pool
        self._notifier = notifier
        self._settings = settings
        self._random = random
        self._tools = Tools(engine, kept_s=settings.catalog_kept_s)
        self._analyzed_at = float("-inf")
        self._deadlocks_at = float("-inf")
        self._upkeep_at = float("-inf")
        self._purged_at = float("-inf")

    async def run(self, stop: asyncio.Event) -> None:
        """Tick every `clock_s`."""
        while not stop.is_set():
            try:
                await self.tick()
            except AWAY as error:
                logger.warning("timers wait for postgres: %r", error)
            await waits.until(stop, self._settings.clock_s)

    async def tick(self) -> None:
        """Do everything that is due now."""
        due = await dispatch_record.wake_due(self._pool, limit=ROWS_MAX)
        freed = await dispatch_record.give_back_expired(self._pool, limit=ROWS_MAX)
        if due or freed:
            self._notifier.outbox()
        grace_s = self._settings.cancel_grace_s
        self._say(
            await timeouts.expire_deadlines(self._engine, self._tools.policy, grace_s=grace_s)
        )
        self._say(
            await timeouts.expire_leases(
                self._engine, self._tools.policy, grace_s=grace_s, random=self._random
            )
        )
        async with self._engine.begin() as conn:
            if await sagas.stop_idle(conn, limit=ROWS_MAX):
                self._notifier.sagas()
        if time.monotonic() - self._analyzed_at > ANALYZE_S:
            async with self._engine.begin() as conn:
                grown = await conn.scalar(ANALYZE_GROWN)
            if grown:
                logger.info("analyzed what grew", extra={"tables": grown})
            self._analyzed_at = time.monotonic()
        if time.monotonic() - self._deadlocks_at > DEADLOCKS_S:
            await self.break_up()
            self._deadlocks_at = time.monotonic()
        if time.monotonic() - self._purged_at > self._settings.purge_s:
            await self.purge()
            self._purged_at = time.monotonic()
        if time.monotonic() - self._upkeep_at > UPKEEP_S:
            async with self._engine.begin() as conn:
                await conn.execute(PARTITIONS)
            if self._settings.events_kept_s is not None:
                kept_s = self._settings.events_kept_s
                await audit_retention.ask_by_policy(self._pool, kept_s=kept_s)
            self._upkeep_at = time.monotonic()

    async def break_up(self) -> None:
        """Part sagas that wait for each other's keys."""
        moved = await deadlocks.break_up(self._engine)
        if moved:
            self._notifier.commands(moved)
            self._notifier.sagas()
            self._notifier.outbox()

    async def purge(self) -> None:
        """Take from ended commands what is older than it may be."""
        self._say(await retention.discard_forgotten(self._engine, self._settings))
        purged = await retention.purge(self._pool, self._settings)
        if purged.keys or purged.bodies:
            logger.info("purged", extra={"keys": purged.keys, "bodies": purged.bodies})

    def _say(self, changes: list[Change]) -> None:
        for change in changes:
            logger.info(
                "time moved a command",
                extra={
                    "correlation_id": str(change.command.id),
                    "state": str(change.command.state),
                },
            )
            self._notifier.commands(change.woken)
            if change.outbox:
                self._notifier.outbox()
            if change.command.saga_id is not None:
                self._notifier.sagas()
