"""The relay purges what a run has said of its output, with the rest of a command's content."""

from alembic import op

revision = "0039"
down_revision = "0038"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("GRANT UPDATE (run) ON commands TO broker_relay")


def downgrade() -> None:
    op.execute("UPDATE commands SET run = run - 'log' WHERE run ? 'log'")
    op.execute("REVOKE UPDATE (run) ON commands FROM broker_relay")
