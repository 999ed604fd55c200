"""Sign-in by OpenID Connect, against a provider of its own on Authlib."""

import html
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
from pydantic import SecretStr

from app.config import Settings
from app.edges.server import build, open_broker
from app.trust import Issuer
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.console.conftest import HTML, send
from tests.edges.auth.provider import Provider
from tests.support.calls import fetch
from tests.support.stack import wait_for

# Of the provider's own use of Authlib.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BASE = "http://127.0.0.1:8099"
CLIENT = "console-client"
OLGA: dict[str, Any] = {"tenant": "demo", "scope": "tools operator", "groups": ["ops"]}


def settings(issuer: DevIssuer, provider: Provider, dsn: str, **changes: Any) -> Settings:
    trusted = Issuer(issuer=provider.issuer, audience="someone-elses", tenants=("demo", "other"))
    values: dict[str, Any] = {
        "issuers": (trusted,),
        "public_url": BASE,
        "console_client_id": CLIENT,
        "console_client_secret": SecretStr("any"),
    }
    return settings_of(dsn, issuer, **values | changes)


@pytest.fixture
def provider() -> Provider:
    return Provider(CLIENT)


@asynccontextmanager
async def browser(made: Settings) -> AsyncGenerator[httpx.AsyncClient]:
    async with open_broker(made) as broker:
        transport = httpx.ASGITransport(app=build(made, broker), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=BASE, headers=HTML) as client:
            yield client


async def sent(client: httpx.AsyncClient, page: str = "/console/calls") -> str:
    """Where the console sends who wants to sign in."""
    begun = await client.get("/console/sign-in/openid", params={"page": page})
    assert begun.status_code == 303, begun.text
    return begun.headers["location"]


async def agreed(url: str, user: str = "olga") -> str:
    """Where the issuer sends them back, once they have said who they are."""
    async with httpx.AsyncClient() as issuer:
        asked = await issuer.post(url, data={"sub": user})
    return asked.headers["location"]


@pytest.mark.guarantee("console:openid")
async def test_a_person_signs_in_at_the_issuer_and_comes_back_to_their_page(
    provider: Provider, issuer: DevIssuer, database: Dsns
) -> None:
    with provider.running(olga=OLGA):
        async with browser(settings(issuer, provider, database.app)) as client:
            away = await client.get("/console/calls?tool=probe")
            page = parse_qs(urlsplit(away.headers["location"]).query)["page"][0]
            url = await sent(client, page)
            asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
            assert (asked["response_type"], asked["code_challenge_method"]) == ("code", "S256")
            assert asked["redirect_uri"] == f"{BASE}/console/sign-in/callback"
            assert len(asked["nonce"]) >= 32
            back = await client.get(await agreed(url))
            assert back.status_code == 303, back.text
            assert back.headers["location"] == "/console/calls?tool=probe"
            shown = await client.get(back.headers["location"])
            assert (shown.status_code, "olga" in shown.text) == (200, True)
            assert "mcpbroker_sign_in" not in client.cookies
            out = await send(client, "/console/sign-out")
            assert (await client.get(out.headers["location"])).status_code == 200
    [row] = await fetch(database.owner, "SELECT method, identity FROM console_sessions")
    assert row["method"] == "openid"


