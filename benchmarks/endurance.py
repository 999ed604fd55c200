"""What stays behind: memory after an hour's worth of calls, dead rows behind a pinned snapshot."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg

from benchmarks import http
from benchmarks.fairness import take
from benchmarks.growth import dispatches
from benchmarks.measure import Figure, at_most
from benchmarks.servers import END_DISPATCHED, Servers, execute, fetch, fill
from relay.kafka import create_topics

CALLERS = 32
SLICES = 10
VACUUM_EVERY = 10_000

# As adapters that are infinitely fast would, and with the wakeup that a result is followed by.
END = """
    WITH ended AS (
        UPDATE commands
           SET state = 'succeeded', finished_at = now(), result = '{"text": "done"}'
         WHERE id IN (SELECT id FROM commands WHERE state = 'dispatched' LIMIT 150
                         FOR UPDATE SKIP LOCKED)
        RETURNING id
    )
    SELECT pg_notify('broker_commands', string_agg(id::text, ',')) FROM ended
    HAVING count(*) > 0
"""


def resident_mb(pid: int) -> float:
    """The memory of a process that is in RAM now, in MB (proc(5), VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(pid)


async def memory(servers: Servers) -> list[Figure]:
    """App and relay after 180,000 calls, an hour of 50/s, beside after the first tenth of them.

    Most callers are answered at once; some wait for the outcome.
    """
    calls = servers.pick(180_000, 400)
    await servers.kafka()
    async with AsyncExitStack() as opened:
        dsns = await opened.enter_async_context(servers.database())
        await create_topics(servers.settings(dsns.relay))
        app = await opened.enter_async_context(servers.app(dsns.app))
        relay = await opened.enter_async_context(servers.relay(dsns.relay, name="relay-memory"))
        processes = {"app": app.process.pid, "relay": relay}
        token = {"Authorization": f"Bearer {servers.token()}"}
        ending = asyncio.create_task(end_always(dsns.owner))
        seen: dict[str, list[float]] = {name: [] for name in processes}
        done = 0.0

        async def some(callers: int, seconds: float, *, wait: bool) -> float:
            rate = await http.requests_for(
                app.port,
                "/mcp/tools/call",
                http.http_call,
                headers=token if wait else token | {"Prefer": "respond-async"},
                callers=callers,
                seconds=seconds,
                expect=b'"state":"succeeded"' if wait else b'"status":"accepted"',
            )
            return rate * seconds

        while len(seen["app"]) < SLICES:
            until = calls * (len(seen["app"]) + 1) / SLICES
            while done < until:
                seconds = servers.pick(5, 1)
                done += sum(
                    await asyncio.gather(
                        some(CALLERS, seconds, wait=False), some(4, seconds, wait=True)
                    )
                )
            for name, pid in processes.items():
                seen[name].append(resident_mb(pid))
        ending.cancel()
    return [
        at_most(
            1.1,
            name=f"memory of the {name} after {calls:,} calls",
            unit="MB",
            subject=values[-1:],
            baseline=values[:1],
            against="after a tenth of them",
        )
        for name, values in seen.items()
    ]


async def end_always(owner: str) -> None:
    """End whatever is dispatched, until cancelled."""
    conn = await asyncpg.connect(owner)
    try:
        while True:
            if await conn.execute(END) == "SELECT 0":
                await asyncio.sleep(0.005)
    finally:
        conn.terminate()


async def pinned(servers: Servers) -> list[Figure]:
    """100,000 dispatches while somebody's snapshot lets vacuum remove nothing, and without one."""
    count = servers.pick(100_000, 600)
    rounds = servers.pick(40, 3)
    async with AsyncExitStack() as opened:
        dsns = await opened.enter_async_context(servers.database())
        broker = await opened.enter_async_context(servers.broker(dsns.app))
        pool = await asyncpg.create_pool(dsns.relay, min_size=1, max_size=2)
        opened.push_async_callback(pool.close)

        async def pass_through(tag: str) -> tuple[float, float]:
            """The outbox's size in MB after so many, and the ms of a claim and its record."""
            await fill(dsns.owner, count, tag=tag)
            done = 0
            while taken := len(await take(pool)):
                done += taken
                if done % VACUUM_EVERY < taken:
                    await execute(dsns.owner, "VACUUM outbox")  # as autovacuum would
                await execute(
                    dsns.owner,
                    END_DISPATCHED,
                )
            await execute(dsns.owner, "VACUUM ANALYZE")
            spent = await dispatches(broker, pool, rounds=rounds)
            rows = await fetch(dsns.owner, "SELECT pg_total_relation_size('outbox')")
            return rows[0][0] / (1 << 20), spent

        free_mb, free_ms = await pass_through("free")
        old = await asyncpg.connect(dsns.owner)
        reading = old.transaction(isolation="repeatable_read")
        await reading.start()
        await old.fetch("SELECT count(*) FROM tenants")
        pinned_mb, pinned_ms = await pass_through("pinned")
        await reading.rollback()
        await old.close()
        again_mb, again_ms = await pass_through("again")
    size, spent = f"outbox after {count:,} dispatches", f"claim after {count:,} dispatches"
    return [
        Figure(
            name=f"{size}, an old snapshot open",
            unit="MB",
            subject=[pinned_mb],
            baseline=[free_mb],
            against="none open",
        ),
        at_most(
            1.1,
            name=f"{size}, the snapshot closed, as many again",
            unit="MB",
            subject=[again_mb],
            baseline=[pinned_mb],
            against="while it was open",
        ),
        Figure(
            name=f"{spent}, an old snapshot open",
            unit="ms",
            subject=[pinned_ms],
            baseline=[free_ms],
            against="none open",
        ),
        at_most(
            1.2,
            name=f"{spent}, the snapshot closed, as many again",
            unit="ms",
            subject=[again_ms],
            baseline=[free_ms],
            against="before it was opened",
        ),
    ]
