"""What keeps the sealer from its work: transactions that hang, and a past that is another."""

from pathlib import Path

import asyncpg
import pytest

from tests.audit.conftest import Log, sealer
from tests.audit.tampering import tamper


@pytest.mark.guarantee("audit:window")
async def test_no_open_transaction_keeps_others_from_being_sealed_and_what_it_writes_comes_late(
    log: Log,
) -> None:
    """An auditor's login is enough to hold one open."""
    late = await asyncpg.connect(log.dsns.auditor)
    writer = await asyncpg.connect(log.dsns.owner)
    insert = "INSERT INTO audit.events (tenant_id, type, actor) VALUES ('demo', 'slow', 'x')"
    made = sealer(log.pool, log.key, open_s=0.0)
    async with late.transaction(), writer.transaction():
        await late.execute("SELECT pg_current_xact_id()")
        await writer.execute(insert)
        await log.append(3)
        while await made.tick():
            pass
        await made.tick()
        assert await log.sealed() == 3, "whatever hangs"
        assert (await log.verify())["ok"]
    told = "SELECT count(*) FROM audit.events WHERE type = 'sealing.held_up'"
    assert await log.owner.fetchval(told) == 1, "said once"
    await log.append(1)
    while await made.tick():
        pass
    assert await log.sealed() == 5
    found = await log.verify()
    assert (found["ok"], found["late"]) == (True, 1), found
    assert (await log.check()).fault is None
    for conn in (late, writer):
        await conn.close()


@pytest.mark.guarantee("audit:anchored")
async def test_a_relay_whose_anchor_file_is_ahead_of_the_database_seals_nothing_and_says_so(
    log: Log, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "anchors.ndjson"
    first = sealer(log.pool, log.key, anchor_file=path)
    for _ in range(2):
        await log.append(2)
        while await first.tick():
            pass
    with path.open("ab") as file:
        file.write(b'{"tenant_id": "de\n')  # torn by a crash
    again = sealer(log.pool, log.key, anchor_file=path)
    await log.owner.execute("DELETE FROM leases")
    await log.append(1)
    while await again.tick():
        pass
    assert await log.sealed() == 5, "the file and the database agree"
    seals = "DELETE FROM audit.seals WHERE tenant_id = 'demo' AND seal_no = 3"
    await tamper(log.owner, [seals, "DELETE FROM audit.members WHERE seq = 5"])  # put back
    restored = sealer(log.pool, log.key, anchor_file=path)
    await log.owner.execute("DELETE FROM leases")
    await log.append(1)
    assert not await restored.tick()
    assert await log.owner.fetchval("SELECT max(seal_no) FROM audit.seals") == 2
    assert "was it restored?" in caplog.text
    path.rename(tmp_path / "of-the-lost-past.ndjson")
    while await restored.tick():
        pass
    assert await log.owner.fetchval("SELECT max(seal_no) FROM audit.seals") == 3
