"""What a plan reads: it is run, and its hungriest node counts."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import orjson
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


@contextmanager
def heard(engine: AsyncEngine) -> Generator[list[tuple[str, Any]]]:
    """The statements of an engine, with their values, as the driver gets them."""
    said: list[tuple[str, Any]] = []

    def hear(_conn: Any, _cursor: Any, statement: str, values: Any, *_: Any) -> None:
        said.append((statement, values))

    event.listen(engine.sync_engine, "before_cursor_execute", hear)
    try:
        yield said
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", hear)


async def most_read(conn: AsyncConnection, statement: str, values: Any) -> float:
    """As `hungriest`, of a statement that `heard` has, in the transaction's tenants."""
    explained = f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}"
    [found] = (await conn.exec_driver_sql(explained, values)).scalar_one()
    return _most(found)


async def hungriest(conn: asyncpg.Connection, statement: str) -> float:
    """The rows that the hungriest node of a statement's plan reads, found ones or not."""
    [row] = await conn.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
    [found] = orjson.loads(row[0])
    return _most(found)


def _most(found: dict[str, Any]) -> float:
    removed = ("Rows Removed by Filter", "Rows Removed by Join Filter")
    return max(
        (node["Actual Rows"] + sum(node.get(name, 0) for name in removed)) * node["Actual Loops"]
        for node in nodes(found["Plan"])
    )
