"""The claim reads what it takes, not what waits: held on the plan, as times say little in a test."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import orjson
import pytest

from app.db.claim import CLAIM, LOCK
from app.devstack.stack import Dsns
from benchmarks.servers import execute, fill, settle

NOISY, QUIET = 20_000, 1
LANES, DEEP, IN_FLIGHT = 60, 100, 400
BATCH = 40


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def most_read(conn: asyncpg.Connection) -> float:
    """The rows that the hungriest node of the claim's plan reads, found ones or not."""
    async with conn.transaction():
        await conn.execute(LOCK)
        [row] = await conn.fetch(
            f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE claim(1000000, 60, {BATCH}, 'relay', 30)"
        )
    [found] = orjson.loads(row[0])
    return max(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in nodes(found["Plan"])
    )


@pytest.mark.guarantee("relay:claim-cost")
async def test_a_claim_reads_about_its_batch_and_the_lanes_by_the_plan_of_an_empty_outbox(
    database: Dsns,
) -> None:
    await execute(
        database.owner,
        f"INSERT INTO tenants (tenant_id, title, in_flight_max)"
        f" SELECT 't' || n, '', 1000 FROM generate_series(0, {LANES - 1}) AS n;"
        f"UPDATE tools SET in_flight_max = 1000000",
    )
    conn = await asyncpg.connect(database.relay)
    try:
        async with conn.transaction():
            await conn.execute(LOCK)
            await conn.execute(f"PREPARE claim AS {CLAIM}")
            await conn.fetch(f"EXECUTE claim(1000000, 60, {BATCH}, 'relay', 30)")

        await fill(database.owner, NOISY, tenant="'other'", tag="noisy")
        await fill(database.owner, QUIET, tag="quiet")
        assert await most_read(conn) < 5 * BATCH

        # Many tenants at once, each with a deep lane and some calls in flight.
        spread = f"'t' || (n % {LANES})"
        await fill(database.owner, LANES * DEEP, tenant=spread, tag="deep")
        await fill(database.owner, IN_FLIGHT, tenant=spread, state="dispatched", tag="busy")
        assert await most_read(conn) < IN_FLIGHT + 5 * (LANES + BATCH)

        await settle(database.owner)  # and by the plan that follows
        assert await most_read(conn) < IN_FLIGHT + 5 * (LANES + BATCH)
    finally:
        await conn.close()
