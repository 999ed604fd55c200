"""A superuser with triggers off changes the log at every place; verify names the first bad one."""

from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.audit.conftest import Log, check, sealer
from tests.audit.tampering import EVENT, EVENTS, GONE, MEMBERS, RESEAL, SEAL, Case, tamper
from tests.audit.tampering_seals import KEYS, SEALS


@pytest.mark.guarantee("audit:tamper-evident")
@pytest.mark.parametrize("case", [*EVENTS, *MEMBERS, *SEALS, *KEYS], ids=lambda case: case.name)
async def test_every_change_is_found_and_its_first_place_named(sealed_log: Log, case: Case) -> None:
    conn = sealed_log.owner
    assert (await sealed_log.verify())["ok"]
    at = "SELECT event_id FROM audit.members WHERE tenant_id = 'demo' AND seq = $1"
    event_id = await conn.fetchval(at, case.seq)
    rollback = conn.transaction()
    await rollback.start()
    try:
        await tamper(conn, case.statements)
        if case.event is not None:
            event_id = await conn.fetchval(f"SELECT {case.event}")
        found = await sealed_log.verify("demo", 1, None, timedelta(0))
        report = await check(conn, "demo", keys=sealed_log.keys, anchors=[])
    finally:
        await rollback.rollback()
    if case.in_sql:
        assert found["ok"] is False
        assert case.reason in found["reason"]
        assert (found["seq"], found["event_id"]) == (case.seq, event_id), found
        assert case.seal_no in (None, found["seal_no"])
    if case.in_python:
        fault = report.fault
        assert fault is not None
        # Where a member is gone, the next one is named.
        assert fault.seq in (case.outside or case.seq, (case.outside or case.seq or 0) + 1), fault


async def test_an_untouched_log_is_as_it_was_sealed(sealed_log: Log) -> None:
    found = await sealed_log.verify("demo", 1, None, timedelta(0))
    assert (found["ok"], found["events"], found["seals"], found["size"]) == (True, 12, 3, 12)
    report = await sealed_log.check(anchors=await sealed_log.anchors())
    assert (report.fault, report.events, report.anchors) == (None, 12, 3)


async def test_a_range_is_verified_from_the_seal_before_it(sealed_log: Log) -> None:
    found = await sealed_log.verify("demo", 7)
    assert (found["ok"], found["events"], found["seals"], found["size"]) == (True, 7, 2, 12)
    found = await sealed_log.verify("demo", 1, 5)
    assert (found["ok"], found["events"], found["seals"], found["size"]) == (True, 5, 1, 5)
    rollback = sealed_log.owner.transaction()
    await rollback.start()
    try:
        await tamper(sealed_log.owner, [GONE.format(seqs="= 3")])
        assert (await sealed_log.verify("demo", 6))["ok"]
        assert not (await sealed_log.verify("demo", 5))["ok"]
    finally:
        await rollback.rollback()


@pytest.mark.parametrize(
    "statements",
    [
        [SEAL.format(change="sealed_at = now()", no=1)],
        [SEAL.format(change="frontier = sha256('x') || sha256('y')", no=1), RESEAL.format(no=1)],
    ],
)
async def test_the_seal_before_a_range_is_checked_too(
    sealed_log: Log, statements: list[str]
) -> None:
    rollback = sealed_log.owner.transaction()
    await rollback.start()
    try:
        await tamper(sealed_log.owner, statements)
        found = await sealed_log.verify("demo", 7, 6)
    finally:
        await rollback.rollback()
    assert (found["ok"], found["seal_no"]) == (False, 1), found


async def test_a_log_of_which_nothing_is_left_is_not_called_good(sealed_log: Log) -> None:
    anchors = await sealed_log.anchors()
    rollback = sealed_log.owner.transaction()
    await rollback.start()
    try:
        await tamper(
            sealed_log.owner, ["TRUNCATE audit.events, audit.members, audit.seals, audit.keys"]
        )
        found = await sealed_log.verify()
        report = await check(sealed_log.owner, "demo", keys=sealed_log.keys, anchors=anchors)
    finally:
        await rollback.rollback()
    assert found["ok"] is None
    assert "nothing to verify" in found["reason"]
    assert report.fault is not None
    assert "seal 1 was published and is gone" in report.fault.reason


@pytest.mark.guarantee("audit:anchored")
async def test_a_log_that_was_rolled_back_whole_is_found_by_its_anchors(sealed_log: Log) -> None:
    anchors = await sealed_log.anchors()
    rollback = sealed_log.owner.transaction()
    await rollback.start()
    try:
        await tamper(
            sealed_log.owner,
            [
                GONE.format(seqs="> 9"),
                "DELETE FROM audit.members WHERE tenant_id = 'demo' AND seq > 9",
                "DELETE FROM audit.seals WHERE tenant_id = 'demo' AND seal_no = 3",
            ],
        )
        assert (await sealed_log.verify())["ok"], "in itself it is an older, whole log"
        report = await check(sealed_log.owner, "demo", keys=sealed_log.keys, anchors=anchors)
    finally:
        await rollback.rollback()
    assert report.fault is not None
    assert (report.fault.seal_no, report.fault.seq) == (3, 10)
    assert "cut or rolled back" in report.fault.reason


async def rewrite(log: Log, key: Ed25519PrivateKey) -> None:
    """Alter an event and make everything anew behind it, as the owner of the database could."""
    await tamper(
        log.owner,
        [
            EVENT.format(change="actor = 'user:eve'", seq=7),
            "DELETE FROM audit.members",
            "DELETE FROM audit.seals",
            "DELETE FROM audit.keys",
            "DELETE FROM audit.watermark",
            "DELETE FROM leases",
        ],
    )
    forger = sealer(log.pool, key)
    while await forger.tick():
        pass


@pytest.mark.guarantee("audit:anchored")
async def test_a_full_rewrite_with_another_key_is_found_by_the_pinned_key_and_by_the_anchors(
    log: Log,
) -> None:
    for _ in range(3):
        await log.append(4)
        await log.seal()
    anchors = await log.anchors()
    await rewrite(log, Ed25519PrivateKey.generate())
    assert (await log.verify())["ok"], "SQL has only the database's word"
    assert (await log.check(pinned=False)).fault is None
    pinned = await log.check()
    assert pinned.fault is not None
    assert "not signed by a known key" in pinned.fault.reason
    anchored = await log.check(pinned=False, anchors=anchors)
    assert anchored.fault is not None
    assert "the log was rewritten" in anchored.fault.reason
    assert (anchored.fault.seal_no, anchored.fault.seq) == (1, 1)


@pytest.mark.guarantee("audit:anchored")
async def test_a_full_rewrite_with_the_stolen_key_is_found_by_the_anchors(log: Log) -> None:
    for _ in range(3):
        await log.append(4)
        await log.seal()
    before = await log.anchors()
    await rewrite(log, log.key)
    assert (await log.check()).fault is None
    report = await log.check(anchors=before)
    assert report.fault is not None
    assert "the log was rewritten" in report.fault.reason
    both = await log.check(anchors=await log.anchors())
    assert both.fault is not None, "the forger's own anchors do not hide the first ones"
    assert "two signed seals" in both.fault.reason


async def test_anchors_that_no_pinned_key_has_signed_are_counted_and_not_believed(
    sealed_log: Log,
) -> None:
    [first, *_] = await sealed_log.anchors()
    false = [replace(first, digest=bytes(32)), replace(first, seal_no=99)]
    report = await sealed_log.check(anchors=[first, *false])
    assert (report.fault, report.anchors, report.anchors_unsigned) == (None, 1, 2)
