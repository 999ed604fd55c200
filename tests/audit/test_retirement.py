"""Events may go by a signed retirement, and only so: the rest of the log still proves itself."""

from datetime import UTC, datetime

import pytest

from tests.audit.conftest import MONTH, Log
from tests.audit.tampering import GONE, tamper

OLD = datetime(2020, 2, 15, tzinfo=UTC)
BEFORE = datetime(2020, 3, 1, tzinfo=UTC)


@pytest.fixture
async def aged(log: Log) -> Log:
    """Seal 1: events 1-4, of which 1-3 are old; seal 2: events 5-6."""
    await log.owner.execute("SET ROLE broker_owner")
    await log.owner.execute(MONTH.format(name="202002", first="2020-02-01", last="2020-03-01"))
    await log.owner.execute("RESET ROLE")
    await log.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor, occurred_at)"
        " SELECT 'demo', 'old', 'x', $1 FROM generate_series(1, 3)",
        OLD,
    )
    await log.append(1)
    await log.seal()
    await log.append(2)
    await log.seal()
    return log


async def drop(log: Log) -> None:
    await log.owner.execute("DROP TABLE audit.events_202002")


async def test_a_partition_that_is_dropped_without_a_retirement_is_found(aged: Log) -> None:
    await drop(aged)
    found = await aged.verify()
    assert (found["ok"], found["seq"]) == (False, 1)
    report = await aged.check()
    assert report.fault is not None
    assert (report.fault.seq, "event is gone" in report.fault.reason) == (1, True)


@pytest.mark.guarantee("audit:retirement")
async def test_after_a_signed_retirement_the_old_events_may_go_and_the_rest_is_proved(
    aged: Log,
) -> None:
    await aged.retire(BEFORE)
    await aged.retire(BEFORE)
    said = "SELECT count(*) FROM audit.seals WHERE tenant_id = 'demo' AND kind = 'retirement'"
    assert await aged.owner.fetchval(said) == 1, "said once"
    await drop(aged)
    await aged.append(2)
    await aged.seal()
    found = await aged.verify()
    assert (found["ok"], found["size"]) == (True, 10), found
    assert (await aged.check(anchors=await aged.anchors())).fault is None
    row = await aged.owner.fetchrow(
        "SELECT retired_before FROM audit.sealing WHERE tenant_id = 'demo'"
    )
    assert row is not None
    assert row["retired_before"] == BEFORE
    proofs = await aged.owner.fetch(
        "SELECT p.seq FROM audit.members m, audit.prove(m.event_id) p"
        " WHERE m.tenant_id = 'demo' ORDER BY 1"
    )
    assert [row["seq"] for row in proofs] == list(range(1, 11))
    await tamper(aged.owner, [GONE.format(seqs="= 5")])
    found = await aged.verify()
    assert (found["ok"], found["seq"]) == (False, 5), "what is younger may not go"
    report = await aged.check()
    assert report.fault is not None
    assert report.fault.seq == 5


@pytest.mark.guarantee("audit:retirement")
async def test_a_retirement_that_nobody_signed_is_found(aged: Log) -> None:
    await aged.retire(datetime(2019, 1, 1, tzinfo=UTC))
    await drop(aged)
    forge = (
        (
            "UPDATE audit.seals SET retired_before = '2020-03-01+00',"
            " request = replace(request, '2019-01-01', '2020-03-01'), retired_digest = ("
            "SELECT f.chain FROM audit.seals x, audit.seals g, audit.member_fault("
            "jsonb_populate_record(x, '{\"seq_to\": 3}'), jsonb_populate_record(g,"
            " '{\"retired_before\": \"2020-03-01T00:00:00Z\"}'), false, '', '', NULL, 0, 0) f"
            " WHERE x.tenant_id = 'demo' AND x.seal_no = 1 AND g.tenant_id = 'demo'"
            " AND g.kind = 'retirement') WHERE kind = 'retirement'"
        ),
        "UPDATE audit.seals s SET digest = audit.seal_v2(s) WHERE kind = 'retirement'",
        (
            "UPDATE audit.seals SET attestation = replace(attestation,"
            " split_part(attestation, E'\\n', 3), encode(digest, 'base64'))"
            " WHERE kind = 'retirement'"
        ),
    )
    await tamper(aged.owner, list(forge[:1]))
    assert not (await aged.verify())["ok"]
    await tamper(aged.owner, list(forge[1:]))
    assert (await aged.verify())["ok"], "SQL cannot check signatures"
    report = await aged.check()
    assert report.fault is not None
    assert "not signed by a known key" in report.fault.reason


@pytest.mark.guarantee("audit:retirement")
async def test_what_was_sealed_behind_a_retirement_does_not_go_by_it(aged: Log) -> None:
    await aged.retire(BEFORE)
    await aged.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor, occurred_at)"
        " VALUES ('demo', 'late', 'x', $1)",
        OLD,
    )
    await aged.seal()
    assert (await aged.verify())["ok"]
    row = await aged.owner.fetchrow("SELECT * FROM audit.drop_oldest()")
    assert row is not None
    assert (row["dropped"], "does not say that it was retired" in row["reason"]) == (False, True)
    await tamper(aged.owner, ["DELETE FROM audit.events WHERE type = 'late'"])
    found = await aged.verify()
    assert (found["ok"], "event is gone" in str(found["reason"])) == (False, True)
    report = await aged.check()
    assert report.fault is not None
    assert "event is gone" in report.fault.reason
