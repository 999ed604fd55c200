"""What keeps the sealer from its work: transactions that hang."""

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


@pytest.mark.guarantee("audit:window")
@pytest.mark.parametrize("moved", ["-10 minutes", "10 minutes"])
async def test_an_event_that_was_dated_while_nobody_sealed_stands_beside_its_neighbour(
    log: Log, moved: str
) -> None:
    """The relay was down for an hour: by its seal alone every event is late."""
    await log.append(5)
    ids = [
        row[0] for row in await log.owner.fetch("SELECT event_id FROM audit.events ORDER BY xid")
    ]
    hour = "UPDATE audit.events SET occurred_at = occurred_at - interval '1 hour'"
    dated = f"UPDATE audit.events SET occurred_at = occurred_at + '{moved}' WHERE event_id = '{{}}'"
    await tamper(log.owner, [hour, dated.format(ids[2])])
    await log.seal()
    found = await log.verify()
    assert (found["ok"], found["late"]) == (True, 5)
    assert "see audit.out_of_time" in str(found["beyond"])
    [step] = await log.owner.fetch("SELECT * FROM audit.out_of_time")
    assert ids[2] in (step["event_id"], step["earlier_id"])
    report = await log.check()
    assert (report.fault, report.late, report.out_of_time) == (None, 5, 1)
    assert "see audit.out_of_time" not in str((await log.verify("demo", 5))["beyond"])
