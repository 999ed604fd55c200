"""The timers: everything that happens because time has passed. Safe on many relays at once.

Each timer has a boundary of its own, and so has each command: what fails is logged and waits, and
the others have their turn. The months of the audit log come first, as every write needs one.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app import metrics
from app.audit.store import partitions
from app.catalog.cache import Tools
from app.commands import holds, measures, retention, timeouts
from app.commands.attempts import Change
from app.commands.pauses import Pauses
from app.commands.store import dispatch_record, set_back
from app.config import Settings
from app.postgres.engine import AWAY, each_by_itself, is_lost
from app.postgres.wakeups import Notifier
from app.sagas import deadlocks
from app.sagas.store import due, sagas
from app.sagas.store.due import Due
from app.traces.context import log_ids
from relay import waits

logger = logging.getLogger(__name__)

ROWS_MAX: Final = 1000
PARTITIONS_S: Final = 5.0
ANALYZE_S: Final = 5.0
DEADLOCKS_S: Final = 1.0
FAILED_S: Final = 5.0
"""A timer that failed is tried again after this."""
SET_BACK_S: Final = 5.0
"""How often what the database's clock wrote while it was ahead is looked for."""
COMMAND_FAILED_S: Final = 30.0
"""And so is a command whose timer failed."""
ANALYZE_GROWN: Final = text("SELECT broker_analyze_grown()")


@dataclass(frozen=True, slots=True)
class Timer:
    """What is done so often."""

    name: str
    every_s: float  # 0: at each tick
    work: Callable[[], Awaitable[None]]
    due: Callable[[Due], bool] = lambda _: True


