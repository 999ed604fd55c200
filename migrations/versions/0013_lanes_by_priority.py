"""Lanes in the order of their priority, so that a claim may look at the highest alone."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

INDEX = """
    CREATE INDEX ix_outbox_lane ON outbox ({columns})
        WHERE status = 'ready' AND kind = 'command' AND NOT exempt
"""


def upgrade() -> None:
    op.execute("DROP INDEX ix_outbox_lane")
    op.execute(INDEX.format(columns="priority, tenant_id, tool, method, id"))


def downgrade() -> None:
    op.execute("DROP INDEX ix_outbox_lane")
    op.execute(INDEX.format(columns="tenant_id, tool, method, priority, id"))
