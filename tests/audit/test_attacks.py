"""Attacks on the log that were once seen to pass, by somebody with one more right than foreseen.

Each leaves the log as a careful attacker would: triggers on again, nothing else out of place.
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit import request
from app.audit.keys import FileSigner, sign_request
from app.audit.request import Retire
from tests.audit.conftest import LOG, MONTH, Log, check
from tests.audit.tampering import GONE, MEMBER, tamper
from tests.cli.test_audit import anchor_file, broker_audit, finding, sealed

APRIL_1 = datetime(2020, 4, 1, tzinfo=UTC)
BLANK = """
    UPDATE audit.events
       SET commitment = audit.personal_v1(salt, actor, user_id, fingerprint, body),
           user_id = NULL, fingerprint = NULL, body = '{}', salt = NULL, erased_by = $BY
     WHERE event_id = (SELECT event_id FROM audit.members WHERE tenant_id = 'demo' AND seq = 2)
"""


async def verify(log: Log, folder: Path, *more: str | Path) -> tuple[int, dict[str, Any] | None]:
    """`broker audit verify` with every key that an auditor can pin: exit code and finding."""
    pem = log.pem(folder / "pinned.pem")
    officers = log.pem(folder / "officers.pem", log.officer)
    argv = ("verify", "demo", "--database-url", log.dsns.owner, "--keys", pem, "--json")
    done = await broker_audit(*argv, "--retention-keys", officers, *more)
    return done.exit_code, finding(done)["fault"] if done.stdout.startswith("{") else None


async def reason(log: Log, folder: Path, *more: str | Path) -> str:
    code, fault = await verify(log, folder, *more)
    assert code == 1
    assert fault is not None
    return fault["reason"]


ROW = "INSERT INTO audit.retirements (before, reason, asked_by, request) VALUES ($1, 'x', 'x', $2)"


async def note(log: Log, before: datetime, **more: Any) -> str:
    asked = Retire(id=uuid4(), asked_at=datetime.now(UTC), reason="x", before=before)
    signer = FileSigner(more.get("officer", log.officer))
    return await sign_request(asked, signer, log=more.get("name", LOG))


@pytest.mark.guarantee("retention:two-parties")
async def test_no_row_makes_the_relay_seal_a_retirement_and_what_is_deleted_is_found(
    log: Log, tmp_path: Path
) -> None:
    await sealed(log, 4, 3)
    forger = Ed25519PrivateKey.generate()
    young = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    notes = (
        None,
        "",
        await note(log, APRIL_1, officer=forger),
        await note(log, APRIL_1, name="another/log"),
        await note(log, APRIL_1.replace(day=2)),
        (await note(log, APRIL_1)).replace("2020-04", "2020-05"),
    )
    for one in notes:
        await log.owner.execute(ROW, datetime(2030, 1, 1, tzinfo=UTC), one)
    later = young.replace(year=young.year + 4)
    await log.owner.execute(ROW, later, await note(log, later))
    await log.seal()
    rows = await log.owner.fetch("SELECT signed_at, refusal FROM audit.retirements")
    assert [row["signed_at"] for row in rows] == [None] * 7
    assert all(row["refusal"] for row in rows), rows
    told = "SELECT count(*) FROM audit.events WHERE type = 'retirement.refused'"
    assert await log.owner.fetchval(told) == 7
    assert await log.owner.fetchval("SELECT count(*) FROM audit.seals WHERE kind <> 'events'") == 0
    await tamper(log.owner, ["DELETE FROM audit.events"])
    assert (await log.verify())["ok"] is False
    anchors = await anchor_file(log, tmp_path / "anchors.ndjson")
    assert "event is gone" in await reason(log, tmp_path, "--anchors", anchors)


async def with_old_month(log: Log) -> None:
    """Three events of March 2020 and two of now, sealed, and March retired and dropped."""
    await log.owner.execute("SET ROLE broker_owner")
    await log.owner.execute(MONTH.format(name="202003", first="2020-03-01", last="2020-04-01"))
    await log.owner.execute("RESET ROLE")
    await log.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor, occurred_at)"
        " SELECT 'demo', 'old', 'x', '2020-03-15' FROM generate_series(1, 3)"
    )
    await log.append(2)
    await log.seal()
    await log.retire(APRIL_1)
    conn = await asyncpg.connect(log.dsns.retention)
    try:
        assert (await conn.fetchrow("SELECT * FROM audit.drop_oldest()") or {})["dropped"]
    finally:
        await conn.close()
    await log.seal()


@pytest.mark.guarantee("audit:retirement")
async def test_a_young_event_is_not_gone_by_a_retirement_however_old_its_member_says_it_is(
    log: Log, tmp_path: Path
) -> None:
    await with_old_month(log)
    assert (await log.verify())["ok"], await log.verify()
    assert (await verify(log, tmp_path))[0] == 0
    await tamper(
        log.owner,
        [
            GONE.format(seqs="= 4"),
            MEMBER.format(change="occurred_at = '2020-03-15'", seqs="= 4"),
        ],
    )
    assert "not those that were retired" in (await log.verify())["reason"]
    assert "not those that were retired" in await reason(log, tmp_path)


async def test_a_log_that_is_not_whole_is_not_retired_over(log: Log) -> None:
    await with_old_month(log)
    await tamper(
        log.owner,
        [
            GONE.format(seqs="= 4"),
            MEMBER.format(change="occurred_at = '2020-04-15'", seqs="= 4"),
        ],
    )
    made = await log.ask(datetime(2020, 5, 1, tzinfo=UTC))
    await log.seal()
    row = await log.owner.fetchrow("SELECT * FROM audit.retirements WHERE retirement_id = $1", made)
    assert row is not None
    assert row["signed_at"] is None
    assert "is not as sealed" in row["refusal"]


async def test_without_the_officers_key_what_is_gone_is_not_called_right(
    log: Log, tmp_path: Path
) -> None:
    await with_old_month(log)
    pem = log.pem(tmp_path / "pinned.pem")
    argv = ("verify", "demo", "--database-url", log.dsns.owner, "--keys", pem, "--json")
    done = await broker_audit(*argv)
    assert done.exit_code == 2, done.output
    assert finding(done)["unshown"] == ["that 3 events may be gone"]
    assert "3 events are gone" in (await log.verify())["beyond"][0]
    other = log.pem(tmp_path / "other.pem", Ed25519PrivateKey.generate())
    done = await broker_audit(*argv, "--retention-keys", other)
    assert done.exit_code == 1
    assert "not signed by a known retention key" in finding(done)["fault"]["reason"]
    days = (datetime.now(UTC) - APRIL_1).days
    officers = log.pem(tmp_path / "officers.pem", log.officer)
    done = await broker_audit(*argv, "--retention-keys", officers, "--kept-days", str(days + 2))
    assert "to be kept longer" in finding(done)["fault"]["reason"]


@pytest.mark.guarantee("retention:hold")
async def test_a_hold_whose_row_was_deleted_still_holds_and_is_missed(log: Log) -> None:
    await sealed(log, 2)
    await log.owner.execute("SELECT audit.hold('demo', 'case', NULL, NULL)")
    await log.seal()
    assert (await log.verify())["ok"]
    await tamper(log.owner, ["DELETE FROM audit.holds"])
    assert "the log does not say so" in (await log.verify())["reason"]
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="legal hold"):
        await log.erase("ada")
    await log.retire(APRIL_1)
    said = "SELECT count(*) FROM audit.seals WHERE tenant_id = 'demo' AND kind = 'retirement'"
    assert await log.owner.fetchval(said) == 0


FORGE = """
    INSERT INTO audit.events (event_id, tenant_id, type, actor, body)
    SELECT erasure, 'demo', 'person.erased', 'db:x', json_build_object(
               'months', json_build_object(month, json_build_object('events', events,
                                                                    'digest', digest)),
               'request', $1::text)
      FROM audit.erased('demo')
