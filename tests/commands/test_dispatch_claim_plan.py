"""The claim reads what it takes, not what waits: held by its plan, as times tell little here."""

from uuid import uuid4

import asyncpg
import pytest

from app.commands.store.dispatch_claim import LEASE, LOCK, READY, SPARED, lease_commands
from app.commands.store.dispatch_record import PUBLISHED
from benchmarks.servers import execute, fill, settle
from devstack.stack import Dsns
from tests.support.plans import hungriest

NOISY, QUIET = 20_000, 1
LANES, DEEP, IN_FLIGHT = 60, 100, 400
BATCH = 40


async def most_read(conn: asyncpg.Connection, *, top_only: bool = False) -> float:
    """What a claim of a batch reads."""
    async with conn.transaction():
        await conn.execute(LOCK)
        return await hungriest(
            conn, f"EXECUTE claim(1000000, 60, {BATCH}, 'relay', 30, {top_only}, {SPARED})"
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
            await conn.execute(f"PREPARE claim AS {LEASE}")
            await conn.fetch(f"EXECUTE claim(1000000, 60, {BATCH}, 'relay', 30, false, {SPARED})")

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

        # With nothing in flight a claim of the highest priority alone reads the tenants at most.
        await execute(database.owner, "DELETE FROM commands WHERE state = 'dispatched'")
        await execute(database.owner, "DELETE FROM outbox WHERE status = 'claimed'")
        await fill(database.owner, 3, priority=3, tag="urgent")
        assert await most_read(conn, top_only=True) < LANES + 5
        assert await most_read(conn) > LANES + 5, "which one of them all does not"
    finally:
        await conn.close()


@pytest.mark.guarantee("relay:claim-cost")
async def test_recording_a_batch_reads_it_once_by_the_plan_of_an_empty_outbox(
    database: Dsns,
) -> None:
    pool = await asyncpg.create_pool(database.relay, min_size=1, max_size=1)
    conn = await asyncpg.connect(database.relay)
    try:
        await conn.execute(f"PREPARE said AS {PUBLISHED}")
        for _ in range(10):  # the plan is kept by now
            await conn.execute("EXECUTE said('{}', '{}', '{}', 'relay', 60, '{}', '{}')")
        await execute(database.owner, "UPDATE tenants SET in_flight_max = 1000")
        await fill(database.owner, DEEP)
        claimed = await lease_commands(
            pool, relay="relay", batch_max=DEEP, window=2 * DEEP, aging_s=60, lease_s=30
        )
        assert len(claimed) == DEEP
        ids = ",".join(str(one.outbox_id) for one in claimed)
        zeros = ",".join("0" for _ in claimed)
        uuids = ",".join(str(uuid4()) for _ in claimed)
        asked = (
            f"'{{{ids}}}', '{{{zeros}}}', '{{{zeros}}}', 'relay', 60, '{{{uuids}}}', '{{{uuids}}}'"
        )
        assert await hungriest(conn, f"EXECUTE said({asked})") <= 2 * DEEP
        assert await pool.fetchval("SELECT count(*) FROM commands WHERE state = 'dispatched'")
    finally:
        await conn.close()
        await pool.close()


@pytest.mark.guarantee("relay:claim-cost")
async def test_whether_anything_is_ready_is_found_without_a_walk(database: Dsns) -> None:
    await fill(database.owner, NOISY, tenant="'other'", tag="ready")
    await execute(database.owner, "ANALYZE outbox")  # statistics say for long that all is ready
    await execute(
        database.owner,
        "UPDATE outbox SET status = 'claimed', claimed_by = 'r', claimed_until = now()",
    )
    conn = await asyncpg.connect(database.relay)
    try:
        assert await most_read_of_ready(conn) == 0, "20,000 rows are nobody's to take"
        await fill(database.owner, NOISY, tag="more")
        assert await most_read_of_ready(conn) == 1
    finally:
        await conn.close()


async def most_read_of_ready(conn: asyncpg.Connection) -> float:
    async with conn.transaction():
        await conn.execute(LOCK)
        return await hungriest(conn, READY)


WINDOW = 8
"""Of which one place is spared."""


@pytest.mark.guarantee("relay:windows")
async def test_the_window_is_of_what_no_adapter_has_claimed_and_a_tools_own_bound_of_both(
    database: Dsns,
) -> None:
    """So the rate follows the executor: what it claims makes room for as much."""
    await execute(database.owner, "UPDATE tools SET in_flight_max = NULL")
    pool = await asyncpg.create_pool(database.relay, min_size=1, max_size=1)

    async def leased() -> int:
        return len(
            await lease_commands(
                pool, relay="r", batch_max=100, window=WINDOW, aging_s=60, lease_s=30
            )
        )

    try:
        await fill(database.owner, 100, tag="queued")
        assert await leased() == WINDOW - 1
        assert await leased() == 0
        await execute(
            database.owner,
            "WITH gone AS (DELETE FROM outbox WHERE status = 'claimed' RETURNING command_id)"
            " UPDATE commands SET state = 'running', lease_until = now() + interval '1 h'"
            "   FROM gone WHERE id = command_id",
        )
        assert await leased() == WINDOW - 1, "what runs takes no place of the window"
        await execute(database.owner, f"UPDATE tools SET in_flight_max = {2 * WINDOW}")
        assert await leased() == 0, "but of the tool's own bound"
    finally:
        await pool.close()
