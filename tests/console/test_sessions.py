"""Sessions of the console: how they begin, what they are held to, and how they end."""

import time

import pytest

from app.console.app import HEADERS
from app.edges.parts import Parts
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.console.conftest import (
    BASE,
    browsing,
    csrf_of,
    enter,
    link_of,
    send,
    signed_in,
    token_of,
)
from tests.support.calls import fetch

COOKIE = "mcpbroker_console"


@pytest.mark.guarantee("console:sessions")
async def test_a_link_lets_a_person_in_once(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    link = link_of(issuer, "olga")
    async with browsing(broker) as mine, browsing(broker) as anothers:
        shown = await mine.get(link)
        assert "Sign in as olga" in shown.text
        first = await enter(mine, link)
        assert (first.status_code, first.headers["location"]) == (303, "/console")
        cookie = first.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=lax" in cookie
        page = await mine.get("/console", follow_redirects=True)
        assert (page.status_code, "olga" in page.text) == (200, True)
        again = await enter(anothers, link)
        assert again.status_code == 401
        assert "set-cookie" not in again.headers
    [row] = await fetch(database.owner, "SELECT id_hash, tenant_id FROM console_sessions")
    value = first.cookies[COOKIE]
    assert value.encode() not in row["id_hash"]
    events = await fetch(database.owner, "SELECT type FROM audit.events ORDER BY occurred_at")
    assert [one["type"] for one in events] == ["console.signed_in"]


@pytest.mark.guarantee("console:sessions")
@pytest.mark.parametrize(
    "claims",
    [
        {"aud": f"{BASE}/mcp"},
        {"exp": time.time() - 3600},
        {"exp": time.time() + 86400},
        {"tenant": "_broker"},
    ],
    ids=["a bearer token", "over", "good for too long", "of no tenant"],
)
async def test_what_is_no_link_lets_nobody_in(
    broker: Parts, issuer: DevIssuer, claims: dict[str, object]
) -> None:
    body: dict[str, object] = {"aud": f"{BASE}/console"} | claims
    token = issuer.token(**{"tenant": "demo", "user": "olga", "scopes": ["operator"]} | body)  # pyright: ignore[reportArgumentType]
    async with browsing(broker) as client:
        answer = await enter(client, f"{BASE}/console/sign-in/link?token={token}")
        assert answer.status_code == 401
        assert "set-cookie" not in answer.headers


async def test_a_tenant_that_is_not_set_up_lets_nobody_in(broker: Parts, issuer: DevIssuer) -> None:
    async with browsing(broker) as client:
        answer = await enter(client, link_of(issuer, "olga", tenant="nobodys"))
        assert answer.status_code == 404
        assert "set-cookie" not in answer.headers


@pytest.mark.guarantee("console:sessions")
async def test_a_sign_in_ends_the_session_before_it_and_has_a_cookie_of_its_own(
    broker: Parts, issuer: DevIssuer
) -> None:
    async with signed_in(broker, issuer) as client, browsing(broker) as thief:
        old = client.cookies[COOKIE]
        await enter(client, link_of(issuer, "olga"))
        assert client.cookies[COOKIE] != old
        thief.cookies.set(COOKIE, old)
        assert (await thief.get("/console/calls")).headers["location"].endswith("&ended=1")


@pytest.mark.guarantee("console:sessions")
async def test_a_session_is_over_when_its_time_is_or_nobody_used_it(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    for late in ("expires_at = now()", "seen_at = now() - interval '1 hour'"):
        async with signed_in(broker, issuer) as client:
            assert (await client.get("/console/calls")).status_code == 200
            await fetch(database.owner, f"UPDATE console_sessions SET {late}")
            page = await client.get("/console/calls?tool=probe")
            assert page.status_code == 303
            assert page.headers["location"] == (
                "/console/sign-in?page=%2Fconsole%2Fcalls%3Ftool%3Dprobe&ended=1"
            )
            assert "has ended" in (await client.get(page.headers["location"])).text


@pytest.mark.guarantee("console:sessions")
async def test_a_request_is_use_and_an_open_view_is_none(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    seen = "SELECT seen_at > now() - interval '1 minute' AS lately FROM console_sessions"
    async with signed_in(broker, issuer) as client:
        await fetch(
            database.owner, "UPDATE console_sessions SET seen_at = now() - interval '20 minutes'"
        )
        nobodys = "/console/calls/01a208ca-483f-77da-84f2-da2218258fda/live"
        assert (await client.get(nobodys)).status_code == 404
        assert not (await fetch(database.owner, seen))[0]["lately"]
        await client.get("/console/calls")
        assert (await fetch(database.owner, seen))[0]["lately"]


@pytest.mark.guarantee("console:sessions")
async def test_a_sign_out_ends_the_session_for_whoever_has_its_cookie(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    async with signed_in(broker, issuer) as client, browsing(broker) as thief:
        thief.cookies.set(COOKIE, client.cookies[COOKIE])
        assert (await thief.get("/console/calls")).status_code == 200
        answer = await send(client, "/console/sign-out")
        assert answer.headers["location"] == "/console/signed-out"
        assert COOKIE not in client.cookies
        assert (await thief.get("/console/calls")).status_code == 303
        assert "signed out" in (await client.get("/console/signed-out")).text
    types = await fetch(database.owner, "SELECT type FROM audit.events ORDER BY occurred_at")
    assert [one["type"] for one in types] == ["console.signed_in", "console.signed_out"]


@pytest.mark.guarantee("console:forged")
async def test_a_form_of_no_page_of_the_session_does_nothing(
    broker: Parts, issuer: DevIssuer
) -> None:
    async with signed_in(broker, issuer) as client, signed_in(broker, issuer, "mallory") as other:
        mine = csrf_of((await client.get("/console/calls")).text)
        theirs = csrf_of((await other.get("/console/calls")).text)
        at = {"Origin": BASE}
        good = {"csrf": mine}
        for data, headers in (
            ({"a": "b"}, at),
            ({"csrf": theirs}, at),
            ({"csrf": "ünïcode"}, at),
            (good, {}),
            (good, {"Origin": "null"}),
            (good, {"Origin": "http://127.0.0.1:9"}),
            (good, {"Origin": "https://evil.example"}),
            (good, {"Origin": f"{BASE}.evil.example"}),
            (good, at | {"Sec-Fetch-Site": "cross-site"}),
            (good, at | {"Sec-Fetch-Site": "same-site"}),
        ):
            answer = await client.post("/console/sign-out", data=data, headers=headers)
            assert answer.status_code == 403, (data, headers)
            assert (await client.get("/console/calls")).status_code == 200
        assert (await client.post("/console/sign-out", data=good, headers=at)).status_code == 303


@pytest.mark.guarantee("tenancy:walk")
async def test_a_cookie_that_names_another_tenant_is_nobodys(
    broker: Parts, issuer: DevIssuer
) -> None:
    async with signed_in(broker, issuer) as client:
        tenant, _, secret = client.cookies[COOKIE].partition(".")
        assert tenant == "demo"
        for value in (f"other.{secret}", secret, f".{secret}", f"demo.{'x' * 300}", "demo.", "é."):
            async with browsing(broker) as thief:
                cookie = f"{COOKIE}={value}".encode()
                page = await thief.get("/console/calls", headers=[(b"Cookie", cookie)])
                assert page.status_code == 303, value


@pytest.mark.guarantee("console:headers")
async def test_every_answer_has_the_headers_that_keep_scripts_and_frames_out(
    broker: Parts, issuer: DevIssuer
) -> None:
    async with signed_in(broker, issuer) as client:
        for path in (
            "/console",
            "/console/calls",
            "/console/sign-in",
            "/console/none",
            "/console/static/console.css",
            "/console/static/none.css",
            "/console/calls?before=x",
        ):
            answer = await client.get(path)
            assert answer.status_code < 500, path
            for name, value in HEADERS.items():
                assert answer.headers[name] == value, path
            asset = path.endswith("console.css")
            assert ("no-store" in answer.headers["cache-control"]) is not asset, path
            assert "access-control-allow-origin" not in answer.headers
        policy = HEADERS["Content-Security-Policy"]
        assert "unsafe" not in policy


async def test_no_page_leads_a_person_to_another_site(broker: Parts, issuer: DevIssuer) -> None:
    async with browsing(broker) as client:
        for page in (
            "//evil.example",
            "https://evil.example/console",
            "/console//evil.example",
            "/mcp",
            "/console/../mcp",
            "/console\\evil",
            "javascript:alert(1)",
        ):
            shown = await client.get("/console/sign-in", params={"page": page})
            assert shown.status_code == 200
            assert "evil" not in shown.text
            assert "alert(1)" not in shown.text


async def test_who_has_no_scope_of_a_page_is_told_so(broker: Parts, issuer: DevIssuer) -> None:
    async with signed_in(broker, issuer, "ada", "results:write") as client:
        page = await client.get("/console/calls")
        assert page.status_code == 403
        assert (await client.get("/console")).status_code == 403


async def test_a_token_opens_no_page(broker: Parts, issuer: DevIssuer) -> None:
    token = issuer.token(tenant="demo", user="ada", scopes=["tools", "operator"])
    async with browsing(broker) as client:
        page = await client.get("/console/calls", headers={"Authorization": f"Bearer {token}"})
        assert page.status_code == 303
        assert token_of(link_of(issuer, "ada")) != token


async def test_what_is_no_form_is_refused(broker: Parts, issuer: DevIssuer) -> None:
    async with signed_in(broker, issuer) as client:
        headers = {"Origin": BASE}
        json = await client.post("/console/sign-out", json={"csrf": "x"}, headers=headers)
        assert json.status_code == 400
        form = headers | {"Content-Type": "application/x-www-form-urlencoded"}
        for body in (b"\xff\xfe", b"a=%ff", b"csrf=%00", b"&".join([b"a=1"] * 3000)):
            refused = await client.post("/console/sign-out", content=body, headers=form)
            assert refused.status_code in {400, 403}, body[:20]
