"""What a deployment cannot be set to."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from app import config
from app.cli import app as cli
from app.config import Settings
from devstack.cli import app as devstack
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE, settings_of

ONE = {"issuer": "https://one.example", "audience": "x"}
TWO = {"issuer": "https://two.example", "audience": "x"}
CLIENT = {"client_id": "eda", "tenant": "demo", "san": "DNS:eda"}


def refused(**values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"database_url": "postgresql://x"} | values)
    return str(caught.value)


@pytest.mark.guarantee("identity:development")
def test_the_development_issuer_is_refused_wherever_others_could_reach_the_app(
    issuer: DevIssuer,
) -> None:
    trusted = json.loads(issuer.setting())
    for reachable in (
        {"host": "0.0.0.0"},
        {"host": "::"},
        {"host": "10.1.2.3"},
        {"host": "broker.example"},
        {"public_url": "https://broker.example"},
    ):
        said = refused(issuers=trusted, **reachable)
        assert "the development issuer" in said
        assert "MCP_BROKER_ISSUERS" in said, "and what to do"
    assert settings_of("postgresql://x", issuer, host="::1").issuers


@pytest.mark.guarantee("identity:development")
def test_an_app_that_others_could_reach_does_not_start_with_it(
    issuer: DevIssuer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MCP_BROKER_DATABASE_URL", "postgresql://x")
    monkeypatch.setenv("MCP_BROKER_ISSUERS", issuer.setting())
    monkeypatch.setenv("MCP_BROKER_HOST", "0.0.0.0")
    done = CliRunner().invoke(cli, ["serve"])
    assert done.exit_code == 1
    assert "the development issuer" in " ".join(done.output.split())
    done = CliRunner().invoke(devstack, ["token"])
    assert done.exit_code == 1
    assert "no development stack runs" in done.output


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"heartbeat_s": 15.01}, "heartbeat_s must not exceed 15"),
        ({"issuers": [ONE | {"issuer": "http://one.example"}]}, "https only"),
        ({"issuers": [ONE | {"jwks_uri": "http://one.example/keys"}]}, "https only"),
        ({"issuers": [ONE | {"algorithms": ["HS256"]}]}, "algorithms"),
        ({"issuers": [ONE | {"algorithms": ["none"]}]}, "algorithms"),
        ({"issuers": [ONE | {"algorithms": []}]}, "algorithms"),
        ({"issuers": [ONE, ONE | {"user_prefix": "b"}]}, "there twice"),
        ({"issuers": [ONE, TWO]}, "user_prefix"),
        ({"issuers": [ONE, TWO | {"user_prefix": "id:"}]}, "user_prefix"),
        ({"issuers": [ONE | {"user_prefix": "id"}, TWO | {"user_prefix": "id:"}]}, "user_prefix"),
        ({"issuers": [ONE | {"tenants": ["a", "b"]}, TWO | {"tenant": "b"}]}, "user_prefix"),
        ({"issuers": [ONE | {"tenant": "_broker"}]}, "tenant"),
        ({"issuers": [ONE | {"tenant": "a", "tenants": ["b"]}]}, "stands alone"),
        ({"issuers": [ONE | {"scopes": ["root"]}]}, "scopes"),
        ({"certificate_clients": [CLIENT]}, "client_ca_file"),
        ({"certificate_clients": [CLIENT], "client_ca_file": "/ca"}, "trusted_proxies"),
        ({"certificate_clients": [CLIENT | {"subject": "CN=x"}]}, "just one"),
        ({"tls_certfile": "/cert"}, "come together"),
        ({"trusted_proxies": ["everyone"]}, "trusted_proxies"),
        ({"kafka_security": {"security_protocol": "SASL_PLAINTEXT"}}, "security_protocol"),
        ({"kafka_security": {"cafile": "/ca"}}, "PLAINTEXT has no TLS"),
        ({"kafka_security": {"sasl_username": "u", "sasl_password": "p"}}, "PLAINTEXT has no TLS"),
        ({"kafka_security": {"security_protocol": "SSL", "sasl_username": "u"}}, "SASL_SSL"),
        ({"kafka_security": {"security_protocol": "SSL", "certfile": "/c"}}, "come together"),
        ({"kafka_security": {"security_protocol": "SASL_SSL"}}, "sasl_username"),
        ({"kafka_security": {"security_protocol": "SSL", "check_hostname": False}}, "extra"),
    ],
)
def test_what_could_not_be_safe_is_refused(values: dict[str, Any], said: str) -> None:
    assert said.lower() in refused(**values).lower()


@pytest.mark.guarantee("identity:several-issuers")
def test_issuers_whose_users_cannot_be_mistaken_are_taken() -> None:
    for one, two in (
        ({"user_prefix": "a:"}, {"user_prefix": "b:"}),
        ({"tenants": ["a"]}, {"tenant": "b"}),
    ):
        issuers = [ONE | one, TWO | two]
        values = {"database_url": "postgresql://x", "issuers": issuers}
        assert len(Settings.model_validate(values).issuers) == 2


def test_any_setting_comes_from_a_file_and_a_secret_shows_nowhere(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = "hunter2-hunter2"
    files = {
        "DATABASE_URL": f"postgresql://app:{secret}@db/broker\n",
        "ISSUERS": json.dumps([ONE | {"audience": AUDIENCE}]),
        "KAFKA_SECURITY": json.dumps(
            {"security_protocol": "SASL_SSL", "sasl_username": "u", "sasl_password": secret}
        ),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        monkeypatch.setenv(f"MCP_BROKER_{name}_FILE", str(tmp_path / name))
    found = config.load()
    assert found.database_url.get_secret_value() == f"postgresql://app:{secret}@db/broker"
    assert found.issuers[0].audience == AUDIENCE
    assert found.kafka_security.password() == secret
    assert secret not in repr(found)
