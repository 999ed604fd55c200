"""A relay's words and an adapter's, driven to meet at every statement."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from itertools import count
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from app.db import dispatch
from app.db.dispatch import Claimed
from app.db.engine import open_database
from app.devstack.stack import Dsns
from app.devstack.tokens import DevIssuer
from app.edges.broker import Broker
from tests.conftest import settings_of
from tests.faults import hold_at_statement
from tests.kernel.calls import accept, echo, fetch, finish
from tests.stack import wait_for

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


async def claimed_by(pool: asyncpg.Pool, relay: str) -> list[Claimed]:
    return await dispatch.claim_commands(
        pool, relay=relay, batch_max=9, window=9, aging_s=60, lease_s=60
    )


async def unclaim(pool: asyncpg.Pool, claimed: list[Claimed]) -> None:
    await dispatch.unclaim(pool, claimed, relay="r")


async def reclaim(pool: asyncpg.Pool, claimed: list[Claimed]) -> None:
    del claimed
    await pool.execute(LAPSE)
    await dispatch.reclaim(pool, limit=9)


GiveBack = Callable[[asyncpg.Pool, list[Claimed]], Coroutine[Any, Any, None]]


@pytest.mark.guarantee("relay:no-old-attempt")
@pytest.mark.parametrize("give_back", [unclaim, reclaim])
@pytest.mark.parametrize("again", [True, False], ids=["retried", "ended"])
async def test_a_row_given_back_while_its_attempt_ends_does_not_outlive_it(
    broker: Broker, database: Dsns, pool: asyncpg.Pool, give_back: GiveBack, *, again: bool
) -> None:
    """Whichever comes first, at whatever statement of the result the relay gives the row back."""

    async def ends(one: UUID) -> None:
        await finish(broker, one, attempt=1, error={"message": "boom", "retryable": again})

    for step in count(1):
        one = (await accept(broker, echo(str(step)))).written.id
        claimed = await claimed_by(pool, "r")
        assert [each.command_id for each in claimed] == [one]
        with hold_at_statement(broker.database.engine, step) as hold:
            ending = asyncio.create_task(ends(one))
            reached = asyncio.create_task(hold.reached.wait())
            await asyncio.wait({ending, reached}, return_when="FIRST_COMPLETED", timeout=5)
            over = not hold.reached.is_set()
            giving = asyncio.create_task(give_back(pool, claimed))

            async def met(giving: asyncio.Task[None] = giving) -> bool:
                return giving.done() or bool(await fetch(database.owner, WAITS))

            assert await wait_for(met, 5)
            hold.go.set()
            await asyncio.gather(ending, giving)
            reached.cancel()
        left = [tuple(row) for row in await fetch(database.owner, ROWS, one)]
        assert left == ([(2, "delayed")] if again else []), f"held at step {step}"
        await fetch(database.owner, "DELETE FROM outbox")
        if over:
            assert step > 5, "nothing was held"
            break