"""


@pytest.mark.guarantee("erasure:no-cover")
@pytest.mark.parametrize("key", ["none", "forger's", "officer's, under a hold"])
async def test_no_forged_record_of_an_erasure_covers_a_blanked_event(
    log: Log, tmp_path: Path, key: str
) -> None:
    await sealed(log, 4)
    if key == "officer's, under a hold":
        await log.owner.execute("SELECT audit.hold('demo', 'case', NULL, NULL)")
        await log.seal()
    made = uuid4()
    await tamper(log.owner, [BLANK.replace("$BY", f"'{made}'")])
    months = await log.owner.fetchval(
        "SELECT jsonb_object_agg(month, jsonb_build_object('events', events, 'digest', digest))"
        " FROM audit.erased('demo')"
    )
    signer = FileSigner(log.officer if key.startswith("officer") else Ed25519PrivateKey.generate())
    asked = request.Erase(
        id=made,
        asked_at=datetime.now(UTC),
        reason="x",
        tenant_id="demo",
        months=json.loads(months or "{}"),
    )
    text = None if key == "none" else await sign_request(asked, signer, log=LOG)
    await log.owner.execute(FORGE, text)
    await log.seal()
    found = await log.verify()
    if key == "forger's":  # whose signature it is, SQL cannot tell, and says so
        assert (found["ok"], len(found["beyond"])) == (True, 1)
        assert "1 events were erased" in found["beyond"][0]
    else:
        assert found["ok"] is False
        assert "were erased" in found["reason"]
    assert "were erased" in await reason(log, tmp_path)


@pytest.mark.guarantee("erasure:no-cover")
async def test_nothing_unsigned_in_a_bundle_decides_and_a_part_says_what_it_cannot_show(
    log: Log, tmp_path: Path
) -> None:
    await sealed(log, 4, 3)
    await tamper(
        log.owner, [BLANK.replace("$BY", "gen_random_uuid()").replace("seq = 2", "seq = 6")]
    )
    keys = ("--keys", log.pem(tmp_path / "pinned.pem"), "--json")
    keys = (*keys, "--retention-keys", log.pem(tmp_path / "officers.pem", log.officer))
    whole, part = tmp_path / "whole.ndjson", tmp_path / "part.ndjson"
    url = ("--database-url", log.dsns.owner)
    await broker_audit("export", "demo", *url, "--out", whole)
    await broker_audit("export", "demo", *url, "--out", part, "--from-seal", "2")
    header, *rest = whole.read_bytes().splitlines(keepends=True)
    for changes in ({}, {"whole": False}, {"retired_before": "2030-01-01T00:00:00Z"}):
        made = orjson.dumps(orjson.loads(header) | changes) + b"\n"
        whole.write_bytes(b"".join((made, *rest)))
        assert (await broker_audit("verify-bundle", whole, *keys)).exit_code == 1, changes
    done = await broker_audit("verify-bundle", part, *keys)
    assert done.exit_code == 2
    assert finding(done)["unshown"] == ["that 1 events may have been erased"]


@pytest.mark.guarantee("audit:anchored")
async def test_the_anchors_of_an_emptied_log_are_looked_at(log: Log, tmp_path: Path) -> None:
    await sealed(log, 4)
    anchors = await anchor_file(log, tmp_path / "anchors.ndjson")
    await tamper(log.owner, ["TRUNCATE audit.events, audit.members, audit.seals, audit.keys"])
    assert (await verify(log, tmp_path))[0] == 2, "without anchors there is nothing to tell it by"
    assert "published and is gone" in await reason(log, tmp_path, "--anchors", anchors)


NOT_NULL = "ALTER TABLE audit.{0} ALTER {1} DROP NOT NULL"
SOME = "(SELECT event_id FROM audit.members WHERE tenant_id = 'demo' AND seq = {0})"


@pytest.mark.guarantee("audit:tamper-evident")
@pytest.mark.parametrize(
    ("statements", "words", "outside"),
    [
        (
            [
                NOT_NULL.format("members", "leaf"),
                "UPDATE audit.members SET leaf = NULL WHERE tenant_id = 'demo' AND seq = 2",
            ],
            "event was altered",
            "lacks what each one has",
        ),
        (
            [
                NOT_NULL.format("seals", "attestation"),
                "UPDATE audit.seals SET attestation = NULL WHERE tenant_id = 'demo'",
            ],
            "attestation is not",
            "seal has no attestation",
        ),
        (
            [
                NOT_NULL.format("seals", "seq_to"),
                "UPDATE audit.seals SET seq_to = NULL WHERE tenant_id = 'demo' AND seal_no = 2",
            ],
            "seal was altered",
            "seal has no seq_to",
        ),
        (
            [f"UPDATE audit.events SET erased_by = event_id WHERE event_id = {SOME.format(3)}"],
            "names an erasure",
            "names an erasure",
        ),
        (
            [NOT_NULL.format("events", "xid"), "UPDATE audit.events SET xid = NULL"],
            "its transaction is none",
            None,
        ),
        (
            [
                "ALTER TABLE audit.events DROP CONSTRAINT pk_events",
                (
                    "INSERT INTO audit.events"
                    f" SELECT * FROM audit.events WHERE event_id = {SOME.format(12)}"
                ),
            ],
            "there twice",
            "is missing",
        ),
        (
            [
                (
                    "ALTER TABLE audit.members DROP CONSTRAINT pk_members,"
                    " DROP CONSTRAINT uq_members_event"
                ),
                (
                    "INSERT INTO audit.members"
                    " SELECT * FROM audit.members WHERE tenant_id = 'demo' AND seq = 12"
                ),
            ],
            "there twice",
            "is missing",
        ),
    ],
    ids=["leaf", "attestation", "seq_to", "erased_by", "xid", "event twice", "member twice"],
)
async def test_no_column_lies_unnoticed(
    sealed_log: Log, statements: Sequence[str], words: str, outside: str | None
) -> None:
    conn = sealed_log.owner
    rollback = conn.transaction()
    await rollback.start()
    try:
        await tamper(conn, list(statements))
        found = await sealed_log.verify()
        report = await check(conn, "demo", keys=sealed_log.keys, anchors=[])
    finally:
        await rollback.rollback()
    assert found["ok"] is False
    assert words in found["reason"]
    if outside is not None:
        assert report.fault is not None
        assert outside in report.fault.reason
