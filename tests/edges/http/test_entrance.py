"""What callers send: arrives as it was sent, or is refused in words; never a 500, never "later"."""

import json
from typing import Any

import httpx
import pytest

from app.edges.parts import Parts
from devstack.tokens import DevIssuer
from tests.edges.conftest import auth
from tests.support.served import Shared

CALL = "/mcp/tools/call"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def http(shared: Shared) -> httpx.AsyncClient:
    """One for all: what comes in here never meets."""
    return shared.http


@pytest.fixture
def broker(shared: Shared) -> Parts:
    return shared.parts


def body(**changes: Any) -> dict[str, Any]:
    return {"tool": "probe", "method": "echo", "args": {"text": "x"}, **changes}


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('"deadline_ms": NaN', "NaN"),
        ('"deadline_ms": 1e400', "1e400"),
        ('"deadline_ms": 18446744073709551616', "64 bits"),
        ('"deadline_ms": %s' % ("9" * 5000), "64 bits"),
        ('"args": {"text": "x", "text": "y"}', "twice"),
        ('"args": {"text": "\\u0000"}', "NUL"),
        ('"args": {"text": "\\ud800"}', "surrogate"),
        ('"saga_step": "\\u0000"', "NUL"),
        ('"user_id": "\\u0000"', "NUL"),
        ('"args": {"text": %s}' % ("[" * 70 + "]" * 70), "deeper than 64"),
        ('"args": {"text": %s}' % ("[" * 5000 + "]" * 5000), "deeper than"),
    ],
)
@pytest.mark.guarantee("intake:as-sent")
@pytest.mark.parametrize("path", [CALL, "/sagas/dry-run"])
async def test_json_that_would_not_come_back_as_sent_is_refused(
    http: httpx.AsyncClient, written: str, said: str, path: str
) -> None:
    text = (
        json.dumps(body())[:-1] + ", " + written + "}"
        if "args" not in written
        else ('{"tool": "probe", "method": "echo", ' + written + "}")
    )
    answer = await http.post(path, content=text.encode(), headers=JSON)
    if path != CALL and "deeper than 64" in said:
        return  # its own fields are judged by their names there
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "invalid_arguments"
    assert said in answer.json()["detail"]
    assert len(answer.content) < 2000


async def test_a_list_may_come_in_several_lines(http: httpx.AsyncClient) -> None:
    preferences = [("Prefer", "handling=lenient"), ("Prefer", "respond-async")]
    answer = await http.post(CALL, json=body(), headers=preferences)
    assert answer.status_code == 202, answer.text
    accepts = [("Accept", "application/json"), ("Accept", "text/event-stream")]
    call = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    async with http.stream("POST", "/mcp", json=call, headers=accepts) as answer:
        assert answer.status_code != 406


@pytest.mark.parametrize("path", [CALL, "/sagas/dry-run"])
@pytest.mark.parametrize("written", [b"\xef\xbb\xbf{}", "{}".encode("utf-16"), b'{"a": ', b"\xff"])
async def test_what_is_not_json_in_utf_8_says_so(
    http: httpx.AsyncClient, path: str, written: bytes
) -> None:
    answer = await http.post(path, content=written, headers=JSON)
    assert answer.status_code == 400
    assert answer.json()["code"] == "bad_request"
    assert "the body" in answer.json()["detail"]


@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP, identity"])
@pytest.mark.parametrize("path", [CALL, "/mcp", "/sagas"])
async def test_a_compressed_body_is_refused_by_its_name(
    http: httpx.AsyncClient, path: str, encoding: str
) -> None:
    answer = await http.post(path, content=b"x", headers={**JSON, "Content-Encoding": encoding})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")
    assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("said", ["wait=²", "wait=٣", "wait=" + "9" * 5000, "wait=1e400", "wait="])
async def test_an_odd_preference_is_ignored(http: httpx.AsyncClient, said: str) -> None:
    headers = [(b"prefer", f"{said}, respond-async".encode())]
    answer = await http.post(CALL, json=body(), headers=headers)
    assert answer.status_code == 202, answer.text


@pytest.mark.parametrize("said", ["²", "9" * 5000, "-1", "1.0", "9" * 15, "x"])
async def test_an_odd_event_id_is_refused(http: httpx.AsyncClient, said: str) -> None:
    made = await http.post(CALL, json=body(), headers={"Prefer": "respond-async"})
    path = f"/commands/{made.json()['correlation_id']}/events"
    answer = await http.get(path, headers=[(b"last-event-id", said.encode())])
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


@pytest.mark.guarantee("intake:as-sent")
async def test_whole_numbers_are_integers_however_they_are_written(
    http: httpx.AsyncClient, broker: Parts
) -> None:
    key = {"Idempotency-Key": "whole", "Prefer": "respond-async"}
    args: dict[str, Any] = {"repo": "/r", "dest": "d", "depth": 1.0}
    first = {"tool": "git", "method": "clone", "args": args}
    made = await http.post(CALL, content=json.dumps(first).encode(), headers={**JSON, **key})
    assert made.status_code == 202, made.text
    args["depth"] = 1
    again = await http.post(CALL, json=first, headers=key)
    assert again.json()["correlation_id"] == made.json()["correlation_id"]
    async with broker.database.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT set_config('app.tenants', '{demo}', true)")
        asked = "SELECT args::text FROM commands WHERE idempotency_key = 'whole'"
        kept = await conn.fetchval(asked)
    assert json.loads(kept)["depth"] == 1
    assert "1.0" not in kept


