"""What a step of a saga costs, beside many other sagas and beside few."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg

from app.catalog.cache import Tools
from app.commands.store import ticks
from app.edges import sagas
from app.edges.parts import Parts
from app.edges.sagas import Which
from app.intake.prepare import CallRequest
from app.postgres.engine import Database, open_database
from app.sagas import conductor
from benchmarks.fairness import finish
from benchmarks.measure import Figure, Stopwatch, at_most, in_turns, percentile
from benchmarks.servers import ADA, Servers

AT_ONCE = 8  # the pools have ten connections
STEPS = 4

FIRST = """
    SELECT c.id, c.saga_id
      FROM commands c
      JOIN saga_steps t ON t.saga_id = c.saga_id AND t.command_id = c.id AND t.position = 0
     WHERE c.state = 'queued' AND c.saga_role = 'step'
     LIMIT $1
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One database with its app and relay."""

    broker: Parts
    relay: Database
    tools: Tools
    owner: asyncpg.Connection

    async def begin(self) -> UUID:
        """Accept one saga."""
        text = str(uuid4())
        step = {"tool": "probe", "method": "echo", "kind": "readonly", "args": {"text": text}}
        plan = {"steps": [{"id": f"s{n}", **step} for n in range(STEPS)]}
        which = Which.model_validate({"plan": plan})
        request = CallRequest(tool="saga", method="run", args=which.model_dump(exclude_none=True))
        return (await sagas.run(self.broker, ADA, which, request)).written.id

    async def advance(self, saga_id: UUID) -> None:
        """Take its turn."""
        await conductor.advance(
            self.relay.engine, saga_id, tools=self.tools.find, deadline_s=3600, grace_s=30
        )


async def concurrent_sagas(servers: Servers) -> list[Figure]:
    """A step's result and the turn that comes of it, with 10,000 sagas running and with 100."""
    many, few = servers.pick(10_000, 40), servers.pick(100, 10)
    rounds = servers.pick(60, 4)
    async with AsyncExitStack() as opened:
        sides = [await side(servers, opened, count) for count in (many, few)]
        large, small = (lambda one=one: steps(one, rounds=rounds) for one in sides)
        both = await in_turns(servers.repeats, large=large, small=small)
    return [
        at_most(
            1.3,
            name=f"step of a saga, {many:,} sagas running",
            unit="ms",
            subject=both["large"],
            baseline=both["small"],
            against=f"{few:,} sagas",
        )
    ]


async def side(servers: Servers, opened: AsyncExitStack, count: int) -> Side:
    """A database in which so many sagas have begun their first step."""
    dsns = await opened.enter_async_context(servers.database())
    broker = await opened.enter_async_context(servers.broker(dsns.app))
    relay = await opened.enter_async_context(
        open_database(servers.settings(dsns.relay), name="bench-relay")
    )
    owner = await asyncpg.connect(dsns.owner)
    opened.push_async_callback(owner.close)
    made = Side(broker=broker, relay=relay, tools=Tools(relay.engine, kept_s=5), owner=owner)
    gate = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with gate:
            await made.advance(await made.begin())

    await asyncio.gather(*(one() for _ in range(count)))
    async with relay.engine.connect() as conn:
        assert not await ticks.due_ticks(conn, limit=1)
    await owner.execute("VACUUM ANALYZE")
    return made


async def steps(one: Side, *, rounds: int) -> float:
    """The median of a step's result and the turn after it, in ms."""
    spent: list[float] = []
    for row in await one.owner.fetch(FIRST, rounds):
        watch = Stopwatch()
        await finish(one.broker, row["id"])
        await one.advance(row["saga_id"])
        spent.append(watch.s * 1000)
    for _ in spent:
        await one.advance(await one.begin())  # as many as before
    return percentile(spent, 0.5)
