"""One fixture interface over given, Docker's and embedded servers."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest
from pydantic import SecretStr

from app.config import Settings
from app.edges.parts import Parts
from app.edges.server import open_broker
from app.trust import Issuer
from devstack.stack import Dsns
from devstack.tokens import ISSUER, DevIssuer
from tests.support import stack
from tests.support.stack import PostgresServer

AUDIENCE = "http://testserver/mcp"


@pytest.fixture(scope="session", autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """No process that a test started is there when the last test is done."""
    marker = f"MCP_BROKER_TESTS={uuid4()}"
    name, _, value = marker.partition("=")
    os.environ[name] = value
    yield
    left = stack.left_behind(marker)
    assert not left, "\n".join(["still running:", *left])


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with stack.postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
async def template(postgres_server: PostgresServer) -> PostgresServer:
    await stack.make_template(postgres_server.superuser_dsn)
    return postgres_server


@pytest.fixture(scope="session")
def kafka_bootstrap() -> Iterator[str]:
    with stack.kafka_bootstrap() as bootstrap:
        yield bootstrap


@pytest.fixture
async def database(template: PostgresServer) -> AsyncIterator[Dsns]:
    """A migrated database of the test's own, with the shipped catalog and two tenants."""
    made = await stack.clone(template.superuser_dsn)
    yield made
    await stack.drop(template.superuser_dsn, made)


@pytest.fixture(scope="session")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> DevIssuer:
    return DevIssuer(tmp_path_factory.mktemp("issuer"), audience=AUDIENCE)


def settings_of(dsn: str, issuer: DevIssuer, **changes: object) -> Settings:
    """Settings with short times, for a test's app or relay."""
    trusted = Issuer(
        issuer=ISSUER,
        audience=AUDIENCE,
        jwks_file=issuer.jwks,
        jwks_uri=None,
        algorithms=("EdDSA",),
        tenants=None,
    )
    values: dict[str, object] = {
        "database_url": SecretStr(dsn),
        "public_url": "http://testserver",
        "issuers": (trusted,),
        "allowed_hosts": ("testserver", "127.0.0.1:*"),
        "poll_s": 0.2,
        "clock_s": 0.05,
        "heartbeat_s": 0.3,
        "inline_wait_s": 5,
    }
    return Settings.model_validate(values | changes)


@pytest.fixture
def settings(database: Dsns, issuer: DevIssuer) -> Settings:
    return settings_of(database.app, issuer)


@pytest.fixture
async def broker(settings: Settings) -> AsyncIterator[Parts]:
    """An app process's parts, on the app's own database role."""
    async with AsyncExitStack() as opened:
        yield await opened.enter_async_context(open_broker(settings))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path
