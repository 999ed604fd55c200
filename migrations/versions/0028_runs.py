"""Which run of an attempt was started elsewhere, such as a controller's job, and where to see it."""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE commands ADD COLUMN run jsonb")
    op.execute("GRANT UPDATE (run) ON commands TO broker_app")


def downgrade() -> None:
    op.execute("ALTER TABLE commands DROP COLUMN run")
