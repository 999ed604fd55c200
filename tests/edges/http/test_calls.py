"""Plain HTTP: the seed's body and answers, errors in shape, and whose commands are whose."""

import asyncio
import time
from typing import Any
from uuid import UUID

import httpx
import jwt
import pytest

from app.postgres import migrate
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.conftest import auth
from tests.support.calls import counts, fetch
from tests.support.served import Shared
from tests.support.stack import wait_for

CALL: dict[str, Any] = {"tool": "probe", "method": "echo", "args": {"text": "hi"}}
NOW = {"Prefer": "respond-async"}


def adapter(issuer: DevIssuer) -> dict[str, str]:
    return auth(issuer, "eda", "results:write", tenant="adapters")


async def accepted(http: httpx.AsyncClient, **more: Any) -> str:
    answer = await http.post("/mcp/tools/call", json=CALL | more, headers=NOW)
    assert answer.status_code == 202, answer.text
    return answer.json()["correlation_id"]


async def test_a_call_that_ends_in_time_answers_its_result(
    http: httpx.AsyncClient, issuer: DevIssuer
) -> None:
    call = asyncio.create_task(
        http.post("/mcp/tools/call", json=CALL | {"idempotency_key": "k", "tenant_id": "demo"})
    )

    async def listed() -> Any:
        return (await http.get("/commands")).json()["commands"]

    one = (await wait_for(listed))[0]["command_id"]
    base, headers = f"/results/{one}", adapter(issuer)
    claim = await http.post(f"{base}/claim", json={"attempt": 1, "adapter": "run"}, headers=headers)
    assert (claim.status_code, claim.json()["proceed"]) == (200, True)
    assert claim.json()["args"] == {"text": "hi"}
    said = await http.post(f"{base}/progress", json={"stage": "x", "percent": 50}, headers=headers)
    assert said.json() == {"ok": True, "cancel_requested": False}
    ended = await http.post(base, json={"status": "ok", "result": {"text": "hi"}}, headers=headers)
    assert ended.json() == {"ok": True, "state": "succeeded", "repeated": False}
    answer = await call
    assert (answer.status_code, answer.json()["result"]) == (200, {"text": "hi"})
    again = await http.post("/mcp/tools/call", json=CALL | {"idempotency_key": "k"})
    assert again.headers["idempotent-replayed"] == "true"
    assert again.json()["correlation_id"] == one


async def test_a_call_that_takes_longer_answers_accepted_in_the_seeds_shape(
    http: httpx.AsyncClient,
) -> None:
    answer = await http.post("/mcp/tools/call", json=CALL, headers=NOW)
    body = answer.json()
    assert answer.status_code == 202
    assert (body["status"], body["note"]) == ("accepted", "continuing async")
    assert answer.headers["location"] == f"/commands/{body['correlation_id']}"


@pytest.mark.guarantee("intake:refusals-leave-nothing")
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (CALL | {"surprise": 1}, 400, "bad_request"),
        (CALL | {"envelope_version": "2.0"}, 400, "bad_request"),
        (CALL | {"saga_step": "a"}, 400, "bad_request"),
        (CALL | {"saga_step": "a", "saga_id": str(UUID(int=7))}, 400, "bad_request"),
        (CALL | {"deadline_ms": 0}, 400, "bad_request"),
        (CALL | {"deadline_ms": 10**12}, 400, "bad_request"),
        (CALL | {"correlation_id": "a6f6f0a2-3f0c-4b62-9d4b-f2bc9ad2b6c1"}, 400, "bad_request"),
        (CALL | {"tenant_id": "other"}, 403, "forbidden"),
        (CALL | {"user_id": "bob"}, 403, "forbidden"),
        (CALL | {"args": {"text": 5}}, 422, "invalid_arguments"),
        (CALL | {"method": "nope"}, 404, "unknown_tool"),
        (CALL | {"args": {"text": "x" * 2_000_000}}, 413, "oversize"),
        ("not an object", 400, "bad_request"),
    ],
)
async def test_a_bad_call_is_a_problem_and_writes_nothing(
    shared: Shared, body: Any, status: int, code: str
) -> None:
    answer = await shared.http.post("/mcp/tools/call", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await counts(shared.dsns.owner))[:2] == (0, 0)


async def test_the_same_key_for_another_call_is_422_and_says_what_to_do(
    http: httpx.AsyncClient,
) -> None:
    await accepted(http, idempotency_key="k")
    other = CALL | {"idempotency_key": "k", "args": {"text": "else"}}
    answer = await http.post("/mcp/tools/call", json=other)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")
    assert "new key" in answer.json()["detail"]


async def test_a_full_queue_answers_429_with_retry_after(
    http: httpx.AsyncClient, database: Dsns
) -> None:
    from tests.support.calls import fetch

    await fetch(database.owner, "UPDATE tenants SET queued_max = 2")
    for n in range(2):
        await accepted(http, args={"text": str(n)})
    before = await counts(database.owner)
    answer = await http.post("/mcp/tools/call", json=CALL, headers=NOW)
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full")
    assert int(answer.headers["retry-after"]) > 0
    assert await counts(database.owner) == before


@pytest.mark.guarantee("queue:replays")
async def test_a_full_queue_still_answers_for_what_it_holds(
    http: httpx.AsyncClient, database: Dsns
) -> None:
    from tests.support.calls import fetch

    await fetch(database.owner, "UPDATE tenants SET queued_max = 1")
    one = await accepted(http, idempotency_key="k")
    again = await http.post("/mcp/tools/call", json=CALL | {"idempotency_key": "k"}, headers=NOW)
    assert (again.status_code, again.json()["correlation_id"]) == (202, one)
    assert again.headers["idempotent-replayed"] == "true"
    other = CALL | {"idempotency_key": "k", "args": {"text": "else"}}
    answer = await http.post("/mcp/tools/call", json=other)
    assert (answer.status_code, answer.json()["code"]) == (422, "idempotency_conflict")


