"""From a commit to a Kafka consumer, and how fast a full outbox drains."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from app.contract import COMMANDS
from app.edges.calls import submit
from app.edges.parts import Parts
from benchmarks import peers
from benchmarks.fairness import new_id
from benchmarks.intake import empty_database
from benchmarks.measure import Figure, Stopwatch, at_least, at_most, in_turns, percentile
from benchmarks.servers import (
    ADA,
    END_DISPATCHED,
    Servers,
    consumer,
    echo,
    end_at_once,
    fetch,
    fill,
    settle,
)
from relay.kafka import create_topics
from relay.publisher import BATCH_BYTES, LINGER_MS

RATES = (50, 200, 1000)
DRAIN_MIN = 20_000.0
PEERS_RATE_MAX = 200
"""Calls a second that the peers' workers keep up with here."""


async def latency(servers: Servers) -> list[Figure]:
    """Accepted -> consumed, beside what other queues' workers take from enqueued to started."""
    seconds = servers.pick(4, 1)
    bootstrap = await servers.kafka()
    figures: list[Figure] = []
    async with AsyncExitStack() as opened:
        dsns = await opened.enter_async_context(servers.database())
        await create_topics(servers.settings(dsns.relay))
        broker = await opened.enter_async_context(servers.broker(dsns.app))
        await opened.enter_async_context(servers.relay(dsns.relay, name="relay-latency"))
        incoming = await opened.enter_async_context(consumer(bootstrap))
        workers: dict[str, Started] = {}
        for name, worker in peers.WORKERS.items():
            dsn = await opened.enter_async_context(empty_database(await servers.postgres(), name))
            workers[name] = Started()
            start = await opened.enter_async_context(worker(dsn, workers[name].heard))
            workers[name].start = start
        for rate in (50,) if servers.quick else RATES:
            ours: list[list[float]] = []
            asked = workers if rate <= PEERS_RATE_MAX else {}
            theirs: dict[str, list[list[float]]] = {name: [] for name in asked}
            for _ in range(servers.repeats):
                ours.append(await paced(broker, dsns.owner, incoming, rate=rate, seconds=seconds))
                for name, one in asked.items():
                    theirs[name].append(await one.paced(rate=rate, seconds=seconds))
            if rate == RATES[0]:
                kafka = [await bare(bootstrap, incoming, rate=rate) for _ in ours]
                name = "a bare producer -> the same consumer"
                figures += beside(ours, kafka, rate=rate, against=name, goals=(1.8, 1.5))
            if not asked:
                figures += beside(ours, [], rate=rate, against="nobody")
            for name, values in theirs.items():
                started = f"{name}, enqueued -> started"
                figures += beside(ours, values, rate=rate, against=started)
    return figures


async def bare(bootstrap: str, incoming: AIOKafkaConsumer, *, rate: int) -> list[float]:
    """Kafka's own part: the ms from an idempotent producer's send() to the same consumer."""
    spent: list[float] = []
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap, enable_idempotence=True, acks="all", linger_ms=LINGER_MS
    )
    await producer.start()
    try:
        for n in range(100):
            watch = Stopwatch()
            await producer.send(COMMANDS, value=b"x" * 1000, key=str(n).encode())
            await incoming.getone()
            spent.append(watch.s * 1000)
            await asyncio.sleep(max(0, 1 / rate - watch.s))
    finally:
        await producer.stop()
    return spent


def beside(
    ours: list[list[float]],
    theirs: list[list[float]],
    *,
    rate: int,
    against: str,
    goals: tuple[float | None, float | None] = (None, None),
) -> list[Figure]:
    """The p50 and p99 of a rate beside another's turns, if there are any."""
    found: list[Figure] = []
    for share, goal in zip((0.5, 0.99), goals, strict=True):
        values: dict[str, Any] = {
            "name": f"accepted -> Kafka consumer p{share * 100:.0f}, {rate} calls/s",
            "unit": "ms",
            "subject": [percentile(one, share) for one in ours],
            "baseline": [percentile(one, share) for one in theirs],
            "against": against,
        }
        found.append(Figure(**values) if goal is None else at_most(goal, **values))
    return found


class Started:
    """A peer's worker, and when it started what."""

    start: peers.Start

    def __init__(self) -> None:
        self._sent: dict[str, Stopwatch] = {}
        self._early: set[str] = set()
        self._arrived: list[float] = []
        self._all = asyncio.Event()
        self._total = 0

    def heard(self, name: str) -> None:
        """A job has started; before its caller knew that it is enqueued, it took no time."""
        if name in self._sent:
            self._arrived.append(self._sent.pop(name).s * 1000)
        else:
            self._early.add(name)
            self._arrived.append(0)
        if len(self._arrived) >= self._total:
            self._all.set()

    async def paced(self, *, rate: int, seconds: float) -> list[float]:
        """Enqueue at a rate; the ms from each answer to the job's start."""
        self._arrived, self._total = [], round(rate * seconds)
        self._all.clear()

        async def one(name: str) -> None:
            await self.start(name)
            if name not in self._early:
                self._sent[name] = Stopwatch()

        clock = Stopwatch()
        calls: list[asyncio.Task[None]] = []
        for n in range(self._total):
            await asyncio.sleep(max(0, n / rate - clock.s))
            calls.append(asyncio.create_task(one(str(uuid4()))))
        await asyncio.gather(*calls)
        await asyncio.wait_for(self._all.wait(), 60)
        return self._arrived


