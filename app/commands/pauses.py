"""Commands whose timer failed: each is told of in the log, waits, and holds up no other."""

import logging
import time
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TypeVar
from uuid import UUID

from app.postgres.engine import AWAY, is_lost

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Pauses:
    """Which commands wait, and until when."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._until: dict[UUID, float] = {}

    def now(self) -> list[UUID]:
        """Those that wait now, and are not to be looked at."""
        now = time.monotonic()
        self._until = {one: until for one, until in self._until.items() if until > now}
        return list(self._until)

    @contextmanager
    def guard(self, command_id: UUID) -> Generator[None]:
        """Let the command wait where the block fails, unless it is PostgreSQL that is away."""
        try:
            yield
        except Exception as error:
            if isinstance(error, AWAY) and is_lost(error):
                raise
            logger.exception("a command's timer failed", extra={"correlation_id": str(command_id)})
            self._until[command_id] = time.monotonic() + self._pause_s

    async def each(
        self, found: Iterable[UUID], work: Callable[[UUID], Awaitable[T | None]]
    ) -> list[T]:
        """What the work makes of each command that does not wait; None is nothing."""
        waiting = set(self.now())
        made: list[T] = []
        for one in found:
            with self.guard(one):
                if one not in waiting and (change := await work(one)) is not None:
                    made.append(change)
        return made


class NoPauses(Pauses):
    """For whoever wants to see each failure."""

    def __init__(self) -> None:
        super().__init__(0)

    @contextmanager
    def guard(self, command_id: UUID) -> Generator[None]:
        """Let it fail."""
        del command_id
        yield
