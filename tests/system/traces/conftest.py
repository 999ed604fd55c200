"""A whole stack whose spans go to a receiver of OTLP: an app, a relay, a worker and EDA."""

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from devstack.eda import EmbeddedEda
from devstack.postgres import free_port
from devstack.process import Process
from devstack.stack import AppProcess, Dsns, relay_process, worker_process
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE
from tests.support import stack as servers
from tests.support.offers import offer, put
from tests.support.spans import Receiver
from tests.support.stack import PostgresServer

EXPORTS = {
    "OTEL_LOGS_EXPORTER": "otlp",
    "OTEL_METRICS_EXPORTER": "otlp",
    "OTEL_METRIC_EXPORT_INTERVAL": "500",
    "OTEL_BLRP_SCHEDULE_DELAY": "100",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a test calls, reads and kills."""

    app: AppProcess
    relay: Process
    receiver: Receiver
    dsns: Dsns
    issuer: DevIssuer

    def client(self, trace_id: str) -> httpx2.AsyncClient:
        """A caller whose requests are of one trace."""
        token = self.issuer.token(tenant="demo", user="ada", scopes=("tools",))
        headers = {
            "Authorization": f"Bearer {token}",
            "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
        }
        return httpx2.AsyncClient(base_url=self.app.url, headers=headers, timeout=60)


@pytest.fixture
def trace_id() -> str:
    return secrets.token_hex(16)


@pytest.fixture(scope="package")
def observed(
    template: PostgresServer, issuer: DevIssuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Observed]:
    home = tmp_path_factory.mktemp("observed")
    receiver = Receiver(home)
    dsns = asyncio.run(servers.clone(template.superuser_dsn))
    slow = offer(adapter={"kind": "echo", "target": "mirror", "delay_s": 1.0})
    asyncio.run(put(dsns, home, slow))
    with servers.kafka_bootstrap() as kafka:
        common = receiver.env | EXPORTS | {"MCP_BROKER_KAFKA_BOOTSTRAP": kafka}
        shared = common | {
            "MCP_BROKER_ISSUERS": issuer.setting(),
            "MCP_BROKER_PUBLIC_URL": AUDIENCE.removesuffix("/mcp"),
        }
        app_env = shared | {"MCP_BROKER_DATABASE_URL": dsns.app}
        relay_env = shared | {"MCP_BROKER_DATABASE_URL": dsns.relay}
        app = AppProcess(home=home, env=app_env, port=free_port(), name="app")
        relay = relay_process(home=home, env=relay_env, name="relay")
        token = issuer.token(tenant="adapters", user="any", scopes=["results:write"])
        adapter = {"MCP_BROKER_URL": app.url, "MCP_BROKER_TOKEN": token}
        worker = worker_process(home=home, env=common | adapter, name="worker")
        eda = EmbeddedEda(
            home=home,
            kafka=kafka,
            broker_url=app.url,
            token=token,
            workspace=make(home / "workspace"),
            group=f"eda-{home.name}",
            env=receiver.env,
        )
        try:
            receiver.start()
            relay.start()
            app.start()
            worker.start()
            eda.start()
            yield Observed(app=app, relay=relay, receiver=receiver, dsns=dsns, issuer=issuer)
        finally:
            eda.stop()
            worker.stop()
            app.process.stop()
            relay.stop()
            receiver.stop()


def make(folder: Path) -> Path:
    folder.mkdir()
    return folder
