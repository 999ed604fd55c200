"""Adapters' words a second, and how soon waiters hear of them."""

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any
from uuid import UUID, uuid4

from app.commands import results
from app.commands.report import Kind, Report
from app.commands.watch import until_final
from app.edges.calls import submit
from app.edges.parts import Parts
from benchmarks.intake import accept_for, calls_for
from benchmarks.measure import Figure, Stopwatch, at_least, at_most, in_turns, percentile
from benchmarks.servers import ADA, ADAPTER, Servers, echo, fetch, fill, settle


async def whole(broker: Parts, command_id: UUID) -> None:
    """Claim, one progress, result: what an adapter says of one command."""
    said: dict[Kind, dict[str, Any]] = {
        Kind.CLAIM: {"run": str(command_id)},
        Kind.PROGRESS: {"stage": "half", "percent": 50},
        Kind.RESULT: {"result": {"text": "done"}},
    }
    for kind, more in said.items():
        answer = await broker.reports.report(
            Report(kind=kind, adapter=ADAPTER, command_id=command_id, attempt=1, **more)
        )
        assert answer.status == 200, answer


async def words(servers: Servers) -> list[Figure]:
    """Whole runs a second (three words each) by 16 adapters, beside intake and one adapter."""
    seconds = servers.pick(2, 1)
    async with servers.database() as dsns, servers.broker(dsns.app) as broker:
        await fill(dsns.owner, servers.pick(60_000, 6000))
        await settle(dsns.owner)
        rows = await fetch(dsns.owner, "SELECT id FROM commands")
        left = iter([row["id"] for row in rows])
        found = await in_turns(
            servers.repeats,
            many=lambda: calls_for(lambda: whole(broker, next(left)), callers=16, seconds=seconds),
            one=lambda: calls_for(lambda: whole(broker, next(left)), callers=1, seconds=seconds),
            intake=lambda: accept_for(broker, callers=16, seconds=seconds),
        )
    values: dict[str, Any] = {
        "name": "claim + progress + result, 16 adapters",
        "unit": "runs/s",
        "subject": found["many"],
    }
    return [
        at_least(0.3, **values, baseline=found["intake"], against="library accept, 16 callers"),
        Figure(**values, baseline=found["one"], against="one adapter"),
    ]


async def waking(servers: Servers) -> list[Figure]:
    """From a result's commit at one replica to the waiter at another, by number of waiters."""
    many, few = servers.pick(10_000, 200), servers.pick(100, 20)
    async with (
        servers.database() as dsns,
        servers.broker(dsns.app) as here,
        servers.broker(dsns.app) as there,
    ):
        found = await in_turns(
            servers.repeats,
            many=lambda: p99_of(here, there, waiters=many),
            few=lambda: p99_of(here, there, waiters=few),
        )
    return [
        at_most(
            2,
            name=f"p99 result committed -> waiter at another replica, {many:,} waiters",
            unit="ms",
            subject=found["many"],
            baseline=found["few"],
            against=f"{few:,} waiters",
        )
    ]


async def p99_of(here: Parts, there: Parts, *, waiters: int, ends: int = 100) -> float:
    """That many wait there; some of their commands end here; the p99 of their wait, in ms."""
    accepted = [await one for one in gathered(here, waiters)]
    at: dict[UUID, Stopwatch] = {}
    spent: list[float] = []

    async def waiter(command_id: UUID) -> None:
        with there.feed.watch("demo", command_id, end_only=True) as watch:
            if await until_final(watch, wait_s=600) is not None:
                spent.append(at[command_id].s * 1000)

    ending = accepted[:: max(1, len(accepted) // ends)][:ends]
    waiting = {one: asyncio.create_task(waiter(one)) for one in accepted}
    policy = await here.catalog.policy("probe", "echo")
    await asyncio.sleep(2 * there.settings.poll_s)  # all have read their first state
    for one in ending:
        word = await results.finish(
            here.database.engine,
            adapter=ADAPTER,
            policy=policy,
            command_id=one,
            attempt=None,
            result={},
            random=Random(1),
        )
        at[one] = Stopwatch()
        here.notifier.commands(word.woken)
        await asyncio.sleep(0.005)
    await asyncio.gather(*(waiting[one] for one in ending))
    for task in waiting.values():
        task.cancel()
    await asyncio.gather(*waiting.values(), return_exceptions=True)
    return percentile(spent, 0.99)


def gathered(broker: Parts, count: int) -> "list[asyncio.Task[UUID]]":
    """Accept that many calls at once."""

    async def one() -> UUID:
        return (await submit(broker, ADA, echo(uuid4()))).written.id

    made: Callable[[], asyncio.Task[UUID]] = lambda: asyncio.ensure_future(one())  # noqa: E731
    return [made() for _ in range(count)]
