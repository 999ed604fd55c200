"""Loops in the background that must not end: one that does is logged, counted and started again."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from app import metrics

logger = logging.getLogger(__name__)

RESTART_S: Final = 1.0
UNREADY_S: Final = 10.0
"""A process whose loop has ended within this is not ready: what needs the loop may be late."""


class Supervisor:
    """Starts loops, and starts each again that ends."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []
        self._ended_at: dict[str, float] = {}

    def start(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        """Run a loop until `stop`."""
        self._tasks.append(asyncio.create_task(self._keep(name, loop)))

    def stop(self) -> None:
        """End all of them."""
        for task in self._tasks:
            task.cancel()

    def ended_lately(self) -> list[str]:
        """The loops that have ended within the last seconds."""
        since = time.monotonic() - UNREADY_S
        return sorted(name for name, at in self._ended_at.items() if at > since)

    async def _keep(self, name: str, loop: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await loop()
                logger.error("a background loop ended", extra={"loop": name})
            except Exception:
                logger.exception("a background loop failed", extra={"loop": name})
            metrics.LOOP_RESTARTS.inc()
            self._ended_at[name] = time.monotonic()
            await asyncio.sleep(RESTART_S)
