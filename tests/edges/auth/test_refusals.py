"""Failed logins and denials in the audit trail: at once, and bounded."""

from typing import Any

import orjson
import pytest

from app.edges.auth.refusals import CALLS_IN_FULL
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.audit.conftest import open_log
from tests.conftest import settings_of
from tests.edges.auth.conftest import bearer, serving
from tests.edges.conftest import auth
from tests.support.calls import fetch
from tests.support.stack import wait_for

CALL: dict[str, Any] = {"tool": "probe", "method": "echo", "args": {"text": "hi"}}
EVENTS = """
    SELECT tenant_id, actor, user_id, body ->> 'reason' AS reason, body ->> 'detail' AS detail,
           body ->> 'issuer' AS issuer, CAST(body ->> 'count' AS integer) AS count,
           body::text AS text
      FROM audit.events
     WHERE type = '{}'
     ORDER BY occurred_at, xid
"""
CALLS_DENIED = """
    SELECT user_id, tool, body::text AS body
      FROM audit.events
     WHERE type = 'call.denied'
     ORDER BY occurred_at, xid
"""


@pytest.mark.guarantee("identity:audited")
async def test_a_flood_of_failed_logins_is_a_few_events_with_their_count(
    database: Dsns, issuer: DevIssuer
) -> None:
    expired = issuer.token(tenant="demo", user="ada", scopes=["tools"], life_s=-3600)
    async with serving(settings_of(database.app, issuer)) as http:
        await http.get("/commands", headers=bearer(expired))

        async def events() -> list[Any]:
            return await fetch(database.owner, EVENTS.format("login.failed"))

        [first] = await wait_for(events)
        assert (first["tenant_id"], first["actor"]) == ("_broker", "unauthenticated")
        assert (first["reason"], first["count"]) == ("expired", 1)
        assert first["issuer"] == "https://dev-issuer.invalid"
        for n in range(50):
            await http.get("/commands", headers=bearer(expired))
            await http.get("/commands", headers=bearer(f"{n}"))
            if n == 10:

                async def both() -> bool:
                    return len(await events()) >= 2

                await wait_for(both)
            await http.get("/commands")  # no credential at all is no login
    found = await fetch(database.owner, EVENTS.format("login.failed"))
    counts = dict.fromkeys(("expired", "malformed"), 0)
    for one in found:
        counts[one["reason"]] += one["count"]
    assert counts == {"expired": 51, "malformed": 50}
    assert len(found) <= 4
    async with open_log(database) as log:
        await log.seal()
        assert (await log.verify("_broker"))["ok"], "sealed as any tenant's log"
        rows = await log.owner.fetch("SELECT seq_to FROM audit.seals WHERE tenant_id = '_broker'")
    assert [row["seq_to"] for row in rows] == [len(found)]
    assert all(expired.split(".")[2] not in one["text"] for one in found), "no token is kept"