async def paced(
    broker: Parts, owner: str, incoming: AIOKafkaConsumer, *, rate: int, seconds: float
) -> list[float]:
    """Call at a rate, whatever the answers; the ms from each answer to the consumer."""
    sent: dict[str, Stopwatch] = {}
    arrived: list[float] = []
    total = round(rate * seconds)
    conn = await asyncpg.connect(owner)

    async def one(command_id: UUID) -> None:
        await submit(broker, ADA, echo(uuid4(), correlation_id=command_id))
        sent.setdefault(str(command_id), Stopwatch())

    async def read() -> None:
        early: dict[str, None] = {}
        held = set[UUID]()
        while len(arrived) < total:
            batches = await incoming.getmany(timeout_ms=100)
            ids = [
                dict(record.headers)["correlation_id"].decode()
                for records in batches.values()
                for record in records
            ]
            for each in [*ids, *early]:
                if each in sent:
                    arrived.append(sent.pop(each).s * 1000)
                    early.pop(each, None)
                else:
                    early[each] = None  # in Kafka before its caller knew
            if ids or held:
                held = await end_at_once(conn, held | {UUID(each) for each in ids})

    reading = asyncio.create_task(read())
    clock = Stopwatch()
    calls: list[asyncio.Task[None]] = []
    for n in range(total):
        await asyncio.sleep(max(0, n / rate - clock.s))
        calls.append(asyncio.create_task(one(new_id())))
    await asyncio.gather(*calls)
    await asyncio.wait_for(reading, 60)
    await conn.close()
    return arrived


async def drain(servers: Servers) -> list[Figure]:
    """Rows a second of one relay over a full outbox, beside a bare producer of the same bytes."""
    count = servers.pick(200_000, 2000)
    bootstrap = await servers.kafka()
    rows: list[float] = []
    bare: list[float] = []
    for _ in range(1 if servers.quick else 2):
        async with servers.database() as dsns:
            await create_topics(servers.settings(dsns.relay))
            await fill(dsns.owner, count)
            await settle(dsns.owner)
            sample = await drained(servers, dsns.owner, dsns.relay, count, bootstrap, rows)
        turn = await in_turns(1, bare=lambda s=sample: produced(bootstrap, s, count))
        bare += turn["bare"]
    values: dict[str, Any] = {
        "name": f"drain of {count:,} commands by one relay",
        "unit": "rows/s",
        "subject": rows,
    }
    return [
        at_least(1, **values, baseline=[DRAIN_MIN] * len(rows), against="what it is to be"),
        Figure(**values, baseline=bare, against="a bare aiokafka producer"),
    ]


async def drained(
    servers: Servers, owner: str, relay: str, count: int, bootstrap: str, rows: list[float]
) -> tuple[bytes, bytes, list[tuple[str, bytes]]]:
    """Drain it, while what is dispatched is ended at once; returns one record as it was sent."""
    async with consumer(bootstrap) as incoming:
        conn = await asyncpg.connect(owner)
        async with servers.relay(relay, name=f"relay-{uuid4()}"):
            first = await asyncio.wait_for(incoming.getone(), 60)
            watch = Stopwatch()
            at = await left(owner)
            while await left(owner):
                await conn.execute(END_DISPATCHED)
                await asyncio.sleep(0.1)
            rows.append(at / watch.s)
        await conn.close()
    assert at <= count
    return first.key or b"", first.value or b"", list(first.headers)


async def left(owner: str) -> int:
    """Rows of the outbox that are still to go."""
    return (await fetch(owner, "SELECT count(*) FROM outbox WHERE kind = 'command'"))[0][0]


async def produced(
    bootstrap: str, record: tuple[bytes, bytes, list[tuple[str, bytes]]], count: int
) -> float:
    """Rows a second of a producer with the relay's settings and nothing else to do."""
    _, value, headers = record
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        acks="all",
        max_batch_size=BATCH_BYTES,
        linger_ms=LINGER_MS,
    )
    await producer.start()
    try:
        watch = Stopwatch()
        for start in range(0, count, 500):
            futures = [
                await producer.send(
                    COMMANDS, value=value, key=str(start + n).encode(), headers=headers
                )
                for n in range(min(500, count - start))
            ]
            await asyncio.gather(*futures)
        return count / watch.s
    finally:
        await producer.stop()
