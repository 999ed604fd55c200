"""Who may change the trail (nobody), and what an auditor sees (their tenants)."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import asyncpg
import pytest

from app import assets
from app.audit import note, tree
from app.edges.parts import Parts
from app.errors import UnknownToolError
from app.intake.prepare import CallRequest
from devstack.stack import Dsns
from tests.audit.conftest import Log, open_log
from tests.support.calls import BOB, accept, claim, echo, fetch, finish

DOCS = assets.root() / "docs" / "AUDITORS.md"
QUERIES = re.findall(r"```sql\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)

GUARDED = """
    SELECT c.oid::regclass::text
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname = 'audit' AND c.relkind IN ('r', 'p')
       AND c.relname NOT IN ('watermark', 'auditors', 'holds', 'retirements')
"""


def changes(table: str) -> tuple[str, ...]:
    column = {"audit.keys": "public_key = ''", "audit.shapes": "note = ''"}.get(
        table, "tenant_id = 'x'"
    )
    return (f"UPDATE {table} SET {column}", f"DELETE FROM {table}", f"TRUNCATE {table} CASCADE")


@asynccontextmanager
async def connect(dsn: str) -> AsyncGenerator[asyncpg.Connection]:
    conn = await asyncpg.connect(dsn)
    try:
        yield conn
    finally:
        await conn.close()


@pytest.mark.guarantee("audit:append-only")
@pytest.mark.parametrize("role", ["app", "relay", "auditor"])
async def test_no_service_role_changes_any_of_it_not_even_by_partition(log: Log, role: str) -> None:
    await log.append(2)
    await log.seal()
    tables = [row[0] for row in await log.owner.fetch(GUARDED)]
    assert len(tables) >= 4 + 3, "events, members, seals, keys and some months"
    async with connect(getattr(log.dsns, role)) as conn:
        await conn.execute("SET app.tenants = '{demo}'")
        for table in tables:
            for statement in (
                *changes(table),
                f"ALTER TABLE {table} DISABLE TRIGGER ALL",
                f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
                f"DROP TABLE {table}",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.execute(statement)
        for statement in ("SET session_replication_role = replica", "SET ROLE broker_owner"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    assert (await log.verify())["ok"]


@pytest.mark.guarantee("audit:append-only")
@pytest.mark.parametrize("replication_role", ["origin", "replica"])
async def test_the_owner_and_the_superuser_are_refused_by_triggers_that_stay_on(
    log: Log, replication_role: str
) -> None:
    await log.append(2)
    await log.seal()
    await log.owner.execute("SELECT audit.ensure_partitions(4)")
    tables = [row[0] for row in await log.owner.fetch(GUARDED)]
    await log.owner.execute(f"SET session_replication_role = {replication_role}")
    for role in ("postgres", "broker_owner"):
        await log.owner.execute(f"SET ROLE {role}")
        for table in tables:
            update, delete, truncate = changes(table)
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="is refused"):
                await log.owner.execute(truncate)
            if await log.owner.fetchval(f"SELECT count(*) FROM {table}") == 0:
                continue  # a row trigger needs a row; a partition's owner sees none of its rows
            for statement in (update, delete):
                with pytest.raises(asyncpg.InsufficientPrivilegeError, match="is refused"):
                    await log.owner.execute(statement)
    assert await log.owner.fetchval("SELECT count(*) FROM audit.events") == 2


@pytest.mark.guarantee("audit:append-only")
async def test_only_the_relay_seals(log: Log) -> None:
    for role in ("app", "auditor"):
        async with connect(getattr(log.dsns, role)) as conn:
            await conn.execute("SET app.tenants = '{demo}'")
            for table in ("members", "seals", "keys", "watermark", "auditors"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await conn.execute(f"INSERT INTO audit.{table} DEFAULT VALUES")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute("UPDATE audit.watermark SET xid = '0'")


@pytest.mark.guarantee("audit:auditor-scope")
async def test_an_auditor_sees_the_tenants_they_were_given_and_nothing_else(log: Log) -> None:
    for tenant in ("demo", "other"):
        await log.append(3, tenant=tenant)
    await log.seal()
    appended = "SELECT count(*) FROM audit.who_did_what WHERE what <> 'auditor.changed'"
    relations = ["events", "members", "seals", *await views(log.owner)]
    async with connect(log.dsns.auditor) as conn:
        for name in relations:
            assert await conn.fetchval(f"SELECT count(*) FROM audit.{name}") == 0, name
        assert (await conn.fetchrow("SELECT * FROM audit.verify('demo')") or {})["ok"] is None
        await log.owner.execute(
            "INSERT INTO audit.auditors VALUES ('broker_auditor_login', 'demo'), ('x', 'other')"
        )
        await conn.execute("SET ROLE broker_auditor")
        await conn.execute("SET app.tenants = '{other}'")
        for name in relations:
            rows = await conn.fetch(f"SELECT DISTINCT tenant_id FROM audit.{name}")
            assert {row[0] for row in rows} <= {"demo"}, name
        assert await conn.fetchval(appended) == 3
        assert await conn.fetchval("SELECT count(*) FROM audit.auditors") == 1
        assert (await conn.fetchrow("SELECT * FROM audit.verify('demo')") or {})["ok"]
        assert (await conn.fetchrow("SELECT * FROM audit.verify('other')") or {})["ok"] is None
        strange = await log.owner.fetchval(
            "SELECT event_id FROM audit.members WHERE tenant_id = 'other' LIMIT 1"
        )
        assert await conn.fetch("SELECT * FROM audit.prove($1)", strange) == []
        for table in ("commands", "outbox", "progress", "sagas", "grants", "tenants"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(f"SELECT FROM {table}")


async def views(conn: asyncpg.Connection) -> list[str]:
    rows = await conn.fetch("SELECT viewname FROM pg_views WHERE schemaname = 'audit' ORDER BY 1")
    return [row[0] for row in rows]


async def test_the_docs_name_every_view_and_no_other(log: Log) -> None:
    named = re.findall(r"^\| `audit\.(\w+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == await views(log.owner)


async def test_every_query_of_the_cookbook_runs_as_an_auditor_and_finds_something(
    broker: Parts, database: Dsns
) -> None:
    one = (await accept(broker, echo())).written.id
    await claim(broker, one)
    await claim(broker, one, run="late")
    await finish(broker, one, result={"text": "hi"})
    again = (await accept(broker, echo("again"))).written.id
    await finish(broker, again, attempt=1, error={"code": "busy"})
    with pytest.raises(UnknownToolError):
        await accept(broker, CallRequest(tool="no", method="such", args={}))
    gone = (await accept(broker, echo("b"), BOB)).written.id
    await finish(broker, gone, result={"text": "b"})
    async with open_log(database) as log:
        await log.append(1005)
        await log.erase("bob")
        await fetch(database.retention, "SELECT audit.hold('demo', 'case', NULL, NULL)")
        await log.ask(datetime(2020, 1, 1, tzinfo=UTC))
        await log.owner.execute(
            "INSERT INTO audit.auditors VALUES ('broker_auditor_login', 'demo')"
        )
        await log.seal()
        saga = await log.owner.fetchval("SELECT max(saga_id::text) FROM audit.events")
    assert len(QUERIES) > 10
    async with connect(database.auditor) as conn:
        for query in QUERIES:
            filled = query.replace(":'command'", f"'{one}'").replace(":'saga'", f"'{saga}'")
            rows = await conn.fetch(filled)
            assert rows or "-- may be empty" in query, query
        story = await conn.fetch(
            "SELECT what FROM audit.command_story WHERE command_id = $1 ORDER BY step", one
        )
        assert [row["what"] for row in story] == [
            "command.accepted",
            "command.claimed",
            "claim.refused",
            "command.succeeded",
        ]
        [activity] = await conn.fetch(
            "SELECT * FROM audit.agent_activity WHERE command_id = $1", one
        )
        assert (activity["agent"], activity["outcome"], activity["args"]) == (
            "ada",
            "succeeded",
            '{"text":"hi"}',
        )
        refused = await conn.fetch("SELECT what FROM audit.denials ORDER BY at")
        assert [row["what"] for row in refused] == ["claim.refused", "call.denied"]


@pytest.mark.parametrize("sizes", [(1,), (1, 1), (5, 4, 3), (7, 1, 9), (8, 8), (13, 6)])
async def test_every_event_has_a_proof_that_its_checkpoint_bears_out(
    log: Log, sizes: tuple[int, ...]
) -> None:
    for size in sizes:
        await log.append(size)
        await log.seal()
    rows = await log.owner.fetch(
        "SELECT m.event_id, m.seq, p.* FROM audit.members m, audit.prove(m.event_id) p"
    )
    assert len(rows) == sum(sizes)
    for row in rows:
        text = note.note_text(row["checkpoint"])
        origin = note.origin_of_note(text)
        assert text == note.checkpoint_text(origin=origin, size=row["size"], root=row["root"])
        assert note.signers_of(row["checkpoint"], log.keys)
        assert tree.included(
            row["leaf"], index=row["seq"] - 1, size=row["size"], path=row["path"], root=row["root"]
        )


async def test_an_event_that_is_not_sealed_yet_has_no_proof(log: Log) -> None:
    await log.append(1)
    event_id = await log.owner.fetchval("SELECT event_id FROM audit.events")
    assert await log.owner.fetch("SELECT * FROM audit.prove($1)", event_id) == []
