"""What the relay sends again."""

import re

import pytest

from app.commands.store import commands, gauges
from app.commands.view import view
from app.edges.parts import Parts
from app.postgres.engine import tenant_transaction
from devstack.stack import Dsns
from tests.relay.test_clock import late
from tests.support.calls import accept, claim, echo, fetch
from tests.support.stack import wait_for
from tests.system.relay.conftest import Relay


@pytest.mark.guarantee("lease:redelivered")
async def test_an_attempt_that_nobody_claims_is_sent_again_as_the_same_attempt(
    broker: Parts, relay: Relay, database: Dsns
) -> None:
    one = (await accept(broker, echo("a"))).written.id

    async def times() -> int:
        rows = await fetch(
            database.owner,
            "SELECT count(*) AS n FROM audit.events WHERE type = 'command.dispatched'"
            " AND command_id = $1",
            one,
        )
        return rows[0]["n"]

    async def sent(number: int) -> bool:
        return await times() >= number

    assert await wait_for(lambda: sent(1), 10)
    await fetch(
        database.owner,
        "UPDATE commands SET dispatched_at = now() - interval '90 seconds' WHERE id = $1",
        one,
    )
    async with tenant_transaction(broker.database.engine, "demo") as conn:
        found = await commands.find(conn, one)
    assert found is not None
    told = view(found)["waiting_for"]
    assert re.fullmatch("the executor: sent to it 9[0-9] s ago, not taken yet", told)
    async with relay.database.pool.acquire() as conn:
        assert (await gauges.read(conn)).unclaimed == 1
    await late(database, one, "lease_until")
    await relay.clock.tick()
    relay.outbound.wake()
    assert await wait_for(lambda: sent(2), 10)
    [row] = await fetch(
        database.owner, "SELECT attempt, deliveries FROM commands WHERE id = $1", one
    )
    assert (row["attempt"], row["deliveries"]) == (1, 2)
    assert (await claim(broker, one, run="first")).proceed
    assert not (await claim(broker, one, run="second")).proceed
