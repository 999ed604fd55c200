"""One fixture interface over given, Docker's and embedded servers."""

import gc
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
import typer.main
import typer.testing
from pydantic import SecretStr

from app.config import Settings
from app.edges.parts import Parts
from app.edges.server import open_broker
from app.trust import Issuer
from devstack.stack import Dsns
from devstack.tokens import ISSUER, DevIssuer
from tests.support import leaks, stack
from tests.support.examples import FAST
from tests.support.served import Shared, sharing
from tests.support.shares import Shares
from tests.support.stack import PostgresServer

DATABASES = {"database", "front", "sealed_log", "shared", "world"}
"""Fixtures that are a database, or have one."""

AUDIENCE = "http://testserver/mcp"

hypothesis.settings.register_profile("fast", max_examples=FAST)

# A third of a test's time on an app was looking for garbage, as each has thousands of objects.
gc.set_threshold(100_000, 20, 20)

# The tree of our commands is made once, not for each that a test runs: 16 ms each.
typer.testing._get_command = cache(typer.main.get_command)  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]

SYSTEM = Path(__file__).with_name("system")
SHARES = pytest.StashKey[Shares]()
MARKER = pytest.StashKey[str]()
POSTGRES = pytest.StashKey[int | None]()


def pytest_configure(config: pytest.Config) -> None:
    """Mark what a run starts, its workers and their servers too."""
    if not hasattr(config, "workerinput"):
        config.stash[MARKER] = f"MCP_BROKER_TESTS={uuid4()}"
        name, _, value = config.stash[MARKER].partition("=")
        os.environ[name] = value


def pytest_collection_finish() -> None:
    """Leave modules, tests and schemas to the end: each full collection would walk them all."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)  # the workers have ended then
def pytest_sessionfinish(session: pytest.Session) -> None:
    """No process that a test started is there when the last test is done."""
    if SHARES in session.config.stash:
        session.config.stash[SHARES].close()
    if MARKER not in session.config.stash:
        return
    if left := stack.left_behind(session.config.stash[MARKER]):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        for line in ["", "still running:", *left]:
            session.config.get_terminal_writer().line(line, red=True)


@pytest.fixture(scope="session")
def shares(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Shares:
    """The servers of a run; ended with the session, as a fixture has no time to wait for others."""
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent
    request.config.stash[SHARES] = Shares(folder)
    return request.config.stash[SHARES]


@pytest.fixture(scope="session")
def template(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    """A server with a migrated database to clone; a worker's own.

    A seal waits for every transaction of the server that began before it, those of other databases
    too, so the tests of two workers would wait for each other.
    """
    with stack.postgres_with_template() as superuser_dsn:
        request.config.stash[POSTGRES] = urlsplit(superuser_dsn).port
        yield PostgresServer(superuser_dsn)


@pytest.fixture(scope="session")
def kafka_bootstrap(shares: Shares) -> str:
    return shares.address("kafka", stack.kafka_bootstrap)


@pytest.fixture(scope="session")
async def admin(template: PostgresServer) -> AsyncIterator[asyncpg.Connection]:
    """The superuser, who looks at what tests leave."""
    conn = await asyncpg.connect(template.superuser_dsn)
    yield conn
    await conn.close()


@pytest.fixture
async def database(
    request: pytest.FixtureRequest, template: PostgresServer, admin: asyncpg.Connection
) -> AsyncIterator[Dsns]:
    """A migrated database of the test's own, with the shipped catalog and two tenants."""
    async with watched(request.path, template, admin) as made:
        yield made


@asynccontextmanager
async def watched(
    of: Path, template: PostgresServer, admin: asyncpg.Connection
) -> AsyncGenerator[Dsns]:
    """A database for a test file's tests, and a look at what they leave there."""
    made = await stack.clone(template.superuser_dsn, admin)
    yield made
    system = SYSTEM in of.parents
    left = [] if system else await leaks.sessions(admin, made.name)
    strays = await _strays(made)
    await stack.drop(template.superuser_dsn, made, admin)
    assert not left, "\n".join(["still connected to the test's database:", *left])
    assert not strays, "\n".join(["rows of other tenants:", *strays])


async def _strays(made: Dsns) -> list[str]:
    superuser = await asyncpg.connect(made.owner)
    try:
        return await leaks.strays(superuser)
    finally:
        await superuser.close()


@pytest.fixture(autouse=True)
async def nothing_left(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """No task, socket or process that the test started is there when it is done.

    System tests share processes and clients by the module, and kill some of them in between: what
    those leave is looked for when the last test is done.
    """
    if SYSTEM in request.path.parents:
        yield
        return
    before = leaks.seen()
    yield
    postgres = request.config.stash.get(POSTGRES, None)
    left = await leaks.since(before, postgres=postgres)
    assert not left, "\n".join(["left by the test:", *left])


@pytest.fixture
async def nothing_held(
    request: pytest.FixtureRequest, admin: asyncpg.Connection
) -> AsyncIterator[None]:
    """No idle session has a transaction, a lock or a channel when the test's last line is done.

    What the test works with is open still: this is about what a pool would lend to the next one.
    """
    yield
    for name in DATABASES & set(request.fixturenames):
        made = request.getfixturevalue(name)
        dsns: Dsns = getattr(made, "dsns", made)
        held = await leaks.held(admin, dsns.name)
        assert not held, "\n".join(["held when the test was done:", *held])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest modules first, and what looks at a test's end last among its fixtures.

    A module runs in one worker: a long one that begins last keeps one worker and idles the others.
    `nothing_held` looks before anything of the test is closed.
    """
    items.sort(key=_place)
    for item in items:
        if isinstance(item, pytest.Function) and DATABASES & set(item.fixturenames):
            item.fixturenames.append("nothing_held")


def _place(item: pytest.Item) -> int:
    """Killing for minutes, then what starts processes, then the rest."""
    if item.path.parent.name in {"chaos", "machines"}:
        return 0
    return 1 if SYSTEM in item.path.parents else 2


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
        "issuer_refetch_s": 0.05,
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


@pytest.fixture(scope="module")
async def shared(
    request: pytest.FixtureRequest,
    template: PostgresServer,
    admin: asyncpg.Connection,
    issuer: DevIssuer,
) -> AsyncIterator[Shared]:
    """One app and database for those of a module's tests that ask for it: for what is refused, and
    for calls that never meet. On an app of its own each of them costs many times as much.
    """
    async with AsyncExitStack() as opened:
        dsns = await opened.enter_async_context(watched(request.path, template, admin))
        settings = settings_of(dsns.app, issuer)
        yield await opened.enter_async_context(sharing(dsns, settings, issuer))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path
