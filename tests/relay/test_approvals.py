"""The relay's clock, where a call waits for persons: more of them may decide, then nobody does."""

from pathlib import Path

import pytest

from app.commands.approvals import EXPIRED
from app.edges.parts import Parts
from devstack.stack import Dsns
from relay.clock import Clock
from tests.support.approving import FOUR_EYES, aged, events_of, offered, waiting
from tests.support.calls import state_of, subject


@pytest.mark.guarantee("approval:expires")
@pytest.mark.guarantee("approval:escalates")
async def test_a_tick_escalates_and_a_later_one_denies(
    broker: Parts, database: Dsns, home: Path, clock: Clock
) -> None:
    more = {"escalate_s": 60, "escalate_to": ["managers"], "expires_s": 600}
    await offered(broker, database, home, **FOUR_EYES, **more)
    one = await waiting(broker)
    await clock.tick()
    assert (await subject(broker, one)).escalated_at is None
    await aged(database, one, s=61)
    await clock.tick()
    assert (await subject(broker, one)).escalated_at is not None
    assert await state_of(database.owner, one) == "queued"
    await aged(database, one, s=600)
    await clock.tick()
    await clock.tick()
    assert (await subject(broker, one)).error == {"code": "denied", "message": EXPIRED}
    kinds = [kind for kind, _ in await events_of(database, one)]
    assert kinds[1:] == [
        "approval.escalated",
        "command.denied",
        "command.cancelled",
    ]
