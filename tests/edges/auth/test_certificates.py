"""Adapters with client certificates: over the app's own TLS, and behind a proxy that ends it."""

import asyncio
import base64
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from app.config import Settings
from app.edges.server import build, open_broker, uvicorn_config
from devstack.postgres import free_port
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.edges.auth.conftest import bearer, serving
from tests.edges.auth.forge import b64
from tests.edges.conftest import auth
from tests.support.calls import fetch
from tests.support.pki import Authority, Identity
from tests.support.stack import wait_for

CALL: dict[str, Any] = {"tool": "probe", "method": "echo", "args": {"text": "hi"}}
CLAIM = {"attempt": 1, "adapter": "run"}
SPIFFE = x509.UniformResourceIdentifier("spiffe://acme.example/eda")
EDA = {"client_id": "eda", "tenant": "adapters", "tenants": ["*"], "san": f"URI:{SPIFFE.value}"}
NARROW = {"client_id": "narrow", "tenant": "other", "subject": "CN=narrow,O=acme"}


class Pki:
    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, "authority")
        self.stranger = Authority(folder, "stranger")
        self.server = self.authority.server()
        self.eda = self.authority.sign("eda", SPIFFE)
        self.narrow = self.authority.sign("narrow")
        self.nobody = self.authority.sign("nobody")
        self.forged = self.stranger.sign("forged", SPIFFE)
        self.expired = self.authority.sign("expired", SPIFFE, ends=-timedelta(minutes=1))
        self.not_client = self.authority.sign("web", SPIFFE, use="server")

    @property
    def bad(self) -> list[Identity]:
        return [self.nobody, self.forged, self.expired, self.not_client]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def settings_with(dsn: str, issuer: DevIssuer, pki: Pki, **changes: Any) -> Settings:
    known = {"client_ca_file": pki.authority.file, "certificate_clients": [EDA, NARROW]}
    return settings_of(dsn, issuer, **known, **changes)


@asynccontextmanager
async def over_tls(settings: Settings) -> AsyncGenerator[str]:
    """The app on a port with TLS of its own; its address."""
    async with open_broker(settings) as broker:
        server = uvicorn.Server(uvicorn_config(settings, build(settings, broker)))
        task = asyncio.create_task(server.serve())

        async def started() -> bool:
            return server.started

        await wait_for(started)
        try:
            yield f"https://localhost:{settings.port}"
        finally:
            server.should_exit = True
            await task


def client(pki: Pki, shown: Identity | None, **more: Any) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=str(pki.authority.file))
    if shown is not None:
        context.load_cert_chain(shown.both)
    return httpx.AsyncClient(verify=context, **more)


def client_cert(identity: Identity) -> dict[str, str]:
    der = identity.certificate.public_bytes(Encoding.DER)
    return {"Client-Cert": f":{base64.b64encode(der).decode()}:"}


async def accepted(http: httpx.AsyncClient, headers: dict[str, str]) -> str:
    made = await http.post(
        "/mcp/tools/call", json=CALL, headers=headers | {"Prefer": "respond-async"}
    )
    assert made.status_code == 202, made.text
    return made.json()["correlation_id"]


