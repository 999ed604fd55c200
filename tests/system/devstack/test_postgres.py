"""The embedded PostgreSQL: durable, killable, and gone when stopped."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from app import assets
from devstack import postgres
from devstack.postgres import PORTS, EmbeddedPostgres, free_port, wheel_binaries
from devstack.process import STOP_S, descendants
from tests.support.stack import alive, wait_for

SYSTEM_15 = Path("/usr/lib/postgresql/15/bin")
LONG = "SELECT count(*) FROM generate_series(1, 10_000_000_000)"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(settings={"work_mem": "5MB"}) as server:
        yield server


async def value(server: EmbeddedPostgres, statement: str) -> object:
    conn = await asyncpg.connect(server.dsn)
    try:
        return await conn.fetchval(statement)
    finally:
        await conn.close()


async def test_it_is_18_with_durable_commits_and_the_settings_asked_for(
    server: EmbeddedPostgres,
) -> None:
    assert str(await value(server, "SHOW server_version")).startswith("18.")
    for setting in ("fsync", "synchronous_commit", "full_page_writes"):
        assert await value(server, f"SHOW {setting}") == "on"
    assert await value(server, "SHOW work_mem") == "5MB"


async def test_what_was_committed_survives_a_kill_while_a_backend_is_busy(
    server: EmbeddedPostgres,
) -> None:
    await value(server, "CREATE TABLE kept AS SELECT 42 AS n")
    busy = await asyncpg.connect(server.dsn)
    backend = busy.get_server_pid()
    query = asyncio.create_task(busy.fetchval(LONG))
    running = f"SELECT state = 'active' FROM pg_stat_activity WHERE pid = {backend}"
    await wait_for(lambda: value(server, running))
    server.kill()
    with pytest.raises((asyncpg.PostgresConnectionError, ConnectionError)):
        await query
    assert not alive(backend)
    server.start()
    assert await value(server, "SELECT n FROM kept") == 42


async def test_a_restart_keeps_the_address_and_the_data(server: EmbeddedPostgres) -> None:
    await value(server, "CREATE TABLE restarted AS SELECT 7 AS n")
    dsn = server.dsn
    server.restart()
    assert server.dsn == dsn
    assert await value(server, "SELECT n FROM restarted") == 7


async def test_nobody_gets_in_without_its_password(server: EmbeddedPostgres) -> None:
    known = urlsplit(server.dsn)
    for user in ("postgres", "broker_app_login"):
        for word in ("", ":postgres", ":development", f":{known.password}x"):
            dsn = f"postgresql://{user}{word}@127.0.0.1:{server.port}/postgres"
            with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
                await asyncpg.connect(dsn)
    hba = (server.home / "data" / "pg_hba.conf").read_text()
    ways = {line.split()[-1] for line in hba.splitlines() if line and line[0] != "#"}
    assert ways == {"scram-sha-256"}
    assert (server.home / "password").stat().st_mode & 0o077 == 0


async def test_nothing_is_left_of_one_that_was_stopped() -> None:
    with EmbeddedPostgres() as server:
        pids = [server.pid, *descendants(server.pid)]
        assert len(pids) > 1
        conn = await asyncpg.connect(server.dsn)  # a client does not keep it from ending
        asked = time.monotonic()
    assert time.monotonic() - asked < STOP_S, "killed, not stopped"
    assert [pid for pid in pids if alive(pid)] == []
    assert not server.home.exists()
    conn.terminate()


@pytest.mark.skipif(not SYSTEM_15.exists(), reason="no system PostgreSQL 15")
async def test_it_runs_another_version_where_one_is_installed() -> None:
    with EmbeddedPostgres(binaries=SYSTEM_15) as server:
        assert str(await value(server, "SHOW server_version")).startswith("15.")


def test_a_free_port_is_none_that_a_client_could_be_lent() -> None:
    assert free_port() in PORTS
    lent = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if lent.exists() and int(lent.read_text().split()[0]) == 32768:  # the default
        assert PORTS[-1] < 32768


def test_a_port_that_another_process_was_given_is_free_again_when_that_one_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", "from devstack.postgres import free_port as f; print(f()); input()"],
        cwd=assets.root(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        monkeypatch.setattr(postgres, "PORTS", range(port, port + 1))
        monkeypatch.setattr(postgres, "PORT_TRIES", 1)
        with pytest.raises(RuntimeError, match="is free"):
            free_port()
        other.communicate("\n", timeout=10)
    assert free_port() == port


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as somebody else")
async def test_it_runs_out_of_a_folder_that_only_root_can_enter(tmp_path: Path) -> None:
    wheel = wheel_binaries()
    package = wheel.parent.parent
    private = tmp_path / "root-only"
    shutil.copytree(wheel.parent, private / package.name / wheel.parent.name)
    shutil.copytree(package.with_name(f"{package.name}.libs"), private / f"{package.name}.libs")
    private.chmod(0o700)
    with EmbeddedPostgres(binaries=private.joinpath(*wheel.parts[-3:])) as server:
        assert str(await value(server, "SHOW server_version")).startswith("18.")
