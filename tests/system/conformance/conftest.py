"""An app whose `conformance` tenant has the suite's fixtures, behind a proxy with its token."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import httpx2
import pytest

from app.catalog import file as catalog_file
from app.catalog import store as catalog_store
from app.catalog.policy import Grant
from app.catalog.store import Limits
from app.postgres import migrate
from devstack.postgres import free_port
from devstack.stack import AppProcess
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE
from tests.edges.mcp.adapter import serving
from tests.support import stack as servers
from tests.support.stack import PostgresServer
from tests.system.conformance.fixtures import TOOLS
from tests.system.conformance.proxy import proxy

TENANT = "conformance"


async def offer(owner_dsn: str) -> None:
    """The tenant, and its fixtures in the catalog; no other tenant may call them."""
    grant = Grant(subject_kind="tenant", subject="*", pattern="fixture/*", effect="allow")
    async with migrate.connected(owner_dsn) as engine:
        file = catalog_file.parse(Path(__file__).with_name("tools.yml"))
        await catalog_file.apply(engine, file, prune=False)
        async with engine.begin() as conn:
            await catalog_store.put_tenant(
                conn, TENANT, Limits(title="Conformance", queued_max=1000)
            )
            await catalog_store.grant(conn, TENANT, [grant])


@pytest.fixture(scope="module")
async def url(
    template: PostgresServer, issuer: DevIssuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[str]:
    """Where the suite reaches the MCP endpoint without a token."""
    dsns = await servers.clone(template.superuser_dsn)
    await offer(dsns.owner)
    env = {
        "MCP_BROKER_DATABASE_URL": dsns.app,
        "MCP_BROKER_ISSUERS": issuer.setting(),
        "MCP_BROKER_PUBLIC_URL": AUDIENCE.removesuffix("/mcp"),
        "MCP_BROKER_INLINE_WAIT_S": "20",
        "MCP_BROKER_TASK_AFTER_S": "0",
    }
    home = tmp_path_factory.mktemp("conformance")
    app = AppProcess(home=home, env=env, port=free_port(), name="app")
    app.start()
    token = issuer.token(tenant=TENANT, user="suite", scopes=["tools"])
    adapter = issuer.token(tenant="adapters", user="fixtures", scopes=["results:write"])
    headers = {"Authorization": f"Bearer {adapter}"}
    try:
        async with (
            httpx2.AsyncClient(base_url=app.url, headers=headers, timeout=30) as http,
            serving(owner_dsn=dsns.owner, http=http, tools=TOOLS),
            proxy(port=app.port, token=token) as port,
        ):
            yield f"http://127.0.0.1:{port}/mcp"
    finally:
        await asyncio.to_thread(app.process.stop)
