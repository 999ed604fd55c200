"""Outbox rows that Kafka refuses stand aside, with the reason, and hold up no other."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

BEFORE = "status IN ('held', 'delayed', 'ready', 'claimed')"
AFTER = "status IN ('held', 'delayed', 'ready', 'claimed', 'parked')"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE outbox ADD COLUMN IF NOT EXISTS refusal text,"
        " ADD COLUMN IF NOT EXISTS refused_at timestamptz"
    )
    # Added without a look at the rows, which would wait for every writer; looked at beside them.
    op.execute(
        f"""
        ALTER TABLE outbox
            DROP CONSTRAINT IF EXISTS ck_outbox_status_known,
            DROP CONSTRAINT IF EXISTS ck_outbox_parked_has_reason,
            ADD CONSTRAINT ck_outbox_status_known CHECK ({AFTER}) NOT VALID,
            ADD CONSTRAINT ck_outbox_parked_has_reason
                CHECK (status <> 'parked' OR refusal IS NOT NULL) NOT VALID
        """
    )
    with op.get_context().autocommit_block():
        for name in ("status_known", "parked_has_reason"):
            op.execute(f"ALTER TABLE outbox VALIDATE CONSTRAINT ck_outbox_{name}")
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_outbox_refused")
        op.execute(
            "CREATE INDEX CONCURRENTLY ix_outbox_refused ON outbox (id) WHERE refusal IS NOT NULL"
        )


def downgrade() -> None:
    """What is parked is ready again."""
    op.execute("UPDATE outbox SET status = 'ready' WHERE status = 'parked'")
    op.execute("ALTER TABLE outbox DROP COLUMN refusal, DROP COLUMN refused_at")
    op.execute(
        f"""
        ALTER TABLE outbox
            DROP CONSTRAINT ck_outbox_status_known,
            ADD CONSTRAINT ck_outbox_status_known CHECK ({BEFORE})
        """
    )
