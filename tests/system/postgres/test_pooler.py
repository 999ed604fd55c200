"""PgBouncer between us and PostgreSQL: served where it keeps what is needed, else refused."""

import asyncio
import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from app import assets
from app.commands.store import dispatch_claim
from app.commands.watch import until_final
from app.config import Settings
from app.edges.commands import cancel
from app.edges.server import open_broker
from app.postgres import pooler
from app.postgres.engine import open_database
from app.postgres.pooler import PoolerError
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.support.calls import ADA, accept, claim, delete, echo, fetch, finish
from tests.support.pgbouncer import NEW, OLD, pooling

FILE = assets.root() / "deploy" / "pgbouncer.ini"
PAGE = assets.root() / "docs" / "OPERATORS.md"
SECTION = PAGE.read_text().partition("## Behind PgBouncer")[2].partition("\n## ")[0]
CALLS = 60
WAKE_S = 60.0
"""Nobody polls within a test: who hears of an end was told."""


def said() -> dict[str, str]:
    """What the shipped file has for pools and logins; where it listens and who may is ours."""
    found = ConfigParser(interpolation=None)
    found.read_string(FILE.read_text())
    own = ("listen_addr", "listen_port", "auth_file")
    return {name: value for name, value in found["pgbouncer"].items() if name not in own}


async def limit(found: Dsns) -> None:
    """Give the logins what the page says, in this database."""
    block = re.search(r"```sql\n(.*?)```", SECTION, re.DOTALL)
    assert block is not None
    for role in ("broker_app_login", "broker_relay_login"):
        for line in (
            block[1]
            .replace("ROLE app SET", f"ROLE {role} IN DATABASE {found.name} SET")
            .splitlines()
        ):
            await fetch(found.owner, line)


def by(url: str, port: int) -> str:
    """The same database, by another port."""
    there = urlsplit(url)
    return url.replace(f"{there.hostname}:{there.port}", f"127.0.0.1:{port}")


SESSION = said() | {"pool_mode": "session"}
REFUSED: list[tuple[str, dict[str, str], bool, str]] = [
    (OLD, {"pool_mode": "transaction"}, True, "ignore_startup_parameters ="),
    (NEW, {"pool_mode": "transaction"}, True, "ignore_startup_parameters ="),
    (OLD, {k: v for k, v in said().items() if k != "max_prepared_statements"}, True, "1.21"),
    (NEW, said() | {"max_prepared_statements": "0"}, True, "max_prepared_statements"),
    (NEW, said(), False, "ALTER ROLE"),
    (NEW, said() | {"default_pool_size": "1"}, True, "default_pool_size"),
    (NEW, SESSION, False, "ALTER ROLE"),
]


@pytest.mark.guarantee("database:pooler")
@pytest.mark.parametrize(("suite", "settings", "limited", "reason"), REFUSED)
async def test_a_pooler_that_does_not_keep_what_is_needed_is_refused(
    database: Dsns, suite: str, settings: dict[str, str], limited: bool, reason: str
) -> None:
    if limited:
        await limit(database)
    with (
        pooling(suite, database.owner, settings=settings) as port,
        pytest.raises(PoolerError, match=re.escape(reason)),
    ):
        await pooler.check(by(database.app, port), direct_url=database.app)


@pytest.mark.guarantee("database:pooler")
async def test_the_direct_url_is_needed_and_is_the_server_itself(database: Dsns) -> None:
    await limit(database)
    with pooling(NEW, database.owner, settings=said()) as port:
        url = by(database.app, port)
        with pytest.raises(PoolerError, match="MCP_BROKER_DATABASE_DIRECT_URL"):
            await pooler.check(url, direct_url=None)
        with pytest.raises(PoolerError, match="through a pooler, too"):
            await pooler.check(url, direct_url=url)
        elsewhere = database.app.replace(database.name, "postgres")
        with pytest.raises(PoolerError, match="not one database"):
            await pooler.check(url, direct_url=elsewhere)
        await pooler.check(url, direct_url=database.app)
    await pooler.check(database.app, direct_url=None)


@pytest.mark.guarantee("database:pooler")
@pytest.mark.parametrize("suite", [OLD, NEW])
async def test_one_that_pools_sessions_is_taken(database: Dsns, suite: str) -> None:
    await limit(database)
    settings = {k: v for k, v in SESSION.items() if suite == NEW or k != "max_prepared_statements"}
    with pooling(suite, database.owner, settings=settings) as port:
        await pooler.check(by(database.app, port), direct_url=database.app)


@pytest.mark.guarantee("database:pooler")
async def test_each_program_says_why_it_does_not_start(database: Dsns) -> None:
    with pooling(NEW, database.owner, settings=said()) as port:
        env = {**os.environ, "MCP_BROKER_DATABASE_URL": by(database.owner, port)}
        for argv in (["app", "serve"], ["relay"], ["app", "migrate"]):
            done = await asyncio.to_thread(run, argv, env)
            assert done.returncode == 1, argv
            last = done.stderr.strip().splitlines()[-1]
            assert "pooler" in last, (argv, done.stderr)
            assert "Traceback" not in done.stderr


def run(argv: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *argv],
        env=env,
        cwd=Path(assets.root()),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.guarantee("database:pooler")
async def test_calls_live_their_lives_behind_it(database: Dsns, issuer: DevIssuer) -> None:
    """Two replicas and a relay share six sessions."""
    await limit(database)
    with pooling(NEW, database.owner, settings=said() | {"default_pool_size": "6"}) as port:

        def settings(url: str) -> Settings:
            direct = SecretStr(url)
            return settings_of(by(url, port), issuer, database_direct_url=direct, poll_s=WAKE_S)

        async with (
            open_broker(settings(database.app)) as one,
            open_broker(settings(database.app)) as other,
            open_database(settings(database.relay), name="relay") as relay,
        ):
            made = await asyncio.gather(
                *(
                    accept(broker, delete(f"d{n % 7}", idempotency_key=str(n)))
                    for n in range(CALLS)
                    for broker in (one, other)
                )
            )
            ids = sorted({each.written.id for each in made})
            assert len(ids) == CALLS, "each was accepted once, whichever replica was first"
            leased = await dispatch_claim.lease_commands(
                relay.pool,
                relay="relay",
                batch_max=100,
                window=100,
                aging_s=60,
                lease_s=60,
                top_only=False,
            )
            assert len(leased) == len({row.ordering_key for row in leased}) == 7

            async def lived(number: int, command_id: Any) -> str:
                broker, watcher = (one, other) if number % 2 else (other, one)
                with watcher.feed.watch("demo", command_id) as watch:
                    heard = asyncio.create_task(until_final(watch, wait_s=WAKE_S / 2))
                    assert (await claim(broker, command_id, run=str(number))).proceed
                    await finish(broker, command_id, result={"path": "p", "deleted": True})
                    ended = await heard
                assert ended is not None, "the other replica was not told"
                return str(ended.state)

            first = [row.command_id for row in leased]
            async with asyncio.timeout(WAKE_S / 2):
                assert set(await asyncio.gather(*map(lived, range(7), first))) == {"succeeded"}
            rest = [each for each in ids if each not in first]
            await asyncio.gather(*(cancel(one, ADA, each, reason="enough") for each in rest))
            again = await accept(other, echo("after"))
            assert again.written.new
    [left] = await fetch(
        database.owner, "SELECT count(*) AS n FROM commands WHERE finished_at IS NULL"
    )
    assert left["n"] == 1
