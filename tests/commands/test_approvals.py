"""Who may let a call go: groups, not one's own, so many persons, in time; whoever comes first."""

from datetime import timedelta
from pathlib import Path

import asyncpg
import orjson
import pytest

from app.commands.approvals import EXPIRED
from app.commands.view import view, waiting_for
from app.edges.parts import Parts
from app.errors import ForbiddenError, NotCancellableError, NotFoundError
from app.identity import Identity
from app.postgres.engine import Database
from devstack.stack import Dsns
from tests.support.approving import (
    EVENTS,
    FAY,
    FOUR_EYES,
    FOX,
    MAX,
    OLGA,
    aged,
    clock,
    decide,
    events_of,
    offered,
    person,
    sent,
    waiting,
)
from tests.support.calls import ADA, claim, fetch, state_of, subject


@pytest.mark.guarantee("approval:quorum")
async def test_a_call_goes_when_so_many_different_persons_of_the_group_have_approved(
    broker: Parts, database: Dsns, home: Path
) -> None:
    await offered(broker, database, home, **FOUR_EYES)
    one = await waiting(broker)
    shown = view(await subject(broker, one))
    assert shown["waiting_for"] == "waits for 2 of group finance, not the caller"
    await decide(broker, FAY, one)
    await decide(broker, FAY, one)  # one person, however often
    shown = view(await subject(broker, one))
    assert shown["waiting_for"] == "waits for 1 more of group finance, not the caller"
    assert shown["approval"]["missing"] == 1
    assert [yes["user"] for yes in shown["approval"]["approved_by"]] == ["fay"]
    assert await sent(database, one) == "held"
    assert not (await claim(broker, one)).proceed
    await decide(broker, FOX, one)
    assert await sent(database, one) == "ready"
    shown = view(await subject(broker, one))
    assert shown["approval"]["state"] == "approved"
    assert [yes["user"] for yes in shown["approval"]["approved_by"]] == ["fay", "fox"]
    assert (await claim(broker, one)).proceed
    decided = [one for one in await events_of(database, one) if "approv" in one[0]]
    assert decided == [
        ("approval.counted", "user:fay"),
        ("command.approved", "user:fox"),
    ]


@pytest.mark.guarantee("metrics:waits")
async def test_how_long_persons_took_is_no_part_of_the_queues_wait(
    broker: Parts, database: Dsns, home: Path
) -> None:
    await offered(broker, database, home, **FOUR_EYES)
    one = await waiting(broker)
    await fetch(database.owner, "UPDATE outbox SET available_at = now() - interval '1 hour'")
    for who in (FAY, FOX):
        await decide(broker, who, one)
    [row] = await fetch(database.owner, "SELECT now() - available_at AS waited FROM outbox")
    assert row["waited"] < timedelta(minutes=1)


@pytest.mark.guarantee("approval:audited")
async def test_each_decision_is_an_event_with_who_why_and_the_policys_digest(
    broker: Parts, database: Dsns, home: Path
) -> None:
    await offered(broker, database, home, **FOUR_EYES)
    tool = await broker.catalog.tool("grave", "ship")
    assert tool is not None
    one = await waiting(broker)
    with pytest.raises(ForbiddenError):
        await decide(broker, OLGA, one)
    await decide(broker, FAY, one)
    await decide(broker, FOX, one)
    bodies = {
        row["type"]: orjson.loads(row["body"]) for row in await fetch(database.owner, EVENTS, one)
    }
    assert bodies["command.accepted"]["approval_rule"]["quorum"] == 2
    assert bodies["command.accepted"]["approval_rule"]["policy"] == tool.digest.hex()
    kinds = ("approval.counted", "command.approved", "approval.refused")
    assert {bodies[kind]["policy"] for kind in kinds} == {tool.digest.hex()}
    assert {bodies[kind]["reason"] for kind in kinds} == {"seen"}
    assert "not yours" in bodies["approval.refused"]["refused"]


@pytest.mark.guarantee("approval:approvers")
async def test_nobody_else_decides_and_a_stranger_learns_nothing(
    broker: Parts, database: Dsns, home: Path
) -> None:
    await offered(broker, database, home, **FOUR_EYES)
    one = await waiting(broker)
    with pytest.raises(ForbiddenError, match="not yours: it waits for 2 of group finance"):
        await decide(broker, OLGA, one)  # sees it, and is not of the group
    with pytest.raises(ForbiddenError):
        await decide(broker, ADA, one, approve=False)
    with pytest.raises(NotFoundError):
        await decide(broker, MAX, one)
    stranger = Identity(
        tenant_id="other", user_id="fay", client_id="c", groups=frozenset({"finance"})
    )
    with pytest.raises(NotFoundError):
        await decide(broker, stranger, one)
    assert await sent(database, one) == "held"


