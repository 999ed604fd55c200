"""Each database role can do what its deployment needs, and nothing else: every role, every object.

The expectation is written out. A new table, function or grant fails here until somebody has said
who may use it, and why is in the migration.
"""

import asyncpg
import pytest

from devstack.stack import Dsns
from tests.support.calls import fetch

ROLES = ("broker_app", "broker_relay", "broker_auditor", "broker_retention", "broker_observer")

# role: {relation: privileges}; r SELECT, a INSERT, w UPDATE, d DELETE on the whole relation, and in
# lower case behind a colon those on some columns only. What is not named is refused.
RELATIONS: dict[str, dict[str, str]] = {
    "broker_app": {
        "alembic_version": "r",
        "tenants": "r",
        "grants": "r",
        "tools": "r",
        "targets": "r",
        "commands": "ra:w",
        "command_labels": "ra",
        "outbox": "rawd",
        "holds": "ra:w",
        "ordering_heads": "raw",
        "progress": "ra",
        "saga_definitions": "raw",
        "sagas": "raw",
        "saga_steps": "raw",
        "saga_turns": "a",
        "console_sessions": "rad:w",
        "dpop_proofs": "rad",
        "turns": "r:w",
        "webhook_endpoints": "rad:w",
        "webhook_deliveries": "ra:w",
        "webhook_position": "r",
        "audit.events": "r:a",
        "audit.seals": "r",
        "audit.members": "r",
        "audit.keys": "r",
        "audit.shapes": "r",
    },
    "broker_relay": {
        "alembic_version": "r",
        "tenants": "r",
        "grants": "r",
        "tools": "r",
        "targets": "r",
        "commands": "ra:w",
        "command_labels": "rad",
        "outbox": "rawd",
        "holds": "r:w",
        "ordering_heads": "rawd",
        "progress": "rad",
        "saga_definitions": "r",
        "sagas": "raw",
        "saga_steps": "raw",
        "saga_turns": "rawd",
        "tenant_budgets": "rawd",
        "leases": "rawd",
        "turns": "r:w",
        "webhook_endpoints": "rd:w",
        "webhook_deliveries": "rad:w",
        "webhook_position": "r:w",
        "audit.events": "r:a",
        "audit.seals": "ra",
        "audit.members": "ra",
        "audit.keys": "ra",
        "audit.watermark": "raw",
        "audit.holds": "r",
        "audit.retirements": "r:w",
        "audit.restores": "r",
        "audit.shapes": "r:a",
    },
    "broker_auditor": {
        "alembic_version": "r",
        "audit.events": "r",
        "audit.members": "r",
        "audit.seals": "r",
        "audit.keys": "r",
        "audit.shapes": "r",
        "audit.auditors": "r",
        "audit.watermark": "r",
        "audit.holds": "r",
        "audit.retirements": "r",
        "audit.restores": "r",
        "audit.who_did_what": "r",
        "audit.command_story": "r",
        "audit.saga_story": "r",
        "audit.agent_activity": "r",
        "audit.denials": "r",
        "audit.sealing": "r",
        "audit.sealed_late": "r",
        "audit.out_of_time": "r",
    },
    "broker_retention": {
        "audit.holds": "r",
        "audit.retirements": "r",
        "audit.restores": "r",
    },
    "broker_observer": {
        "ops.tools": "r",
        "ops.tenants": "r",
        "ops.tenants_now": "r",
        "ops.executors": "r",
        "ops.sagas": "r",
        "ops.seals": "r",
        "ops.waiting": "r",
        "ops.outbox": "r",
        "ops.webhooks": "r",
        "ops.holds": "r",
    },
}

