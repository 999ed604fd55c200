"""What computes and guards the log is signed too: any change of schema audit is found."""

import asyncpg
import pytest

from app.audit.store import shape
from devstack.stack import Dsns
from tests.audit.conftest import Log
from tests.cli.test_audit import broker_audit, finding, sealed

CHANGES = {
    "a view": "CREATE OR REPLACE VIEW audit.sealed_late AS SELECT m.tenant_id, m.seq, m.event_id,"
    " m.occurred_at AS at, s.seal_no, s.sealed_at, s.sealed_at - m.occurred_at AS late_by"
    " FROM audit.seals s JOIN audit.members m ON m.tenant_id = s.tenant_id WHERE false",
    "a view's rights": "ALTER VIEW audit.denials RESET (security_invoker)",
    "a view less": "DROP VIEW audit.denials",
    "a function": "CREATE OR REPLACE FUNCTION audit.erased(tenant text)"
    " RETURNS TABLE (erasure uuid, month text, events bigint, digest text, event_id uuid)"
    " LANGUAGE sql AS"
    " $$ SELECT NULL::uuid, '', 0::bigint, '', NULL::uuid WHERE false $$",
    "a function more": "CREATE FUNCTION audit.x() RETURNS int LANGUAGE sql RETURN 1",
    "a definer": "ALTER FUNCTION audit.root(bytea) SECURITY DEFINER",
    "a trigger off": "ALTER TABLE audit.seals DISABLE TRIGGER refuse_change",
    "a month's trigger off": "DO $$ BEGIN EXECUTE format('ALTER TABLE audit.%I DISABLE TRIGGER"
    " refuse_truncate', (SELECT max(relname) FROM pg_class WHERE relname ~ '^events_[0-9]+$'));"
    " END $$",
    "a trigger elsewhere": "ALTER TABLE public.tenants DISABLE TRIGGER noted",
    "a trigger more": "CREATE TRIGGER x BEFORE INSERT ON audit.events FOR EACH ROW"
    " EXECUTE FUNCTION audit.refuse()",
    "a rule": "CREATE RULE x AS ON INSERT TO audit.members DO INSTEAD NOTHING",
    "a grant": "GRANT DELETE ON audit.events TO broker_app",
    "a column's grant": "GRANT INSERT (occurred_at) ON audit.events TO broker_app",
    "a function's grant": "GRANT EXECUTE ON FUNCTION audit.drop_oldest() TO PUBLIC",
    "a policy": "CREATE POLICY x ON audit.events TO PUBLIC USING (true)",
    "row security off": "ALTER TABLE audit.seals NO FORCE ROW LEVEL SECURITY",
    "a constraint": "ALTER TABLE audit.members DROP CONSTRAINT uq_members_event",
    "a check": "ALTER TABLE audit.seals DROP CONSTRAINT ck_seals_kind_shape",
    "a null": "ALTER TABLE audit.members ALTER leaf DROP NOT NULL",
    "a default": "ALTER TABLE audit.events ALTER occurred_at SET DEFAULT '2020-01-01'",
    "a type": "ALTER TABLE audit.retirements ALTER refusal TYPE varchar",
    "a column more": "ALTER TABLE audit.events ADD COLUMN x text",
    "a table": "CREATE TABLE audit.x (y int)",
    "a table that inherits": "CREATE TABLE public.x () INHERITS (audit.members)",
    "a month of no name": "CREATE TABLE public.x PARTITION OF audit.events FOR VALUES"
    " FROM ('2001-01-01') TO ('2001-02-01')",
    "a month unhung": "DO $$ BEGIN EXECUTE format('ALTER TABLE audit.events DETACH PARTITION"
    " audit.%I', (SELECT max(relname) FROM pg_class WHERE relname ~ '^events_[0-9]+$')); END $$",
    "an owner": "ALTER TABLE audit.keys OWNER TO postgres",
    "a role": "ALTER ROLE broker_app BYPASSRLS",
}


async def test_the_database_and_the_check_see_the_same_shape_and_this_release_knows_it(
    database: Dsns,
) -> None:
    conn = await asyncpg.connect(database.owner)
    try:
        for zone in ("UTC", "Asia/Kolkata"):
            await conn.execute(f"SET timezone = '{zone}'")
            async with conn.transaction():
                found = await shape.now(conn)
            rows = await conn.fetch("SELECT * FROM audit.shape()")
            assert [" ".join(row.values()) for row in rows] == found.lines.split("\n")
            assert found.known is not False, f"app/audit/store/shape.py: {found.digest.hex()}"
    finally:
        await conn.close()


@pytest.mark.guarantee("audit:shape")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_a_change_of_the_schema_is_found(sealed_log: Log, change: str) -> None:
    conn = sealed_log.owner
    assert (await sealed_log.verify())["ok"]
    rollback = conn.transaction()
    await rollback.start()
    try:
        await conn.execute("SET LOCAL search_path = pg_catalog")
        await conn.execute(change)
        found = await sealed_log.verify()
        signed, now = await shape.signed(conn), await shape.now(conn)
    finally:
        await rollback.rollback()
    assert signed is not None
    assert signed.signers(sealed_log.keys, log="broker.test/audit")
    assert now.lines != signed.shape.lines
    assert found["ok"] is False
    assert "is not as it was signed" in found["reason"]


@pytest.mark.guarantee("audit:shape")
async def test_a_relay_signs_no_shape_that_is_not_this_releases(log: Log) -> None:
    await log.owner.execute("CREATE FUNCTION audit.x() RETURNS int LANGUAGE sql RETURN 1")
    await sealed(log, 2)
    assert not log.sealer.counts.shape_known
    assert await log.owner.fetchval("SELECT count(*) FROM audit.shapes") == 0
    argv = ("verify", "demo", "--database-url", log.dsns.auditor, "--json")
    done = await broker_audit(*argv)
    assert done.exit_code == 1
    assert "no relay has signed the shape" in finding(done)["fault"]["reason"]


@pytest.mark.guarantee("audit:shape")
async def test_a_shape_that_somebody_else_has_signed_is_found_by_the_pinned_key(log: Log) -> None:
    await sealed(log, 2)
    await log.owner.execute("CREATE FUNCTION audit.x() RETURNS int LANGUAGE sql RETURN 1")
    async with log.owner.transaction():
        forged = await shape.now(log.owner)
    await shape.add(log.owner, shape.SignedShape(shape=forged, note=forged.text("x") + "\n"))
    assert (await log.verify())["ok"], "SQL has only the database's word"
    done = await broker_audit("verify", "demo", "--database-url", log.dsns.auditor, "--json")
    assert done.exit_code == 1
    assert "not signed by a known key" in finding(done)["fault"]["reason"]
