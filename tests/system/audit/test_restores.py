"""Real restores: a dump beside the database, and a cluster recovered to a point in time."""

import asyncio
import os
import subprocess
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from app.audit.store import export, shape
from app.config import Settings
from devstack.postgres import EmbeddedPostgres
from devstack.stack import dsns
from devstack.tokens import DevIssuer
from relay import anchors, kafka
from relay.sealer import Retention, Sealer
from tests.audit.conftest import LOG, Log, open_log, sealer
from tests.audit.test_attacks import verify
from tests.audit.test_restore import private
from tests.cli.test_audit import broker_audit
from tests.conftest import settings_of
from tests.support import stack
from tests.support.stack import wait_for
from tests.system.relay.conftest import open_relay

TENANT = "demo"


def run(server: EmbeddedPostgres, program: str, *argv: str) -> None:
    """One of PostgreSQL's programs, as the server's user."""
    user = 65534 if os.geteuid() == 0 else None
    done = subprocess.run(
        [server.binaries / program, *argv],
        user=user,
        group=user,
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    assert done.returncode == 0, done.stderr


def folder(path: Path) -> Path:
    """One that the server's user may write to."""
    path.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
    return path


async def published(log: Log, settings: Settings) -> None:
    """What is sealed is in Kafka."""
    await kafka.create_topics(settings)
    async with open_relay(settings, f"restores-{settings.database_url}") as relay:

        async def done() -> bool:
            return not await log.owner.fetchval("SELECT count(*) FROM outbox WHERE kind = 'audit'")

        relay.outbound.wake()
        await wait_for(done, timeout_s=30)


def relay_of(log: Log, first: Log, settings: Settings) -> Sealer:
    """A relay that has just started, on any of the databases, with Kafka's anchors."""
    policy = Retention(keys=first.officers, kept_s=1)
    return sealer(
        log.pool, first.key, retention_policy=policy, published=lambda: anchors.newest(settings)
    )


async def tick(log: Log, made: Sealer) -> None:
    await log.owner.execute("DELETE FROM leases")  # of a relay that is no more
    while await made.tick():
        pass


async def stops_and_goes_on(
    log: Log, first: Log, settings: Settings, tmp_path: Path, said: pytest.LogCaptureFixture
) -> None:
    """The relay on a restored database seals nothing, until an officer has signed."""
    made = relay_of(log, first, settings)
    top = "SELECT max(seal_no) FROM audit.seals WHERE tenant_id = 'demo'"
    sealed, lost = 2, 5
    await log.append(1)
    await tick(log, made)
    assert await log.owner.fetchval(top) == sealed, "what was published is ahead"
    assert "nothing is sealed: seal 3 of tenant demo was published" in said.text
    kept = tmp_path / "anchors.ndjson"
    await anchors.export(settings, kept)
    officer = private(tmp_path / "officer.pem", first.officer)
    argv: tuple[Any, ...] = ("accept-restore", "--database-url", log.dsns.retention)
    more = ("--key", officer, "--reason", "disk lost", "--anchors", kept, "--log", LOG)
    done = await broker_audit(*argv, *more, "--keys", first.pem(tmp_path / "pinned.pem"))
    assert done.exit_code == 0, done.output
    assert f"after seal {sealed}; seals up to {lost}" in done.output
    await tick(log, made)
    await tick(log, relay_of(log, first, settings))
    assert (await log.owner.fetchval(top) or 0) > sealed
    told = "SELECT count(*) FROM audit.events WHERE type = 'log.restored' AND tenant_id = 'demo'"
    assert await log.owner.fetchval(told) == 1
    log.key, log.officer = first.key, first.officer
    async with log.owner.transaction():
        found = await shape.now(log.owner)
    assert found.known, f"app/audit/store/shape.py, as a dump has it: {found.digest.hex()}"
    assert await verify(log, tmp_path, "--anchors", kept) == (0, None)
    assert (await log.verify())["ok"]


@asynccontextmanager
async def server(settings: dict[str, str]) -> AsyncGenerator[EmbeddedPostgres]:
    with EmbeddedPostgres(settings=settings) as made:
        await stack.make_template(made.dsn)
        yield made


@pytest.mark.guarantee("audit:restored")
async def test_a_dump_that_is_restored_is_not_sealed_on_over_what_was_published(
    issuer: DevIssuer, kafka_bootstrap: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dump = f"/tmp/broker-{os.getpid()}.dump"  # where the server's user may write
    async with server({}) as one:
        database = await stack.clone(one.dsn)
        settings = settings_of(database.relay, issuer, kafka_bootstrap=kafka_bootstrap)
        async with open_log(database) as first:
            for count in (3, 2):
                await first.append(count)
                await first.seal()
            await asyncio.to_thread(run, one, "pg_dump", "-Fc", "-f", dump, database.owner)
            for _ in range(3):
                await first.append(1)
                await first.seal()
            await published(first, settings)
            try:
                admin = await asyncpg.connect(one.dsn)
                await admin.execute("CREATE DATABASE restored")
                await admin.close()
                put_back = dsns(one.dsn, "restored")
                await asyncio.to_thread(run, one, "pg_restore", "-d", put_back.owner, dump)
            finally:
                Path(dump).unlink()
            async with open_log(put_back) as log:
                await stops_and_goes_on(log, first, settings, tmp_path, caplog)


@pytest.mark.guarantee("audit:restored")
async def test_a_cluster_recovered_to_a_point_in_time_is_not_sealed_on_either(
    issuer: DevIssuer, kafka_bootstrap: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = folder(Path(f"/tmp/broker-pitr-{os.getpid()}"))
    archive = folder(base / "wal")
    keep = {"archive_mode": "on", "archive_command": f"cp %p {archive}/%f"}
    try:
        async with server(keep) as one:
            database = await stack.clone(one.dsn)
            settings = settings_of(database.relay, issuer, kafka_bootstrap=kafka_bootstrap)
            back = folder(base / "back")
            argv = ("-D", str(back / "data"), "-c", "fast", "-X", "none", "-d", one.dsn)
            await asyncio.to_thread(run, one, "pg_basebackup", *argv)
            async with open_log(database) as first:
                for count in (3, 2):
                    await first.append(count)
                    await first.seal()
                at = await export.now(first.owner)
                for _ in range(3):
                    await first.append(1)
                    await first.seal()
                await published(first, settings)
                await archived(first.owner)
                async with recovered(one, back, archive, at) as other:
                    put_back = dsns(other.dsn, database.name)
                    async with open_log(put_back) as log:
                        await stops_and_goes_on(log, first, settings, tmp_path, caplog)
    finally:
        await asyncio.to_thread(subprocess.run, ["rm", "-rf", str(base)], check=True)


async def archived(owner: asyncpg.Connection) -> None:
    """The write-ahead log up to here is in the archive."""
    name = await owner.fetchval("SELECT pg_walfile_name(pg_switch_wal())")

    async def there() -> bool:
        last = await owner.fetchval("SELECT last_archived_wal FROM pg_stat_archiver")
        return last is not None and last >= name

    await wait_for(there, timeout_s=30)


@asynccontextmanager
async def recovered(
    lost: EmbeddedPostgres, back: Path, archive: Path, at: datetime
) -> AsyncGenerator[EmbeddedPostgres]:
    """A server that has recovered to a time, with the lost one's passwords, and takes writes."""
    (back / "data" / "recovery.signal").touch()
    target = {
        "restore_command": f"cp {archive}/%f %p",
        "recovery_target_time": at.isoformat(),
        "recovery_target_action": "promote",
    }
    with EmbeddedPostgres(data=back, settings=target, password=lost.password) as made:

        async def promoted() -> bool:
            conn = await asyncpg.connect(made.dsn)
            try:
                return not await conn.fetchval("SELECT pg_is_in_recovery()")
            finally:
                await conn.close()

        await wait_for(promoted, timeout_s=60)
        yield made
