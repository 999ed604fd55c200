"""References `vault:` with a real OpenBao: three ways to log in, tenants, and its end."""

import asyncio
import datetime as dt
import json
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import hvac
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from adapters.contract import CallFailedError, Known
from adapters.credentials import CredentialSources
from adapters.vault_server import VaultServer
from app.config.worker import WorkerSettings
from devstack.postgres import free_port
from tests.support.stack import wait_for

BAO = Path(sys.executable).with_name("bao")
POLICY = 'path "secret/data/*" { capabilities = ["read"] }'
KEY = ec.generate_private_key(ec.SECP256R1())


@pytest.fixture(scope="module")
async def bao(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[hvac.Client]:
    home = tmp_path_factory.mktemp("bao")
    address = f"127.0.0.1:{free_port()}"
    argv = [BAO, "server", "-dev", "-dev-root-token-id=root", f"-dev-listen-address={address}"]
    with (home / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *argv, "-dev-no-store-token", stdout=log, stderr=log, env={"HOME": str(home)}
        )
    client = hvac.Client(url=f"http://{address}", token="root")
    try:

        async def up() -> bool:
            try:
                return await asyncio.to_thread(client.is_authenticated)
            except OSError:
                return False

        await wait_for(up, 30)
        set_up(client)
        yield client
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 10)


def set_up(client: hvac.Client) -> None:
    client.sys.create_or_update_policy("worker", POLICY)
    client.sys.enable_auth_method("approle")
    client.auth.approle.create_or_update_approle(
        "worker", token_policies=["worker"], token_ttl="2s", token_max_ttl="1h"
    )
    client.sys.enable_auth_method("jwt")
    public = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    client.auth.jwt.configure(jwt_validation_pubkeys=[public.decode()])
    client.auth.jwt.create_role(
        "worker",
        role_type="jwt",
        bound_audiences=["bao"],
        user_claim="sub",
        allowed_redirect_uris=[],
        token_policies=["worker"],
    )
    for tenant in ("demo", "other"):
        put(client, f"api/{tenant}", {"token": f"s3cret-of-{tenant}", "number": 1})


def put(client: hvac.Client, path: str, secret: dict[str, Any]) -> None:
    client.secrets.kv.v2.create_or_update_secret(path=path, secret=secret, mount_point="secret")


def by_token(_: hvac.Client) -> tuple[dict[str, str], dict[str, str]]:
    return {"token": "env:TOKEN"}, {"TOKEN": "root"}


def by_approle(client: hvac.Client) -> tuple[dict[str, str], dict[str, str]]:
    role: str = client.auth.approle.read_role_id("worker")["data"]["role_id"]
    secret: str = client.auth.approle.generate_secret_id("worker")["data"]["secret_id"]
    return {"role_id": "env:ROLE", "secret_id": "env:SECRET"}, {"ROLE": role, "SECRET": secret}


def by_jwt(_: hvac.Client) -> tuple[dict[str, str], dict[str, str]]:
    now = dt.datetime.now(dt.UTC)
    claims = {"sub": "worker", "aud": "bao", "iat": now, "exp": now + dt.timedelta(minutes=5)}
    made = jwt.encode(claims, KEY, algorithm="ES256")
    return {"role": "worker", "jwt": "env:JWT"}, {"JWT": made}


Way = Callable[[hvac.Client], tuple[dict[str, str], dict[str, str]]]


def sources(client: hvac.Client, way: Way) -> CredentialSources:
    login, environment = way(client)
    return CredentialSources(environment, vault=VaultServer(address=client.url, **login))


@pytest.mark.guarantee("adapters:masked")
@pytest.mark.parametrize("way", [by_token, by_approle, by_jwt])
async def test_each_way_to_log_in_gives_each_tenant_its_own(bao: hvac.Client, way: Way) -> None:
    made = sources(bao, way)
    for tenant in ("demo", "other"):
        secrets = made.of(tenant)
        value = await secrets.value("vault:secret/api/{tenant}#token")
        assert value == f"s3cret-of-{tenant}"
        assert value in secrets.hidden
    await made.close()


async def test_what_is_not_there_is_told_without_its_name(bao: hvac.Client) -> None:
    made = sources(bao, by_approle)
    for wrong in (
        "vault:secret/api/none#token",
        "vault:secret/api/demo#none",
        "vault:secret/api/demo#number",
        "vault:secret/api/demo",
        "vault:secret/api/../demo#token",
        "vault:other/api/demo#token",
    ):
        with pytest.raises(CallFailedError) as caught:
            await made.of("demo").value(wrong)
        assert caught.value.known is Known.NOT_DONE
        assert "api" not in caught.value.message
    await made.close()


async def test_a_token_is_renewed_and_one_that_was_revoked_is_got_anew(bao: hvac.Client) -> None:
    made = sources(bao, by_approle)
    secrets = made.of("demo")
    assert await secrets.value("vault:secret/api/demo#token") == "s3cret-of-demo"

    seen = 0

    async def lived_long() -> bool:
        """Over the two seconds that a token lives; a new path each time, as none is kept."""
        nonlocal seen
        seen += 1
        put(bao, f"renewed/{seen}", {"token": f"value-{seen}"})
        value = await secrets.value(f"vault:secret/renewed/{seen}#token")
        return value == f"value-{seen}" and seen >= 200

    began = asyncio.get_running_loop().time()
    await wait_for(lived_long, 60)
    assert asyncio.get_running_loop().time() - began > 2
    listed: Any = bao.list("auth/token/accessors")
    for accessor in listed["data"]["keys"]:
        shown: Any = bao.lookup_token(accessor, accessor=True)
        found = shown["data"]
        if found["path"] == "auth/approle/login":
            bao.revoke_token(found["accessor"], accessor=True)
    put(bao, "renewed/last", {"token": "value-last"})
    assert await secrets.value("vault:secret/renewed/last#token") == "value-last"
    await made.close()


def test_a_workers_settings_name_its_vault(monkeypatch: pytest.MonkeyPatch) -> None:
    given = {"address": "https://bao.example", "role_id": "env:ROLE", "secret_id": "env:SECRET"}
    monkeypatch.setenv("MCP_BROKER_WORKER_VAULT", json.dumps(given))
    assert WorkerSettings().worker_vault == VaultServer(**given)
    monkeypatch.setenv("MCP_BROKER_WORKER_VAULT", json.dumps({"address": "https://bao.example"}))
    with pytest.raises(ValidationError, match="one of token"):
        WorkerSettings()


async def test_a_vault_that_is_away_is_told(bao: hvac.Client) -> None:
    server = VaultServer(address=f"http://127.0.0.1:{free_port()}", token="env:TOKEN")
    made = CredentialSources({"TOKEN": "root"}, vault=server)
    with pytest.raises(CallFailedError) as caught:
        await made.of("demo").value("vault:secret/api/demo#token")
    assert caught.value.known is Known.NOT_DONE
    await made.close()
    with pytest.raises(CallFailedError):
        await CredentialSources({}).of("demo").value("vault:secret/api/demo#token")
    with pytest.raises(ValueError, match="one of"):
        VaultServer(address="http://x")
