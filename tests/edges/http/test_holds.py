"""Holds over HTTP: who may, what is asked, what callers and operators are told."""

from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import orjson
import pytest
from prometheus_client import REGISTRY

from app.edges.auth.refusals import CALLS_IN_FULL
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from relay import gauges
from tests.conftest import settings_of
from tests.edges.auth.conftest import serving
from tests.edges.conftest import auth
from tests.support.calls import fetch
from tests.support.served import Shared

PATH = "/operator/holds"
CALL: dict[str, Any] = {"tool": "probe", "method": "echo", "args": {"text": "hi"}}
HOLD: dict[str, Any] = {"tool": "probe", "reason": "mending"}
NOW = {"Prefer": "respond-async"}


@pytest.fixture
def olga(issuer: DevIssuer) -> dict[str, str]:
    return auth(issuer, "olga", "tools", "operator")


async def call(http: httpx.AsyncClient, text: str = "hi") -> httpx.Response:
    return await http.post("/mcp/tools/call", json=CALL | {"args": {"text": text}})


@pytest.mark.guarantee("holds:kept")
async def test_an_operator_sees_what_a_hold_would_be_of_places_it_and_releases_it(
    http: httpx.AsyncClient, olga: dict[str, str], database: Dsns
) -> None:
    first = (await http.post("/mcp/tools/call", json=CALL, headers=NOW)).json()["command_id"]
    asked = HOLD | {"argument": {"path": "/text", "value": "hi"}, "method": "echo"}
    would = await http.post(PATH, json=asked | {"dry_run": True}, headers=olga)
    assert would.json() == {"dry_run": True, "queued": 1, "in_flight": 0, "counted_up_to": 10_000}
    assert (await http.get(PATH, headers=olga)).json() == {"holds": [], "before": None}
    assert await fetch(database.owner, "SELECT 1 FROM holds") == []
    placed = await http.post(PATH, json=asked, headers=olga)
    assert placed.status_code == 201, placed.text
    hold = placed.json()
    counted = ("queued", "in_flight", "leaving")
    assert [hold.pop(one) for one in counted] == [1, 0, 0]
    del hold["counted_up_to"]
    assert hold["argument"] == {"path": "/text", "value": "hi"}
    assert (hold["placed_by"], hold["effect"]) == ("operator:olga", "wait")
    assert (await http.get(PATH, headers=olga)).json()["holds"] == [hold]
    shown = (await http.get(f"/commands/{first}")).json()
    assert shown["waiting_for"] == "held by an operator until it is released: mending"
    answer = (await call(http)).json()
    assert answer["status"] == "accepted", "and at once: nobody waits for an operator"
    assert answer["hold"] == {"hold_id": hold["hold_id"], "reason": "mending"}
    assert "hold" not in (await http.post("/mcp/tools/call", json=CALL | {"args": {"text": "x"}},
                                          headers=NOW)).json()  # fmt: skip
    gone = await http.post(
        f"{PATH}/{hold['hold_id']}/release", json={"reason": "mended"}, headers=olga
    )
    assert gone.json()["released_by"] == "operator:olga"
    assert (await http.get(PATH, headers=olga)).json()["holds"] == []
    all_ = (await http.get(PATH, params={"ended": True}, headers=olga)).json()["holds"]
    assert [one["hold_id"] for one in all_] == [hold["hold_id"]]
    assert "hold" not in (await http.get(f"/commands/{first}")).json()


@pytest.mark.guarantee("holds:kept")
async def test_a_call_that_is_refused_is_told_until_when_and_why(
    http: httpx.AsyncClient, olga: dict[str, str], issuer: DevIssuer
) -> None:
    refuse = {"all_calls": True, "effect": "refuse", "reason": "the cutover"}
    placed = await http.post(PATH, json=refuse, headers=olga)
    answer = await call(http)
    assert (answer.status_code, answer.json()["code"]) == (423, "held")
    assert answer.json()["hold_id"] == placed.json()["hold_id"]
    assert "held by an operator until it is released: the cutover" in answer.json()["detail"]
    http.headers.update(auth(issuer, "eve", tenant="other"))
    assert (await http.post("/mcp/tools/call", json=CALL, headers=NOW)).status_code == 202


@pytest.mark.guarantee("holds:kept")
async def test_only_an_operator_has_to_do_with_holds_and_only_with_their_tenants(
    http: httpx.AsyncClient, olga: dict[str, str], issuer: DevIssuer
) -> None:
    hold_id = (await http.post(PATH, json=HOLD, headers=olga)).json()["hold_id"]
    verbs: list[tuple[str, str, Any]] = [
        ("GET", PATH, None),
        ("POST", PATH, HOLD),
        ("POST", f"{PATH}/{hold_id}/release", {"reason": "r"}),
    ]
    for verb, path, body in verbs:
        assert (await http.request(verb, path, json=body)).status_code == 403
    other = auth(issuer, "oscar", "tools", "operator", tenant="other")
    assert (await http.get(PATH, headers=other)).json()["holds"] == []
    stolen = await http.post(f"{PATH}/{hold_id}/release", json={"reason": "r"}, headers=other)
    unknown = await http.post(f"{PATH}/{uuid4()}/release", json={"reason": "r"}, headers=other)
    assert (stolen.status_code, unknown.status_code) == (404, 404)
    assert len((await http.get(PATH, headers=olga)).json()["holds"]) == 1


