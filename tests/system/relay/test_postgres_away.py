"""PostgreSQL dies and comes back: nothing accepted is lost, and everybody goes on by themselves."""

import asyncio
import contextlib
import signal
from pathlib import Path

import pytest

from app.edges.server import open_broker
from app.errors import UnavailableError
from app.postgres.engine import AWAY
from devstack.postgres import EmbeddedPostgres
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.support import stack
from tests.support.calls import accept, echo, fetch
from tests.support.stack import wait_for
from tests.system.relay.conftest import open_relay


@pytest.mark.guarantee("postgres:away")
async def test_app_and_relay_outlive_a_killed_postgres(
    issuer: DevIssuer, kafka_bootstrap: str
) -> None:
    server = EmbeddedPostgres()
    await asyncio.to_thread(server.start)
    try:
        await stack.make_template(server.dsn)
        database = await stack.clone(server.dsn)
        app = settings_of(database.app, issuer)
        times = {"relay_lease_s": 6, "publish_timeout_s": 5, "claim_wait_s": 60}
        relay = settings_of(database.relay, issuer, kafka_bootstrap=kafka_bootstrap, **times)
        async with open_broker(app) as broker, open_relay(relay, "survivor") as survivor:
            await accept(broker, echo("before", idempotency_key="before"))
            await asyncio.to_thread(server.kill)
            with pytest.raises((UnavailableError, OSError)):
                await accept(broker, echo("during", idempotency_key="during"))
            await asyncio.to_thread(server.start)

            async def again() -> bool:
                try:
                    await accept(broker, echo("during", idempotency_key="during"))
                except (UnavailableError, OSError):
                    return False
                return True

            assert await wait_for(again, 20)

            async def out() -> bool:
                # What was claimed when the server died is free again when its lease is over.
                with contextlib.suppress(*AWAY):
                    await survivor.clock.tick()
                survivor.outbound.wake()
                rows = await fetch(
                    database.owner,
                    "SELECT count(*) AS n FROM commands WHERE state = 'dispatched'",
                )
                return rows[0]["n"] == 2

            assert await wait_for(out, 20)
    finally:
        await asyncio.to_thread(server.stop)


@pytest.mark.guarantee("relay:drains")
async def test_a_relay_told_to_stop_leaves_nothing_claimed_and_ends_with_zero(
    database: Dsns, issuer: DevIssuer, kafka_bootstrap: str, tmp_path: Path
) -> None:
    from devstack.stack import relay_process

    env = {
        "MCP_BROKER_DATABASE_URL": database.relay,
        "MCP_BROKER_KAFKA_BOOTSTRAP": kafka_bootstrap,
    }
    await fetch(database.owner, "UPDATE tenants SET in_flight_max = 5000")
    await fetch(database.owner, "UPDATE tools SET in_flight_max = 5000")
    async with open_broker(settings_of(database.app, issuer)) as broker:
        await asyncio.gather(*(accept(broker, echo(str(n))) for n in range(1000)))
    relay = relay_process(home=tmp_path, env=env, name="relay")
    relay.start()
    try:

        async def some() -> bool:
            rows = await fetch(
                database.owner, "SELECT 1 FROM commands WHERE state = 'dispatched' LIMIT 1"
            )
            return bool(rows)

        assert await wait_for(some, 20)
        relay.send(signal.SIGTERM)

        async def ended() -> bool:
            return not relay.running

        assert await wait_for(ended, 10)
    finally:
        relay.stop()
    assert '"message":"relay stopped"' in relay.tail()
    [row] = await fetch(database.owner, "SELECT count(*) AS n FROM outbox WHERE status = 'claimed'")
    assert row["n"] == 0
