"""Anchors through a real Kafka: what was published of a seal outlives the database's memory."""

import asyncio
import subprocess
import sys
from pathlib import Path

import asyncpg
import orjson
import pytest
from aiokafka import AIOKafkaProducer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.config import Settings
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from relay import anchors
from tests.audit.conftest import open_log, sealer
from tests.audit.tampering import EVENT, tamper
from tests.cli.test_audit import broker_audit, finding
from tests.conftest import settings_of
from tests.support.papers import commands, words
from tests.support.stack import wait_for
from tests.system.relay.conftest import open_relay


@pytest.fixture
def kafka_settings(database: Dsns, issuer: DevIssuer, kafka_bootstrap: str) -> Settings:
    return settings_of(database.relay, issuer, kafka_bootstrap=kafka_bootstrap)


async def published(owner: asyncpg.Connection) -> bool:
    return not await owner.fetchval("SELECT count(*) FROM outbox")


@pytest.mark.guarantee("audit:anchored")
async def test_a_rewritten_log_is_found_by_what_kafka_kept_of_it(
    database: Dsns, kafka_settings: Settings, tmp_path: Path
) -> None:
    # The topic is shared by tests: a tenant of this one's own.
    async with open_log(database) as log, open_relay(kafka_settings, "relay-anchors") as relay:
        await log.owner.execute("INSERT INTO tenants (tenant_id) VALUES ('anchored')")
        for _ in range(3):
            await log.append(4, tenant="anchored")
            await log.seal()
        relay.outbound.wake()
        await wait_for(lambda: published(log.owner), timeout_s=30)
        await spoil(kafka_settings)
        kept = tmp_path / "anchors.ndjson"
        assert await anchors.export(kafka_settings, kept) >= 3
        places = [orjson.loads(line)["kafka"] for line in kept.read_bytes().splitlines()]
        assert all(place["offset"] >= 0 for place in places)
        pinned = log.pem(tmp_path / "pinned.pem")
        argv = ("verify", "anchored", "--database-url", database.owner, "--anchors", kept, "--json")
        result = await broker_audit(*argv, "--keys", pinned)
        assert result.exit_code == 0, result.output
        assert finding(result)["anchors"] == 3
        altered = EVENT.format(change="actor = 'user:eve'", seq=7).replace("'demo'", "'anchored'")
        wiped = [f"DELETE FROM {table}" for table in ("audit.members", "audit.seals", "audit.keys")]
        await tamper(log.owner, [altered, *wiped, "DELETE FROM audit.watermark"])
        await log.owner.execute("DELETE FROM leases")
        forger = sealer(log.pool, Ed25519PrivateKey.generate())
        while await forger.tick():
            pass
        assert (await log.verify("anchored"))["ok"]
        result = await broker_audit(*argv)
        assert result.exit_code == 1
        assert "the log was rewritten" in finding(result)["fault"]["reason"]


async def spoil(settings: Settings) -> None:
    """What others may write to the topic does not keep an auditor from reading it."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap)
    await producer.start()
    try:
        for value in (b"", b"\xff", b"[]", b'{"tenant_id": 1}'):
            await producer.send_and_wait("mcp.audit", value)
    finally:
        await producer.stop()


async def test_the_relays_command_needs_kafka_and_no_database(
    kafka_settings: Settings, tmp_path: Path
) -> None:
    [told] = {one.text for one in commands() if one.text.startswith("broker-relay anchors")}
    argv = [Path(sys.executable).with_name("broker-relay"), *words(told)[1:]]
    env = {"MCP_BROKER_KAFKA_BOOTSTRAP": kafka_settings.kafka_bootstrap, "PATH": "/usr/bin:/bin"}
    done = await asyncio.to_thread(
        subprocess.run,
        argv,
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{told}: {done.stderr}"
    assert "anchors" in done.stderr
    assert (tmp_path / told.split()[-1]).exists()