@contextmanager
def _told_of(timer: str) -> Generator[None]:
    """Have a timer that fails hold up no other, unless it is PostgreSQL that is away.

    Raises:
        AWAY: it is.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, AWAY) and is_lost(error):
            raise
        metrics.TIMER_FAILURES.inc()
        logger.exception("a timer failed", extra={"timer": timer})


class Clock:
    """Ticks until told to stop; what fails in a tick holds up nothing else of it."""

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
        # The double is granted, as relays may differ in how long they have a row.
        self._row_lease_s = 2 * settings.relay_lease_s
        self._tools = Tools(engine, kept_s=settings.catalog_kept_s)
        self._pauses = Pauses(COMMAND_FAILED_S)
        self._timers = (
            Timer("partitions", PARTITIONS_S, self._partitions),
            Timer("rows", 0, self._rows, lambda now: now.rows),
            Timer("set back", SET_BACK_S, self._set_back),
            Timer("holds", 0, self._holds, lambda now: now.holds),
            Timer("deadlines", 0, self._deadlines, lambda now: now.deadlines),
            Timer("approvals", 0, self._approvals, lambda now: now.approvals),
            Timer("leases", 0, self._leases, lambda now: now.leases),
            Timer("idle sagas", 0, self._idle_sagas, lambda now: now.idle_sagas),
            Timer("analyze", ANALYZE_S, self._analyze),
            Timer("deadlocks", DEADLOCKS_S, self.break_up, lambda now: now.sagas_wait),
            Timer("purge", settings.purge_s, self.purge),
        )
        self._next_at = dict.fromkeys((timer.name for timer in self._timers), float("-inf"))
        self._seen: tuple[float, float] | None = None  # a moment of our clock, the database's time
        self._was_set_back = False

    async def run(self, stop: asyncio.Event) -> None:
        """Tick every `clock_s`."""
        while not stop.is_set():
            try:
                await self.tick()
            except AWAY as error:
                logger.warning("timers wait for postgres: %r", error)
            await waits.until(stop, self._settings.clock_s)

    async def tick(self) -> None:
        """Do everything that is due now.

        Raises:
            AWAY: PostgreSQL is not reached, so that no timer would fare better.
        """
        now = await self._look()
        for timer in self._timers:
            if time.monotonic() < self._next_at[timer.name]:
                continue
            if now is not None and not timer.due(now):
                continue
            pause_s = FAILED_S
            with _told_of(timer.name):
                await timer.work()
                pause_s = timer.every_s
            if pause_s:
                self._next_at[timer.name] = time.monotonic() + pause_s

    async def _look(self) -> Due | None:
        """What is due, by one look for all timers; None where it failed: each looks by itself."""
        asked = time.monotonic()
        with _told_of("look"):
            now = await due.look(self._pool, row_lease_s=self._row_lease_s)
            self._compare(asked, now.at)
            return now
        return None

    async def _partitions(self) -> None:
        made = await partitions.ensure(self._pool)
        if made:
            logger.info("months of the audit log made", extra={"partitions": made})
        metrics.PARTITIONS_AHEAD_S.set(await partitions.ahead_s(self._pool))

    async def _rows(self) -> None:
        woken = await dispatch_record.wake_due(self._pool, limit=ROWS_MAX)
        freed = await dispatch_record.give_back_expired(
            self._pool, limit=ROWS_MAX, lease_s=self._row_lease_s
        )
        if woken or freed:
            self._notifier.outbox()

    def _compare(self, asked: float, at: float) -> None:
        """See whether the database's clock was set back since its time was asked last."""
        if self._seen is not None:
            answered, before = self._seen
            by_s = asked - answered - (at - before)
            if by_s > 1:
                logger.warning("the database's clock was set back", extra={"by_s": round(by_s, 1)})
                self._was_set_back = True
                self._next_at["set back"] = float("-inf")
        self._seen = time.monotonic(), at

    async def _set_back(self) -> None:
        every, self._was_set_back = self._was_set_back, False
        pauses = await set_back.count_pauses_anew(self._pool, limit=ROWS_MAX)
        leases = await set_back.count_leases_anew(
            self._pool,
            limit=ROWS_MAX,
            claim_wait_s=self._settings.claim_wait_s,
            lease_s=self._settings.lease_s,
            every=every,
        )
        if pauses or leases:
            logger.info("counted anew from now", extra={"pauses": pauses, "leases": leases})

    async def _holds(self) -> None:
        if await holds.expire(self._engine):
            self._notifier.outbox()

    async def _deadlines(self) -> None:
        self._say(
            await timeouts.expire_deadlines(
                self._engine,
                self._tools.policy,
                grace_s=self._settings.cancel_grace_s,
                pauses=self._pauses,
            )
        )

    async def _approvals(self) -> None:
        self._say(
            await timeouts.expire_approvals(self._engine, self._tools.policy, pauses=self._pauses)
        )

    async def _leases(self) -> None:
        self._say(
            await timeouts.expire_leases(
                self._engine,
                self._tools.policy,
                grace_s=self._settings.cancel_grace_s,
                random=self._random,
                pauses=self._pauses,
            )
        )

    async def _idle_sagas(self) -> None:
        async with each_by_itself(self._engine) as conn:
            if await sagas.stop_idle(conn, limit=ROWS_MAX):
                self._notifier.sagas()

    async def _analyze(self) -> None:
        async with self._engine.begin() as conn:
            grown = await conn.scalar(ANALYZE_GROWN)
        if grown:
            logger.info("analyzed what grew", extra={"tables": grown})

    async def break_up(self) -> None:
        """Part sagas that wait for each other's keys."""
        moved = await deadlocks.break_up(self._engine)
        if moved:
            self._notifier.commands(moved)
            self._notifier.sagas()
            self._notifier.outbox()

    async def purge(self) -> None:
        """Take from ended commands what is older than it may be."""
        discarded = await retention.discard_forgotten(
            self._engine, self._settings, pauses=self._pauses
        )
        self._say(discarded)
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
                    **log_ids(change.command.traceparent),
                },
            )
            measures.count(change)
            self._notifier.commands(change.woken)
            if change.outbox:
                self._notifier.outbox()
            if change.command.saga_id is not None:
                self._notifier.sagas()
