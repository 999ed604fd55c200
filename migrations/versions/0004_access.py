"""Who may do what: grants by deployment, and row-level security, forced, on every tenant table."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# A transaction of the app names the tenants that it works for: SET LOCAL app.tenants = '{a,b}'.
# (A micro-batch carries calls of several.) Unset or empty, it sees and writes nothing.
MINE = "tenant_id = ANY (NULLIF(current_setting('app.tenants', true), '')::text[])"

TENANT_TABLES = (
    "tenants",
    "tenant_budgets",
    "grants",
    "commands",
    "ordering_heads",
    "outbox",
    "progress",
    "saga_definitions",
    "sagas",
    "saga_steps",
    "audit.events",
    "audit.seals",
    "audit.members",
)

# A row's identity and its request never change after acceptance: only these columns may.
COMMAND_MUTABLE = (
    "held, approval, priority, attempt, attempts_max, deliveries, adapter, lease_until, cancel_requested_at,"
    " cancel_reason, cancel_target, outcome_unknown, progress_seq, stage, percent, message, result,"
    " error, state, dedupe_key, deadline_at, deadline_missed_at, hard_stop_at, dispatched_at,"
    " started_at, finished_at, discarded_at"
)
# The time, the transaction and the leaf hash of an event are the database's own.
EVENT_COLUMNS = (
    "tenant_id, type, actor, user_id, command_id, saga_id, tool, method, attempt, state_from,"
    " state_to, fingerprint, body"
)

GRANTS = f"""
    GRANT USAGE ON SCHEMA public, audit TO broker_app, broker_relay, broker_auditor;
    GRANT SELECT ON alembic_version TO broker_app, broker_relay, broker_auditor;

    GRANT SELECT ON tenants, grants, tools TO broker_app, broker_relay;
    GRANT SELECT, INSERT ON commands TO broker_app, broker_relay;
    GRANT UPDATE ({COMMAND_MUTABLE}) ON commands TO broker_app;
    GRANT UPDATE ({COMMAND_MUTABLE}, idempotency_key, args, purged_at) ON commands TO broker_relay;
    GRANT SELECT, INSERT, UPDATE, DELETE ON outbox TO broker_app, broker_relay;
    GRANT SELECT, INSERT, UPDATE ON ordering_heads TO broker_app, broker_relay;
    GRANT DELETE ON ordering_heads TO broker_relay;
    GRANT SELECT, INSERT ON progress TO broker_app, broker_relay;
    GRANT DELETE ON progress TO broker_relay;
    GRANT SELECT, INSERT, UPDATE ON saga_definitions TO broker_app;
    GRANT SELECT ON saga_definitions TO broker_relay;
    GRANT SELECT, INSERT, UPDATE ON sagas, saga_steps TO broker_app, broker_relay;
    GRANT SELECT, INSERT, UPDATE, DELETE ON tenant_budgets, leases TO broker_relay;

    GRANT SELECT ON audit.events, audit.seals, audit.members TO broker_app, broker_relay;
    GRANT SELECT ON audit.keys TO broker_app, broker_relay;
    GRANT INSERT ({EVENT_COLUMNS}) ON audit.events TO broker_app, broker_relay;
    GRANT INSERT ON audit.seals, audit.members, audit.keys TO broker_relay;
    GRANT EXECUTE ON FUNCTION audit.ensure_partitions(integer) TO broker_relay
"""

# The results API meets a correlation id before it knows whose it is.
TENANT_OF = """
    CREATE FUNCTION broker_tenant_of(command uuid) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp
    RETURN (SELECT tenant_id FROM commands WHERE id = command)
"""


def upgrade() -> None:
    for statement in filter(None, map(str.strip, GRANTS.split(";"))):
        op.execute(statement)
    op.execute(TENANT_OF)
    op.execute("REVOKE ALL ON FUNCTION broker_tenant_of(uuid) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION broker_tenant_of(uuid) TO broker_app, broker_relay")
    for table in TENANT_TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY app ON {table} TO broker_app USING ({MINE}) WITH CHECK ({MINE})")
        # The relay serves every tenant, within its grants; the owner runs migrations and
        # the SECURITY DEFINER functions.
        op.execute(f"CREATE POLICY relay ON {table} TO broker_relay USING (true) WITH CHECK (true)")
        op.execute(f"CREATE POLICY owner ON {table} TO broker_owner USING (true) WITH CHECK (true)")


def downgrade() -> None:
    for table in TENANT_TABLES:
        for policy in ("app", "relay", "owner"):
            op.execute(f"DROP POLICY {policy} ON {table}")
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    op.execute("DROP FUNCTION broker_tenant_of(uuid)")
    for role in ("broker_app", "broker_relay", "broker_auditor"):
        op.execute(f"REVOKE ALL ON ALL TABLES IN SCHEMA public, audit FROM {role}")
        op.execute(f"REVOKE ALL ON ALL FUNCTIONS IN SCHEMA audit FROM {role}")
        op.execute(f"REVOKE ALL ON SCHEMA public, audit FROM {role}")
