"""Break or hold a transaction at a chosen statement, from the outside: production has no hooks."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import asyncpg
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.util import await_only

STEPS_MAX = 100


class InjectedFaultError(Exception):
    """The fault."""


@contextmanager
def _each_step(engine: AsyncEngine, step: Callable[..., None]) -> Generator[None]:
    """Call back before each statement and each commit of the block."""
    event.listen(engine.sync_engine, "before_cursor_execute", step)
    event.listen(engine.sync_engine, "commit", step)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", step)
        event.remove(engine.sync_engine, "commit", step)


@contextmanager
def fail_at_statement(engine: AsyncEngine, number: int) -> Generator[None]:
    """Fail at the n-th statement or commit of the block; counts from 1."""
    counter = itertools.count(1)

    def step(*_: object) -> None:
        if next(counter) == number:
            raise InjectedFaultError(f"at step {number}")

    with _each_step(engine, step):
        yield


async def fail_at_each_statement(
    engine: AsyncEngine, work: Callable[[], Awaitable[object]], look: Callable[[], Awaitable[Any]]
) -> int:
    """Run the work with a fault at each step in turn, then whole; returns how many steps it has.

    What `look` sees must not change until the work is whole.
    """
    before = await look()
    for step in range(1, STEPS_MAX):
        try:
            with fail_at_statement(engine, step):
                await work()
        except InjectedFaultError:
            assert await look() == before, f"torn write at step {step}"
        else:
            assert await look() != before, "the work did nothing"
            return step - 1
    raise AssertionError(f"more than {STEPS_MAX} steps")


class FaultyConnection(asyncpg.Connection):
    """A pool's connection whose n-th statement fails; `BEGIN` and `COMMIT` are statements too."""

    left: int = 0

    @classmethod
    def step(cls) -> None:
        cls.left -= 1
        if cls.left == 0:
            raise InjectedFaultError

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        self.step()
        return await super().execute(query, *args, timeout=timeout)

    async def executemany(self, *args: Any, **options: Any) -> None:
        self.step()
        await super().executemany(*args, **options)

    async def fetch(self, *args: Any, **options: Any) -> list[Any]:
        self.step()
        return await super().fetch(*args, **options)

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        self.step()
        return await super().fetchrow(*args, **options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        self.step()
        return await super().fetchval(*args, **options)


@asynccontextmanager
async def faulty_pool(dsn: str) -> AsyncGenerator[tuple[asyncpg.Pool, type[FaultyConnection]]]:
    """A pool, and the class on which to set `left`: which statement from now on fails."""

    class Faulty(FaultyConnection):
        """Counts for this pool alone."""

        async def reset(self, *, timeout: float | None = None) -> None:
            """Give the connection back, whatever is left to fail."""
            left, type(self).left = self.left, 0
            await super().reset(timeout=timeout)
            type(self).left = left

    pool = await asyncpg.create_pool(dsn, min_size=1, max_size=2, connection_class=Faulty)
    try:
        yield pool, Faulty
    finally:
        pool.terminate()


@dataclass(frozen=True, slots=True)
class Hold:
    """A transaction that waits before one of its statements."""

    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)


@contextmanager
def hold_at_statement(engine: AsyncEngine, number: int) -> Generator[Hold]:
    """Hold the n-th statement or commit of the block until told to go; counts from 1."""
    counter, hold = itertools.count(1), Hold()

    def step(*_: object) -> None:
        if next(counter) == number:
            hold.reached.set()
            await_only(hold.go.wait())

    with _each_step(engine, step):
        yield hold
