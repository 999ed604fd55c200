"""Which dead letters an operator sees, how fast they go again, and how doubt is settled."""

from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.edges.parts import Parts
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.conftest import auth
from tests.support.calls import accept, claim, echo, fetch, finish, state_of

WHY = {"reason": "because"}
LETTERS = "/operator/dead-letters"


@pytest.fixture
def operator(issuer: DevIssuer) -> dict[str, str]:
    return auth(issuer, "olga", "operator")


async def dead(broker: Parts, text: str = "x", code: str = "boom", **more: Any) -> UUID:
    one = (await accept(broker, echo(text, **more))).written.id
    for attempt in (1, 2, 3):
        await finish(broker, one, attempt=attempt, error={"code": code, "message": "no"})
    return one


async def doubtful(broker: Parts, database: Dsns, **more: Any) -> UUID:
    """A command that its adapter left: dead, with an outcome that nobody knows."""
    one = await dead(broker, **more)
    await fetch(database.owner, "UPDATE commands SET outcome_unknown = true WHERE id = $1", one)
    if "ordering_key" in more:
        await fetch(
            database.owner,
            "UPDATE ordering_heads SET active_id = NULL, blocked_reason = $1",
            f"outcome of {one} unknown",
        )
    return one


@pytest.mark.guarantee("deadletter:filtered")
async def test_a_filter_takes_what_fits_all_of_it_and_a_redrive_no_more_than_that(
    http: httpx.AsyncClient, broker: Parts, operator: dict[str, str], database: Dsns
) -> None:
    old, other, new = await dead(broker, "a"), await dead(broker, "b", "quota"), await dead(broker)
    await fetch(
        database.owner,
        "UPDATE commands SET finished_at = now() - interval '1 hour' WHERE id = ANY ($1)",
        [old, other],
    )

    async def listed(**wanted: Any) -> list[str]:
        answer = await http.get(LETTERS, params=wanted, headers=operator)
        assert answer.status_code == 200, answer.text
        return [one["command_id"] for one in answer.json()["dead_letters"]]

    assert set(await listed()) == {str(old), str(other), str(new)}
    assert await listed(code="boom", older_than_s=60) == [str(old)]
    assert await listed(newer_than_s=60) == [str(new)]
    assert await listed(method="nothing") == []
    assert await listed(outcome_unknown=True) == []
    assert (await http.get(LETTERS, params={"tol": "x"}, headers=operator)).status_code == 400
    wanted = WHY | {"code": "boom", "older_than_s": 60, "dry_run": False}
    done = (await http.post(f"{LETTERS}/redrive", json=wanted, headers=operator)).json()
    assert done["commands"] == [str(old)]
    assert await listed() == [str(other), str(new)]


async def test_pages_go_through_the_list_once_while_it_shrinks(
    http: httpx.AsyncClient, broker: Parts, operator: dict[str, str]
) -> None:
    ids = [str(await dead(broker, str(n))) for n in range(5)]
    seen: list[str] = []
    wanted: dict[str, Any] = {"limit": 2}
    while True:
        page = (await http.get(LETTERS, params=wanted, headers=operator)).json()
        seen += [one["command_id"] for one in page["dead_letters"]]
        if page["after"] is None:
            break
        # What the cursor names may leave the list meanwhile.
        await http.post(f"{LETTERS}/{page['after']}/discard", json=WHY, headers=operator)
        wanted["after"] = page["after"]
    assert seen == ids


@pytest.mark.guarantee("deadletter:rate")
async def test_a_redrive_of_many_is_spread_over_time_and_their_deadlines_with_it(
    http: httpx.AsyncClient, broker: Parts, operator: dict[str, str], database: Dsns
) -> None:
    ids = [await dead(broker, str(n)) for n in range(3)]
    body = WHY | {"dry_run": False, "per_s": 0.01}
    await http.post(f"{LETTERS}/redrive", json=body, headers=operator)
    rows = await fetch(
        database.owner,
        "SELECT o.command_id, o.status,"
        " extract(epoch FROM o.available_at - c.deadline_at) AS early,"
        " round(extract(epoch FROM o.available_at - now()) / 100)::int AS steps"
        "  FROM outbox o JOIN commands c ON c.id = o.command_id"
        " WHERE o.kind = 'command' ORDER BY o.available_at",
    )
    assert [(row["command_id"], row["status"], row["steps"]) for row in rows] == [
        (ids[0], "ready", 0),
        (ids[1], "delayed", 1),
        (ids[2], "delayed", 2),
    ]
    assert all(row["early"] < 0 for row in rows), "each starts before its deadline"


