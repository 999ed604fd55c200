"""The figures that Prometheus reads: they move, and say of nothing whose it is."""

from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from app import assets
from app.audit import keys
from app.postgres import migrate
from devstack.postgres import free_port
from devstack.stack import AppProcess, Dsns, relay_process
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE
from tests.support.stack import wait_for

# Users whose names are in no word of ours: they are looked for within labels too, not as whole
# ones.
ZOE, QUINN = "zoe-5b1", "quinn-5b1"
SECRETS = {"demo", "other", ZOE, QUINN, "key-of", "nothing"}


def figures(text: str) -> dict[tuple[str, str], float]:
    """Values by name and label values, in the order of the labels' names."""
    return {
        (sample.name, ",".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def spaced(text: str) -> set[str]:
    """Label values with a space in them: nobody writes those into a query without a mistake."""
    return {
        value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("mcpbroker_")
        for value in sample.labels.values()
        if " " in value
    }


def named(text: str, secrets: set[str]) -> set[str]:
    """Which of these are anywhere in names and labels; help texts are ours and left out."""
    lines = [line.casefold() for line in text.splitlines() if not line.startswith("#")]
    return {secret for secret in secrets for line in lines if secret in line}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """An app and a relay, each with its port for figures."""

    app: AppProcess
    ports: dict[str, int]
    issuer: DevIssuer
    http: httpx.AsyncClient

    async def read(self, which: str) -> str:
        answer = await self.http.get(f"http://127.0.0.1:{self.ports[which]}/metrics")
        assert answer.status_code == 200
        return answer.text

    async def call(self, tenant: str, user: str, tool: str = "probe") -> httpx.Response:
        token = self.issuer.token(tenant=tenant, user=user, scopes=["tools"])
        return await self.http.post(
            f"{self.app.url}/mcp/tools/call",
            json={
                "tool": tool,
                "method": "echo",
                "args": {"text": "x"},
                "ordering_key": f"key-of-{user}",
                "idempotency_key": f"of-{user}",
            },
            headers={"Authorization": f"Bearer {token}", "Prefer": "respond-async"},
        )

    async def dispatched(self) -> dict[tuple[str, str], float] | None:
        """The relay's figures, once both calls are sent and the log is sealed."""
        try:
            found = figures(await self.read("relay"))
        except httpx.ConnectError:
            return None  # it starts
        behind = ("mcpbroker_seal_lag_seconds", "mcpbroker_unsealed_events")
        sealed = found["mcpbroker_sealer", ""] == 1 and not any(found[name, ""] for name in behind)
        sent = found.get(("mcpbroker_open_commands", "dispatched")) == 2
        return found if sent and sealed else None


@pytest.fixture
async def measured(
    database: Dsns, kafka_bootstrap: str, issuer: DevIssuer, tmp_path: Path
) -> AsyncIterator[Measured]:
    keys.generate(tmp_path / "seal.pem", tmp_path / "seal.pub.pem")
    ports = {"app": free_port(), "relay": free_port()}

    def env(dsn: str, which: str) -> dict[str, str]:
        return {
            "MCP_BROKER_DATABASE_URL": dsn,
            "MCP_BROKER_METRICS_PORT": str(ports[which]),
            "MCP_BROKER_KAFKA_BOOTSTRAP": kafka_bootstrap,
            "MCP_BROKER_ISSUERS": issuer.setting(),
            "MCP_BROKER_PUBLIC_URL": AUDIENCE.removesuffix("/mcp"),
            "MCP_BROKER_GAUGES_S": "0.2",
            "MCP_BROKER_SEAL_KEYS": f'["{tmp_path / "seal.pem"}"]',
        }

    app = AppProcess(home=tmp_path, port=free_port(), name="app", env=env(database.app, "app"))
    relay = relay_process(home=tmp_path, name="relay", env=env(database.relay, "relay"))
    with ExitStack() as stack:
        app.start()
        stack.callback(app.process.stop)
        relay.start()
        stack.callback(relay.stop)
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
            yield Measured(app=app, ports=ports, issuer=issuer, http=http)


@pytest.mark.guarantee("metrics:nobodys")
async def test_app_and_relay_serve_figures_that_name_no_tenant_user_or_key(
    measured: Measured,
) -> None:
    ids: set[str] = set()
    for tenant, user in (("demo", ZOE), ("demo", ZOE), ("other", QUINN)):
        answer = await measured.call(tenant, user)
        assert answer.status_code == 202
        ids.add(answer.json()["correlation_id"])
    assert (await measured.call("demo", ZOE, "nothing")).status_code == 404

    of_relay = await wait_for(measured.dispatched)
    assert of_relay is not None
    assert of_relay["mcpbroker_published_rows_total", "command"] == 2
    assert of_relay["mcpbroker_dispatch_seconds_count", "echo,probe"] == 2
    assert of_relay["mcpbroker_queue_wait_seconds_count", "echo,probe"] == 2
    assert of_relay["mcpbroker_listening", ""] == 1
    assert of_relay["mcpbroker_outbox_rows", "ready"] == 0
    of_app = figures(await measured.read("app"))
    assert of_app["mcpbroker_accepted_calls_total", "new"] == 2
    assert of_app["mcpbroker_accepted_calls_total", "repeated"] == 1
    assert of_app["mcpbroker_accept_seconds_count", "echo,new,probe"] == 2
    assert of_app["mcpbroker_accept_seconds_count", "echo,repeated,probe"] == 1
    assert of_app["mcpbroker_refused_requests_total", "unknown_tool"] == 1
    assert of_app["mcpbroker_listening", ""] == 1

    for which in measured.ports:
        text = await measured.read(which)
        assert not named(text, SECRETS | ids)
        assert not spaced(text)
        build = f"{migrate.head()},{assets.version()}"
        assert figures(text)["mcpbroker_build_info", build] == 1
    token = measured.issuer.token(tenant="demo", user=ZOE, scopes=["tools", "operator", "admin"])
    answer = await measured.http.get(
        f"{measured.app.url}/metrics", headers={"Authorization": f"Bearer {token}"}
    )
    assert answer.status_code == 404, "not where callers come in"
