"""Relays, adapters, callers and operators, driven to meet at every statement."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.catalog.policy import ToolPolicy
from app.commands.results import reject
from app.commands.store import dispatch_record
from app.commands.store.dispatch_claim import LeasedRow, lease_commands
from app.edges.commands import cancel
from app.edges.parts import Parts
from app.edges.server import open_broker
from app.errors import BrokerError
from app.postgres.engine import open_database
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.support.calls import ADA, ADAPTER, accept, claim, echo, finish, redrive
from tests.support.faults import hold_at_statement
from tests.support.stack import wait_for

pytestmark = pytest.mark.thorough

ROWS = "SELECT attempt, status FROM outbox WHERE kind = 'command' AND command_id = $1"
LAPSE = "UPDATE outbox SET claimed_until = now() - interval '1 s' WHERE status = 'claimed'"
WAITS = """
    SELECT 1 FROM pg_stat_activity
     WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
async def pool(database: Dsns, issuer: DevIssuer) -> AsyncIterator[asyncpg.Pool]:
    async with open_database(settings_of(database.relay, issuer), name="relay") as opened:
        yield opened.pool


@pytest.fixture
async def owner(database: Dsns) -> AsyncIterator[asyncpg.Connection]:
    conn = await asyncpg.connect(database.owner)
    yield conn
    await conn.close()


@pytest.fixture
async def twin(database: Dsns, issuer: DevIssuer) -> AsyncIterator[Parts]:
    """Another replica of the app."""
    async with open_broker(settings_of(database.app, issuer)) as opened:
        yield opened


async def claimed_by(pool: asyncpg.Pool, relay: str) -> list[LeasedRow]:
    return await lease_commands(pool, relay=relay, batch_max=9, window=9, aging_s=60, lease_s=60)


async def give_back(pool: asyncpg.Pool, claimed: list[LeasedRow]) -> None:
    await dispatch_record.give_back(pool, claimed, relay="r")


async def give_back_expired(pool: asyncpg.Pool, claimed: list[LeasedRow]) -> None:
    del claimed
    await pool.execute(LAPSE)
    await dispatch_record.give_back_expired(pool, limit=9, lease_s=30)


async def find_conflicting(
    broker: Parts,
    owner: asyncpg.Connection,
    step: int,
    held: Coroutine[Any, Any, object],
    other: Coroutine[Any, Any, object],
) -> bool:
    """Hold the first, a work of this broker, at a step while the other runs, as far as it can.

    Returns whether the first was over before that step. What the edges refuse is an answer too.
    """
    with hold_at_statement(broker.database.engine, step) as hold:
        first = asyncio.create_task(held)
        reached = asyncio.create_task(hold.reached.wait())
        await asyncio.wait({first, reached}, return_when="FIRST_COMPLETED", timeout=5)
        over = not hold.reached.is_set()
        second = asyncio.create_task(other)

        async def met() -> bool:
            return second.done() or bool(await owner.fetch(WAITS))

        assert await wait_for(met, 5)
        hold.go.set()
        for answer in await asyncio.gather(first, second, return_exceptions=True):
            assert (
                answer is None
                or not isinstance(answer, BaseException)
                or isinstance(answer, BrokerError)
            ), repr(answer)
        reached.cancel()
    return over


GiveBack = Callable[[asyncpg.Pool, list[LeasedRow]], Coroutine[Any, Any, None]]


@pytest.mark.guarantee("relay:no-old-attempt")
@pytest.mark.parametrize("give_back", [give_back, give_back_expired])
@pytest.mark.parametrize("again", [True, False], ids=["retried", "ended"])
async def test_a_row_given_back_while_its_attempt_ends_does_not_outlive_it(
    broker: Parts,
    owner: asyncpg.Connection,
    pool: asyncpg.Pool,
    give_back: GiveBack,
    *,
    again: bool,
) -> None:
    """Whichever comes first, at whatever statement of the result the relay gives the row back."""

    async def ends(one: UUID) -> None:
        await finish(broker, one, attempt=1, error={"message": "boom", "retryable": again})

    for step in count(1):
        one = (await accept(broker, echo(str(step)))).written.id
        claimed = await claimed_by(pool, "r")
        assert [each.command_id for each in claimed] == [one]
        over = await find_conflicting(broker, owner, step, ends(one), give_back(pool, claimed))
        await dispatch_record.give_back_expired(pool, limit=9, lease_s=30)  # the next tick
        left = [tuple(row) for row in await owner.fetch(ROWS, one)]
        assert left == ([(2, "delayed")] if again else []), f"held at step {step}"
        await owner.execute("DELETE FROM outbox")
        if over:
            assert step > 5, "nothing was held"
            break


KEY = """
    SELECT h.active_id, h.blocked_reason,
           array_agg(c.id ORDER BY c.key_seq) FILTER (WHERE c.finished_at IS NULL) AS open,
           array_agg(c.id) FILTER (WHERE c.finished_at IS NULL AND NOT c.held) AS free
      FROM ordering_heads h
      JOIN commands c USING (tenant_id, ordering_key)
     WHERE h.ordering_key = $1
     GROUP BY h.active_id, h.blocked_reason
"""
Act = Callable[[Parts, tuple[UUID, UUID, UUID]], Coroutine[Any, Any, object]]