@pytest.mark.guarantee("tenancy:not-guessable")
async def test_anothers_command_is_not_found_in_the_words_of_one_that_never_was(
    http: httpx.AsyncClient, issuer: DevIssuer
) -> None:
    one = await accepted(http)
    never = "01900000-0000-7000-8000-000000000000"
    for headers in (auth(issuer, "bob"), auth(issuer, "ada", tenant="other")):
        for path in ("", "/events"):
            mine = await http.get(f"/commands/{one}{path}", headers=headers)
            other = await http.get(f"/commands/{never}{path}", headers=headers)
            assert mine.status_code == other.status_code == 404
            assert mine.json()["detail"].replace(one, never) == other.json()["detail"]
        cancel = await http.post(f"/commands/{one}/cancel", json={}, headers=headers)
        assert cancel.status_code == 404
        assert (await http.get("/commands", headers=headers)).json()["commands"] == []
    operator = auth(issuer, "olga", "operator", "tools")
    assert (await http.get(f"/commands/{one}", headers=operator)).status_code == 200


async def test_a_cancelled_call_says_so(http: httpx.AsyncClient) -> None:
    one = await accepted(http)
    answer = await http.post(f"/commands/{one}/cancel", json={"reason": "changed my mind"})
    assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
    assert answer.json()["error"]["message"] == "changed my mind"


@pytest.mark.guarantee("identity:verified")
async def test_no_token_a_forged_one_and_a_strange_one_let_nobody_in(
    http: httpx.AsyncClient, issuer: DevIssuer
) -> None:
    good = issuer.token(tenant="demo", user="ada", scopes=["tools"])
    claims = jwt.decode(good, options={"verify_signature": False})
    header, body, signature = good.split(".")
    other = DevIssuer(issuer.jwks.parent / "other", audience="http://testserver/mcp")
    bad = {
        "none": jwt.encode(claims, None, algorithm="none"),  # pyright: ignore[reportArgumentType]
        "hmac with the public key": jwt.encode(claims, "secret" * 8, algorithm="HS256"),
        "another key": other.token(tenant="demo", user="ada", scopes=["tools"]),
        "expired": issuer.token(tenant="demo", user="ada", scopes=["tools"], life_s=-3600),
        "another audience": issuer.token(tenant="demo", user="ada", scopes=[], aud="http://x"),
        "another issuer": issuer.token(tenant="demo", user="ada", scopes=[], iss="https://x"),
        "not yet": issuer.token(tenant="demo", user="ada", scopes=[], nbf=int(time.time()) + 999),
        "swapped body": f"{header}.{body[:-4]}AAAA.{signature}",
        "no tenant": issuer.token(tenant="", user="ada", scopes=["tools"]),
        "garbage": "garbage",
    }
    for name, token in bad.items():
        headers = {"Authorization": f"Bearer {token}"}
        for path in ("/mcp", "/mcp/tools/call"):
            answer = await http.post(path, json=CALL, headers=headers)
            assert answer.status_code == 401, f"{name}: {answer.text}"
            assert "resource_metadata=" in answer.headers["www-authenticate"]
    del http.headers["Authorization"]
    assert (await http.get("/commands")).status_code == 401
    metadata = (await http.get("/.well-known/oauth-protected-resource/mcp")).json()
    assert metadata["resource"] == "http://testserver/mcp"
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/readyz")).json()["status"] == "ready"


@pytest.mark.parametrize(
    ("revision", "status"), [("0001", 503), (migrate.head(), 200), ("9999_of_later_code", 200)]
)
async def test_a_replica_is_ready_on_its_own_schema_and_on_that_of_later_code(
    http: httpx.AsyncClient, database: Dsns, revision: str, status: int
) -> None:
    """While a release is rolled out the database has its schema and the old replicas go on."""
    await fetch(database.owner, "UPDATE alembic_version SET version_num = $1", revision)
    answer = await http.get("/readyz")
    assert (answer.status_code, answer.json()["schema"]) == (status, revision)


async def test_a_scope_is_needed_and_named(http: httpx.AsyncClient, issuer: DevIssuer) -> None:
    one = await accepted(http)
    answer = await http.post(f"/results/{one}", json={"status": "ok", "result": {}})
    assert answer.status_code == 403
    assert 'scope="results:write"' in answer.headers["www-authenticate"]
    answer = await http.post("/mcp/tools/call", json=CALL, headers=adapter(issuer))
    assert answer.status_code == 403


async def test_an_unroutable_command_is_rejected_once(
    http: httpx.AsyncClient, issuer: DevIssuer
) -> None:
    one = await accepted(http)
    body = {"attempt": 1, "reason": "no rule takes it"}
    for repeated in (False, True):
        answer = await http.post(f"/results/{one}/reject", json=body, headers=adapter(issuer))
        assert answer.json() == {"ok": True, "state": "dead_lettered", "repeated": repeated}


async def test_a_denied_tool_is_audited(http: httpx.AsyncClient, database: Dsns) -> None:
    from tests.support.calls import fetch

    await http.post("/mcp/tools/call", json=CALL | {"method": "nope"})
    [row] = await fetch(database.owner, "SELECT * FROM audit.events WHERE type = 'call.denied'")
    assert (row["actor"], row["tool"], row["method"]) == ("user:ada", "probe", "nope")
