"""An event loop of its own, for a test that is not async: Hypothesis's machines are not."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, Self, TypeVar

T = TypeVar("T")

STEP_S = 20.0


class Background:
    """A loop in a thread; `run` runs a coroutine there to its end, with a bound."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self.stack = AsyncExitStack()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(STEP_S)

    def __enter__(self) -> Self:
        self._thread.start()
        self.run(self.open())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STEP_S)
        self._loop.close()

    async def open(self) -> None:
        """Open what the test works with, on the stack."""
        raise NotImplementedError
