"""Tokens that are bound to a key (DPoP, RFC 9449): of use to who proves to hold it, and once each.

The hostile requests are those of RFC 9449, 4.3 and 11: each is refused with the scheme's own words.
"""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.edges.auth.dpop import ALGORITHMS, Seen
from app.edges.server import open_broker
from app.errors import UnavailableError
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.edges.auth.forge import b64, make, public_jwk, raw
from tests.support.calls import fetch
from tests.support.served import served

CALLS = "http://testserver/mcp/tools/call"
CALL = {"tool": "probe", "method": "echo", "args": {"text": "hi"}}
MEMBERS = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
PRIVATE: dict[str, Callable[[Any], Any]] = {
    "ES256": lambda key: ECAlgorithm.to_jwk(key, as_dict=True),
    "EdDSA": lambda key: OKPAlgorithm.to_jwk(key, as_dict=True),
    "RS256": lambda key: RSAAlgorithm.to_jwk(key, as_dict=True),
}


class Holder:
    """A client with a key, a token that is bound to it, and whatever proofs a test wants of it."""

    def __init__(self, issuer: DevIssuer, algorithm: str = "ES256", **claims: Any) -> None:
        self.algorithm, self.key = algorithm, make(algorithm)
        self.jwk = public_jwk(self.key)
        named = {name: self.jwk[name] for name in MEMBERS[self.jwk["kty"]]}
        text = json.dumps(named, separators=(",", ":"), sort_keys=True)
        self.thumbprint = b64(hashlib.sha256(text.encode()).digest())
        known: dict[str, Any] = {"cnf": {"jkt": self.thumbprint}} | claims
        bound: Any = {name: value for name, value in known.items() if value is not ...}
        self.token = issuer.token(tenant="demo", user="ada", scopes=("tools",), **bound)

    def claims(self, **changes: Any) -> dict[str, Any]:
        ath = b64(hashlib.sha256(self.token.encode()).digest())
        usual = {"htm": "POST", "htu": CALLS, "iat": time.time(), "jti": str(uuid4()), "ath": ath}
        return {name: value for name, value in (usual | changes).items() if value is not ...}

    def proof(self, *, header: Any = None, key: Any = None, **changes: Any) -> str:
        head = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.jwk} | (header or {})
        head = {name: value for name, value in head.items() if value is not ...}
        body = (
            f"{b64(json.dumps(head).encode())}.{b64(json.dumps(self.claims(**changes)).encode())}"
        )
        signed = jwt.get_algorithm_by_name(self.algorithm).sign(body.encode(), key or self.key)
        return f"{body}.{b64(signed)}"

    def headers(self, proof: str | None = None) -> dict[str, str]:
        return {"Authorization": f"DPoP {self.token}", "DPoP": proof or self.proof()}


async def called(http: httpx.AsyncClient, headers: Any) -> httpx.Response:
    return await http.post(CALLS, json=CALL, headers=headers)