EVENT = (
    "actor attempt body command_id event_id fingerprint method saga_id salt state_from state_to"
    " tenant_id tool type user_id"
)
COLUMNS = {
    ("broker_app", "holds", "UPDATE"): "released_at released_by",
    ("broker_relay", "holds", "UPDATE"): "freed_at released_at released_by",
    ("broker_app", "turns", "UPDATE"): "held",
    ("broker_app", "console_sessions", "UPDATE"): "ended_at seen_at",
    ("broker_relay", "turns", "UPDATE"): "held",
    ("broker_app", "webhook_endpoints", "UPDATE"): "disabled_at enabled expires_at failing_since"
    " from_xid last_error reason secret secret_before secret_before_until verified_at",
    ("broker_relay", "webhook_endpoints", "UPDATE"): "disabled_at enabled failing_since"
    " last_delivered_at last_error reason",
    ("broker_app", "webhook_deliveries", "UPDATE"): "attempts due_at ended_at lease state",
    ("broker_relay", "webhook_deliveries", "UPDATE"): "answer attempts due_at ended_at last_at"
    " last_error last_status lease state",
    ("broker_relay", "webhook_position", "UPDATE"): "xid",
    ("broker_app", "audit.events", "INSERT"): EVENT,
    ("broker_relay", "audit.events", "INSERT"): EVENT,
    ("broker_relay", "audit.shapes", "INSERT"): "lines major note revision",
    ("broker_relay", "audit.retirements", "UPDATE"): "refusal refused_at signed_at",
}
FROZEN = {
    "broker_app": {"args", "compensation", "idempotency_key", "purged_at"},
    "broker_relay": {"reports_rejected"},
}
"""Columns of a command that this role cannot change beyond those that nobody can."""
NOBODY = {
    *("id", "tenant_id", "user_id", "tool", "method", "key_source", "fingerprint"),
    *("ordering_key", "ordering", "key_seq", "accept_async", "accept_partials", "saga_id"),
    *("saga_step", "saga_role", "traceparent", "created_at", "labels", "asserted", "not_before"),
    *("approval_rule", "approval_until"),
}

# Functions that run as the owner, and who may call them; all others run as their caller.
DEFINERS = {
    "broker_tenant_of(uuid)": {"broker_app", "broker_relay"},
    "broker_analyze_grown()": {"broker_relay"},
    "ops.minutes(timestamp with time zone,timestamp with time zone)": {"broker_observer"},
    "audit.ensure_partitions(integer)": {"broker_app", "broker_relay"},
    "audit.partitions_ahead_s()": {"broker_app", "broker_relay"},
    "audit.note_change()": set(),  # a trigger
    "audit.hold(text,text,timestamp with time zone,timestamp with time zone)": {"broker_retention"},
    "audit.release(uuid,text)": {"broker_retention"},
    "audit.ask_retirement(text)": {"broker_retention"},
    "audit.unlike(text[],bigint[],bytea[])": {"broker_retention"},
    "audit.accept_restore(text)": {"broker_retention"},
    "audit.drop_oldest()": {"broker_retention"},
    "audit.plan_erasure(text,text,integer)": {"broker_retention"},
    "audit.erase(text,text,text,uuid[],timestamp with time zone[],integer)": {"broker_retention"},
}
OWNERS_ALONE = {"audit.guard(regclass)", "audit.refuse_truncate()", "broker_forget_said()"}

EVERY_RELATION = """
    SELECT CASE n.nspname WHEN 'public' THEN '' ELSE n.nspname || '.' END || c.relname AS name,
           c.oid
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
     WHERE n.nspname IN ('public', 'audit', 'ops') AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
"""

MAY = """
    SELECT p.letter, has_table_privilege($1, $2::oid, p.name) AS whole,
           p.letter IN ('r', 'a', 'w') AND has_any_column_privilege($1, $2::oid, CASE
               WHEN p.letter IN ('r', 'a', 'w') THEN p.name ELSE 'SELECT' END) AS part
      FROM (VALUES ('r', 'SELECT'), ('a', 'INSERT'), ('w', 'UPDATE'), ('d', 'DELETE'),
                   ('T', 'TRUNCATE'), ('x', 'REFERENCES'), ('t', 'TRIGGER')) p (letter, name)
"""

PART = """
    SELECT string_agg(a.attname, ' ' ORDER BY a.attname)
      FROM pg_attribute a
     WHERE a.attrelid = $2::text::regclass AND a.attnum > 0 AND NOT a.attisdropped
       AND has_column_privilege($1, a.attrelid, a.attnum, $3)
"""

FUNCTIONS = """
    SELECT p.oid::regprocedure::text AS name, p.prosecdef, p.proowner::regrole::text AS owner,
           p.proconfig::text AS config, r.role,
           has_function_privilege(r.role, p.oid, 'EXECUTE') AS may
      FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
     CROSS JOIN unnest($1::text[]) AS r (role)
     WHERE n.nspname IN ('public', 'audit', 'ops')
"""