@pytest.mark.guarantee("identity:audited")
async def test_a_flood_of_failed_logins_is_a_line_a_reason_and_period(
    database: Dsns, issuer: DevIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    def said() -> list[str]:
        return [one.getMessage() for one in caplog.records if "login failed" in one.getMessage()]

    expired = issuer.token(tenant="demo", user="ada", scopes=["tools"], life_s=-3600)
    with caplog.at_level("INFO"):
        async with serving(settings_of(database.app, issuer)) as http:
            for n in range(40):
                await http.get("/commands", headers=bearer(expired))
                await http.get("/commands", headers=bearer(f"{n}"))
    assert sorted(line.split()[2] for line in said()) == ["expired", "malformed"]
    caplog.clear()
    with caplog.at_level("INFO"):
        async with serving(settings_of(database.app, issuer, refusals_period_s=0.01)) as http:

            async def again() -> bool:
                await http.get("/commands", headers=bearer(expired))
                return len(said()) >= 2

            await wait_for(again)


@pytest.mark.guarantee("identity:audited")
async def test_a_period_ends_and_the_next_begins(database: Dsns, issuer: DevIssuer) -> None:
    async with serving(settings_of(database.app, issuer, refusals_period_s=0.2)) as http:

        async def several() -> bool:
            await http.get("/commands", headers=bearer("x"))
            return len(await fetch(database.owner, EVENTS.format("login.failed"))) >= 3

        await wait_for(several)


@pytest.mark.guarantee("identity:audited")
async def test_denials_are_in_the_log_of_the_tokens_tenant(
    database: Dsns, issuer: DevIssuer
) -> None:
    foreign = auth(issuer, "rogue", "results:write", tenant="other", tenants=["other"])
    narrow = auth(issuer, "narrow", "results:write", tenant="other", tenants=["*"], tools=["git/*"])
    unbound = auth(issuer, "unbound", "results:write", tenant="other", tenants=None)
    async with serving(settings_of(database.app, issuer)) as http:
        ada = auth(issuer, "ada")
        made = await http.post(
            "/mcp/tools/call", json=CALL, headers=ada | {"Prefer": "respond-async"}
        )
        path = f"/results/{made.json()['correlation_id']}"
        claim = {"attempt": 1, "adapter": "run"}
        for who in (foreign, narrow, unbound):
            answer = await http.post(f"{path}/claim", json=claim, headers=who)
            assert answer.status_code == 404
        for field in ("tenant_id", "user_id"):
            body = CALL | {field: "other"}
            answer = await http.post("/mcp/tools/call", json=body, headers=ada)
            assert answer.status_code == 403
        assert (await http.get("/operator/dead-letters", headers=ada)).status_code == 403
        assert (await http.post(path, json={"status": "ok"}, headers=ada)).status_code == 403
        adapter = auth(issuer, "eda", "results:write", tenant="adapters")
        answer = await http.post("/mcp", json={}, headers=adapter)
        assert answer.status_code == 403
        assert 'error="insufficient_scope", scope="tools"' in answer.headers["www-authenticate"]
        nobody = auth(issuer, "ada", tenant="no-such")
        assert (await http.post("/mcp/tools/call", json=CALL, headers=nobody)).status_code == 403
    found = await fetch(database.owner, EVENTS.format("access.denied"))
    assert sum(one["count"] for one in found) == 9
    assert {(one["tenant_id"], one["user_id"], one["reason"]) for one in found} == {
        ("adapters", "eda", "scope tools"),
        ("demo", "ada", "forbidden"),  # two
        ("demo", "ada", "scope operator"),
        ("demo", "ada", "scope results:write"),
        ("no-such", "ada", "forbidden"),
        ("other", "narrow", "not_bound"),
        ("other", "rogue", "not_bound"),
        ("other", "unbound", "not_bound"),
    }
    [call] = await fetch(database.owner, EVENTS.format("call.denied"))
    assert (call["tenant_id"], call["reason"]) == ("no-such", "tenant not known or suspended")
    [state] = await fetch(database.owner, "SELECT state, adapter FROM commands")
    assert (state["state"], state["adapter"]) == ("queued", None)


@pytest.mark.guarantee("identity:audited")
async def test_refused_calls_are_written_one_by_one_at_first_and_then_counted(
    database: Dsns, issuer: DevIssuer
) -> None:
    ada, bob = auth(issuer, "ada"), auth(issuer, "bob")
    many = 40
    # `probe` is granted and its other method is not there; what is asked for changes nothing.
    async with serving(settings_of(database.app, issuer)) as http:
        for n in range(many):
            body = {"tool": f"none-{n % 3}", "method": "x", "args": {}}
            assert (await http.post("/mcp/tools/call", json=body, headers=ada)).status_code == 404
        found = await fetch(database.owner, CALLS_DENIED)
        assert len(found) == CALLS_IN_FULL, "each was written before it was answered"
        assert {one["tool"] for one in found} == {"none-0", "none-1", "none-2"}
        body = {"tool": "none-0", "method": "x", "args": {}}
        assert (await http.post("/mcp/tools/call", json=body, headers=bob)).status_code == 404
        [of_bob] = [o for o in await fetch(database.owner, CALLS_DENIED) if o["user_id"] == "bob"]
        assert of_bob["tool"] == "none-0", "another user's first one"
    *_, rest = await fetch(database.owner, CALLS_DENIED)
    said = orjson.loads(rest["body"])
    assert (rest["user_id"], rest["tool"], said["count"]) == ("ada", None, many - CALLS_IN_FULL)
    assert sum(one["count"] for one in said["calls"]) == many - CALLS_IN_FULL
    assert {(one["tool"], one["reason"]) for one in said["calls"]} == {
        (f"none-{n}", "no such tool") for n in range(3)
    }


@pytest.mark.guarantee("identity:audited")
async def test_what_could_not_be_written_is_counted_on_with_its_parts_and_times(
    database: Dsns, issuer: DevIssuer, caplog: pytest.LogCaptureFixture
) -> None:
    ada, more = auth(issuer, "ada"), 5
    [first] = await fetch(database.owner, "SELECT now()::text AS at")
    async with serving(settings_of(database.app, issuer, refusals_period_s=1)) as http:
        for n in range(CALLS_IN_FULL + more):
            if n == CALLS_IN_FULL:
                await fetch(database.owner, "REVOKE INSERT ON audit.events FROM broker_app")
            body = {"tool": f"none-{n % 2}", "method": "x", "args": {}}
            assert (await http.post("/mcp/tools/call", json=body, headers=ada)).status_code == 404

        async def failed() -> bool:
            return "refusals are not audited yet" in caplog.text

        await wait_for(failed)
        columns = "tenant_id, type, actor, user_id, command_id, saga_id, tool, method, body"
        granted = f"GRANT INSERT ({columns}) ON audit.events TO broker_app"
        await fetch(database.owner, granted)
    *_, rest = await fetch(database.owner, CALLS_DENIED)
    said = orjson.loads(rest["body"])
    assert said["count"] == more
    assert {one["tool"]: one["count"] for one in said["calls"]} == {"none-0": 3, "none-1": 2}
    assert first["at"][:10] <= said["first_at"][:10] <= said["last_at"][:10]
    assert said["first_at"] < said["last_at"]


@pytest.mark.guarantee("identity:audited")
async def test_a_tenants_many_users_push_no_others_out_of_their_own_log(
    database: Dsns, issuer: DevIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.edges.auth.refusals.KINDS_OF_TENANT_MAX", 3)
    async with serving(settings_of(database.app, issuer)) as http:
        for n in range(6):
            who = auth(issuer, f"u{n}")
            assert (await http.get("/operator/dead-letters", headers=who)).status_code == 403
        eve = auth(issuer, "eve", tenant="other")
        assert (await http.get("/operator/dead-letters", headers=eve)).status_code == 403
    found = await fetch(database.owner, EVENTS.format("access.denied"))
    counts = {(one["tenant_id"], one["actor"]): 0 for one in found}
    for one in found:
        counts[one["tenant_id"], one["actor"]] += one["count"]
    assert counts.pop(("other", "client:eve")) == 1
    assert counts.pop(("demo", "many")) == 3
    assert counts == {("demo", f"client:u{n}"): 1 for n in range(3)}