@asynccontextmanager
async def door(
    database: Dsns, issuer: DevIssuer, **changes: Any
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an app, its MCP front included."""
    async with (
        open_broker(settings_of(database.app, issuer, **changes)) as broker,
        served(broker, issuer) as made,
        httpx.AsyncClient(
            transport=httpx.ASGITransport(app=made.guard, raise_app_exceptions=False),
            base_url="http://testserver",
            headers={"Prefer": "respond-async"},
        ) as http,
    ):
        yield http


async def commands(database: Dsns) -> int:
    [row] = await fetch(database.owner, "SELECT count(*) AS n FROM commands")
    return int(row["n"])


@pytest.mark.guarantee("identity:possession")
@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
async def test_a_bound_token_calls_with_a_proof_of_its_key_over_http_and_mcp(
    database: Dsns, issuer: DevIssuer, algorithm: str
) -> None:
    one = Holder(issuer, algorithm)
    async with door(database, issuer) as http:
        assert (await called(http, one.headers())).status_code == 202
        listed = await http.post(
            "/mcp",
            headers=one.headers(one.proof(htu="http://testserver/mcp?a=b#c")) | {"Accept": "*/*"},
            json={"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}},
        )
        assert "probe_echo" in listed.text
        looked = one.headers(one.proof(htm="GET", htu="HTTP://TESTSERVER:80/commands"))
        assert (await http.get("/commands?state=queued", headers=looked)).status_code == 200


def hostile(one: Holder, other: Holder) -> dict[str, Any]:
    """What is wrong, and the header fields that are sent."""
    secret = jwt.get_algorithm_by_name("HS256")
    pem = b"-----BEGIN PUBLIC KEY-----"
    head = {"typ": "dpop+jwt", "alg": "HS256", "jwk": {"kty": "oct", "k": b64(pem)}}
    text = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(one.claims()).encode())}"
    good = one.proof()
    found = {
        "address of another route": one.proof(htu="http://testserver/mcp"),
        "address of another host": one.proof(htu="http://evil.example/mcp/tools/call"),
        "address of another scheme": one.proof(htu="https://testserver/mcp/tools/call"),
        "address of another port": one.proof(htu="http://testserver:8080/mcp/tools/call"),
        "address with a user": one.proof(htu="http://a@testserver/mcp/tools/call"),
        "address that is none": one.proof(htu="http://[testserver/mcp/tools/call"),
        "address that is no text": one.proof(htu=[CALLS]),
        "no address": one.proof(htu=...),
        "another method": one.proof(htm="GET"),
        "method in small letters": one.proof(htm="post"),
        "no method": one.proof(htm=...),
        "stale": one.proof(iat=time.time() - 3600),
        "of the future": one.proof(iat=time.time() + 3600),
        "time as text": one.proof(iat=str(time.time())),
        "no time": one.proof(iat=...),
        "over": one.proof(exp=time.time() - 3600),
        "no token": one.proof(ath=...),
        "of another token": one.proof(ath=b64(hashlib.sha256(other.token.encode()).digest())),
        "token itself": one.proof(ath=one.token),
        "no id": one.proof(jti=...),
        "empty id": one.proof(jti=""),
        "long id": one.proof(jti="x" * 300),
        "id of no text": one.proof(jti=7),
        "signed by another key": one.proof(key=other.key),
        "changed": f"{good.split('.')[0]}.{one.proof().split('.')[1]}.{good.split('.')[2]}",
        "symmetrical": f"{text}.{b64(secret.sign(text.encode(), pem * 2))}",
        "alg none": raw({**head, "alg": "none", "jwk": one.jwk}, one.claims(), b""),
        "alg of another kind": one.proof(header={"alg": "RS256"}),
        "alg of no text": one.proof(header={"alg": ["ES256"]}),
        "a private key in it": one.proof(header={"jwk": PRIVATE["ES256"](one.key)}),
        "no key": one.proof(header={"jwk": ...}),
        "key of no kind": one.proof(header={"jwk": {**one.jwk, "kty": "none"}}),
        "key of a kind that is no text": one.proof(header={"jwk": {**one.jwk, "kty": ["EC"]}}),
        "key that is none": one.proof(header={"jwk": [1]}),
        "key by name": one.proof(header={"jwk": ..., "kid": "mine"}),
        "another type": one.proof(header={"typ": "JWT"}),
        "no type": one.proof(header={"typ": ...}),
        "critical extension": one.proof(header={"crit": ["b64"], "b64": False}),
        "the token": one.token,
        "no JWT": "proof",
        "too long": one.proof(more="x" * 9000),
    }
    headers: dict[str, Any] = {name: one.headers(proof) for name, proof in found.items()}
    headers["no proof"] = {"Authorization": f"DPoP {one.token}"}
    headers["two proofs"] = [*one.headers().items(), ("DPoP", one.proof())]
    return headers


@pytest.mark.guarantee("identity:possession")
async def test_no_proof_but_one_of_this_key_token_request_and_time_gets_in(
    database: Dsns, issuer: DevIssuer
) -> None:
    one, other = Holder(issuer), Holder(issuer)
    async with door(database, issuer) as http:
        assert (await called(http, one.headers())).status_code == 202
        for name, headers in hostile(one, other).items():
            answer = await called(http, headers)
            challenge = answer.headers.get("WWW-Authenticate", "")
            assert answer.status_code == 401, name
            assert challenge.startswith('DPoP error="invalid_dpop_proof"'), (name, challenge)
            assert f'algs="{" ".join(ALGORITHMS)}"' in challenge
    assert await commands(database) == 1, "nothing of these was started"
    [event] = await fetch(
        database.owner,
        "SELECT DISTINCT body ->> 'reason' AS reason FROM audit.events WHERE type = 'login.failed'",
    )
    assert event["reason"] == "proof"


@pytest.mark.guarantee("identity:possession")
async def test_a_bound_token_is_of_no_use_without_its_key_nor_any_other_with_one(
    database: Dsns, issuer: DevIssuer
) -> None:
    one, thief = Holder(issuer), Holder(issuer)
    plain, empty = Holder(issuer, cnf=...), Holder(issuer, cnf={})
    odd = Holder(issuer, cnf={"jkt": ["x"]})
    both = Holder(issuer)
    both = Holder(issuer, cnf={"jkt": both.thumbprint, "x5t#S256": "x" * 43})
    ath = b64(hashlib.sha256(one.token.encode()).digest())
    stolen = {"Authorization": f"DPoP {one.token}", "DPoP": thief.proof(ath=ath)}
    async with door(database, issuer) as http:
        bearer = await called(http, {"Authorization": f"Bearer {one.token}"})
        with_proof = await called(http, one.headers() | {"Authorization": f"Bearer {one.token}"})
        for answer in (bearer, with_proof, await called(http, stolen)):
            assert answer.status_code == 401
            assert answer.headers["WWW-Authenticate"].startswith('DPoP error="invalid_token"')
        for holder in (plain, empty, odd, both):
            answer = await called(http, holder.headers())
            assert answer.headers["WWW-Authenticate"].startswith('DPoP error="invalid_token"')
        assert (await called(http, {"Authorization": f"Bearer {plain.token}"})).status_code == 202
        assert (await called(http, {"Authorization": f"Bearer {empty.token}"})).status_code == 401
        nobody = await called(http, {})
        assert nobody.headers["WWW-Authenticate"].startswith("Bearer scope=")
    assert await commands(database) == 1


@pytest.mark.guarantee("identity:possession")
async def test_a_proof_counts_once_and_a_refused_one_can_be_sent_again(
    database: Dsns, issuer: DevIssuer
) -> None:
    one, other = Holder(issuer), Holder(issuer)
    proof = one.proof()
    async with door(database, issuer) as http:
        # To another route, where it is not good: that does not use it up.
        assert (await http.get("/commands", headers=one.headers(proof))).status_code == 401
        assert (await called(http, one.headers(proof))).status_code == 202
        again = await called(http, one.headers(proof))
        assert (again.status_code, "shown before" in again.json()["detail"]) == (401, True)
        # Another one of the same id is a replay, too; another client's is not.
        jti = json.loads(base64.urlsafe_b64decode(proof.split(".")[1] + "=="))["jti"]
        assert (await called(http, one.headers(one.proof(jti=jti)))).status_code == 401
        assert (await called(http, other.headers(other.proof(jti=jti)))).status_code == 202
    async with door(database, issuer) as replica:
        answer = await called(replica, one.headers(proof))
        assert (answer.status_code, "shown before" in answer.json()["detail"]) == (401, True)
        assert (await called(replica, one.headers())).status_code == 202


@pytest.mark.guarantee("identity:possession")
async def test_one_proof_that_is_shown_to_many_replicas_at_once_is_taken_by_one(
    database: Dsns, issuer: DevIssuer
) -> None:
    one = Holder(issuer)
    async with AsyncExitStack() as opened:
        doors = [await opened.enter_async_context(door(database, issuer)) for _ in range(3)]
        for _ in range(5):
            headers = one.headers()
            answers = await asyncio.gather(*(called(http, headers) for http in doors))
            assert sorted(answer.status_code for answer in answers) == [202, 401, 401]
    kept = "SELECT count(*) AS n, bool_and(kept_until > now()) AS ahead FROM dpop_proofs"
    [row] = await fetch(database.owner, kept)
    assert (row["n"], row["ahead"]) == (5, True)


async def test_proofs_that_are_over_are_forgotten(database: Dsns, issuer: DevIssuer) -> None:
    one = Holder(issuer)
    async with door(database, issuer) as http:
        assert (await called(http, one.headers())).status_code == 202
    over = "UPDATE dpop_proofs SET kept_until = now() - interval '1 second'"
    await fetch(database.owner, over)
    async with door(database, issuer) as http:
        assert (await called(http, one.headers())).status_code == 202
    [row] = await fetch(database.owner, "SELECT count(*) AS n FROM dpop_proofs")
    assert row["n"] == 1


def test_proofs_are_remembered_while_they_are_good_and_never_forgotten_for_others() -> None:
    seen = Seen(kept_s=3600, most=3, of_key=2)
    assert [seen.first("a", "1"), seen.first("a", "1"), seen.first("a", "2")] == [True, False, True]
    with pytest.raises(UnavailableError):
        seen.first("a", "3")
    assert seen.first("b", "1")
    with pytest.raises(UnavailableError):
        seen.first("c", "1")
    assert not seen.first("a", "1")
    short = Seen(kept_s=0, most=1, of_key=1)
    assert all(short.first("a", str(n)) for n in range(10)), "what is over makes room"


@pytest.mark.guarantee("identity:possession")
async def test_where_nonces_are_asked_for_a_proof_without_a_fresh_one_gets_one(
    database: Dsns, issuer: DevIssuer
) -> None:
    one = Holder(issuer)
    keys = ["a secret of all replicas, of 32 bytes"]
    old = ["another secret of theirs, of 32 bytes"]
    async with door(database, issuer, dpop_nonce_s=300, request_state_keys=keys) as http:
        first = await called(http, one.headers())
        nonce = first.headers["DPoP-Nonce"]
        assert first.headers["WWW-Authenticate"].startswith('DPoP error="use_dpop_nonce"')
        assert first.headers["Cache-Control"] == "no-store"
        assert (await called(http, one.headers(one.proof(nonce=nonce)))).status_code == 202
        for bad in (nonce[:-1], nonce[:-2] + "AA", "A" * len(nonce), "é", "", 7, nonce + "AAAA"):
            answer = await called(http, one.headers(one.proof(nonce=bad)))
            assert answer.headers["WWW-Authenticate"].startswith('DPoP error="use_dpop_nonce"')
    async with door(database, issuer, dpop_nonce_s=300, request_state_keys=old + keys) as replica:
        answer = await called(replica, one.headers(one.proof(nonce=nonce)))
        assert answer.status_code == 202, "keys are rotated as those of elicitations are"
    async with door(database, issuer, dpop_nonce_s=1e-9, request_state_keys=keys) as strict:
        answer = await called(strict, one.headers(one.proof(nonce=nonce)))
        assert answer.headers["WWW-Authenticate"].startswith('DPoP error="use_dpop_nonce"')


async def test_clients_and_pages_learn_of_dpop(database: Dsns, issuer: DevIssuer) -> None:
    origin = {"Origin": "http://127.0.0.1:5173"}
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "dpop"}
    async with door(database, issuer) as http:
        told = await http.get("/.well-known/oauth-protected-resource/mcp")
        assert told.json()["dpop_signing_alg_values_supported"] == list(ALGORITHMS)
        assert not any(name.startswith("HS") for name in ALGORITHMS)
        preflight = await http.options(CALLS, headers=origin | asked)
        assert "DPoP" in preflight.headers["Access-Control-Allow-Headers"].split(", ")
        answer = await http.get("/healthz", headers=origin)
        assert "DPoP-Nonce" in answer.headers["Access-Control-Expose-Headers"].split(", ")


async def test_a_hostile_path_puts_nothing_into_the_challenge(
    database: Dsns, issuer: DevIssuer
) -> None:
    one = Holder(issuer)
    async with door(database, issuer) as http:
        for path in ('/commands/"%0d%0aSet-Cookie: a=b', "/commands/%22, x=%22"):
            answer = await http.get(path, headers=one.headers())
            assert answer.status_code == 401
            assert "Set-Cookie" not in str(answer.headers)
            assert "x=" not in answer.headers["WWW-Authenticate"]
