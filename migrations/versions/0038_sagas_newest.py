"""A tenant's sagas, newest first: an index in the order of their ids."""

from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

INDEX = "ix_sagas_newest"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {INDEX}")
        op.execute(f"CREATE INDEX CONCURRENTLY {INDEX} ON sagas (tenant_id, id)")


def downgrade() -> None:
    op.execute(f"DROP INDEX {INDEX}")
