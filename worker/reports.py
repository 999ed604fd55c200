"""What is said to the app of calls: gathered into batches, and said again until it is heard."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import orjson

from worker.api import ITEMS_MAX, ApiAwayError, ApiRefusedError, ResultsApi

logger = logging.getLogger(__name__)

BATCHES_IN_FLIGHT: Final = 2
"""One is gathered while the other is answered."""
BATCH_BYTES_MAX: Final = 1 << 20
"""A larger item goes alone."""
PAUSE_MIN_S: Final = 0.1
PAUSE_MAX_S: Final = 5.0
AGAIN: Final = frozenset({408, 429, 500, 502, 503, 504})
"""An item's answers after which it is said again."""


@dataclass(slots=True, kw_only=True)
class Item:
    """Something to be said, and who waits for its answer."""

    report: dict[str, Any]
    size: int
    answer: "asyncio.Future[dict[str, Any]]"


class Reporter:
    """Says claims, progress and outcomes; `say` returns the app's own answer to each."""

    def __init__(self, api: ResultsApi, *, random: Random) -> None:
        self._api = api
        self._random = random
        self._queue: deque[Item] = deque()
        self._some = asyncio.Event()

    async def say(self, report: dict[str, Any], *, size: int | None = None) -> dict[str, Any]:
        """Say one thing for as long as it takes; cancel it where that is too long.

        The answer is the app's, and `asked_at`: when what it answers was sent.
        """
        return await self.post(report, size=size)

    def post(
        self, report: dict[str, Any], *, size: int | None = None
    ) -> "asyncio.Future[dict[str, Any]]":
        """As `say`, from now on, whether or not anybody waits for the answer."""
        size = len(orjson.dumps(report)) if size is None else size
        item = Item(report=report, size=size, answer=asyncio.get_running_loop().create_future())
        item.answer.add_done_callback(_seen)
        self._queue.append(item)
        self._some.set()
        return item.answer

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Say what there is to say inside the block."""
        posts = [asyncio.create_task(self._post()) for _ in range(BATCHES_IN_FLIGHT)]
        try:
            yield
        finally:
            for task in posts:
                task.cancel()
            await asyncio.gather(*posts, return_exceptions=True)

    async def _post(self) -> None:
        pause_s = 0.0
        while True:
            while not self._queue:
                self._some.clear()
                await self._some.wait()
            batch = self._take()
            if not batch:
                continue
            try:
                again = await self._told(batch)
            except ApiAwayError as error:
                if not pause_s:
                    logger.warning("the app is away, reports wait: %s", error)
                again = batch
            except Exception as error:  # one batch must not end the loop
                logger.exception("a batch of reports failed")
                for item in batch:
                    _fail(item, error)
                again = ()
            if not again:
                pause_s = 0.0
                continue
            self._queue.extendleft(reversed(again))
            pause_s = min(PAUSE_MAX_S, max(PAUSE_MIN_S, pause_s * 2))
            await asyncio.sleep(pause_s * (0.5 + self._random.random() / 2))

    def _take(self) -> list[Item]:
        batch: list[Item] = []
        size = 0
        while self._queue and len(batch) < ITEMS_MAX:
            if batch and size + self._queue[0].size > BATCH_BYTES_MAX:
                break
            item = self._queue.popleft()
            if item.answer.done():  # nobody waits any more
                continue
            size += item.size
            batch.append(item)
        return batch

    async def _told(self, batch: Sequence[Item]) -> Sequence[Item]:
        """Say a batch; returns what is to be said again.

        Raises:
            ApiAwayError: all of it is.
        """
        asked_at = time.monotonic()
        try:
            found = await self._api.batch([item.report for item in batch])
        except ApiRefusedError as error:
            if len(batch) == 1:
                answer = {"status": error.status, "detail": str(error)}
                _answer(batch[0], answer | {"asked_at": asked_at})
                return ()
            again: list[Item] = []
            for item in batch:  # one of them is at fault: each by itself
                again += await self._told([item])
            return again
        again = []
        for item, answer in zip(batch, found, strict=True):
            if answer["status"] in AGAIN:
                again.append(item)
            else:
                _answer(item, answer | {"asked_at": asked_at})
        return again


def _answer(item: Item, answer: dict[str, Any]) -> None:
    if not item.answer.done():
        item.answer.set_result(answer)


def _seen(answer: "asyncio.Future[dict[str, Any]]") -> None:
    """An error is logged where it happens, also for who did not wait."""
    if not answer.cancelled():
        answer.exception()


def _fail(item: Item, error: Exception) -> None:
    if not item.answer.done():
        item.answer.set_exception(error)