@pytest.mark.guarantee("console:openid")
async def test_a_person_signs_out_at_the_issuer_too_and_comes_back(
    provider: Provider, issuer: DevIssuer, database: Dsns
) -> None:
    with provider.running(olga=OLGA):
        async with (
            browser(settings(issuer, provider, database.app)) as client,
            httpx.AsyncClient() as issuers,
        ):
            back = await client.get(await agreed(await sent(client)))
            assert back.status_code == 303, back.text
            out = await send(client, "/console/sign-out")
            page = await client.get(out.headers["location"])
            found = re.search(rf'href="({re.escape(provider.issuer)}[^"]+)"', page.text)
            assert found is not None, page.text
            url = html.unescape(found[1])
            home = f"{BASE}/console/signed-out"
            asked = {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
            assert asked == {"client_id": CLIENT, "post_logout_redirect_uri": home}
            shown = await issuers.get(url)
            assert f'name="redirect_uri" value="{home}"' in shown.text, shown.text
            done = await issuers.post(
                f"{provider.issuer}/oauth2/end_session/confirm", data={"redirect_uri": home}
            )
            assert done.headers["location"] == home
            again = await client.get(home)
            assert (again.status_code, "You are signed out" in again.text) == (200, True)
            away = await client.get("/console/calls")
            assert away.headers["location"].startswith("/console/sign-in")


@pytest.mark.guarantee("console:openid")
async def test_an_answer_of_another_sign_in_lets_nobody_in(
    provider: Provider, issuer: DevIssuer, database: Dsns
) -> None:
    made = settings(issuer, provider, database.app, refusals_period_s=0.1)
    with provider.running(olga=OLGA, mallory=OLGA):
        async with browser(made) as client, browser(made) as mallory:
            mine, theirs = await sent(client), await sent(mallory)
            code = parse_qs(urlsplit(await agreed(theirs, "mallory")).query)
            state = parse_qs(urlsplit(mine).query)["state"][0]
            for query in (
                {"code": code["code"][0], "state": code["state"][0]},  # login CSRF
                {"code": code["code"][0], "state": state},  # another's code: the verifier is mine
                {"state": state},
                {"error": "access_denied", "state": state},
                {"code": "x", "state": state},
                {"code": "x", "state": state, "iss": "https://evil.example"},
                {"code": "\x00\ud7ff'\"<script>", "state": state},
                {},
            ):
                back = await client.get(f"/console/sign-in/callback?{urlencode(query)}")
                assert back.status_code == 401, query
                assert "mcpbroker_console" not in client.cookies
                assert "<script>" not in back.text

    async def audited() -> bool:
        types = await fetch(database.owner, "SELECT type FROM audit.events")
        return {one["type"] for one in types} == {"login.failed"}

    await wait_for(audited)


@pytest.mark.guarantee("console:openid")
async def test_an_answer_is_good_in_the_browser_that_began_the_sign_in_only(
    provider: Provider, issuer: DevIssuer, database: Dsns
) -> None:
    made = settings(issuer, provider, database.app)
    with provider.running(olga=OLGA):
        async with browser(made) as client, browser(made) as another:
            back = await agreed(await sent(client))
            assert (await another.get(back)).status_code == 400
            for cookie in ("x", "e30=", "eyJhIjoxfQ==", "é" * 3000):
                another.cookies.clear()
                header = f"mcpbroker_sign_in={cookie}".encode()
                page = await another.get(back, headers=[(b"Cookie", header)])
                assert page.status_code == 400, cookie
            assert (await client.get(back)).status_code == 303
            assert (await client.get(back)).status_code == 400, "a code is good once"


@pytest.mark.guarantee("console:openid")
async def test_a_token_for_another_tenant_or_without_one_lets_nobody_in(
    provider: Provider, issuer: DevIssuer, database: Dsns
) -> None:
    made = settings(issuer, provider, database.app)
    users = {
        "stranger": OLGA | {"tenant": "nobodys"},
        "nobody": {"scope": "operator"},
        "eve": OLGA | {"tenant": "other"},
    }
    with provider.running(**users):
        for user, status in (("stranger", 401), ("nobody", 401), ("eve", 303)):
            async with browser(made) as client:
                back = await client.get(await agreed(await sent(client), user))
                assert back.status_code == status, user


async def test_an_issuer_that_is_away_is_said_to_be(
    provider: Provider, issuer: DevIssuer, database: Dsns
) -> None:
    async with browser(settings(issuer, provider, database.app)) as client:
        page = await client.get("/console/sign-in/openid")
        assert page.status_code == 503
        assert "does not answer" in page.text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"public_url": "http://broker.example"}, "public_url of https"),
        ({"console_issuer": "https://another.example"}, "console_issuer must name"),
        ({"console_scopes": ("profile",)}, "openid"),
        ({"console_idle_s": 90_000}, "console_idle_s"),
    ],
)
def test_settings_that_could_not_be_safe_are_refused(
    provider: Provider, issuer: DevIssuer, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        settings(issuer, provider, "postgresql://unused", **changes)


async def test_where_nobody_could_sign_in_there_is_no_console(
    provider: Provider, issuer: DevIssuer, database: Dsns
) -> None:
    async with browser(settings(issuer, provider, database.app, console_client_id=None)) as client:
        assert (await client.get("/console")).status_code == 401  # as any path without a token
