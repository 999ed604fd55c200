"""Months of events go: signed for by one role, dropped by another, never under a legal hold."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner, Result

from app.audit.store import retention as audit_retention
from app.audit.store.retention import Partition
from app.cli.audit_retention import app
from tests.audit.conftest import LOG, MONTH, Log

FEBRUARY = datetime(2020, 2, 15, tzinfo=UTC)
MARCH = datetime(2020, 3, 15, tzinfo=UTC)
APRIL_1 = datetime(2020, 4, 1, tzinfo=UTC)

OLD = """
    INSERT INTO audit.events (tenant_id, type, actor, user_id, occurred_at)
    SELECT $1, 'old', 'user:ada', 'ada', $2 FROM generate_series(1, 3)
"""
MONTHS = """
    SELECT array_agg(inhrelid::regclass::text ORDER BY 1)
      FROM pg_inherits
     WHERE inhparent = 'audit.events'::regclass AND inhrelid::regclass::text LIKE '%2020%'
"""


@pytest.fixture
async def aged(log: Log) -> Log:
    """`demo` has three events in February and in March 2020, `other` three in March; all sealed."""
    await log.owner.execute("SET ROLE broker_owner")
    await log.owner.execute(MONTH.format(name="202002", first="2020-02-01", last="2020-03-01"))
    await log.owner.execute(MONTH.format(name="202003", first="2020-03-01", last="2020-04-01"))
    await log.owner.execute("RESET ROLE")
    for tenant, at in (("demo", FEBRUARY), ("demo", MARCH), ("other", MARCH)):
        await log.owner.execute(OLD, tenant, at)
    await log.append(2)
    await log.seal()
    return log


async def as_retention(log: Log, statement: str, *values: object) -> list[asyncpg.Record]:
    conn = await asyncpg.connect(log.dsns.retention)
    try:
        return await conn.fetch(statement, *values)
    finally:
        await conn.close()


async def drop(log: Log) -> list[Partition]:
    conn = await asyncpg.connect(log.dsns.retention)
    try:
        return [one async for one in audit_retention.drop_retired(conn)]
    finally:
        await conn.close()


async def invoke(*argv: str | Path) -> Result:
    """Run `broker audit` in a thread, as it has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, [str(arg) for arg in argv])


async def cli(log: Log, *argv: str | Path, role: str = "retention") -> Result:
    return await invoke(*argv, "--database-url", getattr(log.dsns, role))


