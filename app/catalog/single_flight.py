"""One load for all who ask for the same thing at the same time."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, TypeVar

T = TypeVar("T")


class SingleFlight:
    """One load for all who ask for the same thing at the same time."""

    def __init__(self) -> None:
        self._running: dict[Hashable, asyncio.Task[Any]] = {}

    async def once(self, key: Hashable, load: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What the load gives, or raises; it goes on where one who waits for it is cancelled."""
        return await asyncio.shield(self.begun(key, load))

    def begun(self, key: Hashable, load: Callable[[], Coroutine[Any, Any, T]]) -> "asyncio.Task[T]":
        """The load, under way: for who does not wait for it, or not for long."""
        running = self._running.get(key)
        if running is None:
            running = self._running[key] = asyncio.create_task(load())
            running.add_done_callback(lambda done: self._over(key, done))
        return running

    def runs(self, key: Hashable) -> bool:
        """Whether somebody waits for this load already."""
        return key in self._running

    def _over(self, key: Hashable, done: "asyncio.Task[Any]") -> None:
        del self._running[key]
        if not done.cancelled():
            done.exception()  # seen, also where all who waited were cancelled
