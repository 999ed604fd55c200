"""What waits for a person, and where rows are on their way out, for one look: `broker status`."""

from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

# Each by its own partial index; approvals wait among what is queued.
WAITING = """
    CREATE VIEW ops.waiting AS
    SELECT tenant_id, 'approval' AS what, count(*) AS count,
           extract(epoch FROM now() - min(created_at))::float8 AS oldest_s
      FROM commands
     WHERE state = 'queued' AND approval = 'pending'
     GROUP BY tenant_id
     UNION ALL
    SELECT tenant_id, 'dead letter', count(*),
           extract(epoch FROM now() - min(finished_at))::float8
      FROM commands
     WHERE state = 'dead_lettered' AND discarded_at IS NULL
     GROUP BY tenant_id
     UNION ALL
    SELECT tenant_id, 'blocked key', count(*), extract(epoch FROM now() - min(moved_at))::float8
      FROM ordering_heads
     WHERE blocked_reason IS NOT NULL
     GROUP BY tenant_id
     UNION ALL
    SELECT tenant_id, 'saga', count(*), extract(epoch FROM now() - min(created_at))::float8
      FROM sagas
     WHERE state IN ('stuck', 'compensation_failed')
     GROUP BY tenant_id
     UNION ALL
    SELECT tenant_id, 'refused row', count(*), extract(epoch FROM now() - min(refused_at))::float8
      FROM outbox
     WHERE refusal IS NOT NULL AND status = 'parked'
     GROUP BY tenant_id
"""
OUTBOX = """
    CREATE VIEW ops.outbox AS
    SELECT status, count(*) AS count,
           extract(epoch FROM now() - min(greatest(created_at, available_at)))::float8 AS oldest_s
      FROM outbox
     GROUP BY status
"""
VIEWS = {
    "waiting": "What waits for a person, by tenant and kind; none where there is nothing.",
    "outbox": "The outbox rows by status: the ready ones are for a relay to publish.",
}
COLUMNS = {
    "waiting.tenant_id": "The tenant.",
    "waiting.what": "approval, dead letter, blocked key, saga, or refused row (by Kafka).",
    "waiting.count": "How many there are.",
    "waiting.oldest_s": "For how long the oldest has waited.",
    "outbox.status": "held, delayed, ready, claimed or parked.",
    "outbox.count": "How many rows there are.",
    "outbox.oldest_s": "For how long the oldest could have gone; below 0 where it is to wait yet.",
}


def upgrade() -> None:
    op.execute(WAITING)
    op.execute(OUTBOX)
    for view, said in VIEWS.items():
        op.execute(f"COMMENT ON VIEW ops.{view} IS '{said}'")
        op.execute(f"GRANT SELECT ON ops.{view} TO broker_observer")
    for column, said in COLUMNS.items():
        op.execute(f"COMMENT ON COLUMN ops.{column} IS '{said}'")


def downgrade() -> None:
    op.execute("DROP VIEW ops.waiting, ops.outbox")