async def ask(log: Log, folder: Path, before: str) -> Result:
    """A retention officer signs with a key file of their own."""
    key = folder / "officer.pem"
    key.write_bytes(
        log.officer.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    signed = ("--key", key, "--log", LOG, "--reason", "policy 12", "--wait-s", "0")
    return await cli(log, "retire-request", "--before", before, *signed)


@pytest.mark.guarantee("retention:events")
async def test_what_is_asked_for_signed_and_dropped_is_gone_and_the_logs_say_so(
    aged: Log, tmp_path: Path
) -> None:
    asked = await ask(aged, tmp_path, "2020-04-01")
    assert asked.exit_code == 2, asked.output
    assert await drop(aged) == [], "no relay has sealed it yet"
    await aged.seal()
    done = await cli(aged, "retire")
    assert done.exit_code == 0, done.output
    assert "events_202002 (before 2020-03-01) is gone: 3 events" in done.output
    assert "events_202003 (before 2020-04-01) is gone: 6 events" in done.output
    assert await aged.owner.fetchval(MONTHS) is None
    await aged.append(1)
    await aged.seal()
    for tenant, gone, size in (("demo", 6, 12), ("other", 3, 5)):
        found = await aged.verify(tenant)
        assert (found["ok"], found["size"]) == (True, size), found
        report = await aged.check(tenant, anchors=await aged.anchors())
        assert (report.fault, report.retired, report.retired_before) == (None, gone, APRIL_1)
    told = await aged.owner.fetch(
        "SELECT tenant_id, body->>'events' AS n FROM audit.events WHERE type = 'audit.retired'"
        " ORDER BY tenant_id, body->>'partition'"
    )
    assert [tuple(row) for row in told] == [("demo", "3"), ("demo", "3"), ("other", "3")]
    pem = aged.pem(tmp_path / "key.pem")
    officers = ("--retention-keys", aged.pem(tmp_path / "officers.pem", aged.officer))
    checked = await cli(aged, "verify", "demo", "--keys", pem, *officers, "--json", role="owner")
    assert checked.exit_code == 0, checked.output
    assert orjson.loads(checked.stdout)["retired"] == 6
    bundle = tmp_path / "demo.ndjson"
    assert (await cli(aged, "export", "demo", "--out", bundle, role="owner")).exit_code == 0
    taken = await invoke("verify-bundle", bundle, "--keys", pem, *officers)
    assert taken.exit_code == 0, taken.output
    assert "6 of the events are gone" in taken.output


@pytest.mark.guarantee("retention:hold")
async def test_a_legal_hold_keeps_its_tenants_months_until_it_is_released(aged: Log) -> None:
    placed = await cli(aged, "hold", "other", "--reason", "case 7", "--from", "2020-03-10")
    hold = UUID(placed.stdout.strip())
    await aged.retire(APRIL_1)
    first, second = await drop(aged)
    assert (first.partition, first.dropped) == ("events_202002", True), "not the held tenant's"
    assert (second.partition, second.dropped) == ("events_202003", False)
    assert "other is under a legal hold" in (second.reason or "")
    said = "SELECT max(retired_before) FROM audit.seals WHERE tenant_id = $1"
    assert await aged.owner.fetchval(said, "other") == datetime(2020, 3, 1, tzinfo=UTC)
    assert await aged.owner.fetchval(said, "demo") == APRIL_1
    assert (await cli(aged, "retire")).exit_code == 1
    assert (await cli(aged, "release", str(hold), "--reason", "closed")).exit_code == 0
    assert (await cli(aged, "release", str(hold), "--reason", "closed")).exit_code == 2
    [left] = await drop(aged)
    assert "other is under a legal hold" in (left.reason or ""), "its log does not say more yet"
    await aged.seal()
    [left] = await drop(aged)
    assert "does not say that it was retired" in (left.reason or "")
    await aged.retire(APRIL_1)
    assert [one.dropped for one in await drop(aged)] == [True]
    for tenant in ("demo", "other"):
        assert (await aged.verify(tenant))["ok"]
    kinds = await aged.owner.fetch("SELECT type, actor FROM audit.events WHERE type LIKE 'hold.%'")
    assert {row["type"] for row in kinds} == {"hold.placed", "hold.released"}
    assert {row["actor"] for row in kinds} == {"db:broker_retention_login"}


@pytest.mark.guarantee("retention:events")
async def test_a_hold_that_came_after_the_signature_still_keeps_the_month(aged: Log) -> None:
    await aged.retire(APRIL_1)
    await as_retention(aged, "SELECT audit.hold('demo', 'case 8', NULL, NULL)")
    [blocked] = await drop(aged)
    assert (blocked.dropped, blocked.events) == (False, 3)


@pytest.mark.guarantee("retention:events")
async def test_an_event_that_is_not_sealed_keeps_its_month(aged: Log) -> None:
    await aged.retire(APRIL_1)
    await aged.owner.execute(OLD, "demo", FEBRUARY)
    [blocked] = await drop(aged)
    assert "no seal covers" in (blocked.reason or "")


@pytest.mark.guarantee("retention:two-parties")
async def test_who_signs_cannot_drop_and_who_drops_cannot_sign(aged: Log) -> None:
    verbs = (
        "SELECT audit.drop_oldest()",
        "SELECT audit.hold('demo', 'x', NULL, NULL)",
        "SELECT audit.release(gen_random_uuid(), 'x')",
        "SELECT audit.erase('demo', 'ada', 'x', '{}', '{}', 1)",
        "SELECT audit.plan_erasure('demo', 'ada', 1)",
        "SELECT audit.ask_retirement('x')",
    )
    for role in ("app", "relay", "auditor"):
        conn = await asyncpg.connect(getattr(aged.dsns, role))
        for verb in verbs:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(verb)
        await conn.close()
    for statement in (
        "INSERT INTO audit.seals DEFAULT VALUES",
        "SELECT FROM audit.events",
        "UPDATE audit.retirements SET signed_at = now()",
        "DELETE FROM audit.holds",
        "DROP TABLE audit.events_202002",
        "SET ROLE broker_owner",
        (
            "CREATE TABLE audit.events_x PARTITION OF audit.events"
            " FOR VALUES FROM (now()) TO ('infinity')"
        ),
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await as_retention(aged, statement)


async def test_a_hold_of_a_tenant_that_nobody_knows_is_refused(log: Log) -> None:
    """One that a mistyped name got would keep nothing."""
    refused = await cli(log, "hold", "dmeo", "--reason", "case 7")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "there is no tenant dmeo" in refused.stderr
    assert await log.owner.fetchval("SELECT count(*) FROM audit.holds") == 0


async def test_a_clock_set_back_on_the_day_of_the_installation_finds_its_month(log: Log) -> None:
    await log.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor, occurred_at) VALUES"
        " ('demo', 'dated', 'x', date_trunc('month', now(), 'UTC') - interval '1 minute')"
    )
    assert await log.owner.fetchval("SELECT count(*) FROM audit.events WHERE type = 'dated'") == 1