async def test_an_error_quotes_little_of_what_came_in(http: httpx.AsyncClient) -> None:
    answer = await http.post(CALL, json=body(args={"text": ["x" * 100_000], "k" * 100_000: 1}))
    assert answer.status_code == 422
    assert len(answer.content) < 3000
    assert "is not of type" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/sagas", "/sagas/dry-run"])
async def test_an_error_of_a_saga_quotes_little_of_it_too(
    http: httpx.AsyncClient, path: str
) -> None:
    long = "x" * 100_000
    step = {"id": "a", "tool": "probe_echo", "args": {"text": long}, "kind": "readonly"}
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    good = {**step, "args": {"text": "x"}}
    for plan, given in (
        ({"steps": [step]}, {}),
        ({"steps": [{**step, "args": {long: 1}}]}, {}),
        ({"steps": [{**step, "tool": long}]}, {}),
        ({"steps": [good], long: 1}, {}),
        ({"steps": [good], "input": schema}, {"n": long}),
    ):
        answer = await http.post(path, json={"plan": plan, "input": given})
        if answer.status_code == 200 and path == "/sagas/dry-run":
            continue  # whoever only looks gives no input
        assert answer.status_code in {400, 422}, answer.text[:500]
        assert len(answer.content) < 3000
    answer = await http.post(path, json={long: 1})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
    assert len(answer.content) < 3000


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/nothing", "/operator/commands/a/b/approve", "/mcp/x", "//mcp"])
async def test_a_path_that_is_none_is_a_problem_whatever_is_sent_there(
    http: httpx.AsyncClient, path: str, method: str
) -> None:
    answer = await http.request(method, path, json={})
    assert answer.headers["content-type"] == "application/problem+json"
    assert (answer.status_code, answer.json()["code"]) in {(404, "http_404"), (403, "forbidden")}


async def test_no_answer_sends_a_caller_to_the_host_that_its_header_names(
    http: httpx.AsyncClient,
) -> None:
    for path in ("/mcp/", "/commands/", "/sagas/"):
        answer = await http.post(path, json={})
        assert answer.status_code < 300 or answer.status_code >= 400
        assert "location" not in answer.headers
    assert (await http.post("/mcp/", json={})).status_code == (
        await http.post("/mcp", json={})
    ).status_code


@pytest.mark.parametrize("path", [CALL, "/mcp", "/commands"])
async def test_only_known_hosts_and_origins_are_answered(
    http: httpx.AsyncClient, path: str
) -> None:
    for headers, code in (
        ({"Host": "evil.example"}, "misdirected"),
        ({"Origin": "http://evil.example"}, "strange_origin"),
        ({"Origin": "http://localhost.evil.example:80"}, "strange_origin"),
        ([("Host", "testserver"), ("Host", "evil.example")], "bad_request"),
    ):
        answer = await http.post(path, json={}, headers=headers)
        assert answer.json()["code"] == code, headers
        assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    "path", [CALL, "/mcp", "/commands", "/.well-known/oauth-protected-resource"]
)
async def test_a_page_of_an_allowed_origin_may_ask_and_read(
    http: httpx.AsyncClient, issuer: DevIssuer, path: str
) -> None:
    page = {"Origin": "http://localhost:6274"}
    asked = await http.request(
        "OPTIONS",
        path,
        headers={
            **page,
            "Authorization": "",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, mcp-param-region, x-other",
        },
    )
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == page["Origin"]
    allowed = asked.headers["access-control-allow-headers"].lower()
    assert "mcp-param-region" in allowed
    assert "mcp-protocol-version" in allowed
    assert "x-other" not in allowed
    for token in ({"Authorization": "Bearer no"}, auth(issuer, "ada")):
        answer = await http.get(path, headers={**page, **token})
        assert answer.headers["access-control-allow-origin"] == page["Origin"]
        assert "Mcp-Session-Id" in answer.headers["access-control-expose-headers"]
        assert "Origin" in answer.headers["vary"]
    # The public URL's own pages need no setting.
    own = await http.get("/commands", headers={"Origin": "http://testserver"})
    assert own.status_code == 200


async def test_an_error_that_nobody_meant_is_a_problem_on_the_hot_route_too(
    http: httpx.AsyncClient, broker: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(_: object) -> None:
        raise RuntimeError("a fault of ours")

    with monkeypatch.context() as patched:
        patched.setattr(type(broker.queues), "admit", fault)
        answer = await http.post(CALL, json=body())
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert answer.headers["content-type"] == "application/problem+json"
    assert "fault" not in answer.text
    with monkeypatch.context() as patched:
        patched.setattr(type(broker.credentials), "identity", fault)
        answer = await http.get("/commands")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
