"""What arrives together is written together: one commit carries many, and each fails alone.

Calls (`app.intake.batches`) and adapters' reports (`app.commands.reports`) come in by this.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import ceil
from typing import Final, Generic, TypeVar

from app.errors import UnavailableError
from app.postgres.engine import AWAY, code_of, is_lost

logger = logging.getLogger(__name__)

BATCHES_IN_FLIGHT: Final = 2
"""One batch is gathered while the other commits; more only make the batches smaller.

Each takes its share of what is on its way. Were it all that waits, then callers that call again
once answered would be one batch of nearly all, and nothing would be gathered beside it: at 64
callers a fifth fewer calls a second, at 256 a third.
"""

BATCH_MIN: Final = 16
"""Items below which a batch is not split for the sake of the next."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Waiting(Generic[Item, Answer]):
    """An item on its way into a batch."""

    item: Item
    done: "asyncio.Future[Answer]"

    def answer(self, answer: Answer) -> None:
        """Answer it, if nobody has and its asker is still there."""
        if not self.done.done():
            self.done.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Answer it by an error."""
        if not self.done.done():
            self.done.set_exception(error)


class Batcher(ABC, Generic[Item, Answer]):
    """Takes items one by one and has them written in batches."""

    named: str
    """What the items are, for people."""

    def __init__(self, *, batch_max: int, queue_max: int) -> None:
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._queue: deque[Waiting[Item, Answer]] = deque()
        self._some = asyncio.Event()
        self._in_flight = 0  # items in the batches that are being written
        self._stopping = False

    @abstractmethod
    def _choose(self, most: int) -> list[Waiting[Item, Answer]]:
        """Take the next batch from the queue, without those whose askers have gone."""

    @abstractmethod
    async def _write(self, batch: Sequence[Waiting[Item, Answer]]) -> None:
        """Write a batch and answer it. One that one of AWAY ends has left nothing behind."""

    @abstractmethod
    def _away(self, error: Exception) -> Exception:
        """What is told while the database is away."""

    @abstractmethod
    async def _refused(self, waiting: Waiting[Item, Answer], _error: Exception) -> None:
        """Answer an item that the database refuses by itself."""

    def _over(self, batch: Sequence[Waiting[Item, Answer]]) -> None:
        """A batch is over, however it ended."""

    @property
    def closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._stopping

    def full(self) -> UnavailableError:
        """What is told where nothing more is taken."""
        return UnavailableError(f"The broker cannot take {self.named}s now; try again in a second.")

    async def put(self, item: Item) -> Answer:
        """Have an item written; returns once it is durable.

        Raises:
            UnavailableError: too many wait, or the process stops.
        """
        if self._stopping or len(self._queue) >= self._queue_max:
            raise self.full()
        waiting = Waiting(item=item, done=asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._some.set()
        return await waiting.done

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Serve `put` inside the block; what was queued is written before it is left."""
        workers = [asyncio.create_task(self._work()) for _ in range(BATCHES_IN_FLIGHT)]
        try:
            yield
        finally:
            self._stopping = True
            self._some.set()
            await asyncio.gather(*workers)

    async def _work(self) -> None:
        while True:
            share = ceil((len(self._queue) + self._in_flight) / BATCHES_IN_FLIGHT)
            batch = self._choose(min(self._batch_max, max(share, BATCH_MIN)))
            if not batch:
                if self._stopping and not self._queue:
                    return
                self._some.clear()
                await self._some.wait()
                continue
            self._in_flight += len(batch)
            try:
                await self._whole(batch)
            except Exception as error:
                logger.exception("a batch of %ss failed", self.named)
                said = f"The {self.named} was not taken ({code_of(error)})."
                for waiting in batch:
                    waiting.fail(UnavailableError(said))
            finally:
                self._in_flight -= len(batch)
                self._over(batch)
                self._some.set()  # for who waits for what this batch had, and for who is stopping

    async def _whole(self, batch: Sequence[Waiting[Item, Answer]]) -> None:
        try:
            await self._write(batch)
        except AWAY as error:
            if is_lost(error):
                for waiting in batch:
                    waiting.fail(self._away(error))
            elif len(batch) == 1:
                await self._refused(batch[0], error)
            else:
                logger.warning(
                    "a batch of %d %ss is written one by one: %s",
                    *(len(batch), self.named, code_of(error)),
                )
                for waiting in batch:
                    await self._whole([waiting])
