"""What the audit trail costs: intake with and without it, and sealing beside full speed."""

import asyncio
from contextlib import AsyncExitStack
from uuid import uuid4

import asyncpg

from app.audit.keys import signer
from app.edges.calls import submit
from app.edges.parts import Parts
from benchmarks.intake import accept_for
from benchmarks.measure import Figure, Stopwatch, at_least, at_most, in_turns
from benchmarks.servers import ADA, Servers, echo, execute, fetch
from relay.sealer import Sealer

# In a throwaway copy of the schema: the events go nowhere, everything else is as it was.
WITHOUT = """
    ALTER SCHEMA audit RENAME TO audit_kept;
    CREATE SCHEMA audit;
    CREATE VIEW audit.events AS SELECT * FROM audit_kept.events;
    CREATE FUNCTION audit.nothing() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RETURN NULL; END $$;
    CREATE TRIGGER nothing INSTEAD OF INSERT ON audit.events
        FOR EACH ROW EXECUTE FUNCTION audit.nothing();
    GRANT USAGE ON SCHEMA audit TO PUBLIC;
    GRANT SELECT, INSERT ON audit.events TO PUBLIC;
"""


async def intake_with_and_without(servers: Servers) -> list[Figure]:
    """Accepts a second at 64 callers, with the audit trail and with its insert disabled."""
    seconds, callers = servers.pick(2, 1), servers.pick(64, 8)
    async with AsyncExitStack() as opened:
        sides: list[Parts] = []
        for audited in (True, False):
            dsns = await opened.enter_async_context(servers.database())
            if not audited:
                await execute(dsns.owner, WITHOUT)
            sides.append(await opened.enter_async_context(servers.broker(dsns.app)))
        found = await in_turns(
            2 * servers.repeats + 1,
            audited=lambda: accept_for(sides[0], callers=callers, seconds=seconds),
            unaudited=lambda: accept_for(sides[1], callers=callers, seconds=seconds),
        )
    return [
        at_least(
            0.8,
            name=f"intake with the audit trail, {callers} callers",
            unit="calls/s",
            subject=found["audited"],
            baseline=found["unaudited"],
            against="without its insert",
        )
    ]


async def sealing(servers: Servers) -> list[Figure]:
    """Events sealed a second out of 50,000 written, against events that intake writes a second.

    First intake by itself, then the sealer by itself, then both: does the sealer end with it?
    """
    count, callers = servers.pick(50_000, 500), servers.pick(64, 8)
    async with (
        servers.database() as dsns,
        servers.broker(dsns.app) as broker,
        asyncpg.create_pool(dsns.relay, min_size=1, max_size=2) as pool,
    ):
        sealer = Sealer(pool, [signer(str(servers.seal_key))], log="bench")
        watch = Stopwatch()
        await accept_count(broker, count=count, callers=callers)
        accepted = count / watch.s
        watch = Stopwatch()
        while await sealer.tick():
            pass
        sealed = sealer.counts.events / watch.s
        assert sealer.counts.events >= count

        done = asyncio.Event()
        running = asyncio.create_task(sealer.run(done))
        watch = Stopwatch()
        await accept_count(broker, count=count, callers=callers)
        written = (await fetch(dsns.owner, "SELECT count(*) FROM audit.events"))[0][0]
        left = written - sealer.counts.events
        watch = Stopwatch()
        while sealer.counts.events < written:
            await asyncio.sleep(0.005)
        behind_s = watch.s
        done.set()
        await running
    return [
        at_least(
            1,
            name=f"sealing {count:,} events by itself",
            unit="events/s",
            subject=[sealed],
            baseline=[accepted],
            against="intake by itself",
        ),
        at_most(
            1,
            name="seconds until all is sealed, after full intake beside the sealer ends",
            unit="s",
            subject=[behind_s],
            baseline=[servers.settings(dsns.relay).seal_s],
            against="the sealer's period",
            note=f"{left:,} of {count:,} events were not sealed yet when intake ended",
        ),
    ]


async def accept_count(broker: Parts, *, count: int, callers: int) -> None:
    """Accept that many calls."""
    left = iter(range(count))

    async def caller() -> None:
        for _ in left:
            await submit(broker, ADA, echo(uuid4()))

    await asyncio.gather(*(caller() for _ in range(callers)))