@pytest.mark.guarantee("holds:kept")
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"reason": "nothing is named"},
        HOLD | {"all_calls": True},
        HOLD | {"reason": ""},
        HOLD | {"reason": "\x00"},
        HOLD | {"reason": "x" * 501},
        HOLD | {"tool": "nowhere"},
        HOLD | {"method": "nothing"},
        {"method": "echo", "reason": "of which tool"},
        HOLD | {"effect": "burn"},
        HOLD | {"until": "2020-01-01T00:00:00Z"},
        HOLD | {"until": 2_000_000_000},
        HOLD | {"argument": {"path": "text", "value": 1}},
        HOLD | {"argument": {"path": "", "value": 1}},
        HOLD | {"argument": {"path": "/a//b", "value": 1}},
        HOLD | {"argument": {"path": "/a~2", "value": 1}},
        HOLD | {"argument": {"path": "/a/-1", "value": 1}},
        HOLD | {"argument": {"path": "/a" * 11, "value": 1}},
        HOLD | {"argument": {"path": "/text"}},
        HOLD | {"argument": {"path": "/text", "value": "x" * 2000}},
        HOLD | {"surprise": 1},
    ],
)
async def test_what_is_no_hold_is_refused_and_leaves_nothing(
    shared: Shared, olga: dict[str, str], body: dict[str, Any]
) -> None:
    answer = await shared.http.post(PATH, json=body, headers=olga)
    assert answer.status_code in {400, 404, 422}, answer.text
    assert answer.json()["code"]
    assert await fetch(shared.dsns.owner, "SELECT 1 FROM holds") == []


@pytest.mark.guarantee("holds:kept")
async def test_an_odd_value_is_kept_as_it_was_sent(
    http: httpx.AsyncClient, olga: dict[str, str]
) -> None:
    for value in ("{{ x }}", "👩‍🚀", None, False, 2**63, 1.5, [], {"": [{}]}, "'; --"):
        argument = {"path": "/a~1b~0/0/ x", "value": value}
        body = {"argument": argument, "reason": '"odd" \\ %s'}
        placed = await http.post(PATH, json=body, headers=olga)
        assert placed.status_code == 201, placed.text
        assert (placed.json()["argument"], placed.json()["reason"]) == (argument, body["reason"])


@pytest.mark.guarantee("holds:kept")
async def test_holds_are_in_the_gauges(
    http: httpx.AsyncClient, olga: dict[str, str], database: Dsns
) -> None:
    await http.post(PATH, json=HOLD, headers=olga)
    conn = await asyncpg.connect(database.relay)
    try:
        await gauges.read(conn)
    finally:
        await conn.close()
    assert REGISTRY.get_sample_value("mcpbroker_holds") == 1
    [row] = await fetch(database.observer, "SELECT * FROM ops.holds")
    assert (row["tenant_id"], row["what"], row["tool"]) == ("demo", "tool", "probe")


HELD = """
    SELECT user_id, actor, tool, method, body::jsonb AS body
      FROM audit.events
     WHERE type = 'call.held'
     ORDER BY occurred_at, xid
"""


@pytest.mark.guarantee("holds:audited")
async def test_refused_calls_are_audited_one_by_one_at_first_and_then_counted(
    database: Dsns, issuer: DevIssuer, olga: dict[str, str]
) -> None:
    ada, bob = auth(issuer, "ada"), auth(issuer, "bob")
    many = CALLS_IN_FULL + 15
    key = CALL | {"idempotency_key": "mine"}
    async with serving(settings_of(database.app, issuer)) as http:
        asked = ada | NOW
        assert (await http.post("/mcp/tools/call", json=key, headers=asked)).status_code == 202
        refuse = HOLD | {"effect": "refuse"}
        hold = (await http.post(PATH, json=refuse, headers=olga)).json()["hold_id"]
        assert (await http.post("/mcp/tools/call", json=key, headers=asked)).status_code == 202
        assert await fetch(database.owner, HELD) == [], "a repeat finds its call"
        for n in range(many):
            body = CALL | {"args": {"text": str(n)}}
            assert (await http.post("/mcp/tools/call", json=body, headers=asked)).status_code == 423
        found = await fetch(database.owner, HELD)
        assert len(found) == CALLS_IN_FULL, "each was written before it was answered"
        [first, *_] = found
        assert (first["actor"], first["tool"], first["method"]) == ("user:ada", "probe", "echo")
        assert orjson.loads(first["body"]) == {"client": "ada", "reason": f"hold {hold}"}
        assert (await http.post("/mcp/tools/call", json=CALL, headers=bob)).status_code == 423
    *_, rest = await fetch(database.owner, HELD)
    said = orjson.loads(rest["body"])
    assert (rest["user_id"], said["count"]) == ("ada", many - CALLS_IN_FULL)
    assert said["calls"] == [
        {
            "tool": "probe",
            "method": "echo",
            "reason": f"hold {hold}",
            "count": many - CALLS_IN_FULL,
        }
    ]
