"""Definitions over HTTP: registered in versions, listed, shown, tried out dry."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import asyncpg
import httpx
import pytest

from app.config import Settings
from app.edges.parts import Parts
from app.edges.server import build
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.conftest import auth
from tests.sagas.test_check import EXAMPLE
from tests.support.calls import fetch
from tests.support.served import Shared
from tests.support.stack import wait_for


@pytest.fixture
async def http(
    settings: Settings, broker: Parts, issuer: DevIssuer
) -> AsyncIterator[httpx.AsyncClient]:
    """An operator of tenant demo."""
    transport = httpx.ASGITransport(app=build(settings, broker), raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://testserver",
        headers=auth(issuer, "olga", "tools", "operator"),
    ) as client:
        yield client


async def register(http: httpx.AsyncClient, text: str = EXAMPLE) -> httpx.Response:
    return await http.post("/sagas/definitions", content=text)


async def at_once(
    database: Dsns, *requests: Coroutine[Any, Any, httpx.Response]
) -> list[httpx.Response]:
    """Let these go once each of them waits for its turn."""

    async def waiting() -> bool:
        [row] = await fetch(
            database.owner,
            "SELECT count(*) AS n FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            " AND query LIKE '%FROM turns%' AND datname = current_database()",
        )
        return row["n"] == len(requests)

    conn = await asyncpg.connect(database.owner)
    try:
        await conn.execute("BEGIN; SELECT FROM turns WHERE name = 'saga definitions' FOR UPDATE")
        tasks = [asyncio.ensure_future(one) for one in requests]
        try:
            await wait_for(waiting, 5)
        finally:
            await conn.close()
        return await asyncio.gather(*tasks)
    finally:
        await conn.close()


@pytest.mark.guarantee("saga:versions")
async def test_each_change_is_a_new_version_and_the_same_again_is_none(
    http: httpx.AsyncClient, database: Dsns
) -> None:
    first = await register(http)
    assert (first.status_code, first.json()["version"]) == (201, 1)
    again = await register(http)
    assert (again.status_code, again.json()) == (200, first.json())
    changed = EXAMPLE.replace("deadline_s: 600", "deadline_s: 700")
    answers = await at_once(database, *(register(http, changed) for _ in range(2)))
    assert sorted(one.status_code for one in answers) == [200, 201]
    assert {one.json()["version"] for one in answers} == {2}
    old = await http.get("/sagas/definitions/service", params={"version": 1})
    assert old.json() == first.json()
    newest = await http.get("/sagas/definitions/service")
    assert newest.json()["definition"]["deadline_s"] == 700
    [listed] = (await http.get("/sagas/definitions")).json()["definitions"]
    assert (listed["name"], listed["version"]) == ("service", 2)
    events = await fetch(
        database.owner,
        "SELECT actor, body ->> 'name' AS name, (body ->> 'version')::int AS version"
        " FROM audit.events WHERE type = 'saga.registered' ORDER BY version",
    )
    assert [tuple(event) for event in events] == [
        ("user:olga", "service", 1),
        ("user:olga", "service", 2),
    ]


@pytest.mark.guarantee("saga:registered")
async def test_what_cannot_be_run_is_refused_with_every_place_and_leaves_nothing(
    http: httpx.AsyncClient, issuer: DevIssuer, database: Dsns
) -> None:
    wrong = EXAMPLE.replace("method: enable\n", "method: enabel\n").replace(
        'settings: "{{ input.settings }}"', "settings: 3"
    )
    answer = await register(http, wrong)
    assert answer.status_code == 422
    body = answer.json()
    assert body["code"] == "invalid_definition"
    assert {one["at"] for one in body["problems"]} == {"steps[1].args.settings", "steps[2].tool"}
    assert (await register(http, "steps: [")).status_code == 422
    assert (await register(http, EXAMPLE.replace("name: service", ""))).status_code == 400
    caller = auth(issuer, "ada", "tools")
    refused = await http.post("/sagas/definitions", content=EXAMPLE, headers=caller)
    assert refused.status_code == 403, "an agent's token cannot change what a name means"
    for table in ("saga_definitions", "audit.events WHERE type = 'saga.registered'"):
        [count] = await fetch(database.owner, f"SELECT count(*) AS n FROM {table}")
        assert count["n"] == 0


async def test_another_tenant_sees_nothing_of_it(
    http: httpx.AsyncClient, issuer: DevIssuer
) -> None:
    await register(http)
    other = auth(issuer, "olga", "tools", "operator", tenant="other")
    assert (await http.get("/sagas/definitions", headers=other)).json()["definitions"] == []
    answer = await http.get("/sagas/definitions/service", headers=other)
    assert answer.status_code == 404


async def test_a_dry_run_checks_input_and_starts_nothing(
    http: httpx.AsyncClient, database: Dsns
) -> None:
    await register(http)
    told = await http.post("/sagas/dry-run", json={"name": "service", "input": {"name": "web"}})
    assert told.status_code == 200
    assert [one["undoes"] for one in told.json()["undo_plan"]] == [
        "enable",
        "configure",
        "provision",
    ]
    bad = await http.post("/sagas/dry-run", json={"name": "service", "input": {"name": "A B"}})
    assert (bad.status_code, bad.json()["code"]) == (422, "invalid_arguments")
    plan = {"steps": [{"id": "a", "tool": "git_delete", "args": {"dest": "x"}}]}
    refused = await http.post("/sagas/dry-run", json={"plan": plan})
    assert "could not be undone" in refused.json()["detail"]
    neither = await http.post("/sagas/dry-run", json={"input": {}})
    assert neither.status_code == 400
    [count] = await fetch(database.owner, "SELECT count(*) AS n FROM sagas")
    assert count["n"] == 0


def of_args(written: str) -> str:
    """A definition with this as an argument."""
    who = {"name": "n", "owner": "o"}
    step = {
        "id": "a",
        "tool": "service_configure",
        "args": {**who, "settings": {"n": "HERE"}},
        "compensate": {"tool": "service_restore", "args": who},
    }
    return json.dumps({"name": "numbers", "steps": [step]}).replace('"HERE"', written)


@pytest.mark.guarantee("intake:as-sent")
@pytest.mark.parametrize("kind", ["application/json", "application/yaml", None])
@pytest.mark.parametrize(("written", "kept"), [("1e3", 1000), ('"1e3"', "1e3"), ("1E-2", 0.01)])
async def test_what_is_json_is_read_as_json_however_it_is_named(
    http: httpx.AsyncClient, written: str, kept: Any, kind: str | None
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await http.post("/sagas/definitions", content=of_args(written), headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.json()["definition"]["steps"][0]["args"]["settings"] == {"n": kept}


@pytest.mark.guarantee("intake:as-sent")
@pytest.mark.parametrize("kind", ["application/json", None])
@pytest.mark.parametrize("written", ["1e400", "NaN", "18446744073709551616", '{"a": 1, "a": 1}'])
async def test_json_that_would_not_come_back_as_sent_is_no_definition(
    shared: Shared, issuer: DevIssuer, written: str, kind: str | None
) -> None:
    headers = auth(issuer, "olga", "tools", "operator")
    headers |= {} if kind is None else {"Content-Type": kind}
    text = of_args(written)
    answer = await shared.http.post("/sagas/definitions", content=text, headers=headers)
    assert answer.status_code == 422, answer.text


@pytest.mark.parametrize("written", ["01", "0x10", "'x'", "+1", ".5", "yes"])
async def test_a_body_that_says_it_is_json_and_is_yaml_is_refused(
    http: httpx.AsyncClient, written: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await http.post("/sagas/definitions", content=of_args(written), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), answer.text
    assert (await http.post("/sagas/definitions", content=of_args(written))).status_code == 201


@pytest.mark.guarantee("saga:templates")
async def test_a_dry_run_shows_no_more_than_a_call_may_have(http: httpx.AsyncClient) -> None:
    step = {"tool": "probe_echo", "kind": "readonly", "args": {"text": "{{ input.x }} " * 20}}
    plan = {"steps": [step | {"id": f"s{n}"} for n in range(10)]}
    body = {"plan": plan, "input": {"x": "a" * 50_000}}
    answer = await http.post("/sagas/dry-run", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_arguments")
    assert "over 4194304 characters" in answer.json()["detail"]
    body["input"] = {"x": "a" * 500}
    answer = await http.post("/sagas/dry-run", json=body)
    assert (answer.status_code, len(answer.json()["plan"])) == (200, 10)
