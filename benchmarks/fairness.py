"""What waits must not slow what goes: a hot key, a noisy tenant, a pile of low priority."""

import asyncio
from contextlib import AsyncExitStack
from itertools import islice
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import uuid_utils.compat as uuid_utils
from aiokafka import AIOKafkaConsumer

from app.commands import results
from app.commands.store import dispatch_claim, dispatch_record
from app.commands.store.dispatch_record import Acked
from app.edges.calls import submit
from app.edges.parts import Parts
from app.intake.prepare import CallRequest
from benchmarks.measure import Figure, Stopwatch, at_most, in_turns, percentile
from benchmarks.servers import (
    ADA,
    ADAPTER,
    UNBOUNDED,
    Servers,
    consumer,
    echo,
    end_at_once,
    execute,
    fill,
    settle,
)
from relay.kafka import create_topics

RELAY = "bench"
WINDOW = 40
ENDS_PER_S = 200
"""What fast adapters of several machines do; two processors run one or two playbooks a second."""
QUIET_PER_S = 50
"""A tenant that called again at once would be no quiet one: its own calls would fill its share."""
BOUNDLESS = 1e9
IN_FLIGHT = "SELECT id FROM commands WHERE state = 'dispatched'"


async def take(pool: asyncpg.Pool, *, batch_max: int = 500) -> list[UUID]:
    """Claim what goes next and record it as published: a relay's work without Kafka."""
    claimed = await dispatch_claim.lease_commands(
        pool,
        relay=RELAY,
        batch_max=batch_max,
        window=UNBOUNDED,
        aging_s=60,
        lease_s=30,
        top_only=True,
    )
    acked = [Acked(claimed=one, partition=0, offset=0) for one in claimed]
    await dispatch_record.published(pool, acked, relay=RELAY, claim_wait_s=120)
    return [one.command_id for one in claimed if one.command_id is not None]


async def finish(broker: Parts, command_id: UUID) -> None:
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
        turns: list[tuple[Parts, asyncpg.Pool, bool]] = []
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

        async def dispatches(broker: Parts, pool: asyncpg.Pool, many: bool) -> float:
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
    """How long a quiet tenant's accepted call takes to Kafka while another has 50,000 queued."""
    waiting, calls = servers.pick(50_000, 500), servers.pick(100, 10)
    bootstrap = await servers.kafka()
    await create_topics(servers.settings(await servers.postgres()))
    async with AsyncExitStack() as opened:
        incoming = await opened.enter_async_context(consumer(bootstrap))
        sides: list[tuple[Parts, str]] = []
        for many in (True, False):
            dsns = await opened.enter_async_context(servers.database())
            await create_topics(servers.settings(dsns.relay))
            await execute(dsns.owner, f"UPDATE tools SET in_flight_max = {WINDOW}")
            broker = await opened.enter_async_context(servers.broker(dsns.app))
            if many:
                await fill(dsns.owner, waiting, tenant="'other'")
                await settle(dsns.owner)
            name = f"relay-{'noisy' if many else 'alone'}"
            await opened.enter_async_context(servers.relay(dsns.relay, name=name))
            sides.append((broker, dsns.owner))
        (noisy, queue), (alone, other) = sides
        found = await in_turns(
            2 * servers.repeats + 1,
            paced=lambda: quiet_p95(noisy, queue, incoming, calls=calls, ends_per_s=ENDS_PER_S),
            at_once=lambda: quiet_p95(noisy, queue, incoming, calls=calls, ends_per_s=BOUNDLESS),
            alone=lambda: quiet_p95(alone, other, incoming, calls=calls, ends_per_s=BOUNDLESS),
        )
    values: dict[str, Any] = {
        "unit": "ms",
        "baseline": found["alone"],
        "against": "other tenant idle",
        "note": f"one relay at the shipped window ({WINDOW} a tool)",
    }
    name = f"p95 accepted -> Kafka consumer, other tenant has {waiting:,} queued"
    return [
        at_most(2, name=f"{name}, {ENDS_PER_S} a second end", subject=found["paced"], **values),
        Figure(name=f"{name}, each ends at once", subject=found["at_once"], **values),
    ]


async def quiet_p95(
    broker: Parts, owner: str, incoming: AIOKafkaConsumer, *, calls: int, ends_per_s: float
) -> float:
    """The p95 of a quiet tenant's latency, in ms, beside adapters that never rest.

    They end what Kafka brings, at most so many a second, so the other tenant's calls keep filling
    the window. While nobody calls this, the window of its database is full and its relay has
    nothing to do.
    """
    taken: dict[UUID, asyncio.Future[None]] = {}
    stop = asyncio.Event()

    left: set[UUID] = set()

    async def read() -> None:
        while not stop.is_set():
            for records in (await incoming.getmany(timeout_ms=100)).values():
                for record in records:
                    one = UUID(dict(record.headers)["correlation_id"].decode())
                    left.add(one)
                    if one in taken:
                        taken.pop(one).set_result(None)

    async def end() -> None:
        conn = await asyncpg.connect(owner)
        left.update(row["id"] for row in await conn.fetch(IN_FLIGHT))
        ended, clock = 0, Stopwatch()
        while not stop.is_set():
            due = set(islice(left, int(min(len(left), clock.s * ends_per_s - ended))))
            if due:
                ended += len(due)
                left.difference_update(due - await end_at_once(conn, due))
                await conn.execute("SELECT pg_notify('broker_outbox', '')")
            await asyncio.sleep(0.002)
        await conn.close()

    running = [asyncio.create_task(read()), asyncio.create_task(end())]
    spent: list[float] = []
    clock = Stopwatch()
    for n in range(calls):
        await asyncio.sleep(max(0, n / QUIET_PER_S - clock.s))
        command_id = new_id()
        taken[command_id] = waiter = asyncio.get_running_loop().create_future()
        await submit(broker, ADA, echo(uuid4(), correlation_id=command_id))
        watch = Stopwatch()
        early = waiter.done()  # there before its caller knew
        await asyncio.wait_for(waiter, 30)
        spent.append(0 if early else watch.s * 1000)
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


def critical() -> CallRequest:
    """A call that goes before all others."""
    return echo(uuid4(), priority="critical")


def new_id() -> UUID:
    """A correlation id of our own choice, to know the command by before it is written."""
    return uuid_utils.uuid7()
