"""A storm on a small stack that the machine's Prometheus scrapes: what rules and panels then see.

Retries that end as dead letters, calls past their deadline, a tenant that is noisy, work that
nobody has claimed, sagas, and requests that are refused.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

from app.audit import keys
from devstack import prometheus
from devstack.postgres import free_port
from devstack.prometheus import LocalPrometheus
from devstack.stack import AppProcess, Dsns, relay_process, worker_process
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE
from tests.support import stack as servers
from tests.support.calls import fetch
from tests.support.offers import put
from tests.support.stack import PostgresServer, wait_for

EVERY_S = 0.5
NOISY, QUIET, FLAKY, SLOW = 60, 5, 4, 24
"""Misses are a quarter of the ends and dead letters a twenty-fifth: over budget in every window."""
DEADLINE_MS = 1500
TRACE = "0af7651916cd43dd8448eb211c80319c"
QUICK = {"tool": "storm_quick", "args": {}}
PLAN = {"steps": [{"id": "one", **QUICK, "compensate": QUICK}]}
OPEN = """
    SELECT count(*) AS n FROM commands
     WHERE tool = 'storm' AND state IN ('queued', 'dispatched', 'running')
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stormy:
    """Where the storm was: two tenants' callers, an adapter, the database and Prometheus."""

    app: str
    issuer: DevIssuer
    dsns: Dsns
    prometheus: str
    http: httpx.AsyncClient

    async def post(self, path: str, body: Any, *, tenant: str, scope: str = "tools") -> Any:
        token = self.issuer.token(tenant=tenant, user="ada", scopes=[scope])
        headers = {
            "Authorization": f"Bearer {token}",
            "Prefer": "respond-async",
            "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
        }
        answer = await self.http.post(f"{self.app}{path}", json=body, headers=headers)
        assert answer.status_code < 300 or "nothing" in str(body), answer.text
        return answer.json()

    async def call(self, tool: str, method: str, tenant: str = "demo", **more: Any) -> Any:
        # Two calls alike would be one command.
        body = {"tool": tool, "method": method, "args": {"text": uuid4().hex}} | more
        return await self.post("/mcp/tools/call", body, tenant=tenant)

    async def ask(self, query: str, path: str = "query", **more: Any) -> list[dict[str, Any]]:
        """A query's series, as Prometheus answers it."""
        values = {"query": query} | more
        answer = await self.http.get(f"{self.prometheus}/api/v1/{path}", params=values)
        told = answer.json()
        assert told["status"] == "success", f"{query}: {told}"
        found: list[dict[str, Any]] = told["data"]["result"]
        return found

    async def value(self, query: str) -> float:
        found = await self.ask(query)
        return float(found[0]["value"][1]) if found else 0.0

    async def wave(self) -> None:
        """Everything once; done when all has ended that will."""
        await asyncio.gather(
            *(self.call("storm", "quick", "other") for _ in range(NOISY)),
            *(self.call("storm", "quick") for _ in range(QUIET)),
            *(self.call("storm", "flaky") for _ in range(FLAKY)),
            *(self.call("storm", "slow", deadline_ms=DEADLINE_MS) for _ in range(SLOW)),
            self.call("nothing", "there"),
            self.post("/sagas", {"plan": PLAN}, tenant="demo"),
        )
        # EDA's calls: one is claimed and runs on, one is done, one is claimed by nobody.
        ids = [(await self.call("probe", "echo")) for _ in range(3)]
        for n, told in enumerate(ids[:2]):
            name, report = told["correlation_id"], {"attempt": 1}
            run = report | {"adapter": f"run-{n}"}
            await self.post(f"/results/{name}/claim", run, tenant="adapters", scope="results:write")
        done = {"attempt": 1, "status": "ok", "result": {"text": "x"}}
        name = ids[0]["correlation_id"]
        await self.post(f"/results/{name}", done, tenant="adapters", scope="results:write")

        async def over() -> bool:
            [row] = await fetch(self.dsns.owner, OPEN)
            return row["n"] == 0

        await wait_for(over, 60)


@pytest.fixture(scope="package")
async def storm(
    template: PostgresServer,
    kafka_bootstrap: str,
    issuer: DevIssuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Stormy]:
    if not prometheus.found():
        pytest.skip("Prometheus is not here (Debian has it in `prometheus`)")
    home = tmp_path_factory.mktemp("storm")
    dsns = await servers.clone(template.superuser_dsn)
    catalog = yaml.safe_load(Path(__file__).with_name("storm.yml").read_text())
    await put(dsns, home, catalog)
    ports = {name: free_port() for name in ("app", "relay", "worker")}
    with ExitStack() as stack:
        app = start_parts(stack, home, dsns, ports, kafka_bootstrap, issuer)
        server = LocalPrometheus(home, ports, every_s=EVERY_S)
        server.start()
        stack.callback(server.stop)
        async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
            made = Stormy(app=app, issuer=issuer, dsns=dsns, prometheus=server.url, http=http)
            await wait_for(lambda: all_up(made), 60)
            # A rate is of two scrapes that saw the figure: the second wave is what they see.
            for n in (1, 2):
                await made.wave()
                ended = f"sum(mcpbroker_ended_calls_total) >= {n * (NOISY + QUIET + FLAKY + SLOW)}"
                await wait_for(lambda ended=ended: made.ask(ended), 30)
            await wait_for(lambda: made.ask("count(mcpbroker:slo_errors:ratio_rate1h) == 4"), 30)
            yield made
    await servers.drop(template.superuser_dsn, dsns)


async def all_up(made: Stormy) -> bool:
    return await made.value("sum(up)") == 3


def start_parts(
    stack: ExitStack,
    home: Path,
    dsns: Dsns,
    ports: dict[str, int],
    kafka: str,
    issuer: DevIssuer,
) -> str:
    """An app, a relay that seals, and a worker; the app's address."""
    keys.generate(home / "seal.pem", home / "seal.pub.pem")
    env = {
        "MCP_BROKER_KAFKA_BOOTSTRAP": kafka,
        "MCP_BROKER_ISSUERS": issuer.setting(),
        "MCP_BROKER_PUBLIC_URL": AUDIENCE.removesuffix("/mcp"),
        "MCP_BROKER_GAUGES_S": "0.2",
        "MCP_BROKER_CANCEL_GRACE_S": "0.5",
        "MCP_BROKER_SEAL_KEYS": f'["{home / "seal.pem"}"]',
    }

    def of(name: str, dsn: str) -> dict[str, str]:
        own = {"MCP_BROKER_DATABASE_URL": dsn, "MCP_BROKER_METRICS_PORT": str(ports[name])}
        return env | own

    app = AppProcess(home=home, port=free_port(), name="app", env=of("app", dsns.app))
    app.start()
    stack.callback(app.process.stop)
    relay = relay_process(home=home, name="relay", env=of("relay", dsns.relay))
    worker = worker_process(
        home=home,
        name="worker",
        env={
            "MCP_BROKER_KAFKA_BOOTSTRAP": kafka,
            "MCP_BROKER_URL": app.url,
            "MCP_BROKER_TOKEN": issuer.token(
                tenant="adapters", user="worker", scopes=["results:write"]
            ),
            "MCP_BROKER_WORKER_GROUP": f"storm-{ports['worker']}",
            "MCP_BROKER_METRICS_PORT": str(ports["worker"]),
        },
    )
    for part in (relay, worker):
        part.start()
        stack.callback(part.stop)
    return app.url
