"""A step whose outcome could not be asked for says so, and names no command that was never made."""

from alembic import op

revision = "0022"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE saga_steps ADD COLUMN reconcile_unmade boolean NOT NULL DEFAULT false")
    op.execute(
        "UPDATE saga_steps SET reconcile_id = NULL, reconcile_unmade = true"
        " WHERE reconcile_id = command_id"
    )


def downgrade() -> None:
    op.execute("UPDATE saga_steps SET reconcile_id = command_id WHERE reconcile_unmade")
    op.execute("ALTER TABLE saga_steps DROP COLUMN reconcile_unmade")
