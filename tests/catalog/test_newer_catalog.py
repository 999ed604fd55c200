"""A catalog that a newer release wrote stops no replica of the one before."""

import pytest

from app.edges.parts import Parts
from app.errors import UnavailableError
from devstack.stack import Dsns
from tests.support.calls import accept, delete, echo, fetch

ADD = "UPDATE tools SET policy = policy || $1::jsonb WHERE name = $2"


@pytest.mark.guarantee("catalog:newer")
async def test_a_field_that_is_not_known_is_left_out(broker: Parts, database: Dsns) -> None:
    newer = '{"from_tomorrow": true, "retry": {"attempts_max": 3, "budget": 9}}'
    await fetch(database.owner, ADD, newer, "probe_echo")
    assert (await accept(broker, echo("a"))).written.new
    assert (await broker.catalog.policy("probe", "echo")).retry.attempts_max == 3


@pytest.mark.guarantee("catalog:newer")
async def test_an_entry_that_cannot_be_read_is_unavailable_and_the_others_are_not(
    broker: Parts, database: Dsns
) -> None:
    await fetch(database.owner, ADD, '{"ordering": "by_moon"}', "git_delete")
    assert (await accept(broker, echo("a"))).written.new
    with pytest.raises(UnavailableError, match="newer release"):
        await accept(broker, delete("a"))