@pytest.mark.guarantee("unknown:resolved")
async def test_a_key_that_waits_for_an_outcome_goes_on_when_an_operator_says_it(
    http: httpx.AsyncClient, broker: Parts, operator: dict[str, str], database: Dsns
) -> None:
    one = await doubtful(broker, database, ordering_key="k")
    after = (await accept(broker, echo("b", ordering_key="k"))).written.id
    blocked = (await http.get("/operator/keys/blocked", headers=operator)).json()
    [key] = blocked["keys"]
    assert (key["ordering_key"], key["command_id"], key["waiting"]) == ("k", str(one), 1)
    answer = await http.post(f"{LETTERS}/{one}/discard", json=WHY, headers=operator)
    assert answer.status_code == 409, "a discard says nothing of what was done"
    assert "resolve" in answer.json()["detail"]
    assert not (await claim(broker, after)).proceed
    url = f"/operator/commands/{one}/resolve"
    wrong = await http.post(url, json=WHY | {"outcome": "maybe"}, headers=operator)
    assert wrong.status_code == 400
    told = await http.post(url, json=WHY | {"outcome": "succeeded"}, headers=operator)
    assert told.json()["error"]["resolved"] == {"outcome": "succeeded", "reason": "because"}
    assert (told.json()["state"], told.json()["outcome_unknown"]) == ("dead_lettered", False)
    assert (await claim(broker, after)).proceed
    assert (await http.get("/operator/keys/blocked", headers=operator)).json()["keys"] == []
    assert (await http.get(LETTERS, headers=operator)).json()["dead_letters"] == []
    [row] = await fetch(
        database.owner, "SELECT actor, body FROM audit.events WHERE type = 'command.resolved'"
    )
    assert row["actor"] == "operator:olga"
    assert '"outcome":"succeeded"' in row["body"]
    again = await http.post(url, json=WHY | {"outcome": "failed"}, headers=operator)
    assert again.status_code == 409, "there is no doubt any more"


async def test_a_redrive_lifts_the_block_of_its_own_command(
    http: httpx.AsyncClient, broker: Parts, operator: dict[str, str], database: Dsns
) -> None:
    one = await doubtful(broker, database, ordering_key="k")
    await http.post(f"{LETTERS}/{one}/redrive", json=WHY, headers=operator)
    assert (await claim(broker, one, attempt=4)).proceed


@pytest.mark.parametrize("column", ["saga_id", "args"])
async def test_what_cannot_go_again_is_refused_with_the_reason(
    http: httpx.AsyncClient,
    broker: Parts,
    operator: dict[str, str],
    database: Dsns,
    column: str,
) -> None:
    one = await dead(broker)
    what = ("saga_id = $2, saga_step = 'a', saga_role = 'step'", uuid4())
    values = what if column == "saga_id" else ("args = NULL, purged_at = now()",)
    await fetch(database.owner, f"UPDATE commands SET {values[0]} WHERE id = $1", one, *values[1:])
    for dry_run in (True, False):
        body = WHY | {"dry_run": dry_run}
        many = await http.post(f"{LETTERS}/redrive", json=body, headers=operator)
        assert many.json()["commands"] == []
        assert str(one) in many.json()["refused"]
    answer = await http.post(f"{LETTERS}/{one}/redrive", json=WHY, headers=operator)
    assert answer.status_code == 409
    assert {"saga_id": "saga", "args": "purged"}[column] in answer.json()["detail"]
    assert await state_of(database.owner, one) == "dead_lettered"
