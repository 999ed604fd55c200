"""What a plan reads: it is run, and its hungriest node counts."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import orjson


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def hungriest(conn: asyncpg.Connection, statement: str) -> float:
    """The rows that the hungriest node of a statement's plan reads, found ones or not."""
    [row] = await conn.fetch(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}")
    [found] = orjson.loads(row[0])
    removed = ("Rows Removed by Filter", "Rows Removed by Join Filter")
    return max(
        (node["Actual Rows"] + sum(node.get(name, 0) for name in removed)) * node["Actual Loops"]
        for node in nodes(found["Plan"])
    )
