"""The suite's own guard: each kind of thing that a test can leave behind is found."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import asyncpg
import pytest

from app.edges.parts import Parts
from devstack.stack import Dsns
from tests.support import leaks
from tests.support.calls import EVE, accept, echo
from tests.support.stack import left_behind

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "GRACE_S", 0.1)


@pytest.fixture
async def idle(database: Dsns) -> AsyncIterator[asyncpg.Connection]:
    """A session that did something and waits, as one of a pool does."""
    conn = await asyncpg.connect(database.owner)
    yield conn
    await conn.close()


@asynccontextmanager
async def rolled_back(conn: asyncpg.Connection) -> AsyncGenerator[None]:
    """What is forged here is gone before the suite's own look."""
    forged = conn.transaction()
    await forged.start()
    try:
        yield
    finally:
        await forged.rollback()


async def test_a_task_that_runs_on_is_found() -> None:
    before = leaks.seen()
    task = asyncio.create_task(asyncio.Event().wait(), name="endless")
    try:
        [found] = await leaks.since(before)
        assert "endless" in found
    finally:
        task.cancel()


@linux
async def test_a_listening_socket_and_a_connection_are_found() -> None:
    before = leaks.seen()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert await leaks.since(before) == [f"listening socket {port} to 0"]
        between = leaks.seen()
        with socket.create_connection(("127.0.0.1", port)) as conn:
            here = conn.getsockname()[1]
            assert await leaks.since(between) == [f"connection {here} to {port}"]
    assert await leaks.since(before) == []


@linux
async def test_a_process_is_found() -> None:
    before = leaks.seen()
    sleeper = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        assert await leaks.since(before) == [f"process {sleeper.pid} sleep 600"]
    finally:
        sleeper.kill()
        await sleeper.wait()


@linux
async def test_a_process_is_found_after_its_parent_and_session_are_gone() -> None:
    marker = f"LEFT_BEHIND={uuid4()}"
    name, _, value = marker.partition("=")
    argv = ["sh", "-c", "sleep 600 >/dev/null & echo $!"]
    shell = await asyncio.create_subprocess_exec(
        *argv, stdout=PIPE, env=os.environ | {name: value}, start_new_session=True
    )
    printed, _ = await shell.communicate()
    sleeper = int(printed)
    try:
        assert f"{sleeper} sleep 600" in left_behind(marker)
    finally:
        os.kill(sleeper, signal.SIGKILL)


async def test_a_session_of_the_database_is_found_with_what_it_did_last(
    admin: asyncpg.Connection, database: Dsns, idle: asyncpg.Connection
) -> None:
    await idle.execute("SELECT 'left'")
    [found] = await leaks.sessions(admin, database.name)
    assert "SELECT 'left'" in found
    assert await leaks.held(admin, database.name) == []


async def test_an_advisory_lock_a_transaction_and_a_channel_that_are_held_are_found(
    admin: asyncpg.Connection, database: Dsns, idle: asyncpg.Connection
) -> None:
    await idle.execute("SELECT pg_advisory_lock(1)")
    [found] = await leaks.held(admin, database.name)
    assert "advisory lock" in found
    await idle.execute("SELECT pg_advisory_unlock(1)")
    assert await leaks.held(admin, database.name) == []
    await idle.execute("BEGIN")
    [found] = await leaks.held(admin, database.name)
    assert "idle in transaction" in found
    await idle.execute("ROLLBACK")
    await idle.execute("LISTEN heard")
    [found] = await leaks.held(admin, database.name)
    assert "LISTEN heard" in found
    await idle.execute("UNLISTEN heard")


@pytest.fixture
async def superuser(database: Dsns) -> AsyncIterator[asyncpg.Connection]:
    """Who sees the rows of all tenants, and writes what no role of the broker could."""
    conn = await asyncpg.connect(database.owner)
    yield conn
    await conn.close()


async def test_a_row_of_no_tenant_is_found(superuser: asyncpg.Connection) -> None:
    async with rolled_back(superuser):
        await superuser.execute("INSERT INTO tenant_budgets VALUES ('nobody', 1)")
        assert await leaks.strays(superuser) == ["tenant_budgets: of nobody, who is no tenant"]


async def test_a_row_that_hangs_on_another_tenants_command_is_found(
    broker: Parts, superuser: asyncpg.Connection
) -> None:
    theirs = (await accept(broker, echo(), EVE)).written.id
    assert await leaks.strays(superuser) == []
    async with rolled_back(superuser):
        await superuser.execute(
            "INSERT INTO progress (command_id, seq, tenant_id, attempt, stage)"
            " VALUES ($1, 1, 'demo', 1, 's')",
            theirs,
        )
        assert await leaks.strays(superuser) == ["progress: of demo, with a command_id of other"]


async def test_an_event_in_another_tenants_log_is_found(
    broker: Parts, superuser: asyncpg.Connection
) -> None:
    theirs = (await accept(broker, echo(), EVE)).written.id
    async with rolled_back(superuser):
        await superuser.execute(
            "INSERT INTO audit.events (tenant_id, type, actor, command_id, body)"
            " VALUES ('demo', 'command.accepted', 'user:ada', $1, '{}')",
            theirs,
        )
        assert await leaks.strays(superuser) == [
            "audit.events: of demo, with a command_id of other"
        ]
