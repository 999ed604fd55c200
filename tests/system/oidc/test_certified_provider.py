"""Tokens of a certified OpenID provider: machines, people with PKCE, rotation, and what is none."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest

from app.edges.auth.tokens import LoginFailedError, Verifier
from app.trust import Issuer
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE, settings_of
from tests.edges.auth.conftest import bearer, serving
from tests.support import npm
from tests.system.oidc.provider import PACKAGE, VERSION, OidcProvider, key

FIRST, SECOND = key("first"), key("second")


@pytest.fixture(scope="module", autouse=True)
def installed() -> None:
    try:
        npm.install(PACKAGE, VERSION)
    except npm.UnreachableError as error:
        pytest.skip(f"npm does not answer from here: {error}")


@pytest.fixture
def provider(tmp_path: Path) -> OidcProvider:
    return OidcProvider(tmp_path, resource=AUDIENCE)


def trusted(provider: OidcProvider, **changes: Any) -> Issuer:
    entry = {"issuer": provider.issuer, "audience": AUDIENCE, "token_type": "at+jwt"}
    return Issuer.model_validate(entry | {"tenants": ["demo", "other"]} | changes)


@asynccontextmanager
async def broker(
    database: Dsns, issuer: DevIssuer, provider: OidcProvider
) -> AsyncGenerator[httpx.AsyncClient]:
    settings = settings_of(database.app, issuer, issuers=(trusted(provider),), issuer_refetch_s=1)
    async with serving(settings) as http:
        yield http


@pytest.mark.guarantee("identity:verified")
async def test_a_person_logs_in_by_code_and_pkce_and_calls_in_their_own_name(
    database: Dsns, issuer: DevIssuer, provider: OidcProvider
) -> None:
    async with provider.running([FIRST]), broker(database, issuer, provider) as http:
        given = await provider.login("ada", resource=AUDIENCE)
        headers = bearer(given["access_token"])
        call = {"tool": "probe", "method": "echo", "args": {"text": "hi"}, "accept_async": True}
        made = await http.post("/mcp/tools/call", json=call, headers=headers)
        assert made.status_code == 202, made.text
        listed = (await http.get("/commands", headers=headers)).json()["commands"]
        assert [one["command_id"] for one in listed] == [made.json()["command_id"]]
        other = await provider.login("bob", resource=AUDIENCE)
        theirs = await http.get("/commands", headers=bearer(other["access_token"]))
        assert theirs.json()["commands"] == []
        claim = await http.post(
            f"/results/{uuid4()}/claim", json={"attempt": 1, "adapter": "a"}, headers=headers
        )
        assert claim.status_code == 403, "a person's scopes are no adapter's"


@pytest.mark.guarantee("identity:verified")
async def test_a_machine_gets_its_own_token_and_only_its_scope(
    database: Dsns, issuer: DevIssuer, provider: OidcProvider
) -> None:
    async with provider.running([FIRST]), broker(database, issuer, provider) as http:
        given = (await provider.machine(resource=AUDIENCE)).json()
        headers = bearer(given["access_token"])
        claim = {"attempt": 1, "adapter": "run"}
        answer = await http.post(f"/results/{uuid4()}/claim", json=claim, headers=headers)
        assert answer.status_code == 404, "it is let in, and there is no such command"
        assert (await http.get("/commands", headers=headers)).status_code == 403
        verifier = Verifier(settings_of("x", issuer, issuers=(trusted(provider),)))
        who = await verifier.verify(given["access_token"])
        assert (who.tenant_id, who.client_id, who.scopes) == ("other", "machine", {"results:write"})
        assert who.tenants == {"other"}, "it speaks for its own tenant unless its entry says more"


@pytest.mark.guarantee("identity:rotation")
async def test_a_rotation_refuses_no_good_token_and_ends_the_withdrawn_keys(
    database: Dsns, issuer: DevIssuer, provider: OidcProvider
) -> None:
    async def status(given: dict[str, Any]) -> int:
        answer = await http.get("/commands", headers=bearer(given["access_token"]))
        return answer.status_code

    async with broker(database, issuer, provider) as http:
        async with provider.running([FIRST]):
            old = await provider.login("ada", resource=AUDIENCE)
            assert await status(old) == 200
        async with provider.running([SECOND, FIRST]):
            new = await provider.login("ada", resource=AUDIENCE)
            assert jwt.get_unverified_header(new["access_token"])["kid"] == "second"
            assert await status(new) == 200, "at once, though keys were read just before"
            assert await status(old) == 200, "its key is there still"
        third = key("third")
        async with provider.running([third]):
            newest = await provider.login("ada", resource=AUDIENCE)
            assert [await status(one) for one in (newest, old, new)] == [200, 401, 401]


@pytest.mark.guarantee("identity:verified")
async def test_what_the_provider_calls_active_and_is_no_token_for_us_lets_nobody_in(
    database: Dsns, issuer: DevIssuer, provider: OidcProvider
) -> None:
    async with provider.running([FIRST]), broker(database, issuer, provider) as http:
        opaque = await provider.login("ada", scope="openid")
        without = (await provider.machine(scope="")).json()
        for token in (opaque["access_token"], without["access_token"]):
            assert (await provider.introspect(token))["active"], "it is good, for the provider"
            answer = await http.get("/commands", headers=bearer(token))
            assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        refused = await http.get("/commands", headers=bearer(opaque["id_token"]))
        assert refused.status_code == 401, "an ID token is for its client"


async def test_where_the_audience_is_a_client_its_id_tokens_are_kept_out_by_their_type(
    issuer: DevIssuer, provider: OidcProvider
) -> None:
    async with provider.running([FIRST]):
        id_token = (await provider.login("ada", scope="openid"))["id_token"]
        entry = {"audience": "desk", "tenant": "demo", "tenants": None}
        strict = Verifier(settings_of("x", issuer, issuers=(trusted(provider, **entry),)))
        with pytest.raises(LoginFailedError):
            await strict.verify(id_token)
        loose = trusted(provider, **entry, token_type=None)
        who = await Verifier(settings_of("x", issuer, issuers=(loose,))).verify(id_token)
        assert (who.user_id, who.scopes) == ("ada", frozenset()), "what OPERATORS warns of"


async def test_the_providers_own_refusals_are_the_standards(provider: OidcProvider) -> None:
    async with provider.running([FIRST]):
        assert (await provider.login("ada", pkce=False))["error"] == "invalid_request"
        elsewhere = await provider.login("ada", resource="https://elsewhere.example/mcp")
        assert elsewhere["error"] == "invalid_target"
        given = (await provider.machine(resource=AUDIENCE, scope="operator")).json()
        assert "scope" not in given, "what it does not know it does not give"
        strange = await provider.machine(resource="https://elsewhere.example/mcp")
        assert (strange.status_code, strange.json()["error"]) == (400, "invalid_target")
        assert await provider.introspect("no such token") == {"active": False}
