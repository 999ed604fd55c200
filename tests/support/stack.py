"""The real servers that the tests run on: given ones, Docker's where an engine answers, or ours."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal, TypeVar
from uuid import uuid4

import asyncpg
import uvicorn
from starlette.types import ASGIApp

from app.postgres import migrate
from devstack.kafka import EmbeddedKafka
from devstack.postgres import EmbeddedPostgres
from devstack.process import descendants
from devstack.stack import Dsns, create_logins, dsns, seed

T = TypeVar("T")

TEMPLATE = f"broker_template_{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
TENANTS = ("demo", "other")
MEMORY = Path("/dev/shm")
MEMORY_MIN = 4 << 30
WATCHED = ("tenants", "grants", "tools", "targets", "audit.auditors")
"""Tables whose every change is audited."""


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A server that tests make databases on."""

    superuser_dsn: str


def docker_answers() -> bool:
    """Whether a Docker engine is there, not just its client."""
    if os.environ.get("MCP_BROKER_NO_DOCKER") or shutil.which("docker") is None:
        return False
    try:
        done = subprocess.run(["docker", "info"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


@contextmanager
def postgres_with_template() -> Generator[str]:
    """DATABASE_URL, else Docker, else the embedded server; gives the superuser's address."""
    with _postgres() as superuser_dsn:
        asyncio.run(make_template(superuser_dsn))
        yield superuser_dsn


@contextmanager
def _postgres() -> Generator[str]:
    if url := os.environ.get("DATABASE_URL"):
        yield url
    elif docker_answers():
        from testcontainers.postgres import PostgresContainer

        with PostgresContainer("postgres:18", driver=None) as container:
            yield container.get_connection_url()
    else:
        with _fast_folder() as data, EmbeddedPostgres(data=data) as server:
            yield server.dsn


@contextmanager
def _fast_folder() -> Generator[Path | None]:
    """In memory where there is room, as making a database for each test is much of a test's time.

    The server's settings stay as they are, `fsync` too. A test of what outlives a machine's crash
    has a server of its own, on a disk.
    """
    if not MEMORY.is_dir() or shutil.disk_usage(MEMORY).free < MEMORY_MIN:
        yield None
        return
    with TemporaryDirectory(prefix="mcp-broker-postgres-", dir=MEMORY) as made:
        yield Path(made)


@contextmanager
def kafka_bootstrap() -> Generator[str]:
    """KAFKA_BOOTSTRAP, else Docker, else the embedded broker."""
    if given := os.environ.get("KAFKA_BOOTSTRAP"):
        yield given
    elif docker_answers():
        from testcontainers.kafka import KafkaContainer

        with KafkaContainer().with_kraft() as container:
            yield container.get_bootstrap_server()
    else:
        with EmbeddedKafka() as broker:
            yield broker.bootstrap


async def make_template(superuser_dsn: str) -> None:
    """A migrated database with catalog and tenants, to clone one from for each test."""
    await _execute(superuser_dsn, f'DROP DATABASE IF EXISTS "{TEMPLATE}"')
    await _execute(superuser_dsn, f'CREATE DATABASE "{TEMPLATE}"')
    owner = dsns(superuser_dsn, TEMPLATE).owner
    await migrate.upgrade(owner)
    await create_logins(superuser_dsn)
    # A test's trail begins with what the test does.
    for table in WATCHED:
        await _execute(owner, f"ALTER TABLE {table} DISABLE TRIGGER noted")
    await seed(owner, tenants=TENANTS)
    for table in WATCHED:
        await _execute(owner, f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER noted")
    # Whoever first reads a row notes that its transaction has ended, and that is a page written
    # anew, in each clone. Of our tables nothing is noted that a planner goes by.
    catalogs = "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid < 16384"
    conn = await asyncpg.connect(owner)
    try:
        for row in await conn.fetch(catalogs):
            await conn.execute(f"VACUUM (FREEZE) {row[0]}")
    finally:
        await conn.close()


async def clone(superuser_dsn: str, conn: asyncpg.Connection | None = None) -> Dsns:
    """A database of a test's own; by a superuser's connection, where there is one."""
    name = f"t_{uuid4().hex}"
    made = f'CREATE DATABASE "{name}" TEMPLATE "{TEMPLATE}" STRATEGY file_copy'
    await _execute(superuser_dsn, made, conn)
    return dsns(superuser_dsn, name)


async def drop(superuser_dsn: str, found: Dsns, conn: asyncpg.Connection | None = None) -> None:
    """Remove it, with whoever is connected."""
    await _execute(superuser_dsn, f'DROP DATABASE IF EXISTS "{found.name}" WITH (FORCE)', conn)


async def _execute(dsn: str, statement: str, conn: asyncpg.Connection | None = None) -> None:
    if conn is not None:
        await conn.execute(statement)
        return
    own = await asyncpg.connect(dsn)
    try:
        await own.execute(statement)
    finally:
        await own.close()


def left_behind(marker: str) -> list[str]:
    """What still runs below this process, or (on Linux) anywhere with a marked environment."""
    pids = set(descendants(os.getpid()))
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # it ended meanwhile, or is not ours
            if marker.encode() in environ.read_bytes():
                pids.add(int(environ.parent.name))
    return [f"{pid} {command_of(pid)}" for pid in sorted(pids) if alive(pid)]


def command_of(pid: int) -> str:
    argv = ["ps", "-o", "args=", "-p", str(pid)]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits for its parent's look does not."""
    done = subprocess.run(
        ["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return done.returncode == 0 and not done.stdout.strip().startswith("Z")


async def wait_for(condition: Callable[[], Awaitable[T]], timeout_s: float = 15.0) -> T:
    """The condition's first truthy value, awaited with a bound."""
    async with asyncio.timeout(timeout_s):
        while True:
            value = await condition()
            if value:
                return value
            await asyncio.sleep(0.02)


def make_repo(path: Path) -> Path:
    """A small real repository."""
    git = ["git", "-C", str(path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    path.mkdir()
    subprocess.run([*git, "init", "-q", "-b", "main"], check=True)
    (path / "README").write_text("hello\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    return path


@asynccontextmanager
async def listening(
    app: ASGIApp, *, lifespan: Literal["auto", "off"] = "off", port: int = 0
) -> AsyncGenerator[int]:
    """Serve an app in this process, on this or a free port of loopback; gives the port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_config=None, lifespan=lifespan)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())

    async def bound() -> bool:
        return server.started

    await wait_for(bound)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, 5)
