"""What operators do: approvals and dead letters, audited, in order, whole at every fault."""

import asyncio
import itertools
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.edges.parts import Parts
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.conftest import auth
from tests.support.calls import accept, claim, counts, echo, fetch, finish, redrive, state_of
from tests.support.faults import InjectedFaultError, fail_at_statement

WHY = {"reason": "because"}


@pytest.fixture
def operator(issuer: DevIssuer) -> dict[str, str]:
    return auth(issuer, "olga", "operator")


async def dead(broker: Parts, text: str = "x", **more: Any) -> UUID:
    one = (await accept(broker, echo(text, **more))).written.id
    for attempt in (1, 2, 3):
        await finish(broker, one, attempt=attempt, error={"message": "boom"})
    return one


async def test_only_an_operator_may(http: httpx.AsyncClient, broker: Parts) -> None:
    one = await dead(broker)
    assert (await http.get("/operator/dead-letters")).status_code == 403
    answer = await http.post(f"/operator/dead-letters/{one}/redrive", json=WHY)
    assert answer.status_code == 403


async def test_an_operator_of_another_tenant_finds_nothing(
    http: httpx.AsyncClient, broker: Parts, issuer: DevIssuer
) -> None:
    one = await dead(broker)
    other = auth(issuer, "olga", "operator", tenant="other")
    assert (await http.get("/operator/dead-letters", headers=other)).json()["dead_letters"] == []
    answer = await http.post(f"/operator/dead-letters/{one}/discard", json=WHY, headers=other)
    assert answer.status_code == 404


@pytest.mark.guarantee("deadletter:redrive")
async def test_a_redriven_command_keeps_its_key_and_makes_a_new_attempt(
    http: httpx.AsyncClient, broker: Parts, operator: dict[str, str]
) -> None:
    one = await dead(broker, idempotency_key="mine")
    listed = (await http.get("/operator/dead-letters", headers=operator)).json()["dead_letters"]
    assert [each["command_id"] for each in listed] == [str(one)]
    told = (await http.get(f"/operator/dead-letters/{one}", headers=operator)).json()
    assert [step["what"] for step in told["history"]] == [
        "command.accepted",
        "command.retry",
        "command.retry",
        "command.dead_lettered",
    ]
    answer = await http.post(f"/operator/dead-letters/{one}/redrive", json=WHY, headers=operator)
    assert (answer.json()["state"], answer.json()["attempt"]) == ("queued", 4)
    again = await accept(broker, echo("x", idempotency_key="mine"))
    assert again.written.id == one
    assert (await claim(broker, one, attempt=4)).proceed
    await finish(broker, one, attempt=4, result={"text": "x"})
    twice = await http.post(f"/operator/dead-letters/{one}/redrive", json=WHY, headers=operator)
    assert twice.status_code == 409


@pytest.mark.guarantee("deadletter:redrive")
async def test_a_redriven_command_goes_before_what_waits_for_its_key_and_never_beside_it(
    http: httpx.AsyncClient, broker: Parts, operator: dict[str, str]
) -> None:
    first = await dead(broker, "a", ordering_key="k")
    second = (await accept(broker, echo("b", ordering_key="k"))).written.id
    third = (await accept(broker, echo("c", ordering_key="k"))).written.id
    await http.post(f"/operator/dead-letters/{first}/redrive", json=WHY, headers=operator)
    assert not (await claim(broker, first, attempt=4)).proceed, "the second has the key"
    assert (await claim(broker, second)).proceed
    await finish(broker, second, result={"text": "b"})
    assert not (await claim(broker, third)).proceed
    assert (await claim(broker, first, attempt=4)).proceed


async def test_many_are_redriven_after_a_dry_run_and_one_is_discarded(
    http: httpx.AsyncClient, broker: Parts, operator: dict[str, str], database: Dsns
) -> None:
    ids = [await dead(broker, str(n)) for n in range(3)]
    gone = await http.post(f"/operator/dead-letters/{ids[0]}/discard", json=WHY, headers=operator)
    assert gone.status_code == 200
    url = "/operator/dead-letters/redrive"
    dry = (await http.post(url, json=WHY, headers=operator)).json()
    assert dry == {"dry_run": True, "commands": [str(one) for one in ids[1:]], "refused": {}}
    assert await state_of(database.owner, ids[1]) == "dead_lettered"
    await http.post(url, json=WHY | {"dry_run": False}, headers=operator)
    assert [await state_of(database.owner, one) for one in ids] == [
        "dead_lettered",
        "queued",
        "queued",
    ]
    [row] = await fetch(
        database.owner,
        "SELECT actor, body::text FROM audit.events WHERE type = 'command.discarded'",
    )
    assert (row["actor"], row["body"]) == ("operator:olga", '{"reason":"because"}')


async def test_two_operators_at_once_redrive_a_command_once(
    http: httpx.AsyncClient, broker: Parts, operator: dict[str, str]
) -> None:
    one = await dead(broker)
    url = f"/operator/dead-letters/{one}/redrive"
    answers = await asyncio.gather(*(http.post(url, json=WHY, headers=operator) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]


@pytest.mark.guarantee("deadletter:atomic")
async def test_a_fault_at_any_statement_of_a_redrive_leaves_nothing_behind(
    broker: Parts, database: Dsns
) -> None:
    one = await dead(broker, "a", ordering_key="k")
    before = await counts(database.owner)
    engine = broker.database.engine
    for step in itertools.count(1):
        try:
            with fail_at_statement(engine, step):
                await redrive(broker, one)
        except InjectedFaultError:
            assert await counts(database.owner) == before, f"torn write at step {step}"
            assert await state_of(database.owner, one) == "dead_lettered"
        else:
            assert step > 5, "the injector never fired"
            break
    assert await state_of(database.owner, one) == "queued"


@pytest.mark.guarantee("approval:asked")
async def test_a_tool_that_asks_for_approval_waits_for_an_operator(
    http: httpx.AsyncClient, broker: Parts, operator: dict[str, str], database: Dsns
) -> None:
    await fetch(
        database.owner,
        "UPDATE tools SET policy = policy || '{\"approval\": \"ask\"}' WHERE name = 'probe_echo'",
    )
    yes, no = [(await accept(broker, echo(text, ordering_key=text))).written.id for text in "yn"]
    assert not (await claim(broker, yes)).proceed
    shown = (await http.get(f"/commands/{yes}")).json()
    assert shown["waiting_for"] == "approval by an operator"
    await http.post(f"/operator/commands/{yes}/approve", json=WHY, headers=operator)
    await http.post(f"/operator/commands/{no}/deny", json=WHY, headers=operator)
    assert await state_of(database.owner, no) == "cancelled"
    assert (await claim(broker, yes)).proceed
    again = await http.post(f"/operator/commands/{yes}/approve", json=WHY, headers=operator)
    assert again.status_code == 409
