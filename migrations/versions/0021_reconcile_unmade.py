"""A step whose outcome could not be asked for says so, and names no command that was never made."""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        "ALTER TABLE saga_steps"
        " ADD COLUMN IF NOT EXISTS reconcile_unmade boolean NOT NULL DEFAULT false"
    )
    # The rows are looked through when the table's lock has been given back.
    with op.get_context().autocommit_block():
        op.execute(
            "UPDATE saga_steps SET reconcile_id = NULL, reconcile_unmade = true"
            " WHERE reconcile_id = command_id"
        )


def downgrade() -> None:
    op.execute("UPDATE saga_steps SET reconcile_id = command_id WHERE reconcile_unmade")
    op.execute("ALTER TABLE saga_steps DROP COLUMN reconcile_unmade")
