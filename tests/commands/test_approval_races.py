"""Decisions about one call at once: one outcome, one dispatch, and nothing torn by a fault."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.commands import timeouts
from app.edges import commands as edge
from app.edges.parts import Parts
from app.errors import ForbiddenError, NotCancellableError, NotFoundError
from app.postgres.engine import Database
from devstack.stack import Dsns
from tests.support.approving import (
    FAY,
    FOUR_EYES,
    FOX,
    OUTBOX,
    aged,
    clock,
    decide,
    events_of,
    offered,
    person,
    sent,
    waiting,
)
from tests.support.calls import ADA, fetch
from tests.support.faults import fail_at_each_statement, hold_at_statement
from tests.support.stack import wait_for

pytestmark = pytest.mark.thorough

LOCKED = """
    SELECT 1 FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


Deciding = Callable[[Parts, Database, UUID], Awaitable[object]]


async def _fay(broker: Parts, _: Database, one: UUID) -> None:
    await decide(broker, FAY, one)


async def _fox(broker: Parts, _: Database, one: UUID) -> None:
    await decide(broker, FOX, one)


async def _no(broker: Parts, _: Database, one: UUID) -> None:
    await decide(broker, FOX, one, approve=False)


async def _clock(broker: Parts, relay: Database, _: UUID) -> None:
    await clock(broker, relay)


async def _cancel(broker: Parts, _: Database, one: UUID) -> None:
    await edge.cancel(broker, ADA, one, reason="enough")


PAIRS = list(itertools.permutations([_fay, _fox, _no, _clock, _cancel], 2))
STEPS = range(1, 10)
"""Statements and the commit of a decision, and one more, of which nothing is held."""


@pytest.mark.guarantee("approval:races")
@pytest.mark.parametrize(("first", "second"), PAIRS)
async def test_of_two_at_once_one_decides_and_the_call_goes_once_at_most(
    broker: Parts,
    database: Dsns,
    home: Path,
    relay: Database,
    first: Deciding,
    second: Deciding,
) -> None:
    """The first is held before each of its statements in turn, while the second goes as far."""
    await offered(broker, database, home, **FOUR_EYES, expires_s=3600)
    for step in STEPS:
        one = await waiting(broker, f"d{step}")
        await decide(broker, person("fix", "finance"), one)  # one more is enough
        if _clock in (first, second):
            await aged(database, one, s=3600)
        engine = relay.engine if first is _clock else broker.database.engine
        async with asyncio.timeout(10):
            said = await _raced(
                database, engine, step, first(broker, relay, one), second(broker, relay, one)
            )
        await _whole(database, one, said)


async def _raced(
    database: Dsns,
    engine: AsyncEngine,
    step: int,
    first: Awaitable[object],
    second: Awaitable[object],
) -> list[str]:
    """Run both, the first held at a step until the second is done, or waits for its locks."""
    with hold_at_statement(engine, step) as hold:
        began = asyncio.create_task(_told(first))
        await wait_for(lambda: _either(began.done() or hold.reached.is_set()))
        if not hold.reached.is_set():
            hold.go.set()
        other = asyncio.create_task(_told(second))
        await wait_for(lambda: _either(other.done(), database))
        hold.go.set()
        return [await began, await other]


async def _either(now: object, database: Dsns | None = None) -> bool:
    """Whether it is so, or somebody waits for a lock."""
    if now or database is None:
        return bool(now)
    rows = await fetch(database.owner, LOCKED)
    return bool(rows)


async def _told(work: Awaitable[object]) -> str:
    try:
        await work
    except (NotCancellableError, NotFoundError, ForbiddenError) as error:
        return error.code
    return "done"


async def _whole(database: Dsns, one: UUID, said: list[str]) -> None:
    """What both came to is one outcome, told by its events, and dispatched once at most."""
    [row] = await fetch(database.owner, "SELECT state, approval FROM commands WHERE id = $1", one)
    kinds = [kind for kind, _ in await events_of(database, one)]
    rows = [each["status"] for each in await fetch(database.owner, OUTBOX, one)]
    ended = row["state"] == "cancelled"
    assert row["state"] in {"queued", "cancelled"}
    assert rows == ([] if ended else ["ready"]), (said, kinds)
    assert "done" in said
    assert kinds.count("command.approved") + kinds.count("command.denied") <= 1, kinds
    assert kinds.count("command.cancelled") == int(ended), kinds
    assert ended or row["approval"] == "approved"
    assert (row["approval"] == "approved") == ("command.approved" in kinds)


@pytest.mark.guarantee("approval:races")
async def test_of_many_approvals_at_once_the_last_that_is_needed_lets_it_go_once(
    broker: Parts, database: Dsns, home: Path
) -> None:
    await offered(broker, database, home, **FOUR_EYES | {"quorum": 5})
    one = await waiting(broker)
    people = [person(f"p{n}", "finance") for n in range(8)] * 3
    said = await asyncio.gather(*(_told(decide(broker, who, one)) for who in people))
    assert set(said) <= {"done", "not_cancellable"}
    kinds = [kind for kind, _ in await events_of(database, one)]
    assert (kinds.count("approval.counted"), kinds.count("command.approved")) == (4, 1)
    assert await sent(database, one) == "ready"


@pytest.mark.guarantee("approval:atomic")
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("approve", [True, False])
async def test_a_fault_at_any_statement_of_a_decision_leaves_nothing_behind(
    broker: Parts, database: Dsns, home: Path, *, approve: bool, last: bool
) -> None:
    await offered(broker, database, home, **FOUR_EYES)
    one = await waiting(broker)
    if last:
        await decide(broker, FAY, one)

    async def work() -> None:
        await decide(broker, FOX, one, approve=approve)

    assert (
        await fail_at_each_statement(broker.database.engine, work, lambda: _seen(database, one))
        >= 5
    )


@pytest.mark.guarantee("approval:atomic")
@pytest.mark.parametrize("over", [True, False])
async def test_a_fault_of_the_clock_leaves_nothing_behind(
    broker: Parts, database: Dsns, home: Path, relay: Database, *, over: bool
) -> None:
    more = {"escalate_s": 60, "escalate_to": ["managers"], "expires_s": 600}
    await offered(broker, database, home, **FOUR_EYES, **more)
    one = await waiting(broker)
    await aged(database, one, s=700 if over else 61)

    async def work() -> None:
        for found in await timeouts.expire_approvals(relay.engine, broker.catalog.policy):
            assert found.command.id == one

    steps = await fail_at_each_statement(relay.engine, work, lambda: _seen(database, one))
    assert steps >= 5


async def _seen(database: Dsns, one: UUID) -> Any:
    rows = await fetch(
        database.owner,
        "SELECT to_jsonb(c)::text AS row, (SELECT count(*) FROM audit.events) AS events,"
        " (SELECT string_agg(kind || status, ' ') FROM outbox) AS sent"
        " FROM commands c WHERE id = $1",
        one,
    )
    return dict(rows[0])
