"""What a call costs in a database that has years behind it, beside an empty one."""

from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import asyncpg

from app.edges.calls import submit
from app.edges.parts import Parts
from benchmarks.fairness import finish, take
from benchmarks.measure import Figure, Stopwatch, at_most, in_turns, percentile
from benchmarks.servers import ADA, END_DISPATCHED, Servers, echo, execute, fill, settle

BATCH = 500

TENANTS = """
    INSERT INTO tenants (tenant_id, title) SELECT 'bench' || n, '' FROM generate_series(1, {n}) AS n
"""
HEADS = """
    INSERT INTO ordering_heads (tenant_id, ordering_key, next_seq)
    SELECT 'demo', 'key-' || n, 2 FROM generate_series(1, {n}) AS n
"""


async def growth(servers: Servers) -> list[Figure]:
    """Accept, dispatch and result of one call: a million ended, 100,000 queued, and empty."""
    sizes = {
        "ended": servers.pick(1_000_000, 1000),
        "queued": servers.pick(100_000, 500),
        "tenants": servers.pick(1000, 20),
        "keys": servers.pick(100_000, 100),
    }
    rounds = servers.pick(60, 5)
    async with AsyncExitStack() as opened:
        sides: list[tuple[Parts, asyncpg.Pool]] = []
        owners: list[str] = []
        for full in (True, False):
            dsns = await opened.enter_async_context(servers.database())
            broker = await opened.enter_async_context(servers.broker(dsns.app))
            pool = await asyncpg.create_pool(dsns.relay, min_size=1, max_size=2)
            opened.push_async_callback(pool.close)
            await execute(dsns.owner, TENANTS.format(n=sizes["tenants"]))
            if full:
                spread = f"'bench' || (n % {sizes['tenants']} + 1)"
                await fill(dsns.owner, sizes["ended"], tenant=spread, state="succeeded", tag="e")
                await fill(dsns.owner, sizes["queued"], tenant=spread, tag="q")
                await execute(dsns.owner, HEADS.format(n=sizes["keys"]))
                await settle(dsns.owner)
            sides.append((broker, pool))
            owners.append(dsns.owner)
        full_accept, empty_accept = (lambda s=s: accepts(*s, rounds=rounds) for s in sides)
        accepting = await in_turns(servers.repeats, full=full_accept, empty=empty_accept)
        full_go, empty_go = (lambda s=s: dispatches(*s, rounds=rounds) for s in sides)
        going = await in_turns(servers.repeats, full=full_go, empty=empty_go)
        full_end, empty_end = (lambda s=s: ends(*s, rounds=rounds) for s in sides)
        ending = await in_turns(servers.repeats, full=full_end, empty=empty_end)
        full_batch, empty_batch = (
            lambda o=owner, p=pool: batches(o, p, rounds=rounds // 5)
            for owner, (_, pool) in zip(owners, sides, strict=True)
        )
        batch = await in_turns(servers.repeats, full=full_batch, empty=empty_batch)
    found = {
        "accept of a keyed call": accepting,
        "claim and record of a call (urgent)": going,
        "result of a call": ending,
    }
    sized = f"{sizes['queued']:,} queued by {sizes['tenants']:,} tenants"
    return [
        Figure(
            name=f"claim and record of {BATCH} calls, {sized}",
            unit="ms",
            subject=batch["full"],
            baseline=batch["empty"],
            against=f"{BATCH} of one tenant",
        ),
        *at_the_size_of(sizes, found),
    ]


def at_the_size_of(sizes: dict[str, int], found: dict[str, dict[str, list[float]]]) -> list[Figure]:
    """What one call costs, each beside the empty database."""
    return [
        at_most(
            1.2,
            name=f"{name}, {sizes['ended']:,} ended, {sizes['queued']:,} queued",
            unit="ms",
            subject=both["full"],
            baseline=both["empty"],
            against="an empty database",
        )
        for name, both in found.items()
    ]


async def accepts(broker: Parts, _pool: asyncpg.Pool, *, rounds: int) -> float:
    """The median of an accept with a key of its own, in ms."""
    spent: list[float] = []
    for _ in range(rounds):
        watch = Stopwatch()
        await submit(broker, ADA, echo(uuid4(), ordering_key=str(uuid4())))
        spent.append(watch.s * 1000)
    return percentile(spent, 0.5)


async def dispatched(broker: Parts, pool: asyncpg.Pool) -> tuple[UUID, float]:
    """A critical call, claimed first; and what that took, in ms."""
    await submit(broker, ADA, echo(uuid4(), priority="critical"))
    watch = Stopwatch()
    [command_id] = await take(pool, batch_max=1)
    return command_id, watch.s * 1000


async def dispatches(broker: Parts, pool: asyncpg.Pool, *, rounds: int) -> float:
    """The median of a claim and its record, in ms."""
    return percentile([(await dispatched(broker, pool))[1] for _ in range(rounds)], 0.5)


async def batches(owner: str, pool: asyncpg.Pool, *, rounds: int) -> float:
    """The median of a claim and its record of a whole batch, in ms."""
    spent: list[float] = []
    for n in range(rounds):
        await fill(owner, BATCH, tag=f"{uuid4()}-{n}")
        watch = Stopwatch()
        taken = await take(pool, batch_max=BATCH)
        spent.append(watch.s * 1000)
        assert len(taken) == BATCH
        await execute(
            owner,
            END_DISPATCHED,
        )
    return percentile(spent, 0.5)


async def ends(broker: Parts, pool: asyncpg.Pool, *, rounds: int) -> float:
    """The median of a result, in ms."""
    spent: list[float] = []
    for _ in range(rounds):
        command_id, _ = await dispatched(broker, pool)
        watch = Stopwatch()
        await finish(broker, command_id)
        spent.append(watch.s * 1000)
    return percentile(spent, 0.5)
