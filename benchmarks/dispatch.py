"""From a commit to a Kafka consumer, and how fast a full outbox drains."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from uuid import UUID, uuid4

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from app.edges.broker import Broker, submit
from app.envelope import COMMANDS
from benchmarks.fairness import new_id
from benchmarks.measure import Figure, Stopwatch, at_least, in_turns, percentile
from benchmarks.servers import ADA, Servers, echo, end_at_once, fetch, fill, settle
from relay.kafka import BATCH_BYTES, LINGER_MS, create_topics

RATES = (50, 200, 1000)


@asynccontextmanager
async def consumer(bootstrap: str) -> AsyncGenerator[AIOKafkaConsumer]:
    """A consumer of the commands topic, at its end."""
    made = AIOKafkaConsumer(
        COMMANDS,
        bootstrap_servers=bootstrap,
        auto_offset_reset="latest",
        fetch_max_wait_ms=100,
    )
    await made.start()
    try:
        await made.seek_to_end()
        yield made
    finally:
        await made.stop()


async def latency(servers: Servers) -> list[Figure]:
    """Accepted -> consumed at three rates, by its p50 and p99, beside the accept itself.

    The baseline is what the caller waits for its accept: the least that a durable step costs here.
    """
    seconds = servers.pick(4, 1)
    bootstrap = await servers.kafka()
    figures: list[Figure] = []
    async with servers.database() as dsns:
        await create_topics(servers.settings(dsns.relay))
        async with (
            servers.broker(dsns.app) as broker,
            servers.relay(dsns.relay, name="relay-latency"),
            consumer(bootstrap) as incoming,
        ):
            for rate in (50,) if servers.quick else RATES:
                rounds = [
                    await paced(broker, dsns.owner, incoming, rate=rate, seconds=seconds)
                    for _ in range(servers.repeats)
                ]
                figures += [
                    Figure(
                        name=f"accepted -> Kafka consumer p{share * 100:.0f}, {rate} calls/s",
                        unit="ms",
                        subject=[percentile(arrived, share) for arrived, _ in rounds],
                        baseline=[percentile(accepted, share) for _, accepted in rounds],
                        against="the accept itself",
                    )
                    for share in (0.5, 0.95, 0.99)
                ]
    return figures


async def paced(
    broker: Broker, owner: str, incoming: AIOKafkaConsumer, *, rate: int, seconds: float
) -> tuple[list[float], list[float]]:
    """Call at a rate, whatever the answers; latencies in ms: to the consumer, and of the accept."""
    sent: dict[str, Stopwatch] = {}
    arrived: list[float] = []
    accepted: list[float] = []
    total = round(rate * seconds)
    conn = await asyncpg.connect(owner)

    async def one(command_id: UUID) -> None:
        watch = Stopwatch()
        await submit(broker, ADA, echo(uuid4(), correlation_id=command_id))
        accepted.append(watch.s * 1000)
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
    return arrived, accepted


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
    return [
        at_least(
            0.7,
            name=f"drain of {count:,} commands by one relay",
            unit="rows/s",
            subject=rows,
            baseline=bare,
            against="a bare aiokafka producer",
        )
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
                await conn.execute(
                    "UPDATE commands SET state = 'succeeded', finished_at = now()"
                    " WHERE state = 'dispatched'"
                )
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
