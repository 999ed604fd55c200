"""Waiters find out by themselves what nobody has told them, whatever else is going on."""

import asyncio
from contextlib import suppress

import pytest

from app.commands.watch import CommandFeed
from app.edges.parts import Parts
from devstack.stack import Dsns
from tests.support.calls import accept, echo, fetch

POLL_S = 0.2


@pytest.mark.guarantee("watch:polls")
async def test_polling_is_on_time_though_other_commands_are_told_of_all_the_time(
    broker: Parts, database: Dsns
) -> None:
    quiet, busy = [(await accept(broker, echo(text))).written.id for text in "ab"]
    feed = CommandFeed(broker.database.engine, poll_s=POLL_S)
    running = asyncio.create_task(feed.run())

    async def traffic() -> None:
        while True:
            feed.changed([busy])
            await asyncio.sleep(POLL_S / 10)

    talking = asyncio.create_task(traffic())
    try:
        with feed.watch("demo", quiet) as watch, feed.watch("demo", busy):
            assert await watch.change(5)
            # By a process whose notification was lost.
            await fetch(database.owner, "UPDATE commands SET stage = 'x' WHERE id = $1", quiet)
            newest = await watch.change(5)
            assert newest is not None
            assert newest.stage == "x"
    finally:
        for task in (talking, running):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def test_who_waits_for_an_end_has_nothing_read_before_it(
    broker: Parts, database: Dsns
) -> None:
    """A call that was just written is known, and its moves are no news to who waits for its end."""
    one, two = [(await accept(broker, echo(text))).written.id for text in "ab"]
    feed = CommandFeed(broker.database.engine, poll_s=3600)
    running = asyncio.create_task(feed.run())
    try:
        with (
            feed.watch("demo", one, end_only=True, just_written=True) as end,
            feed.watch("demo", two) as every,
        ):
            assert await every.change(5)
            await fetch(database.owner, "UPDATE commands SET stage = 'x'")
            feed.moved([one, two])
            moved = await every.change(5)
            assert moved is not None
            assert moved.stage == "x"
            assert end.newest is None, "the same load would have read it"
            feed.changed([one])
            assert await end.change(5)
        # What ended between its write and its watch was told of before anybody listened.
        feed.changed([two])
        with feed.watch("demo", two, end_only=True, just_written=True) as late:
            assert await late.change(5)
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
