"""No table has a row of another tenant to read, count, change or delete, for any role."""

import re

import asyncpg
import pytest

from app.edges.parts import Parts
from devstack.stack import Dsns
from tests.support.calls import ADA, EVE, accept, echo
from tests.tenancy.theirs import fill

GLOBAL = {
    "alembic_version",
    "tools",
    "leases",
    "turns",
    "webhook_position",
    "dpop_proofs",
    "audit.keys",
    "audit.watermark",
    "audit.retirements",
    "audit.shapes",
}
"""Relations of no tenant; what each role may do with them is in test_roles."""

TENANTED = """
    SELECT CASE n.nspname WHEN 'public' THEN '' ELSE 'audit.' END || c.relname AS name,
           EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id')
               AS tenanted, c.relrowsecurity AND c.relforcerowsecurity AS forced
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname IN ('public', 'audit') AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""
OTHERS = """
    INSERT INTO sagas (id, tenant_id, user_id, kind)
    VALUES (gen_random_uuid(), 'other', 'e', 'adhoc');
    INSERT INTO saga_steps (saga_id, step, tenant_id, position)
    SELECT id, 's', 'other', 1 FROM sagas
     WHERE tenant_id = 'other';
    INSERT INTO saga_turns (tenant_id, saga_id) VALUES ('other', gen_random_uuid());
    INSERT INTO saga_definitions (tenant_id, name, version, definition, digest, registered_by)
         VALUES ('other', 'n', 1, '{}', '', 'e');
    INSERT INTO tenant_budgets (tenant_id, tokens) VALUES ('other', 1);
    INSERT INTO audit.holds (tenant_id, reason, placed_by) VALUES ('other', 'r', 'x');
    INSERT INTO audit.restores (restore_id, tenant_id, request, accepted_by)
         VALUES (gen_random_uuid(), 'other', '', 'x');
    INSERT INTO audit.auditors VALUES ('x', 'other'), ('broker_auditor_login', 'demo');
    INSERT INTO holds (id, tenant_id, effect, reason, placed_by)
         VALUES (gen_random_uuid(), 'other', 'wait', 'r', 'x');
    INSERT INTO command_labels VALUES ('other', 'l', (SELECT id FROM commands
        WHERE tenant_id = 'other' LIMIT 1));
    INSERT INTO console_sessions (id_hash, tenant_id, user_id, identity, method, expires_at)
         VALUES (sha256('x'), 'other', 'e', '{}', 'openid', now());
    INSERT INTO targets (tenant_id, name, kind) VALUES ('other', 'n', 'echo');
    INSERT INTO webhook_endpoints (tenant_id, url, kinds, secret, created_by)
         VALUES ('other', 'https://example.org/', '{command.ended}', '', 'e');
    INSERT INTO webhook_deliveries (tenant_id, endpoint_id, kind, event_id, xid, occurred_at, data)
    SELECT 'other', id, 'command.ended', gen_random_uuid(), '1', now(), '{}'
      FROM webhook_endpoints;
    INSERT INTO audit.members VALUES ('other', 1, gen_random_uuid(), now(), '');
    INSERT INTO audit.seals (tenant_id, seal_no, seq_from, seq_to, root, frontier, previous, key_id,
        sealed_at, checkpoint, digest, attestation)
         VALUES ('other', 1, 1, 1, '', '', '', 'k', now(), '', '', '')
"""


@pytest.mark.guarantee("tenancy:walk")
async def test_no_table_shows_counts_or_takes_a_row_of_another_tenant(
    broker: Parts, database: Dsns
) -> None:
    await fill(broker)
    mine = (await accept(broker, echo("mine", ordering_key="k"), EVE)).written.id
    owner = await asyncpg.connect(database.owner)
    await owner.execute(OTHERS)
    await owner.execute(
        "INSERT INTO progress (command_id, seq, tenant_id, attempt, stage)"
        " VALUES ($1, 1, 'other', 1, 's')",
        mine,
    )
    tables = await owner.fetch(TENANTED)
    assert {row["name"] for row in tables if not row["tenanted"]} == GLOBAL
    walked = {"app": 0, "auditor": 0}
    for table in (row for row in tables if row["tenanted"]):
        name = table["name"]
        assert table["forced"], name
        count = f"SELECT count(*) FROM {name} WHERE tenant_id = 'other'"
        assert await owner.fetchval(count) > 0, f"{name}: there is a row that could be seen"
        for role in walked:
            conn = await asyncpg.connect(getattr(database, role))
            await conn.execute("SET app.tenants = '{demo}'")
            try:
                assert await conn.fetchval(count) == 0, (name, role)
                walked[role] += 1
            except asyncpg.InsufficientPrivilegeError:
                pass  # not readable at all; test_roles says by whom
            for verb in (f"UPDATE {name} SET tenant_id = 'demo'", f"DELETE FROM {name}"):
                try:
                    done = await conn.execute(f"{verb} WHERE tenant_id = 'other'")
                    assert re.fullmatch(r"(UPDATE|DELETE) 0", done), (name, role)
                except asyncpg.InsufficientPrivilegeError:
                    continue
            await conn.close()
    await owner.close()
    assert walked == {"app": 18, "auditor": 6}
    assert ADA.tenant_id == "demo"