async def ends_well(broker: Parts, ids: tuple[UUID, UUID, UUID]) -> object:
    return await finish(broker, ids[1], result={"text": "x"})


async def ends_badly(broker: Parts, ids: tuple[UUID, UUID, UUID]) -> object:
    return await finish(broker, ids[1], error={"message": "boom", "retryable": False})


async def cancels_the_active(broker: Parts, ids: tuple[UUID, UUID, UUID]) -> object:
    return await cancel(broker, ADA, ids[1], reason="enough")


async def cancels_the_waiting(broker: Parts, ids: tuple[UUID, UUID, UUID]) -> object:
    return await cancel(broker, ADA, ids[2], reason="enough")


async def claims_the_waiting(broker: Parts, ids: tuple[UUID, UUID, UUID]) -> object:
    return await claim(broker, ids[2])


async def redrives_the_dead(broker: Parts, ids: tuple[UUID, UUID, UUID]) -> object:
    return await redrive(broker, ids[0])


@pytest.mark.guarantee("ordering:completion")
@pytest.mark.parametrize(
    ("held", "other"),
    [
        # A claim is for what is not held.
        (ends_well, claims_the_waiting),
        # Only a free key is given to its next, and only its active command frees it.
        (ends_well, redrives_the_dead),
        (redrives_the_dead, ends_well),
        # A dead letter is settled once.
        (redrives_the_dead, redrives_the_dead),
        # Without the key's lock what is just being cancelled is released.
        (cancels_the_waiting, ends_well),
        # The key's lock is taken before the row's: the other way round is a deadlock.
        (ends_well, cancels_the_active),
        (cancels_the_active, ends_well),
    ],
    ids=lambda one: one.__name__,
)
async def test_whatever_meets_on_a_key_at_whatever_statement_one_command_has_it_the_oldest(
    broker: Parts, twin: Parts, owner: asyncpg.Connection, held: Act, other: Act
) -> None:
    """Two app replicas; the key's first command is dead, its second active, its third waits."""
    for step in count(1):
        dead, active, waiting = [
            (await accept(broker, echo(f"{step} {n}", ordering_key=f"k{step}"))).written.id
            for n in range(3)
        ]
        await reject(
            broker.database.engine,
            adapter=ADAPTER,
            policy=ToolPolicy(),
            command_id=dead,
            attempt=1,
            reason="no rule",
        )
        ids = dead, active, waiting
        over = await find_conflicting(broker, owner, step, held(broker, ids), other(twin, ids))
        [key] = await owner.fetch(KEY, f"k{step}")
        assert key["blocked_reason"] is None
        if key["open"] is None:
            assert key["active_id"] is None
        else:
            assert key["free"] == [key["active_id"]], f"held at step {step}"
            # A redriven one comes first, unless the key was taken at that moment.
            first = [*[one for one in key["open"] if one != dead][0:1], dead]
            assert key["active_id"] in first, f"held at step {step}"
        if over:
            assert step > 4, "nothing was held"
            break


@pytest.mark.guarantee("ordering:completion")
async def test_a_call_accepted_while_the_last_of_its_key_ends_has_the_key(
    broker: Parts, twin: Parts, owner: asyncpg.Connection
) -> None:
    """One of the two releases it, whichever commits last; a call that both leave waits for ever."""
    for step in count(1):
        last = (await accept(broker, echo(f"{step}", ordering_key=f"k{step}"))).written.id
        late = accept(twin, echo(f"{step} late", ordering_key=f"k{step}"))
        over = await find_conflicting(
            broker, owner, step, ends_well(broker, (last, last, last)), late
        )
        [key] = await owner.fetch(KEY, f"k{step}")
        assert key["free"] == key["open"] == [key["active_id"]], f"held at step {step}"
        if over:
            assert step > 4, "nothing was held"
            break


ENDS = """
    SELECT c.state,
           (SELECT array_agg(e.state_to) FROM audit.events e
             WHERE e.command_id = c.id AND e.state_to IN ('succeeded', 'failed', 'cancelled')
               AND e.state_from IS DISTINCT FROM e.state_to) AS ends,
           (SELECT array_agg(o.payload ->> 'state') FROM outbox o
             WHERE o.command_id = c.id AND o.kind = 'result') AS told
      FROM commands c
     WHERE c.id = $1
"""


@pytest.mark.guarantee("result:first-word-wins")
@pytest.mark.parametrize(
    ("held", "other"),
    [(ends_well, ends_badly), (ends_well, cancels_the_active), (cancels_the_active, ends_well)],
    ids=lambda one: one.__name__,
)
async def test_whatever_meets_on_a_command_without_a_key_it_ends_once(
    broker: Parts, twin: Parts, owner: asyncpg.Connection, held: Act, other: Act
) -> None:
    """No key's lock helps here: the row's own does."""
    for step in count(1):
        one = (await accept(broker, echo(str(step)))).written.id
        ids = one, one, one
        over = await find_conflicting(broker, owner, step, held(broker, ids), other(twin, ids))
        [row] = await owner.fetch(ENDS, one)
        assert row["ends"] == row["told"] == [row["state"]], f"held at step {step}"
        if over:
            assert step > 4, "nothing was held"
            break
