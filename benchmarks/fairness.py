"""What waits must not slow what goes: a hot key, a noisy tenant, a pile of low priority."""

import asyncio
from contextlib import AsyncExitStack
from random import Random
from uuid import UUID, uuid4

import asyncpg
import uuid_utils.compat as uuid_utils

from app import results
from app.catalog import Request
from app.db import claim, dispatch
from app.db.dispatch import Acked
from app.edges.broker import Broker, submit
from benchmarks.measure import Figure, Stopwatch, at_most, in_turns, percentile
from benchmarks.servers import ADA, ADAPTER, UNBOUNDED, Servers, echo, fill, settle
from relay.outbound import BATCHES

RELAY = "bench"


async def take(pool: asyncpg.Pool, *, batch_max: int = 500) -> list[UUID]:
    """Claim what goes next and record it as published: a relay's work without Kafka."""
    claimed = await claim.claim_commands(
        pool, relay=RELAY, batch_max=batch_max, window=UNBOUNDED, aging_s=60, lease_s=30
    )
    acked = [Acked(claimed=one, partition=0, offset=0) for one in claimed]
    await dispatch.published(pool, acked, relay=RELAY, claim_wait_s=120)
    return [one.command_id for one in claimed if one.command_id is not None]


async def finish(broker: Broker, command_id: UUID) -> None:
    """An adapter's result."""
    await results.finish(
        broker.database.engine,
        adapter=ADAPTER,
        policy=await broker.catalog.policy("probe", "echo"),
        command_id=command_id,
        attempt=None,
        result={"text": "done"},
        random=Random(1),
    )


async def hot_key(servers: Servers) -> list[Figure]:
    """A dispatch and the end that releases the next one, with 100,000 that wait, and with one."""
    waiting, rounds = servers.pick(100_000, 500), servers.pick(15, 3)
    async with AsyncExitStack() as opened:
        turns: list[tuple[Broker, asyncpg.Pool, bool]] = []
        for many in (True, False):
            dsns = await opened.enter_async_context(servers.database())
            broker = await opened.enter_async_context(servers.broker(dsns.app))
            pool = await asyncpg.create_pool(dsns.relay, min_size=1, max_size=2)
            opened.push_async_callback(pool.close)
            await submit(broker, ADA, echo(uuid4(), ordering_key="hot"))
            if many:
                await fill(dsns.owner, waiting, key="'hot'", seq="n + 1", held=True)
            await settle(dsns.owner)
            turns.append((broker, pool, many))

        async def dispatches(broker: Broker, pool: asyncpg.Pool, many: bool) -> float:
            spent: list[float] = []
            for _ in range(rounds):
                if not many:  # there is always one that the end releases
                    await submit(broker, ADA, echo(uuid4(), ordering_key="hot"))
                watch = Stopwatch()
                [command_id] = await take(pool)
                await finish(broker, command_id)
                spent.append(watch.s * 1000)
            return percentile(spent, 0.5)

        found = await in_turns(
            servers.pick(15, 3),
            many=lambda: dispatches(*turns[0]),
            one=lambda: dispatches(*turns[1]),
        )
    return [
        at_most(
            1.3,
            name=f"dispatch + result of a key, {waiting:,} waiting",
            unit="ms",
            subject=found["many"],
            baseline=found["one"],
            against="one waiting",
        )
    ]


async def noisy_tenant(servers: Servers) -> list[Figure]:
    """How long a quiet tenant's call waits for its claim while another has 50,000 queued."""
    waiting, calls = servers.pick(50_000, 500), servers.pick(100, 10)
    async with AsyncExitStack() as opened:
        sides: list[tuple[Broker, asyncpg.Pool, str]] = []
        for many in (True, False):
            dsns = await opened.enter_async_context(servers.database())
            broker = await opened.enter_async_context(servers.broker(dsns.app))
            pool = await asyncpg.create_pool(dsns.relay, min_size=1, max_size=BATCHES)
            opened.push_async_callback(pool.close)
            if many:
                await fill(dsns.owner, waiting, tenant="'other'")
                await settle(dsns.owner)
            sides.append((broker, pool, dsns.owner))
        found = await in_turns(
            2 * servers.repeats + 1,
            noisy=lambda: quiet_p95(*sides[0], calls=calls),
            alone=lambda: quiet_p95(*sides[1], calls=calls),
        )
    return [
        at_most(
            2,
            name=f"p95 accept -> claimed and recorded, other tenant has {waiting:,} queued",
            unit="ms",
            subject=found["noisy"],
            baseline=found["alone"],
            against="other tenant idle",
            note="one relay claims at the shipped windows (40 a tool); adapters end at once",
        )
    ]


async def quiet_p95(broker: Broker, pool: asyncpg.Pool, dsn: str, *, calls: int) -> float:
    """The p95 of a quiet tenant's latency, in ms, beside a relay that never rests.

    As a relay does, it has `BATCHES` of commands on their way at a time.
    """
    taken: dict[UUID, asyncio.Future[None]] = {}
    stop = asyncio.Event()

    async def relay() -> None:
        conn = await asyncpg.connect(dsn)
        try:
            while not stop.is_set():
                moved = await take(pool, batch_max=40)
                for one in moved:
                    waiter = taken.pop(one, None)
                    if waiter is not None:
                        waiter.set_result(None)
                if moved:
                    await conn.execute(
                        "UPDATE commands SET state = 'succeeded', finished_at = now()"
                        " WHERE id = ANY ($1::uuid[])",
                        moved,
                    )
                else:
                    await asyncio.sleep(0.001)
        finally:
            await conn.close()

    running = [asyncio.create_task(relay()) for _ in range(BATCHES)]
    spent: list[float] = []
    for _ in range(calls):
        command_id = new_id()
        taken[command_id] = waiter = asyncio.get_running_loop().create_future()
        watch = Stopwatch()
        await submit(broker, ADA, echo(uuid4(), correlation_id=command_id))
        await asyncio.wait_for(waiter, 30)
        spent.append(watch.s * 1000)
    stop.set()
    await asyncio.gather(*running)
    return percentile(spent, 0.95)


async def overtaking(servers: Servers) -> list[Figure]:
    """Places in the queue before a critical call, with 10,000 low ones waiting, and with none."""
    waiting = servers.pick(10_000, 500)
    async with (
        servers.database() as dsns,
        servers.broker(dsns.app) as broker,
        asyncpg.create_pool(dsns.relay, min_size=1, max_size=2) as pool,
    ):
        await fill(dsns.owner, waiting, priority=0)
        await settle(dsns.owner)

        async def ahead() -> float:
            accepted = await submit(broker, ADA, critical())
            for place in range(waiting):
                if accepted.written.id in await take(pool, batch_max=1):
                    return 1.0 + place
            raise AssertionError("it never went")

        found = await in_turns(servers.repeats, place=ahead)
    return [
        at_most(
            1,
            name=f"place of a critical call behind {waiting:,} low ones",
            unit="th claimed",
            subject=found["place"],
            baseline=[1.0] * len(found["place"]),
            against="the first place",
        )
    ]


def critical() -> Request:
    """A call that goes before all others."""
    return echo(uuid4(), priority="critical")


def new_id() -> UUID:
    """A correlation id of our own choice, to know the command by before it is written."""
    return uuid_utils.uuid7()
