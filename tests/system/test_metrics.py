"""The figures that Prometheus reads: they move, and say of nothing whose it is."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

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

# Users whose names are in no word of ours: they are looked for within labels too, not as whole ones.
ZOE, QUINN = "zoe-5b1", "quinn-5b1"
SECRETS = {"demo", "other", ZOE, QUINN, "probe", "echo", "key-of", "nothing"}


def figures(text: str) -> dict[tuple[str, str], float]:
    """Values by name and label value; build_info alone has two."""
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


@pytest.mark.guarantee("metrics:nobodys")
async def test_app_and_relay_serve_figures_that_name_no_tenant_user_tool_or_key(
    database: Dsns, kafka_bootstrap: str, issuer: DevIssuer, tmp_path: Path
) -> None:
    keys.generate(tmp_path / "seal.pem", tmp_path / "seal.pub.pem")
    ports = {"app": free_port(), "relay": free_port()}
    common = {
        "MCP_BROKER_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "MCP_BROKER_ISSUERS": issuer.setting(),
        "MCP_BROKER_PUBLIC_URL": AUDIENCE.removesuffix("/mcp"),
        "MCP_BROKER_GAUGES_S": "0.2",
        "MCP_BROKER_SEAL_KEYS": f'["{tmp_path / "seal.pem"}"]',
    }
    app = AppProcess(
        home=tmp_path,
        port=free_port(),
        name="app",
        env=common
        | {
            "MCP_BROKER_DATABASE_URL": database.app,
            "MCP_BROKER_METRICS_PORT": str(ports["app"]),
        },
    )
    relay = relay_process(
        home=tmp_path,
        name="relay",
        env=common
        | {
            "MCP_BROKER_DATABASE_URL": database.relay,
            "MCP_BROKER_METRICS_PORT": str(ports["relay"]),
        },
    )
    with ExitStack() as stack:
        app.start()
        stack.callback(app.process.stop)
        relay.start()
        stack.callback(relay.stop)
        async with httpx.AsyncClient(timeout=10, trust_env=False) as http:

            async def read(which: str) -> str:
                answer = await http.get(f"http://127.0.0.1:{ports[which]}/metrics")
                assert answer.status_code == 200
                return answer.text

            async def call(tenant: str, user: str, tool: str = "probe") -> httpx.Response:
                token = issuer.token(tenant=tenant, user=user, scopes=["tools"])
                return await http.post(
                    f"{app.url}/mcp/tools/call",
                    json={
                        "tool": tool,
                        "method": "echo",
                        "args": {"text": "x"},
                        "ordering_key": f"key-of-{user}",
                        "idempotency_key": f"of-{user}",
                    },
                    headers={"Authorization": f"Bearer {token}", "Prefer": "respond-async"},
                )

            ids: set[str] = set()
            for tenant, user in (("demo", ZOE), ("demo", ZOE), ("other", QUINN)):
                answer = await call(tenant, user)
                assert answer.status_code == 202
                ids.add(answer.json()["correlation_id"])
            assert (await call("demo", ZOE, "nothing")).status_code == 404

            async def dispatched() -> Any:
                try:
                    found = figures(await read("relay"))
                except httpx.ConnectError:
                    return None  # it starts
                behind = ("mcpbroker_seal_lag_seconds", "mcpbroker_unsealed_events")
                sealed = found["mcpbroker_sealer", ""] == 1 and not any(
                    found[name, ""] for name in behind
                )
                return (
                    found
                    if found.get(("mcpbroker_open_commands", "dispatched")) == 2 and sealed
                    else None
                )

            of_relay = await wait_for(dispatched)
            assert of_relay["mcpbroker_published_rows_total", "command"] == 2
            assert of_relay["mcpbroker_dispatch_seconds_count", ""] == 2
            assert of_relay["mcpbroker_listening", ""] == 1
            assert of_relay["mcpbroker_outbox_rows", "ready"] == 0
            of_app = figures(await read("app"))
            assert of_app["mcpbroker_accepted_calls_total", "new"] == 2
            assert of_app["mcpbroker_accepted_calls_total", "repeated"] == 1
            assert of_app["mcpbroker_refused_requests_total", "unknown_tool"] == 1
            assert of_app["mcpbroker_listening", ""] == 1

            for which in ports:
                text = await read(which)
                assert not named(text, SECRETS | ids)
                assert not spaced(text)
                build = f"{migrate.head()},{assets.version()}"
                assert figures(text)["mcpbroker_build_info", build] == 1
            token = issuer.token(tenant="demo", user=ZOE, scopes=["tools", "operator", "admin"])
            answer = await http.get(
                f"{app.url}/metrics", headers={"Authorization": f"Bearer {token}"}
            )
            assert answer.status_code == 404, "not where callers come in"
