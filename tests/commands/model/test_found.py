"""What the model found, kept as plain tests."""

from random import Random

import pytest

from app.catalog.policy import ToolPolicy
from app.commands.results import reject
from app.commands.store import dispatch_record
from app.commands.store.dispatch_claim import lease_commands
from app.edges.commands import cancel
from app.edges.parts import Parts
from app.errors import ContradictionError
from app.postgres.engine import open_database
from app.postgres.wakeups import Notifier
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from relay.clock import Clock
from tests.conftest import settings_of
from tests.support.calls import ADA, ADAPTER, accept, claim, echo, fetch, finish, redrive, state_of

LOST = "UPDATE commands SET lease_until = now() - interval '1 s' WHERE id = $1"
MISSED = "UPDATE commands SET deadline_missed_at = now() WHERE id = $1"
LATE = "UPDATE commands SET deadline_at = now() - interval '1 s' WHERE id = $1"
NOT_IDEMPOTENT = """
    UPDATE tools SET policy = policy || '{"idempotent": false}' WHERE name = 'probe_echo'
"""


async def test_kafka_s_failure_gives_back_no_attempt_of_a_command_that_has_ended(
    broker: Parts, database: Dsns, issuer: DevIssuer
) -> None:
    one = (await accept(broker, echo())).written.id
    async with open_database(settings_of(database.relay, issuer), name="relay") as relay:
        claimed = await lease_commands(
            relay.pool, relay="r", batch_max=9, window=9, aging_s=60, lease_s=60
        )
        await cancel(broker, ADA, one, reason="enough")
        await dispatch_record.give_back(relay.pool, claimed, relay="r")
    assert await fetch(database.owner, "SELECT FROM outbox WHERE kind = 'command'") == []


@pytest.mark.guarantee("lease:unknown-blocks")
async def test_a_late_word_lifts_only_the_block_of_its_own_command(
    broker: Parts, database: Dsns, issuer: DevIssuer
) -> None:
    await fetch(database.owner, NOT_IDEMPOTENT)
    first, second, third = [
        (await accept(broker, echo(text, ordering_key="k"))).written.id for text in "abc"
    ]
    settings = settings_of(database.relay, issuer)
    async with open_database(settings, name="relay") as relay:
        notifier = Notifier(relay.pool, coalesce_ms=10)
        clock = Clock(relay.engine, relay.pool, notifier, settings, random=Random(1))
        for one in (first, second):
            assert (await claim(broker, one)).proceed
            await fetch(database.owner, LOST, one)
            await clock.tick()
            with pytest.raises(ContradictionError):
                await finish(broker, first, result={"text": "late"})
    assert not (await claim(broker, third)).proceed, "the second is still unknown"
    with pytest.raises(ContradictionError):
        await finish(broker, second, result={"text": "late"})
    assert (await claim(broker, third)).proceed


@pytest.mark.guarantee("deadline:queued")
async def test_a_redriven_command_has_a_deadline_though_it_missed_the_one_before(
    broker: Parts, database: Dsns, issuer: DevIssuer
) -> None:
    one = (await accept(broker, echo())).written.id
    settings = settings_of(database.relay, issuer)
    async with open_database(settings, name="relay") as relay:
        notifier = Notifier(relay.pool, coalesce_ms=10)
        clock = Clock(relay.engine, relay.pool, notifier, settings, random=Random(1))
        await fetch(database.owner, MISSED, one)
        await reject(
            broker.database.engine,
            adapter=ADAPTER,
            policy=ToolPolicy(),
            command_id=one,
            attempt=1,
            reason="no rule",
        )
        await redrive(broker, one)
        await fetch(database.owner, LATE, one)
        await clock.tick()
    assert await state_of(database.owner, one) == "timed_out"
