"""A fuzz of tokens: nobody gets in but with what a trusted issuer signed, for here and for now."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from app.edges.auth.issuer_keys import usable
from app.edges.auth.tokens import TOKEN_BYTES_MAX, LoginFailedError, Verifier
from app.identity import Identity
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE, settings_of
from tests.edges.auth.conftest import bearer, serving
from tests.edges.auth.forge import Signer, b64, make, public_jwk, raw
from tests.support.examples import examples

A = Signer("https://a.example", "RS256")
B = Signer("https://b.example", "EdDSA")
STRANGER = Signer("https://stranger.example", "RS256")
STRANGERS_KEYS = {name: make(name) for name in ("RS256", "ES256", "EdDSA")}
NOT_VALID = "The bearer token or certificate is not valid here."
EXPIRED = "The bearer token has expired; get a new one."
NONE = b64(b'{"alg":"none"}')
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=.+/ é"


class Door:
    """A verifier that trusts A for tenant demo and B for tenant other, asked synchronously."""

    def __init__(self, folder: Path, issuer: DevIssuer) -> None:
        self.settings = settings_of(
            "postgresql://unused",
            issuer,
            issuers=(
                A.trusted(folder, algorithms=["RS256", "ES256"], tenants=["demo"]),
                B.trusted(folder, tenants=["other"]),
            ),
            issuer_refetch_s=1e-9,  # what names no known key waits for no reading
        )
        self.verifier = Verifier(self.settings)
        self.runner = asyncio.Runner()

    def open(self, token: str) -> Identity | None:
        """Who gets in; None is nobody. Anything but a deliberate refusal is raised."""
        try:
            return self.runner.run(self.verifier.verify(token))
        except LoginFailedError:
            return None


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, issuer: DevIssuer) -> Iterator[Door]:
    made = Door(tmp_path_factory.mktemp("door"), issuer)
    with made.runner:
        yield made


def utf_16(claims: dict[str, Any]) -> str:
    """Well signed, and only a guess at its encoding can read it."""
    head = b64(json.dumps({"alg": A.algorithm, "kid": A.kid}).encode())
    body = f"{head}.{b64(json.dumps(claims).encode('utf-16'))}"
    signature = jwt.get_algorithm_by_name(A.algorithm).sign(body.encode(), A.key)
    return f"{body}.{b64(signature)}"


def badly_signed() -> dict[str, str]:
    header, body, signature = A.token().split(".")
    _, forged, _ = A.token(tenant="other").split(".")
    pem, jwk = A.public_pem(), A.jwk()

    def hs256(key: bytes) -> str:
        text = f"{b64(json.dumps({'alg': 'HS256', 'kid': A.kid}).encode())}.{body}"
        return f"{text}.{b64(jwt.get_algorithm_by_name('HS256').sign(text.encode(), key))}"

    twice = json.dumps(A.claims())[:-1] + ', "tenant": "demo"}'
    return {
        "alg none": raw({"alg": "none", "kid": A.kid}, A.claims()),
        "alg none, no signature": f"{NONE}.{body}.",
        "alg None in capitals": raw({"alg": "NONE", "kid": A.kid}, A.claims()),
        "HS256 with the public key, PEM": hs256(pem),
        "HS256 with the public key, PEM without its end": hs256(pem.strip()),
        "HS256 with the public key, JWK": hs256(json.dumps(jwk).encode()),
        "HS256 with nothing": hs256(b"\0"),
        "signature stripped": f"{header}.{body}.",
        "signature and its dot stripped": f"{header}.{body}",
        "signature of another": f"{header}.{body}.{A.token(sub='eve').split('.')[2]}",
        "tenant swapped": f"{header}.{forged}.{signature}",
        "another's key": A.token(key=STRANGERS_KEYS["RS256"]),
        "another's key, which it brings": A.token(
            key=STRANGERS_KEYS["RS256"], header={"jwk": public_jwk(STRANGERS_KEYS["RS256"])}
        ),
        "another's key, which it names": A.token(
            key=STRANGERS_KEYS["RS256"], header={"jku": "http://127.0.0.1:9/keys", "x5u": "x"}
        ),
        "unknown issuer": STRANGER.token(),
        "kid of another issuer": A.token(header={"kid": B.kid}),
        "issuer of another kid": B.sign(json.dumps(A.claims())),
        "kid of no string": A.token(header={"kid": {"a": 1}}),
        "kid of nobody": A.token(header={"kid": "../../../dev/null"}),
        "a tenant that the issuer may not speak for": A.token(tenant="other"),
        "a claim twice": A.sign(twice),
        "a header twice": A.sign(json.dumps(A.claims()), header={}).replace(
            header, b64(f'{{"alg":"none","alg":"RS256","kid":"{A.kid}"}}'.encode())
        ),
        "critical extension": A.token(header={"crit": ["exp"]}),
        "unencoded payload": A.token(header={"b64": False, "crit": ["b64"]}),
        "oversized": A.token(more="x" * TOKEN_BYTES_MAX),
        "deep": A.sign('{"iss":' + "[" * 5000 + "]" * 5000 + "}"),
        "spare bits in the signature": (
            f"{header}.{body}.{signature[:-1]}{chr(ord(signature[-1]) + 1)}"
        ),
        "padded": f"{header}.{body}.{signature}==",
    }


def badly_claimed() -> dict[str, str]:
    now = int(time.time())
    return {
        "issuer in a list": A.token(iss=[A.name]),
        "issuer with a slash": A.token(iss=A.name + "/"),
        "issuer missing": A.token(iss=...),
        "another audience": A.token(aud="https://elsewhere.example/mcp"),
        "audience missing": A.token(aud=...),
        "audience that begins alike": A.token(aud=AUDIENCE + "/x"),
        "expired": A.token(exp=now - 60),
        "expiry missing": A.token(exp=...),
        "expiry of no number": A.token(exp="never"),
        "expiry beyond numbers": A.sign(json.dumps(A.claims(exp=77777)).replace("77777", "1e999")),
        "not yet valid": A.token(nbf=now + 600),
        "issued in the future": A.token(iat=now + 600),
        "tenant missing": A.token(tenant=...),
        "tenant of no string": A.token(tenant=["demo"]),
        "tenant of the broker's log": A.token(tenant="_broker"),
        "user missing": A.token(sub=...),
        "user of no string": A.token(sub=17),
        "user of those whose data was erased": A.token(sub="[erased]"),
        "groups of no strings": A.token(groups=[{"a": 1}]),
        "scopes of no strings": A.token(scope=[["tools"]]),
        "bound to a certificate": A.token(cnf={"x5t#S256": "A" * 43}),
        "bound to nothing": A.token(cnf={"x5t#S256": None}),
        "bound to an empty text": A.token(cnf={"x5t#S256": ""}),
        "bound by null": A.token(cnf=None),
        "expiry in a text": A.token(exp=str(now + 600)),
        "expiry in digits of another script": A.token(
            exp=str(now + 600).translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩"))
        ),
        "expiry of true": A.token(exp=True),
        "issued at a text": A.token(iat=str(now)),
        "not before a text": A.token(nbf=str(now - 60)),
        "claims after a byte order mark": A.sign("\ufeff" + json.dumps(A.claims())),
        "claims in UTF-16": utf_16(A.claims()),
        "bound in another way": A.token(cnf={"jkt": "A" * 43}),
        "claims in a list": A.sign("[]"),
        "claims of no JSON": A.sign("{]"),
        "a constant that is no JSON": A.sign('{"iss": NaN}'),
        "empty": "..",
        "words": "let me in",
    }


@pytest.mark.guarantee("identity:verified")
async def test_no_bad_token_gets_in_anywhere(
    database: Dsns, issuer: DevIssuer, tmp_path: Path
) -> None:
    issuers = (A.trusted(tmp_path, tenants=["demo"]), B.trusted(tmp_path, tenants=["other"]))
    some = "01900000-0000-7000-8000-000000000000"
    doors = [
        ("POST", "/mcp"),
        ("POST", "/mcp/tools/call"),
        ("GET", "/commands"),
        ("POST", f"/results/{some}/claim"),
        ("GET", "/operator/dead-letters"),
        ("GET", "/no-such-page"),
    ]
    async with serving(settings_of(database.app, issuer, issuers=issuers)) as http:
        assert (await http.get("/commands", headers=bearer(A.token()))).status_code == 200
        for name, token in (badly_signed() | badly_claimed()).items():
            for method, path in doors:
                answer = await http.request(method, path, json={}, headers=bearer(token))
                assert answer.status_code == 401, f"{name} at {path}: {answer.text}"
                challenge = answer.headers["www-authenticate"]
                assert 'error="invalid_token"' in challenge
                assert "resource_metadata=" in challenge
                # The caller learns no more than no, but for a good token of yesterday.
                said = EXPIRED if name == "expired" else NOT_VALID
                assert answer.json()["detail"] == said
                assert f'error_description="{said}"' in challenge
        both = [("Authorization", f"Bearer {A.token()}"), ("Authorization", "Bearer x")]
        assert (await http.get("/commands", headers=both)).status_code == 401
        challenge = (await http.get("/commands")).headers["www-authenticate"]
        assert "error=" not in challenge, "nothing was shown, so nothing was bad"
        basic = {"Authorization": "Basic YWRhOmFkYQ=="}
        assert (await http.get("/commands", headers=basic)).status_code == 401


def test_good_tokens_get_in(door: Door) -> None:
    who = door.open(A.token(aud=["x", AUDIENCE], groups="staff", scope=["tools"]))
    assert who is not None
    assert (who.tenant_id, who.user_id, who.groups, who.scopes) == (
        "demo", "ada", {"staff"}, {"tools"},
    )  # fmt: skip
    assert who.tenants == {"demo"}, "without a binding an adapter speaks for its own tenant"
    late = door.open(A.token(exp=int(time.time()) - 10, nbf=int(time.time()) + 10))
    assert late is not None, "within the clock skew"
    assert door.open(B.token(tenant="other")) is not None


@pytest.mark.guarantee("identity:verified")
@pytest.mark.parametrize("algorithm", ["RS512", "PS256"])
def test_a_right_key_under_an_algorithm_that_is_not_on_the_list_lets_nobody_in(
    algorithm: str, tmp_path: Path, issuer: DevIssuer
) -> None:
    signer = Signer("https://c.example", algorithm)
    entry = signer.trusted(tmp_path, algorithms=["RS256", algorithm])
    assert entry.jwks_file is not None
    # A key set that does not say what its key is for.
    entry.jwks_file.write_text(json.dumps({"keys": [public_jwk(signer.key)]}))
    unsaid = signer.token(header={"kid": ...})
    for algorithms, gets_in in ((["RS256", algorithm], True), (["RS256"], False)):
        trusted = entry.model_copy(update={"algorithms": tuple(algorithms)})
        verifier = Verifier(settings_of("postgresql://unused", issuer, issuers=(trusted,)))
        with asyncio.Runner() as runner:
            if gets_in:
                assert runner.run(verifier.verify(unsaid)).tenant_id == "demo"
            else:
                with pytest.raises(LoginFailedError):
                    runner.run(verifier.verify(unsaid))


FUZZ = settings(
    max_examples=examples(150),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.mark.guarantee("identity:verified")
@FUZZ
@given(place=st.integers(0, 10_000), other=st.sampled_from(CHARACTERS), cut=st.booleans())
def test_no_token_survives_the_change_of_a_character(
    door: Door, place: int, other: str, cut: bool
) -> None:
    token = A.token()
    place %= len(token)
    changed = token[:place] + ("" if cut else other) + token[place + 1 :]
    if changed != token:
        assert door.open(changed) is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["demo", "other", "*", "tools", A.name, B.name, AUDIENCE, "RS256", "none"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
HEADERS = st.dictionaries(
    st.sampled_from(["alg", "kid", "typ", "crit", "b64", "jwk", "jku", "x5c", "zip", "enc"]),
    JSON | st.sampled_from(["RS256", "ES256", "EdDSA", "HS256", "none", A.kid, B.kid]),
)
NAMES = "iss aud sub exp nbf iat jti tenant groups scope tenants tools client_id azp cnf"
CLAIMS = st.dictionaries(st.sampled_from(NAMES.split()), JSON | st.integers(0, 2**33))


@pytest.mark.guarantee("identity:verified")
@FUZZ
@given(
    header=HEADERS,
    claims=CLAIMS,
    signer=st.sampled_from([A, B]),
    algorithm=st.sampled_from(sorted(STRANGERS_KEYS)),
)
def test_whatever_a_strangers_key_signs_lets_nobody_in(
    door: Door, header: dict[str, Any], claims: dict[str, Any], signer: Signer, algorithm: str
) -> None:
    stranger = Signer.__new__(Signer)
    stranger.name, stranger.algorithm, stranger.kid = signer.name, algorithm, signer.kid
    stranger.key = STRANGERS_KEYS[algorithm]
    text = json.dumps(signer.claims() | claims)
    assert door.open(stranger.sign(text, header=header)) is None
    assert door.open(raw({"alg": algorithm, "kid": signer.kid} | header, signer.claims())) is None


@pytest.mark.guarantee("identity:verified")
@FUZZ
@given(header=HEADERS, claims=CLAIMS)
def test_whatever_a_trusted_key_signs_stays_within_what_its_issuer_may_say(
    door: Door, header: dict[str, Any], claims: dict[str, Any]
) -> None:
    who = door.open(A.sign(json.dumps(A.claims() | claims), header=header))
    if who is not None:
        assert who.tenant_id == "demo"
        assert who.tenants is not None
        assert who.tenants <= {"demo"}
        assert header.get("alg", "RS256") == "RS256"
        assert 0 < len(who.user_id) <= 255


def test_only_public_signature_keys_of_a_set_count() -> None:
    private = RSAAlgorithm.to_jwk(A.key, as_dict=True)  # pyright: ignore[reportCallIssue, reportArgumentType]
    secret = {"kty": "oct", "k": b64(b"s" * 32), "kid": "secret", "alg": "HS256"}
    useless = [
        private,
        secret,
        A.jwk() | {"use": "enc"},
        A.jwk() | {"key_ops": ["encrypt"]},
        A.jwk() | {"kid": 1},
        A.jwk() | {"alg": ["RS256"]},
        A.jwk() | {"alg": "none"},
        A.jwk() | {"n": 5},
        "key",
        None,
    ]
    with pytest.raises(ValueError, match="no public signature key"):
        usable({"keys": useless})
    assert [key.kid for key in usable({"keys": [*useless, A.jwk()]})] == [A.kid]


@FUZZ
@given(keys=JSON, changes=st.dictionaries(st.sampled_from(sorted(A.jwk())), JSON))
def test_a_key_set_of_any_shape_gives_keys_or_says_that_it_has_none(
    keys: Any, changes: dict[str, Any]
) -> None:
    for document in ({"keys": keys}, {"keys": [A.jwk() | changes, B.jwk() | changes, keys]}):
        with contextlib.suppress(ValueError):
            assert usable(document)


async def test_a_user_of_a_clients_name_has_not_that_clients_rights(
    issuer: DevIssuer, tmp_path: Path
) -> None:
    """`sub` is whatever a user may be called; an adapter's rights go by the client's own claim."""
    clients = {"eda": {"scopes": ["results:write"], "tenants": ["*"]}}
    for changes, inherits in (({}, False), ({"user_is_client": True}, True)):
        trusted = A.trusted(tmp_path, clients=clients, **changes)
        verifier = Verifier(settings_of("postgresql://unused", issuer, issuers=(trusted,)))
        user = await verifier.verify(A.token(sub="eda", scope="tools"))
        assert ("results:write" in user.scopes) == inherits
        assert (user.tenants is None) == inherits
        client = await verifier.verify(A.token(sub="x", client_id="eda", scope="tools"))
        assert "results:write" in client.scopes
