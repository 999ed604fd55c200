"""An index of their own for undo work, which no queue of its lane then precedes, and for blocked keys."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

UP = """
    CREATE INDEX ix_outbox_undo ON outbox (priority DESC, id)
        WHERE status = 'ready' AND kind = 'command' AND exempt;
    DROP INDEX ix_outbox_lane;
    CREATE INDEX ix_outbox_lane ON outbox (tenant_id, tool, method, priority, id)
        WHERE status = 'ready' AND kind = 'command' AND NOT exempt;
    CREATE INDEX ix_ordering_heads_blocked ON ordering_heads (tenant_id, ordering_key)
        WHERE blocked_reason IS NOT NULL;
"""

DOWN = """
    DROP INDEX ix_ordering_heads_blocked;
    DROP INDEX ix_outbox_undo;
    DROP INDEX ix_outbox_lane;
    CREATE INDEX ix_outbox_lane ON outbox (tenant_id, tool, method, priority, id)
        WHERE status = 'ready' AND kind = 'command';
"""


def _run(statements: str) -> None:
    for statement in filter(None, map(str.strip, statements.split(";"))):
        op.execute(statement)


def upgrade() -> None:
    _run(UP)


def downgrade() -> None:
    _run(DOWN)
