"""The claim reads what it takes, not what waits: held on the plan, as times say little in a test."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import orjson
import pytest

from app.db.dispatch import CLAIM
from app.devstack.stack import Dsns
from benchmarks.servers import fill, settle

NOISY, QUIET = 20_000, 1


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


@pytest.mark.guarantee("relay:claim-cost")
async def test_a_quiet_tenants_lane_is_found_without_a_walk_past_another_tenants_queue(
    database: Dsns,
) -> None:
    await fill(database.owner, NOISY, tenant="'other'", tag="noisy")
    await fill(database.owner, QUIET, tag="quiet")
    await settle(database.owner)
    conn = await asyncpg.connect(database.relay)
    try:
        for mode in ("force_custom_plan", "force_generic_plan"):
            await conn.execute(f"SET plan_cache_mode = {mode}; SET jit = off")
            async with conn.transaction():
                await conn.execute(f"PREPARE claim AS {CLAIM}")
                [row] = await conn.fetch(
                    "EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE claim(1000, 60, 40, 'relay', 30)"
                )
            [found] = orjson.loads(row[0])
            await conn.execute("DEALLOCATE claim")
            for node in nodes(found["Plan"]):
                read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
                assert read * node["Actual Loops"] < 500, (mode, node["Node Type"], node)
    finally:
        await conn.close()
