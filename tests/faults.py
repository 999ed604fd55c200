"""Break a transaction at a chosen statement, from the outside: production has no hooks."""

import itertools
from collections.abc import Generator
from contextlib import contextmanager

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


class InjectedFaultError(Exception):
    """The fault."""


@contextmanager
def fail_at_statement(engine: AsyncEngine, number: int) -> Generator[None]:
    """Fail at the n-th statement or commit of the block; counts from 1."""
    counter = itertools.count(1)

    def step(*_: object) -> None:
        if next(counter) == number:
            raise InjectedFaultError(f"at step {number}")

    event.listen(engine.sync_engine, "before_cursor_execute", step)
    event.listen(engine.sync_engine, "commit", step)
    try:
        yield
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", step)
        event.remove(engine.sync_engine, "commit", step)
