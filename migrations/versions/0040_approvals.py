"""Who may let a call go, how many of them, until when; and of which calls a grant speaks."""

from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

COLUMNS = {
    "approval_rule": "jsonb",
    "approvals": "jsonb",
    "approval_until": "timestamptz",
    "approval_due": "timestamptz",
    "escalated_at": "timestamptz",
}
CHANGED = "approvals, approval_due, escalated_at"
WAITS = "approval = 'pending' AND state = 'queued'"
INDEXES = {
    "ix_commands_approval_waiting": f"(tenant_id, id) WHERE {WAITS}",
    "ix_commands_approval_due": f"(approval_due) WHERE {WAITS} AND approval_due IS NOT NULL",
}
# Also against a release that knows of no quorum.
ENOUGH = """
    approval <> 'approved' OR approval_rule IS NULL OR purged_at IS NOT NULL
    OR CAST(approval_rule ->> 'quorum' AS integer)
       <= greatest(1, coalesce(jsonb_array_length(approvals), 0))
"""
# An erasure takes the caller's name from a command, so also from among its approvers.
FORGET = """
    CREATE FUNCTION broker_forget_approvals() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, public AS $$
    BEGIN
        NEW.approvals := NULL;
        RETURN NEW;
    END $$
"""
FORGOTTEN = """
    CREATE TRIGGER approvals_forgotten BEFORE UPDATE OF user_id ON commands
        FOR EACH ROW WHEN (OLD.user_id <> NEW.user_id AND NEW.approvals IS NOT NULL)
        EXECUTE FUNCTION broker_forget_approvals()
"""


def upgrade() -> None:
    op.execute("ALTER TABLE grants ADD COLUMN IF NOT EXISTS condition text NOT NULL DEFAULT ''")
    for name, kind in COLUMNS.items():
        op.execute(f"ALTER TABLE commands ADD COLUMN IF NOT EXISTS {name} {kind}")
    op.execute("DROP FUNCTION IF EXISTS broker_forget_approvals CASCADE")
    op.execute(FORGET)
    op.execute(FORGOTTEN)
    op.execute(f"GRANT UPDATE ({CHANGED}) ON commands TO broker_app, broker_relay")
    op.execute("ALTER TABLE commands DROP CONSTRAINT IF EXISTS ck_commands_approvals_enough")
    op.execute(
        "ALTER TABLE commands ADD CONSTRAINT ck_commands_approvals_enough"
        f" CHECK ({ENOUGH}) NOT VALID"
    )
    # Beside who writes commands: it may take as long as there are many.
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE commands VALIDATE CONSTRAINT ck_commands_approvals_enough")
        for name, what in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON commands {what}")


def downgrade() -> None:
    """A grant with a condition goes: without it, it would say more."""
    op.execute("DROP FUNCTION broker_forget_approvals CASCADE")
    op.execute("DELETE FROM grants WHERE condition <> ''")
    op.execute("ALTER TABLE grants DROP COLUMN condition")
    op.execute("DROP INDEX ix_commands_approval_waiting")
    for name in COLUMNS:
        op.execute(f"ALTER TABLE commands DROP COLUMN {name}")