@pytest.mark.guarantee("access:least-privilege")
@pytest.mark.parametrize("role", ROLES)
async def test_a_role_has_the_privileges_that_are_written_here_on_every_relation(
    database: Dsns, role: str
) -> None:
    relations = await fetch(database.owner, EVERY_RELATION)
    found: dict[str, str] = {}
    for relation in relations:
        rows = await fetch(database.owner, MAY, role, relation["oid"])
        whole = "".join(row["letter"] for row in rows if row["whole"])
        part = "".join(row["letter"] for row in rows if row["part"] and not row["whole"])
        if whole or part:
            found[relation["name"]] = whole + (f":{part}" if part else "")
    assert found == RELATIONS[role]
    assert len(relations) > 25, "partitions are walked too, and nobody reaches one"


@pytest.mark.guarantee("access:least-privilege")
async def test_where_only_columns_are_granted_they_are_those(database: Dsns) -> None:
    for (role, table, privilege), columns in COLUMNS.items():
        assert await one(database, PART, role, table, privilege) == columns, (role, table)
    everything = set((await one(database, PART, "broker_owner", "commands", "UPDATE")).split())
    for role, frozen in FROZEN.items():
        may = set((await one(database, PART, role, "commands", "UPDATE")).split())
        assert everything - may == NOBODY | frozen, role


@pytest.mark.guarantee("access:least-privilege")
async def test_functions_that_run_as_the_owner_are_few_pinned_and_granted_as_written(
    database: Dsns,
) -> None:
    callers: dict[str, set[str]] = {}
    for row in await fetch(database.owner, FUNCTIONS, list(ROLES)):
        if not row["prosecdef"]:
            assert row["may"] != (row["name"] in OWNERS_ALONE), row["name"]
            continue
        assert row["owner"] == "broker_owner"
        assert "pg_temp" in row["config"], row["name"]
        callers.setdefault(row["name"], set())
        if row["may"]:
            callers[row["name"]].add(row["role"])
    assert callers == DEFINERS


@pytest.mark.guarantee("access:least-privilege")
async def test_no_role_is_more_than_a_role(database: Dsns) -> None:
    rows = await fetch(
        database.owner,
        "SELECT rolname, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication"
        " FROM pg_roles WHERE rolname LIKE 'broker\\_%'",
    )
    assert {row["rolname"] for row in rows} >= {*ROLES, "broker_owner"}
    assert not [row["rolname"] for row in rows if any(list(row)[1:])]
    owned = await fetch(
        database.owner,
        "SELECT c.relname FROM pg_class c WHERE c.relowner::regrole::text = ANY ($1)",
        [*ROLES, *(f"{role}_login" for role in ROLES)],
    )
    assert owned == [], "no service role owns anything"
    member = "SELECT pg_has_role($1, $2, 'MEMBER')"
    for role in ROLES:
        for other in {*ROLES, "broker_owner"} - {role}:
            assert not await one(database, member, f"{role}_login", other), (role, other)


@pytest.mark.guarantee("access:least-privilege")
@pytest.mark.parametrize("role", ["app", "relay", "auditor", "retention", "observer"])
async def test_no_role_creates_anything_of_its_own(database: Dsns, role: str) -> None:
    conn = await asyncpg.connect(getattr(database, role))
    try:
        for statement in (
            "CREATE TABLE mine (x int)",
            "CREATE TABLE audit.mine (x int)",
            "CREATE TABLE ops.mine (x int)",
            "CREATE FUNCTION audit.mine() RETURNS int RETURN 1",
            "CREATE SCHEMA mine",
            "CREATE ROLE mine",
            "ALTER TABLE audit.events DETACH PARTITION audit.nothing",
            "DROP FUNCTION audit.verify",
            "CREATE POLICY mine ON commands USING (true)",
            "ALTER TABLE commands NO FORCE ROW LEVEL SECURITY",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "ALTER SYSTEM SET log_statement = 'all'",
        ):
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedTableError)):
                await conn.execute(statement)
    finally:
        await conn.close()


async def one(database: Dsns, query: str, *values: object) -> str:
    [row] = await fetch(database.owner, query, *values)
    return row[0]
