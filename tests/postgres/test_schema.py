"""The schema: up, down, equal to the models, and granted as each deployment needs."""

import asyncio

import asyncpg
import pytest
from alembic import command

from app.postgres import migrate
from app.postgres.tables import TENANT_TABLES
from devstack import schema
from devstack.stack import Dsns
from tests.support.calls import fetch


async def test_the_migrations_go_down_and_up_again_and_equal_the_models(database: Dsns) -> None:
    await migrate.downgrade(database.owner, "base")
    left = await fetch(
        database.owner,
        "SELECT tablename FROM pg_tables WHERE schemaname IN ('public', 'audit')"
        " AND tablename <> 'alembic_version'",
    )
    assert left == []
    assert len(await migrate.plan(database.owner)) >= 4
    await migrate.upgrade(database.owner)
    assert await migrate.plan(database.owner) == []
    await asyncio.to_thread(command.check, migrate.config(database.owner))


async def test_every_relation_and_column_that_people_read_says_what_it_is(
    database: Dsns,
) -> None:
    rows = await fetch(
        database.owner,
        """
        SELECT c.oid::regclass::text AS relation, a.attname AS name,
               obj_description(c.oid) AS of_relation, col_description(c.oid, a.attnum) AS of_column
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE n.nspname IN ('public', 'audit', 'ops') AND c.relkind IN ('r', 'p', 'v')
           AND NOT c.relispartition AND c.relname <> 'alembic_version'
        """,
    )
    assert not {row["relation"] for row in rows if not row["of_relation"]}
    silent = [
        f"{row['relation']}.{row['name']}"
        for row in rows
        if row["relation"].startswith(("audit.", "ops.")) and not row["of_column"]
    ]
    assert silent == [], "COMMENT ON COLUMN, in the migration that adds it"


async def test_schema_sql_is_the_migrated_schema(database: Dsns) -> None:
    assert schema.FILE.read_text() == schema.dump(database.owner), "run `make schema`"


@pytest.mark.guarantee("tenancy:rls-forced")
async def test_every_table_with_a_tenant_has_row_level_security_forced(database: Dsns) -> None:
    rows = await fetch(
        database.owner,
        """
        SELECT n.nspname, c.relname, c.relrowsecurity AND c.relforcerowsecurity AS forced
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
         WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('public', 'audit')
        """,
    )
    named = {
        row["relname"] if row["nspname"] == "public" else f"audit.{row['relname']}"
        for row in rows
        if not row["relname"].startswith("events_") and row["relname"] != "auditors"
    }
    assert named >= set(TENANT_TABLES)
    assert [row["relname"] for row in rows if not row["forced"]] in ([], ["auditors"])


@pytest.mark.guarantee("tenancy:rls-forced")
async def test_the_app_sees_nothing_without_naming_a_tenant_and_cannot_write_for_another(
    database: Dsns,
) -> None:
    conn = await asyncpg.connect(database.app)
    try:
        for table in TENANT_TABLES:
            if table in {"tenant_budgets", "saga_turns"}:
                continue  # the relay's alone; the app adds turns and reads none
            assert await conn.fetchval(f"SELECT count(*) FROM {table}") == 0, table
        await conn.execute("SET app.tenants = '{demo}'")
        assert await conn.fetchval("SELECT count(*) FROM tenants") == 1
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute(
                "INSERT INTO audit.events (tenant_id, type, actor) VALUES ('other', 'x', 'x')"
            )
    finally:
        await conn.close()


@pytest.mark.guarantee("audit:append-only")
@pytest.mark.parametrize("role", ["app", "relay", "auditor", "owner"])
async def test_no_role_changes_an_audit_event(database: Dsns, role: str) -> None:
    await fetch(
        database.owner,
        "INSERT INTO audit.events (tenant_id, type, actor) VALUES ('demo', 'x', 'x')",
    )
    conn = await asyncpg.connect(getattr(database, role))
    try:
        if role == "owner":  # the superuser, even with triggers set to replica
            await conn.execute("SET session_replication_role = replica")
        elif role == "app":
            await conn.execute("SET app.tenants = '{demo}'")
        for statement in (
            "UPDATE audit.events SET type = 'y'",
            "DELETE FROM audit.events",
            "TRUNCATE audit.events",
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(statement)
    finally:
        await conn.close()
    [row] = await fetch(database.owner, "SELECT count(*) AS n FROM audit.events")
    assert row["n"] == 1


@pytest.mark.guarantee("audit:append-only")
async def test_no_writer_chooses_the_time_the_transaction_or_the_hash_of_an_event(
    database: Dsns,
) -> None:
    conn = await asyncpg.connect(database.relay)
    try:
        for column, value in (("occurred_at", "now()"), ("xid", "'1'"), ("commitment", "'x'")):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(
                    f"INSERT INTO audit.events (tenant_id, type, actor, {column})"
                    f" VALUES ('demo', 'x', 'x', {value})"
                )
    finally:
        await conn.close()


async def test_the_app_cannot_change_what_was_asked(database: Dsns) -> None:
    conn = await asyncpg.connect(database.app)
    try:
        for column in ("args", "tenant_id", "user_id", "tool", "fingerprint", "idempotency_key"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute(f"UPDATE commands SET {column} = NULL")
    finally:
        await conn.close()
