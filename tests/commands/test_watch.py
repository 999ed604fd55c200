"""Waiters find out by themselves what nobody has told them, whatever else is going on."""

import asyncio
from contextlib import ExitStack, suppress
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event

from app.commands.watch import CommandFeed
from app.edges.parts import Parts
from devstack.stack import Dsns
from tests.support.calls import accept, echo, fetch

POLL_S = 0.2
WAITERS = 300
ENDED = "UPDATE commands SET state = 'cancelled', finished_at = now() WHERE id = $1"


@pytest.mark.guarantee("watch:polls")
async def test_polling_is_on_time_though_other_commands_are_told_of_all_the_time(
    broker: Parts, database: Dsns
) -> None:
    quiet, ending, busy = [(await accept(broker, echo(text))).written.id for text in "abc"]
    feed = CommandFeed(broker.database.engine, poll_s=POLL_S)
    running = asyncio.create_task(feed.run())

    async def traffic() -> None:
        while True:
            feed.changed([busy])
            await asyncio.sleep(POLL_S / 10)

    talking = asyncio.create_task(traffic())
    try:
        with (
            feed.watch("demo", quiet) as watch,
            feed.watch("demo", ending, end_only=True) as end,
            feed.watch("demo", busy),
        ):
            assert await watch.change(5)
            assert await end.change(5)
            # By a process whose notification was lost.
            await fetch(database.owner, "UPDATE commands SET stage = 'x'")
            newest = await watch.change(5)
            assert newest is not None
            assert newest.stage == "x"
            await fetch(database.owner, ENDED, ending)
            ended = await end.change(5)
            assert ended is not None
            assert ended.final
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


async def test_what_is_told_of_does_not_wait_for_the_poll_of_all_that_is_waited_for(
    broker: Parts,
) -> None:
    """With 10,000 waiters it waited for the read of them all: 140 ms, where it takes 2."""
    told = (await accept(broker, echo("a"))).written.id
    feed = CommandFeed(broker.database.engine, poll_s=POLL_S)
    asked: list[set[UUID]] = []

    def is_asked(_conn: Any, _cursor: Any, _said: Any, values: Any, *_: Any) -> None:
        ids = next((one for one in values if isinstance(one, list)), None)
        if ids is None or not isinstance(ids[0], UUID):
            return
        asked.append(set(ids))
        if len(asked) == 1:  # the poll has begun
            feed.changed([told])

    engine = broker.database.engine.sync_engine
    with ExitStack() as watches:
        watch = watches.enter_context(feed.watch("demo", told, just_written=True))
        for _ in range(WAITERS):
            watches.enter_context(feed.watch("demo", uuid4(), just_written=True))
        event.listen(engine, "before_cursor_execute", is_asked)
        running = asyncio.create_task(feed.run())
        try:
            assert await watch.change(5)
        finally:
            event.remove(engine, "before_cursor_execute", is_asked)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
    before = next(n for n, one in enumerate(asked) if told in one and n)
    assert sum(map(len, asked[:before])) < WAITERS / 2
