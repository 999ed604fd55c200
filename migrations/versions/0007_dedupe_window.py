"""The end of a dedupe window; and no more `served_by`, which nothing read."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE commands ADD COLUMN dedupe_until timestamptz")
    op.execute("GRANT UPDATE (dedupe_until) ON commands TO broker_app, broker_relay")
    # Windows that had no end yet: over.
    op.execute(
        "UPDATE commands SET dedupe_key = NULL"
        " WHERE dedupe_key IS NOT NULL AND finished_at IS NOT NULL"
    )
    op.execute("UPDATE tools SET policy = policy - 'served_by' WHERE policy ? 'served_by'")


def downgrade() -> None:
    op.execute("ALTER TABLE commands DROP COLUMN dedupe_until")