@pytest.mark.guarantee("identity:certificates")
async def test_over_tls_a_named_certificate_gets_in_as_its_adapter_and_no_other_does(
    database: Dsns, issuer: DevIssuer, pki: Pki
) -> None:
    tls = {"tls_certfile": pki.server.cert, "tls_keyfile": pki.server.key, "port": free_port()}
    hosts = (f"localhost:{tls['port']}",)
    proxies = {"trusted_proxies": ["10.0.0.0/24"]}
    settings = settings_with(database.app, issuer, pki, allowed_hosts=hosts, **tls, **proxies)
    bound = b64(sha256(pki.eda.certificate.public_bytes(Encoding.DER)).digest())
    async with over_tls(settings) as url:
        async with client(pki, None, base_url=url) as http:
            one = await accepted(http, auth(issuer, "ada"))
            assert (await http.post(f"/results/{one}/claim", json=CLAIM)).status_code == 401
            # A header is no certificate, and no header makes a proxy of whoever sends it.
            headers = client_cert(pki.eda) | {"X-Forwarded-For": "10.0.0.7"}
            answer = await http.post(f"/results/{one}/claim", json=CLAIM, headers=headers)
            assert answer.status_code == 401
            token = auth(issuer, "ada", cnf={"x5t#S256": bound})
            assert (await http.get("/commands", headers=token)).status_code == 401
        for shown in pki.bad:
            async with client(pki, shown, base_url=url) as http:
                try:
                    answer = await http.post(f"/results/{one}/claim", json=CLAIM)
                except httpx.TransportError:
                    continue  # the handshake refused it
                assert (answer.status_code, shown.cert.name) == (401, pki.nobody.cert.name)
        async with client(pki, pki.narrow, base_url=url) as http:
            answer = await http.post(f"/results/{one}/claim", json=CLAIM)
            assert answer.status_code == 404, "another tenant's"
        async with client(pki, pki.eda, base_url=url) as http:
            answer = await http.post(f"/results/{one}/claim", json=CLAIM)
            assert (answer.status_code, answer.json()["proceed"]) == (200, True)
            assert (await http.get("/operator/dead-letters")).status_code == 403
            assert (await http.post("/mcp/tools/call", json=CALL)).status_code == 403
            # With a token the token says who asks; one that is bound is good with its certificate.
            assert (await http.get("/commands", headers=token)).status_code == 200
            assert (await http.get("/commands", headers=bearer("x"))).status_code == 401
    [event] = await fetch(
        database.owner, "SELECT actor FROM audit.events WHERE type = 'command.claimed'"
    )
    assert event["actor"] == "adapter:eda"


@pytest.mark.guarantee("identity:certificates")
async def test_a_trusted_proxys_word_is_believed_and_verified_and_nobody_elses_is(
    database: Dsns, issuer: DevIssuer, pki: Pki
) -> None:
    settings = settings_with(database.app, issuer, pki, trusted_proxies=["10.0.0.0/24", "::1/128"])
    async with serving(settings, peer="10.0.1.7") as http:
        one = await accepted(http, auth(issuer, "ada"))
        path = f"/results/{one}/claim"
        spoofed = client_cert(pki.eda) | {
            "X-Forwarded-For": "10.0.0.7",
            "Forwarded": "for=10.0.0.7",
        }
        assert (await http.post(path, json=CLAIM, headers=spoofed)).status_code == 401
    good = client_cert(pki.eda)["Client-Cert"]
    async with serving(settings, peer="10.0.0.7") as http:
        for shown in pki.bad:
            answer = await http.post(path, json=CLAIM, headers=client_cert(shown))
            assert answer.status_code == 401, shown.cert.name
        for malformed in (
            good[1:],
            good[:-1],
            "::",
            ":AAAA:",
            ":é:",
            f"{good}, {good}",
            "x" * 40_000,
        ):
            headers = {b"Client-Cert": malformed.encode()}
            assert (await http.post(path, json=CLAIM, headers=headers)).status_code == 401
        twice = [("Client-Cert", good), ("Client-Cert", good)]
        assert (await http.post(path, json=CLAIM, headers=twice)).status_code == 401
        answer = await http.post(path, json=CLAIM, headers=client_cert(pki.narrow))
        assert answer.status_code == 404
        answer = await http.post(path, json=CLAIM, headers={"Client-Cert": good})
        assert (answer.status_code, answer.json()["proceed"]) == (200, True)
    reasons = await fetch(
        database.owner,
        "SELECT DISTINCT body ->> 'reason' AS reason FROM audit.events WHERE type = 'login.failed'",
    )
    assert [row["reason"] for row in reasons] == ["certificate"]