@pytest.mark.guarantee("approval:not-own")
async def test_nobody_approves_a_call_of_their_own(
    broker: Parts, database: Dsns, home: Path
) -> None:
    await offered(broker, database, home, by="operator", not_own=True)
    both = person("ada", scopes=("tools", "operator"))
    one = await waiting(broker)
    with pytest.raises(ForbiddenError, match="your own call"):
        await decide(broker, both, one)
    assert await sent(database, one) == "held"
    await decide(broker, OLGA, one)
    assert await sent(database, one) == "ready"
    other = await waiting(broker, "e")
    await decide(broker, both, other, approve=False)  # to give one's own up is no approval
    assert await state_of(database.owner, other) == "cancelled"


@pytest.mark.guarantee("approval:quorum")
async def test_one_denial_denies(broker: Parts, database: Dsns, home: Path) -> None:
    await offered(broker, database, home, **FOUR_EYES)
    one = await waiting(broker)
    await decide(broker, FAY, one)
    await decide(broker, FOX, one, approve=False)
    assert await state_of(database.owner, one) == "cancelled"
    assert (await subject(broker, one)).error == {"code": "denied", "message": "seen"}
    with pytest.raises(NotCancellableError):
        await decide(broker, FAY, one)


@pytest.mark.guarantee("approval:expires")
async def test_a_call_that_waits_too_long_is_denied_and_says_so(
    broker: Parts, database: Dsns, home: Path, relay: Database
) -> None:
    await offered(broker, database, home, **FOUR_EYES, expires_s=60)
    one = await waiting(broker)
    assert ", until 20" in (waiting_for(await subject(broker, one)) or "")
    assert await clock(broker, relay) == 0
    await decide(broker, FAY, one)
    await aged(database, one, s=61)
    with pytest.raises(NotCancellableError, match="time to decide is over"):
        await decide(broker, FOX, one)
    assert await clock(broker, relay) == 1
    assert await clock(broker, relay) == 0
    found = await subject(broker, one)
    assert (found.state, found.error) == ("cancelled", {"code": "denied", "message": EXPIRED})
    assert (await events_of(database, one))[-2:] == [
        ("command.denied", "clock"),
        ("command.cancelled", "clock"),
    ]


@pytest.mark.guarantee("approval:escalates")
async def test_after_a_while_another_group_may_decide_as_well(
    broker: Parts, database: Dsns, home: Path, relay: Database
) -> None:
    more = {"escalate_s": 60, "escalate_to": "managers", "expires_s": 600}
    await offered(broker, database, home, **FOUR_EYES | {"quorum": 1}, **more)
    one = await waiting(broker)
    with pytest.raises(NotFoundError):
        await decide(broker, MAX, one)
    await aged(database, one, s=61)
    assert [await clock(broker, relay) for _ in range(2)] == [1, 0]
    said = waiting_for(await subject(broker, one)) or ""
    assert said.startswith("waits for 1 of groups finance or managers, not the caller, until")
    await decide(broker, MAX, one)
    assert await sent(database, one) == "ready"
    assert ("approval.escalated", "clock") in await events_of(database, one)


@pytest.mark.guarantee("approval:when")
async def test_only_calls_of_which_its_rule_is_true_wait_and_those_it_cannot_tell(
    broker: Parts, database: Dsns, home: Path
) -> None:
    await offered(broker, database, home, by="operator", when="args.amount > 1000")
    assert await sent(database, await waiting(broker, amount=1000)) == "ready"
    assert await sent(database, await waiting(broker, amount=1001)) == "held"
    odd = await waiting(broker, amount={"odd": True})
    assert await sent(database, odd) == "held"
    [row] = await fetch(
        database.owner,
        "SELECT body -> 'approval_rule' ->> 'why' AS why FROM audit.events"
        " WHERE command_id = $1 AND type = 'command.accepted'",
        odd,
    )
    assert row["why"].startswith("when args.amount > 1000: cannot be evaluated: ")


@pytest.mark.guarantee("approval:kept")
async def test_a_call_that_waits_keeps_the_policy_that_it_was_accepted_by(
    broker: Parts, database: Dsns, home: Path
) -> None:
    await offered(broker, database, home, **FOUR_EYES)
    one = await waiting(broker)
    await offered(broker, database, home, by="operator")
    with pytest.raises(ForbiddenError):
        await decide(broker, OLGA, one)
    await decide(broker, FAY, one)
    await decide(broker, FOX, one)
    assert await sent(database, one) == "ready"


@pytest.mark.guarantee("approval:quorum")
async def test_a_release_that_knows_of_no_quorum_cannot_pass_it(
    broker: Parts, database: Dsns, home: Path
) -> None:
    await offered(broker, database, home, **FOUR_EYES)
    one = await waiting(broker)
    with pytest.raises(asyncpg.CheckViolationError, match="approvals_enough"):
        await fetch(database.owner, "UPDATE commands SET approval = 'approved' WHERE id = $1", one)
