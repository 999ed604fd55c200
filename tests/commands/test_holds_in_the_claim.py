"""Holds while all is under way: the claim beside callers, relays and operators, and its cost."""

import asyncio
from random import Random
from typing import Any

import asyncpg
import pytest

from app.commands import holds
from app.commands.holds import Which
from app.commands.store import hold_match
from app.commands.store.dispatch_claim import LEASE, LOCK, SPARED
from app.edges.parts import Parts
from benchmarks.servers import execute, fill
from devstack.stack import Dsns
from tests.commands.test_holds import ALL, ECHO, OLGA, hold, lease, pool, publish, release
from tests.support.calls import ADA, EVE, accept, delete, echo, fetch
from tests.support.plans import hungriest
from tests.support.stack import wait_for

__all__ = ["pool"]


@pytest.mark.guarantee("holds:kept")
async def test_nothing_of_a_hold_goes_out_from_its_answer_on_whatever_runs_beside_it(
    broker: Parts, database: Dsns, pool: asyncpg.Pool
) -> None:
    """Callers, two relays and an operator, each as fast as it can; several holds, one by one."""
    stop, random = asyncio.Event(), Random(7)
    dispatched = """
        SELECT count(*) FROM commands
         WHERE tool = $1 AND state <> 'queued' AND tenant_id = 'demo'
    """

    async def call(n: int) -> None:
        while not stop.is_set():
            key = random.choice([None, None, f"k{n}"])
            asked = echo("x", ordering_key=key) if n % 2 else delete(f"d{random.getrandbits(60)}")
            await accept(broker, asked, random.choice([ADA, ADA, EVE]))

    async def relay() -> None:
        while not stop.is_set():
            rows = await lease(pool, batch_max=20)
            await asyncio.sleep(random.choice([0, 0.01, 0.3]))  # between the lease and Kafka's word
            await publish(pool, rows)

    async def gone(tool: str) -> int:
        return int(await conn.fetchval(dispatched, tool) or 0)

    async def more_than(tool: str, count: int) -> None:
        async def reached() -> bool:
            assert not any(one.done() for one in tasks)
            return await gone(tool) > count

        await wait_for(reached, timeout_s=20)

    await fetch(database.owner, "UPDATE tenants SET in_flight_max = 1000000")
    await fetch(database.owner, "UPDATE tools SET in_flight_max = 1000000")
    conn = await asyncpg.connect(database.owner)
    tasks: list[asyncio.Task[None]] = []
    async with asyncio.timeout(60):
        tasks += [asyncio.create_task(call(n)) for n in range(4)]
        tasks += [asyncio.create_task(relay()) for _ in range(2)]
        try:
            for which in (ECHO, Which(args_path=("text",), args_value="x"), Which(tool="probe")):
                before = await gone("probe")
                await more_than("probe", before + 20)
                placed = await hold(broker, which)
                held, others = await gone("probe"), await gone("git")
                await more_than("git", others + 50)
                assert await gone("probe") == held, which
                await release(broker, placed)
        finally:
            stop.set()
            await asyncio.gather(*tasks)
            await conn.close()
        while rows := await lease(pool):
            await publish(pool, rows)
    left = await fetch(database.owner, "SELECT status FROM outbox WHERE kind = 'command'")
    assert {row["status"] for row in left} <= {"held"}, "only behind a key"


@pytest.mark.guarantee("holds:kept")
async def test_a_hold_answers_when_what_a_relay_had_taken_is_out_or_says_how_much_is_not(
    broker: Parts, pool: asyncpg.Pool
) -> None:
    await accept(broker, echo())
    rows = await lease(pool)
    assert len(rows) == 1
    engine = broker.database.engine
    more: dict[str, Any] = {"effect": "wait", "reason": "r", "until": None, "actor": OLGA}
    cut = await holds.place(engine, "demo", ECHO, leave_s=0, **more)
    assert cut.leaving == 1
    async with asyncio.timeout(10):
        placing = asyncio.create_task(holds.place(engine, "demo", ALL, leave_s=8, **more))

        async def both() -> bool:
            return len(await holds.in_force(engine, "demo")) == 2

        await wait_for(both)
        assert not placing.done()
        await publish(pool, rows)
        assert (await placing).leaving == 0


@pytest.mark.guarantee("holds:kept")
async def test_a_hold_is_in_force_only_after_the_claim_that_runs_is_over(
    broker: Parts, database: Dsns, pool: asyncpg.Pool
) -> None:
    """What that claim has leased nobody sees before its commit; so it is waited for."""
    await accept(broker, echo())
    blocked = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(20), pool.acquire() as conn:
        async with conn.transaction():
            await conn.execute(LOCK)
            [row] = await conn.fetch(LEASE, 9, 60.0, 9, "r", 30.0, False, SPARED)
            assert row["hold_id"] is None
            placing = asyncio.create_task(hold(broker))

            async def waits() -> bool:
                assert not placing.done(), "it is in force, and the claim does not know it"
                [found] = await fetch(database.owner, blocked)
                return found["count"] > 0

            await wait_for(waits)
        assert not placing.done(), "it waits for what was leased"
        await conn.execute("DELETE FROM outbox WHERE status = 'claimed'")  # Kafka has it
        await placing


def test_the_claim_and_everybody_else_ask_the_same_of_a_hold() -> None:
    wanted = " ".join(hold_match.MATCH.split())
    assert wanted in " ".join(LEASE.split())


@pytest.mark.guarantee("relay:claim-cost")
async def test_a_claim_reads_no_more_for_the_holds_of_others(database: Dsns) -> None:
    held = """
        INSERT INTO holds (id, tenant_id, tool, args_path, args_value, effect, reason, placed_by)
        SELECT gen_random_uuid(), 'other', 'probe', '{text}', '"x"', 'wait', 'r', 'x'
          FROM generate_series(1, 100)
    """
    await execute(database.owner, "UPDATE tenants SET in_flight_max = 100000")
    await execute(database.owner, "UPDATE tools SET in_flight_max = 100000")
    conn = await asyncpg.connect(database.relay)
    try:
        await fill(database.owner, 2000, tag="mine")

        async def most_read() -> float:
            async with conn.transaction():
                await conn.execute(LOCK)
                found = await hungriest(
                    conn, f"EXECUTE claim(1000000, 60, 40, 'relay', 30, false, {SPARED})"
                )
                await conn.execute(
                    "UPDATE outbox SET status = 'ready', claimed_until = NULL,"
                    " claimed_by = NULL WHERE status = 'claimed'"
                )
            return found

        await conn.execute(f"PREPARE claim AS {LEASE}")
        before = await most_read()
        await execute(database.owner, held)
        assert await most_read() == before
        await execute(database.owner, "ANALYZE holds")
        await execute(database.owner, held.replace("'other'", "'demo'"))
        assert await most_read() > before, "of the tenant's own each is asked"
    finally:
        await conn.close()
