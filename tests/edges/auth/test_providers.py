"""Tokens of real OpenID providers: discovery, rotation, several issuers, outages, mappings."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.edges.auth.issuer_keys import WAITING_MAX
from app.edges.auth.tokens import LoginFailedError, Verifier
from app.errors import IssuerUnavailableError
from app.trust import Issuer
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE, settings_of
from tests.edges.auth.conftest import bearer, serving
from tests.edges.auth.forge import Signer, raw
from tests.edges.auth.provider import Provider
from tests.support.stack import wait_for

# Of the provider's own use of Authlib.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ADA = {"tenant": "demo", "scope": "tools", "groups": ["staff"]}


@pytest.fixture
def provider() -> Provider:
    return Provider(AUDIENCE)


def trusting(issuer: DevIssuer, *issuers: Issuer, dsn: str = "", **changes: Any) -> Settings:
    return settings_of(dsn or "postgresql://unused", issuer, issuers=issuers, **changes)


def of(provider: Provider, **changes: Any) -> Issuer:
    return Issuer.model_validate(
        {"issuer": provider.issuer, "audience": provider.audience} | changes
    )


@pytest.mark.guarantee("identity:rotation")
async def test_a_providers_token_gets_in_and_after_a_rotation_the_new_one_does_and_the_old_not(
    provider: Provider, database: Dsns, issuer: DevIssuer
) -> None:
    # Keys were read less than `issuer_refetch_s` ago: the new one's token waits for the next.
    settings = trusting(issuer, of(provider), dsn=database.app, issuer_refetch_s=1)
    async with serving(settings) as http:
        with provider.running(ada=ADA):
            old = await provider.login("ada")
            answer = await http.get("/commands", headers=bearer(old))
            assert answer.status_code == 200, answer.text
        with provider.running(ada=ADA):
            new = await provider.login("ada")
            several = (http.get("/commands", headers=bearer(new)) for _ in range(3))
            assert [one.status_code for one in await asyncio.gather(*several)] == [200] * 3
            assert (await http.get("/commands", headers=bearer(old))).status_code == 401


@pytest.mark.guarantee("identity:rotation")
async def test_a_key_that_its_issuer_has_withdrawn_ends_by_itself(
    provider: Provider, issuer: DevIssuer
) -> None:
    verifier = Verifier(trusting(issuer, of(provider), issuer_keys_kept_s=0.05))
    with provider.running(ada=ADA):
        token = await provider.login("ada")
        await verifier.verify(token)

    async def refused() -> bool:
        try:
            await verifier.verify(token)
        except LoginFailedError:
            return True
        return False

    with provider.running(ada=ADA):
        await wait_for(refused)


@pytest.mark.guarantee("identity:issuer-away")
async def test_while_a_provider_is_away_known_keys_go_on_and_unknown_ones_are_503(
    provider: Provider, database: Dsns, issuer: DevIssuer
) -> None:
    settings = trusting(issuer, of(provider), dsn=database.app, issuer_keys_kept_s=0.05)
    with provider.running(ada=ADA):
        token = await provider.login("ada")
    async with serving(settings) as http:
        answer = await http.get("/commands", headers=bearer(token))
        assert (answer.status_code, answer.json()["code"]) == (503, "issuer_unavailable")
        assert provider.issuer in answer.json()["detail"]
        assert int(answer.headers["retry-after"]) > 0
        health = await http.get("/healthz")
        assert health.status_code == 200


@pytest.mark.guarantee("identity:issuer-away")
async def test_keys_that_are_known_outlive_their_issuer_but_not_for_ever(
    provider: Provider, issuer: DevIssuer
) -> None:
    patient = Verifier(trusting(issuer, of(provider), issuer_keys_kept_s=0.05))
    strict = Verifier(
        trusting(issuer, of(provider), issuer_keys_kept_s=0.05, issuer_keys_stale_max_s=0.1)
    )
    with provider.running(ada=ADA):
        token = await provider.login("ada")
        for verifier in (patient, strict):
            assert (await verifier.verify(token)).user_id == "ada"

    async def refused() -> bool:
        try:
            await strict.verify(token)
        except IssuerUnavailableError:
            return True
        return False

    await wait_for(refused)
    assert (await patient.verify(token)).tenant_id == "demo"


@pytest.mark.guarantee("identity:issuer-away")
async def test_a_new_keys_token_gets_503_while_nobody_can_tell_whose_it_is(
    issuer: DevIssuer, tmp_path: Path
) -> None:
    signer = Signer("https://a.example", "EdDSA")
    entry = signer.trusted(tmp_path)
    verifier = Verifier(trusting(issuer, entry))
    await verifier.verify(signer.token())
    assert entry.jwks_file is not None
    entry.jwks_file.rename(tmp_path / "away")

    async def unavailable() -> bool:
        try:
            await verifier.verify(signer.token(header={"kid": "new"}))
        except IssuerUnavailableError:
            return True
        except LoginFailedError:  # it was read just now
            return False
        return False

    await wait_for(unavailable)
    await verifier.verify(signer.token())


async def test_whatever_keys_tokens_name_an_issuer_is_asked_once_in_a_while(
    provider: Provider, issuer: DevIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    stream = httpx.AsyncClient.stream

    def counted(self: httpx.AsyncClient, method: str, url: str, **more: Any) -> Any:
        asked.append(url)
        return stream(self, method, url, **more)

    monkeypatch.setattr(httpx.AsyncClient, "stream", counted)
    verifier = Verifier(trusting(issuer, of(provider), issuer_refetch_s=2))
    with provider.running(ada=ADA):
        good = await provider.login("ada")
        await verifier.verify(good)
        claims = {"iss": provider.issuer, "aud": AUDIENCE}
        strange = [raw({"alg": "RS256", "kid": f"none {n}"}, claims) for n in range(WAITING_MAX)]
        nameless = [raw({"alg": "RS256"}, claims) for _ in range(20)]
        asking = (verifier.verify(token) for token in strange + nameless)
        told = Counter(map(type, await asyncio.gather(*asking, return_exceptions=True)))
    assert set(told) == {LoginFailedError, IssuerUnavailableError}, "few wait, the rest are told to"
    assert told.total() == WAITING_MAX + 20
    assert told[LoginFailedError] >= WAITING_MAX
    assert len(asked) == 4, "twice: a discovery, and a reading of keys"


@pytest.mark.guarantee("identity:several-issuers")
async def test_two_providers_speak_for_their_own_tenants_only(issuer: DevIssuer) -> None:
    one, two = Provider(AUDIENCE), Provider(AUDIENCE)
    verifier = Verifier(
        trusting(
            issuer,
            of(one, tenants=["demo"], scopes=["tools"]),
            of(two, tenants=["other"], user_prefix="two:"),
        )
    )
    strong = {"tenant": "demo", "scope": "tools operator", "tenants": ["*"]}
    with one.running(ada=strong, eve=ADA | {"tenant": "other"}), two.running(ada=strong, bob=ADA):
        who = await verifier.verify(await one.login("ada"))
        assert (who.tenant_id, who.user_id, who.scopes) == ("demo", "ada", {"tools"})
        assert who.tenants == {"demo"}, "'*' is every tenant of the issuer's, not of the broker's"
        for provider, user in ((one, "eve"), (two, "ada"), (two, "bob")):
            with pytest.raises(LoginFailedError):
                await verifier.verify(await provider.login(user))


@pytest.mark.guarantee("identity:several-issuers")
async def test_claims_are_mapped_as_the_issuers_entry_says(
    provider: Provider, issuer: DevIssuer
) -> None:
    entry = of(
        provider,
        tenant_claim="https://acme.example/org",
        tenant_map={"ACME Ltd.": "demo"},
        user_claim="email_name",
        user_prefix="acme:",
        groups_claim="/realm/groups",
        scope_claim="/realm/roles",
        scope_map={"broker-user": ["tools"], "broker-adapter": ["results:write"]},
        client_claims=["azp"],
        clients={"eda": {"scopes": ["results:write"], "tenants": ["*"], "tools": ["git/*"]}},
    )
    claims = {
        "https://acme.example/org": "ACME Ltd.",
        "email_name": "ada@acme.example",
        "realm": {"groups": ["staff"], "roles": ["broker-user", "owner-of-everything"]},
    }
    with provider.running(
        ada=claims,
        machine=claims | {"azp": "eda"},
        stranger=claims | {"https://acme.example/org": "Other Ltd."},
        broken=claims | {"realm": {"roles": "broker-user", "groups": {"staff": True}}},
    ):
        verifier = Verifier(trusting(issuer, entry))
        who = await verifier.verify(await provider.login("ada"))
        assert (who.tenant_id, who.user_id) == ("demo", "acme:ada@acme.example")
        assert (who.groups, who.scopes, who.tenants) == ({"staff"}, {"tools"}, {"demo"})
        machine = await verifier.verify(await provider.login("machine"))
        assert (machine.client_id, machine.scopes) == ("acme:eda", {"results:write"})
        assert (machine.tenants, machine.tools) == ({"demo"}, ("git/*",))
        for user in ("stranger", "broken"):
            with pytest.raises(LoginFailedError):
                await verifier.verify(await provider.login(user))


async def test_a_discovery_document_of_another_issuer_gives_no_keys(
    provider: Provider, issuer: DevIssuer
) -> None:
    # The same server under another name: what it says of itself is not what we trust.
    entry = of(provider, issuer=f"http://localhost:{provider.port}/")
    token = raw({"alg": "RS256"}, {"iss": entry.issuer})
    with provider.running(ada=ADA), pytest.raises(IssuerUnavailableError):
        await Verifier(trusting(issuer, entry)).verify(token)
