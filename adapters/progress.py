"""Progress of a target that says it faster than it can be reported: the newest word is told."""

import asyncio
import logging
from types import TracebackType
from typing import Self

from adapters.contract import Report

logger = logging.getLogger(__name__)

Word = tuple[float | None, float | None, str | None]


class Telling:
    """Tells a report what it is told, one word at a time; what a newer one overtakes is not told.

    The last word is told before the block is left.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._newest: Word | None = None
        self._told = asyncio.Event()
        self._over = False
        self._task: asyncio.Task[None] | None = None

    def say(
        self, done: float | None = None, total: float | None = None, message: str | None = None
    ) -> None:
        """Keep a word to be told; it does not wait."""
        self._newest = (done, total, message)
        self._told.set()
        if self._task is None:
            self._task = asyncio.create_task(self._tell())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: object, _at: TracebackType | None
    ) -> None:
        if self._task is None:
            return
        self._over = True
        self._told.set()
        if kind is not None:
            self._task.cancel()
        await asyncio.wait((self._task,))

    async def _tell(self) -> None:
        while self._newest is not None or not self._over:
            word, self._newest = self._newest, None
            if word is None:
                self._told.clear()
                await self._told.wait()
                continue
            try:
                await self._report.progress(*word)
            except Exception:
                logger.exception("progress could not be reported")
