"""Sagas on their way: takes the ticks that steps leave when they end. Safe on many relays."""

import asyncio
import logging
from typing import Final
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from app.catalog.cache import Tools
from app.commands import measures
from app.commands.store import ticks
from app.config import Settings
from app.postgres.engine import AWAY, each_by_itself, is_lost
from app.postgres.wakeups import Notifier
from app.sagas import conductor
from relay import waits

logger = logging.getLogger(__name__)

BATCH_MAX: Final = 100
AT_ONCE: Final = 4
BACKOFF_S: Final = 1.0
PAUSE_S: Final = 5.0
"""A saga whose tick failed waits so long, and the others go first."""


class Conductor:
    """Takes sagas' ticks for as long as `run` runs."""

    def __init__(self, engine: AsyncEngine, notifier: Notifier, settings: Settings) -> None:
        self._engine = engine
        self._notifier = notifier
        self._settings = settings
        self._tools = Tools(engine, kept_s=settings.catalog_kept_s)
        self._woken = asyncio.Event()

    def wake(self, _payload: str = "") -> None:
        """Some saga may have a tick."""
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Take ticks until asked to stop."""
        while not stop.is_set():
            self._woken.clear()
            try:
                moved = await self.tick()
            except AWAY as error:
                logger.warning("sagas wait for postgres: %r", error)
                await waits.until(stop, BACKOFF_S)
                continue
            if not moved:
                await waits.until(self._woken, self._settings.poll_s)

    async def tick(self) -> int:
        """Take the ticks that are due, some at once; returns how many moved something."""
        async with each_by_itself(self._engine) as conn:
            due = await ticks.due_ticks(conn, limit=BATCH_MAX)
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(saga_id: UUID) -> bool:
            async with gate:
                return await self._tick(saga_id)

        return sum(await asyncio.gather(*(one(saga_id) for saga_id in due)))

    async def _tick(self, saga_id: UUID) -> bool:
        try:
            change = await conductor.advance(
                self._engine,
                saga_id,
                tools=self._tools.find,
                deadline_s=self._settings.deadline_s,
                grace_s=self._settings.cancel_grace_s,
            )
        except Exception as error:
            if isinstance(error, AWAY) and is_lost(error):
                raise
            logger.exception("a saga's tick failed", extra={"saga_id": str(saga_id)})
            async with self._engine.begin() as conn:
                await ticks.postpone_ticks(conn, saga_id, pause_s=PAUSE_S)
            return False
        if change is None:
            return False
        measures.count(change)
        self._notifier.commands(change.woken)
        self._notifier.outbox()
        return True
