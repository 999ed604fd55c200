"""An app as a process, with a short inline wait; the test is the adapter."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog import file as catalog_file
from app.catalog import store as catalog_store
from app.catalog.policy import Grant
from app.catalog.store import Limits
from app.postgres.migrate import connected
from devstack.postgres import free_port
from devstack.stack import AppProcess, Dsns
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE
from tests.support import stack as servers
from tests.support.calls import fetch
from tests.support.stack import PostgresServer

ERAS = ["2026-07-28", "legacy"]
STREAMS_MAX = 8
STREAMS_PER_USER_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Front:
    """A running app, and how to reach it as a client and as an adapter."""

    app: AppProcess
    issuer: DevIssuer
    dsns: Dsns

    def http(
        self, user: str, *scopes: str, tenant: str = "demo", **claims: Any
    ) -> httpx2.AsyncClient:
        token = self.issuer.token(tenant=tenant, user=user, scopes=scopes or ("tools",), **claims)
        headers = {"Authorization": f"Bearer {token}"}
        return httpx2.AsyncClient(base_url=self.app.url, headers=headers, timeout=30)

    @asynccontextmanager
    async def client(
        self,
        user: str = "ada",
        *,
        mode: str = "2026-07-28",
        tenant: str = "demo",
        **options: Any,
    ) -> AsyncGenerator[Client]:
        async with self.http(user, tenant=tenant) as http:
            transport = streamable_http_client(f"{self.app.url}/mcp", http_client=http)
            async with Client(transport, mode=mode, **options) as made:  # pyright: ignore[reportArgumentType]
                yield made

    async def allow(self, tenant: str, allowed: str = "*", **limits: Any) -> None:
        """Make the tenant if need be, with this grant."""
        async with operating(self.dsns.owner) as conn:
            await catalog_store.put_tenant(conn, tenant, Limits(**limits))
            await catalog_store.grant(conn, tenant, [of_all(allowed, "allow")])

    async def deny(self, tenant: str, *patterns: str) -> None:
        """Deny the tenant these tools, and no others."""
        async with operating(self.dsns.owner) as conn:
            denied = [
                one for one in await catalog_store.grants(conn, tenant) if one.effect == "deny"
            ]
            wanted = [of_all(one, "deny") for one in patterns]
            await catalog_store.revoke(conn, tenant, denied)
            await catalog_store.grant(conn, tenant, wanted)

    async def say(self, command_id: str, path: str, **body: Any) -> Any:
        """One word of an adapter."""
        async with self.http("eda", "results:write", tenant="adapters") as http:
            answer = await http.post(f"/results/{command_id}{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def newest(self, user: str = "ada", *, tenant: str = "demo") -> str:
        """The user's newest command, once there is one that is open."""
        async with asyncio.timeout(5), self.http(user, tenant=tenant) as http:
            while True:
                found = (await http.get("/commands", params={"state": "queued"})).json()["commands"]
                if found:
                    return found[0]["command_id"]
                await asyncio.sleep(0.02)


def of_all(pattern: str, effect: str) -> Grant:
    return Grant(subject_kind="tenant", subject="*", pattern=pattern, effect=effect)


@asynccontextmanager
async def operating(owner_dsn: str) -> AsyncGenerator[AsyncConnection]:
    """As `broker tenant` does: one transaction that every replica is told of."""
    async with connected(owner_dsn) as engine, engine.begin() as conn:
        yield conn
        await catalog_store.announce(conn)


async def offer(owner_dsn: str, tools: Path) -> None:
    """Put a file's tools beside the shipped ones."""
    async with connected(owner_dsn) as engine:
        await catalog_file.apply(engine, catalog_file.parse(tools), prune=False)


@pytest.fixture(scope="session")
def standing(
    template: PostgresServer, issuer: DevIssuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """An app that all modules of a worker share, as its start takes seconds."""
    home = tmp_path_factory.mktemp("front")
    dsns = asyncio.run(servers.clone(template.superuser_dsn))
    asyncio.run(offer(dsns.owner, Path(__file__).with_name("tools.yml")))
    with served(home, dsns, issuer) as made:
        yield made


@pytest.fixture(scope="module")
def front(standing: Front) -> Front:
    """That app, without the calls of other modules."""
    emptied = "TRUNCATE commands, outbox, ordering_heads CASCADE"
    asyncio.run(fetch(standing.dsns.owner, emptied))
    return standing


@pytest.fixture(scope="session")
def twin(standing: Front, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """Another replica of the same broker."""
    with served(tmp_path_factory.mktemp("twin"), standing.dsns, standing.issuer) as made:
        yield made


@contextmanager
def served(
    home: Path, dsns: Dsns, issuer: DevIssuer, *, port: int | None = None, **changes: str
) -> Generator[Front]:
    env = {
        "MCP_BROKER_DATABASE_URL": dsns.app,
        "MCP_BROKER_ISSUERS": issuer.setting(),
        "MCP_BROKER_PUBLIC_URL": AUDIENCE.removesuffix("/mcp"),
        "MCP_BROKER_INLINE_WAIT_S": "1",
        "MCP_BROKER_TASK_AFTER_S": "0",
        "MCP_BROKER_HEARTBEAT_S": "0.2",
        "MCP_BROKER_REQUEST_STATE_KEYS": f'["{"k" * 32}"]',
        "MCP_BROKER_RESULT_INLINE_BYTES_MAX": "1000",
        "MCP_BROKER_LISTEN_STREAMS_MAX": str(STREAMS_MAX),
        "MCP_BROKER_LISTEN_STREAMS_PER_USER_MAX": str(STREAMS_PER_USER_MAX),
        # What is told of a change of tools is told by its announcement, not by reading again.
        "MCP_BROKER_CATALOG_KEPT_S": "3600",
        "MCP_BROKER_MCP_EVENTS": "true",
        **{f"MCP_BROKER_{name}": value for name, value in changes.items()},
    }
    app = AppProcess(home=home, env=env, port=port or free_port(), name="app")
    app.start()
    try:
        yield Front(app=app, issuer=issuer, dsns=dsns)
    finally:
        app.process.stop()
