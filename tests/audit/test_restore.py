"""A database that was put back: nothing is sealed until an officer has signed for what is lost."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit.anchoring import Anchor
from relay.sealer import Retention, Sealer
from tests.audit.conftest import LOG, Log, check, sealer
from tests.audit.tampering import tamper
from tests.audit.test_attacks import reason, verify
from tests.cli.test_audit import broker_audit

PUT_BACK = (
    "DELETE FROM audit.events WHERE event_id IN (SELECT event_id FROM audit.members WHERE seq > 4)",
    "DELETE FROM audit.members WHERE seq > 4",
    "DELETE FROM audit.seals WHERE seq_to > 4",
)


def private(path: Path, key: Ed25519PrivateKey) -> Path:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return path


def relay(log: Log, **more: Any) -> Sealer:
    """Another relay's sealer, that has compared nothing yet."""
    return sealer(
        log.pool, log.key, retention_policy=Retention(keys=log.officers, kept_s=1), **more
    )


async def seals(log: Log) -> int | None:
    return await log.owner.fetchval("SELECT max(seal_no) FROM audit.seals WHERE tenant_id = 'demo'")


async def work(log: Log, made: Sealer) -> int | None:
    """An event, and what a relay makes of it: how many seals there are then."""
    await log.owner.execute("DELETE FROM leases")
    await log.append(1)
    while await made.tick():
        pass
    return await seals(log)


async def accept(log: Log, folder: Path, anchors: Path, key: Ed25519PrivateKey) -> tuple[int, str]:
    officer = private(folder / "officer.pem", key)
    argv = ("accept-restore", "--database-url", log.dsns.retention, "--key", officer)
    more = ("--reason", "disk lost", "--anchors", anchors, "--log", LOG)
    done = await broker_audit(*argv, *more)
    return done.exit_code, done.output


@pytest.mark.guarantee("audit:restored")
async def test_a_relay_whose_anchors_are_ahead_seals_nothing_until_an_officer_signs_for_it(
    log: Log, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "anchors.ndjson"
    first = relay(log, anchor_file=path)
    for _ in range(4):
        await log.append(1)
        assert await work(log, first)
    with path.open("ab") as file:
        file.write(b'{"tenant_id": "de\n')  # torn by a crash
    assert await work(log, relay(log, anchor_file=path)) == 5, "they agree"
    await tamper(log.owner, list(PUT_BACK))
    assert await seals(log) == 2
    restored = relay(log, anchor_file=path)
    for _ in range(2):
        assert await work(log, restored) == 2
    assert caplog.text.count("nothing is sealed: seal 3 of tenant demo") == 1, "not at every tick"
    assert not restored.counts.leading
    lost = path.read_bytes()
    forger = Ed25519PrivateKey.generate()
    assert (await accept(log, tmp_path, path, forger))[0] == 0
    assert await work(log, restored) == 2, "no officer that this relay knows has signed"
    code, said = await accept(log, tmp_path, path, log.officer)
    assert (code, "after seal 2; seals up to 5" in said) == (0, True), said
    assert await work(log, restored) == 3
    assert await work(log, relay(log, anchor_file=path)) == 4, "the next relay knows too"
    for _ in range(3):
        await work(log, restored)
    assert await verify(log, tmp_path, "--anchors", path) == (0, None)
    code, said = await accept(log, tmp_path, path, log.officer)
    assert (code, "given up" in said) == (0, False) or code == 2, said
    report = await check(log.owner, "demo", keys=log.keys, anchors=[], retention_keys=log.officers)
    assert (report.fault, report.given_up) == (None, 0)
    # Without the officers' keys nobody can tell; with the anchors of the lost past only, it holds.
    path.write_bytes(lost)
    assert await verify(log, tmp_path, "--anchors", path) == (0, None)
    argv = ("verify", "demo", "--database-url", log.dsns.owner, "--anchors", path, "--json")
    done = await broker_audit(*argv, "--keys", log.pem(tmp_path / "pinned.pem"))
    assert (done.exit_code, "published seals may be given up" in done.output) == (2, True)


@pytest.mark.guarantee("audit:restored")
async def test_what_was_given_up_once_covers_no_second_rewriting(log: Log, tmp_path: Path) -> None:
    path = tmp_path / "anchors.ndjson"
    first = relay(log, anchor_file=path)
    for _ in range(4):
        await log.append(1)
        await work(log, first)
    await tamper(log.owner, list(PUT_BACK))
    assert (await accept(log, tmp_path, path, log.officer))[0] == 0
    for _ in range(3):
        assert await work(log, relay(log, anchor_file=path))
    assert await verify(log, tmp_path, "--anchors", path) == (0, None)
    # The owner rolls back once more and has the same key seal what is false; the file is left out.
    await tamper(log.owner, list(PUT_BACK))
    for _ in range(3):
        assert await work(log, relay(log))
    assert "rewritten" in await reason(log, tmp_path, "--anchors", path)


@pytest.mark.guarantee("audit:restored")
async def test_kafka_is_asked_before_the_first_seal_and_strangers_words_stop_nobody(
    log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[Anchor] = []
    away = True

    async def published() -> Sequence[Anchor]:
        if away:
            raise KafkaConnectionError
        return said

    assert await work(log, relay(log, published=published)) is None, "nobody knows yet"
    assert "sealing waits for Kafka" in caplog.text
    away = False
    assert await work(log, relay(log, published=published)) == 1
    [anchor] = await log.anchors()
    stranger = Anchor(tenant_id="demo", seal_no=9, digest=bytes(32), attestation=anchor.attestation)
    said.extend((anchor, stranger))
    assert await work(log, relay(log, published=published)) == 2


@pytest.mark.guarantee("audit:restored")
async def test_a_relay_looks_again_where_the_database_under_it_is_another(
    log: Log, tmp_path: Path
) -> None:
    """A dump restored over the tables while the relay runs on."""
    path = tmp_path / "anchors.ndjson"
    running = relay(log, anchor_file=path)
    for _ in range(4):
        assert await work(log, running)
    swap = (
        "CREATE TABLE audit.older (LIKE audit.seals INCLUDING ALL)",
        "INSERT INTO audit.older SELECT * FROM audit.seals WHERE seq_to <= 2",
        "GRANT SELECT, INSERT ON audit.older TO broker_relay",
        "ALTER TABLE audit.seals RENAME TO newer",
        "ALTER TABLE audit.older RENAME TO seals",
    )
    for statement in swap:
        await log.owner.execute(statement)
    assert await work(log, running) == 2


@pytest.mark.guarantee("audit:restored")
async def test_only_the_retention_role_records_a_restore_and_only_of_what_is_lost(
    log: Log, tmp_path: Path
) -> None:
    path = tmp_path / "anchors.ndjson"
    await work(log, relay(log, anchor_file=path))
    code, said = await accept(log, tmp_path, path, log.officer)
    assert (code, "has every seal" in said) == (2, True), said
    for dsn in (log.dsns.app, log.dsns.relay, log.dsns.auditor):
        conn = await asyncpg.connect(dsn)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("SELECT audit.accept_restore('')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("INSERT INTO audit.restores DEFAULT VALUES")
        await conn.close()
    conn = await asyncpg.connect(log.dsns.retention)
    for note in ("", "mcpbroker.audit.request.v1\nx\n{}\n"):
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await conn.execute("SELECT audit.accept_restore($1)", note)
    await conn.close()
