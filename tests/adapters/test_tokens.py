"""Credentials of type `oauth2` and `exchange`, with an authorization server that checks them."""

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from adapters.contract import Failure, Outcome, Result
from adapters.credentials import CredentialSources
from adapters.kinds import Adapters, check
from adapters.targets import Target
from tests.adapters.executor import Heard, call_of
from tests.support.stack import listening

KEY = Ed25519PrivateKey.generate()
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
SECRET = "s3cret of/client"
GET = {"method": "GET", "path": "/"}
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


@dataclass
class Server:
    """An authorization server, and a resource that takes its newest tokens only."""

    address: str = ""
    grants: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    valid: set[str] = field(default_factory=set[str])
    expires_in: int = 3600
    cookies: list[str | None] = field(default_factory=list[str | None])

    async def token(self, request: Request) -> Response:
        form = {name: str(one) for name, one in (await request.form()).items()}
        coded = base64.b64encode(b"client:s3cret+of%2Fclient").decode()
        if request.headers.get("authorization") != f"Basic {coded}":
            return JSONResponse({"error": "invalid_client", "error_description": SECRET}, 401)
        whose = "client"
        if form["grant_type"] == EXCHANGE:
            claims = jwt.decode(
                form["subject_token"],
                KEY.public_key(),
                algorithms=["EdDSA"],
                audience=f"{self.address}/token",
                issuer="broker",
            )
            whose = f"{claims['tenant']}:{claims['sub']}"
        self.grants.append(form)
        self.cookies.append(request.headers.get("cookie"))
        made = f"token-{len(self.grants)}-of-{whose}"
        self.valid.add(made)
        return JSONResponse(
            {"access_token": made, "token_type": "Bearer", "expires_in": self.expires_in},
            headers={"set-cookie": f"session=of-{whose}; Path=/"},
        )

    async def resource(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in self.valid:
            return JSONResponse({"detail": "who?"}, 401)
        return JSONResponse({"you": token, "length": len(token)})

    def target(self, kind: str, **fields: Any) -> Target:
        credential = {
            "type": kind,
            "token_url": f"{self.address}/token",
            "client_id": "client",
            "client_secret": "env:SECRET",
            "scope": "work",
        }
        if kind == "exchange":
            credential |= {"issuer": "broker", "key": "env:KEY", "audience": "resource"}
        return Target(name="t", kind="http", address=self.address, credential=credential | fields)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    routes = [Route("/token", made.token, methods=["POST"]), Route("/", made.resource)]
    async with listening(Starlette(routes=routes)) as port:
        made.address = f"http://127.0.0.1:{port}"
        yield made


@pytest.fixture
async def adapters(server: Server) -> AsyncIterator[Adapters]:
    made = Adapters(credentials=CredentialSources({"SECRET": SECRET, "KEY": PEM}))
    yield made
    await made.close()


def length(outcome: Outcome) -> int:
    assert isinstance(outcome, Result), outcome
    assert outcome.value["you"] == "[redacted]"
    return outcome.value["length"]


async def test_one_token_serves_many_calls_until_it_ends(
    adapters: Adapters, server: Server
) -> None:
    target = server.target("oauth2")
    assert not check(target, GET)
    calls = [adapters.run(call_of(target, mapping=GET), Heard()) for _ in range(20)]
    for one in await asyncio.gather(*calls):
        assert length(one) == len("token-1-of-client")
    assert server.grants == [{"grant_type": "client_credentials", "scope": "work"}]
    server.valid.clear()  # revoked: the target's 401 has another one asked for
    assert length(await adapters.run(call_of(target, mapping=GET), Heard()))
    assert len(server.grants) == 2


async def test_a_token_is_not_used_at_its_end(adapters: Adapters, server: Server) -> None:
    server.expires_in = 20
    for _ in range(2):
        length(await adapters.run(call_of(server.target("oauth2"), mapping=GET), Heard()))
    assert len(server.grants) == 2


async def test_each_user_has_a_token_of_the_exchange(adapters: Adapters, server: Server) -> None:
    target = server.target("exchange")
    assert not check(target, GET)
    for tenant, user in (("demo", "ada"), ("demo", "bob"), ("other", "ada"), ("demo", "ada")):
        call = call_of(target, mapping=GET, tenant=tenant, user=user)
        assert length(await adapters.run(call, Heard()))
    assert len(server.grants) == 3
    assert server.valid == {
        "token-1-of-demo:ada",
        "token-2-of-demo:bob",
        "token-3-of-other:ada",
    }
    assert server.cookies == [None] * 3, "no session goes on with another's request"
    assert server.grants[0]["audience"] == "resource"
    nobody = await adapters.run(call_of(target, mapping=GET), Heard())
    assert isinstance(nobody, Failure)
    assert (nobody.code, nobody.retryable) == ("credential_unavailable", False)


async def test_what_an_authorization_server_says_of_a_failure_is_not_quoted(
    adapters: Adapters, server: Server
) -> None:
    for wrong in ({"client_id": "other"}, {"token_url": f"{server.address}/none"}):
        target = server.target("oauth2", **wrong)
        outcome = await adapters.run(call_of(target, mapping=GET), Heard())
        assert isinstance(outcome, Failure)
        assert (outcome.code, outcome.retryable) == ("credential_unavailable", True)
        assert SECRET not in str(outcome)
    unreadable = server.target("exchange", key="env:SECRET")
    outcome = await adapters.run(call_of(unreadable, mapping=GET, user="ada"), Heard())
    assert isinstance(outcome, Failure)
    assert outcome.code == "credential_unavailable"
