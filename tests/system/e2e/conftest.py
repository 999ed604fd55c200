"""The whole stack, once for the tests here: two apps, two relays, one EDA, real servers.

Kafka is its own: EDA would run a playbook for every command that another test publishes.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2
import orjson
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from app import assets
from devstack.eda import EmbeddedEda
from devstack.postgres import free_port
from devstack.process import Process
from devstack.stack import AppProcess, Dsns, relay_process
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE
from tests.support import stack as servers
from tests.support.rulebooks import PLAYBOOKS, rulebook_with
from tests.support.stack import PostgresServer, make_repo

# Methods of the tool `probe` that only these tests have.
POLICIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "slow": {"lease_s": 600},
    "effect": {"idempotent": True, "retry": {"attempts_max": 3, "backoff_s": 0.2}},
}
EVERY_KIND: Final = assets.root() / "playbooks" / "mcp_adapter.yml"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What an end-to-end test can reach and break."""

    apps: tuple[AppProcess, ...]
    relays: tuple[Process, ...]
    eda: EmbeddedEda
    issuer: DevIssuer
    dsns: Dsns
    kafka: str
    repo: Path
    workspace: Path
    effects: Path

    def token(self, user: str = "ada", *scopes: str) -> str:
        return self.issuer.token(tenant="demo", user=user, scopes=scopes or ("tools",))

    def http(self, replica: int = 0, user: str = "ada", *scopes: str) -> httpx2.AsyncClient:
        headers = {"Authorization": f"Bearer {self.token(user, *scopes)}"}
        return httpx2.AsyncClient(
            base_url=self.apps[replica].url,
            headers=headers,
            timeout=60,
            limits=httpx2.Limits(max_connections=None),
        )

    @asynccontextmanager
    async def mcp(
        self, replica: int = 0, user: str = "ada", mode: str = "2026-07-28"
    ) -> AsyncGenerator[Client]:
        async with self.http(replica, user) as http:
            url = f"{self.apps[replica].url}/mcp"
            transport = streamable_http_client(url, http_client=http)
            async with Client(transport, mode=mode) as client:  # pyright: ignore[reportArgumentType]
                yield client


async def add_tools(owner: str, policies: Mapping[str, Mapping[str, Any]]) -> None:
    conn = await asyncpg.connect(owner)
    for method, policy in policies.items():
        await conn.execute(
            "INSERT INTO tools (tool, method, name, description, input_schema, policy, digest)"
            " VALUES ('probe', $1, 'probe_' || $1, 'x', '{\"type\": \"object\"}', $2, '\\x02')",
            method,
            orjson.dumps(policy).decode(),
        )
    await conn.close()


@pytest.fixture(scope="package")
def own_kafka() -> Iterator[str]:
    with servers.kafka_bootstrap() as bootstrap:
        yield bootstrap


@pytest.fixture(scope="package")
def world(
    template: PostgresServer,
    own_kafka: str,
    issuer: DevIssuer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    home = tmp_path_factory.mktemp("world")
    dsns = asyncio.run(servers.clone(template.superuser_dsn))
    asyncio.run(add_tools(dsns.owner, POLICIES))
    common = {
        "MCP_BROKER_KAFKA_BOOTSTRAP": own_kafka,
        "MCP_BROKER_ISSUERS": issuer.setting(),
        "MCP_BROKER_PUBLIC_URL": AUDIENCE.removesuffix("/mcp"),
    }
    app_env = common | {"MCP_BROKER_DATABASE_URL": dsns.app}
    relay_env = common | {"MCP_BROKER_DATABASE_URL": dsns.relay}
    apps = tuple(
        AppProcess(home=home, env=app_env, port=free_port(), name=f"app-{n}") for n in range(2)
    )
    relays = tuple(relay_process(home=home, env=relay_env, name=f"relay-{n}") for n in range(2))
    workspace, effects = home / "workspace", home / "effects"
    workspace.mkdir()
    effects.touch()
    eda = EmbeddedEda(
        home=home,
        kafka=own_kafka,
        broker_url=apps[0].url,
        token=issuer.token(tenant="adapters", user="eda", scopes=["results:write"]),
        workspace=workspace,
        group=f"eda-{home.name}",
        env={"MCP_EFFECTS": str(effects)},
        rulebook=rulebook_with(
            {f"probe.{method}": PLAYBOOKS / f"{method}.yml" for method in POLICIES}
            | {"kind": EVERY_KIND},
            home / "rulebook.yml",
        ),
    )
    try:
        for relay in relays:
            relay.start()
        for app in apps:
            app.start()
        eda.start()
        yield World(
            apps=apps,
            relays=relays,
            eda=eda,
            issuer=issuer,
            dsns=dsns,
            kafka=own_kafka,
            repo=make_repo(home / "source"),
            workspace=workspace,
            effects=effects,
        )
    finally:
        eda.stop()
        for app in apps:
            app.process.stop()
        for relay in relays:
            relay.stop()
