"""PostgreSQL goes silent, is demoted, or has no room: everybody is back by themselves, in time."""

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from app.edges.parts import Parts
from app.edges.server import open_broker, readyz
from app.errors import BrokerError
from app.postgres.engine import AWAY
from devstack.postgres import EmbeddedPostgres
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.support import stack
from tests.support.calls import accept, echo
from tests.support.stack import PostgresServer, wait_for
from tests.system.machines.silence import silent_proxy
from tests.system.relay.conftest import open_relay

pytestmark = pytest.mark.chaos

BACK_S = 30


async def works(broker: Parts) -> bool:
    """Whether a call is accepted, and what is read everyday is read."""
    try:
        accepted = await accept(broker, echo(str(uuid4())))
    except (BrokerError, *AWAY):
        return False
    assert accepted.written.new
    return (await readyz(broker)()).status_code == 200


async def back(what: Callable[[], Awaitable[bool]]) -> float:
    began = time.monotonic()
    assert await wait_for(what, 2 * BACK_S)
    return time.monotonic() - began


@pytest.mark.guarantee("postgres:silent")
async def test_app_and_relay_are_back_within_thirty_seconds_of_connections_that_went_silent(
    template: PostgresServer, database: Dsns, issuer: DevIssuer, kafka_bootstrap: str
) -> None:
    port = int(template.superuser_dsn.rpartition(":")[2].partition("/")[0])
    async with AsyncExitStack() as opened:
        proxy = await opened.enter_async_context(silent_proxy(port))

        def through(dsn: str) -> str:
            return dsn.replace(f":{port}/", f":{proxy.port}/")

        app = settings_of(through(database.app), issuer)
        broker = await opened.enter_async_context(open_broker(app))
        relay = await opened.enter_async_context(
            open_relay(
                settings_of(through(database.relay), issuer, kafka_bootstrap=kafka_bootstrap),
                f"silent-{uuid4()}",
            )
        )

        async def ticks() -> bool:
            try:
                await relay.clock.tick()
            except AWAY:
                return False
            return True

        # Some connections of every pool.
        assert all(await asyncio.gather(*(works(broker) for _ in range(8))))
        assert await ticks()
        proxy.silence()
        app_s, relay_s = await asyncio.gather(back(lambda: works(broker)), back(ticks))
        proxy.end()
        assert app_s < BACK_S
        assert relay_s < BACK_S


@asynccontextmanager
async def pair(tmp_path: Path) -> AsyncGenerator[tuple[EmbeddedPostgres, EmbeddedPostgres]]:
    """A primary and its standby."""
    with EmbeddedPostgres() as primary:
        await stack.make_template(primary.dsn)
        standby = EmbeddedPostgres(password=primary.password)
        await asyncio.to_thread(copy, primary, standby)
        with standby:
            yield primary, standby


def copy(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    standby.home.mkdir(parents=True, exist_ok=True)
    user = 65534 if os.geteuid() == 0 else None
    if user is not None:
        os.chown(standby.home, user, user)
    program = primary.binaries / "pg_basebackup"
    data = str(standby.home / "data")
    subprocess.run(
        [program, "-D", data, "-R", "-c", "fast", "-X", "stream", "-d", primary.dsn],
        user=user,
        group=user,
        check=True,
        capture_output=True,
        cwd=standby.home,
    )


@pytest.mark.guarantee("postgres:switchover")
async def test_app_and_relay_follow_to_the_standby_that_was_promoted(
    issuer: DevIssuer, kafka_bootstrap: str, tmp_path: Path
) -> None:
    async with pair(tmp_path) as (primary, standby), AsyncExitStack() as opened:
        database = await stack.clone(primary.dsn)

        def both(dsn: str) -> str:
            host = f"127.0.0.1:{primary.port}"
            return dsn.replace(host, f"127.0.0.1:{standby.port},{host}")

        app = settings_of(both(database.app), issuer)
        broker = await opened.enter_async_context(open_broker(app))
        relay = await opened.enter_async_context(
            open_relay(
                settings_of(both(database.relay), issuer, kafka_bootstrap=kafka_bootstrap),
                f"pair-{uuid4()}",
            )
        )

        async def ticks() -> bool:
            with suppress(*AWAY):
                await relay.clock.tick()
                return True
            return False

        assert await wait_for(lambda: works(broker), BACK_S), "the standby stands first"
        assert await ticks()
        # Demoted in its place: what is open stays open, and takes no writes any more.
        admin = await asyncpg.connect(primary.dsn)
        await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()

        async def unready() -> bool:
            return (await readyz(broker)()).status_code == 503

        assert await wait_for(unready, BACK_S), "readiness knows"
        assert not await works(broker)
        promoted = await asyncpg.connect(standby.dsn)
        assert await promoted.fetchval("SELECT pg_promote()")
        await promoted.close()
        app_s, relay_s = await asyncio.gather(back(lambda: works(broker)), back(ticks))
        assert app_s < BACK_S
        assert relay_s < BACK_S


@pytest.mark.guarantee("postgres:away")
async def test_with_all_of_the_servers_connections_taken_calls_are_refused_and_then_go_on(
    issuer: DevIssuer,
) -> None:
    with EmbeddedPostgres(settings={"max_connections": "20"}) as server:
        await stack.make_template(server.dsn)
        database = await stack.clone(server.dsn)
        async with open_broker(settings_of(database.app, issuer)) as broker:
            taken: list[asyncpg.Connection] = []
            with suppress(asyncpg.TooManyConnectionsError):
                while True:
                    taken.append(await asyncpg.connect(database.owner))
            assert not await works(broker)
            for one in taken:
                await one.close()
            assert await back(lambda: works(broker)) < BACK_S
