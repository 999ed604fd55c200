"""Delayed rows that a clock wrote which has been set back since: an index that finds them."""

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None

INDEX = "ix_outbox_delayed_at"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(
            f"CREATE INDEX CONCURRENTLY {INDEX} ON outbox (created_at) WHERE status = 'delayed'"
        )


def downgrade() -> None:
    op.execute(f"DROP INDEX {INDEX}")
