"""What an auditor sees: the rows of their own tenants, and views with plain names over them."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

# A login role reads the tenants that audit.auditors gives it, however it sets its role.
MINE = """
    tenant_id IN (SELECT a.tenant_id FROM audit.auditors a WHERE a.role_name = session_user)
"""

GRANTS = """
    GRANT SELECT ON audit.events, audit.members, audit.seals, audit.keys, audit.auditors,
                    audit.watermark, audit.who_did_what, audit.command_story, audit.saga_story,
                    audit.agent_activity, audit.denials, audit.sealing, audit.sealed_late
       TO broker_auditor
"""

WHO_DID_WHAT = """
    CREATE VIEW audit.who_did_what WITH (security_invoker) AS
    SELECT e.tenant_id, e.occurred_at AS at, e.actor AS who, e.user_id AS on_behalf_of,
           e.type AS what, e.tool, e.method, e.state_to AS outcome, e.command_id, e.saga_id,
           e.attempt, e.body AS details, e.event_id
      FROM audit.events e
"""

# Ordered by `step`: sealing order is not business order.
STORY = """
    CREATE VIEW audit.{name} WITH (security_invoker) AS
    SELECT e.tenant_id, e.{key}, row_number() OVER story AS step, e.occurred_at AS at,
           e.occurred_at - first_value(e.occurred_at) OVER story AS since_start, {columns}
           e.actor AS who, e.user_id AS on_behalf_of, e.type AS what, e.tool, e.method, e.attempt,
           e.state_from, e.state_to, e.body AS details, e.event_id
      FROM audit.events e
     WHERE e.{key} IS NOT NULL
    WINDOW story AS (PARTITION BY e.tenant_id, e.{key} ORDER BY e.occurred_at, e.xid, e.event_id)
"""

# One row a command: who asked for it, when, and how it ended. A redriven command has its last end.
AGENT_ACTIVITY = """
    CREATE VIEW audit.agent_activity WITH (security_invoker) AS
    SELECT a.tenant_id, a.user_id AS agent, a.actor AS who, a.occurred_at AS asked_at,
           a.tool, a.method, a.body -> 'args' AS args, a.command_id, a.saga_id,
           coalesce(ended.state_to, 'open') AS outcome, ended.occurred_at AS ended_at,
           ended.attempt AS attempts
      FROM audit.events a
      LEFT JOIN LATERAL (
        SELECT e.state_to, e.occurred_at, e.attempt
          FROM audit.events e
         WHERE e.command_id = a.command_id AND e.state_to IS NOT NULL
         ORDER BY e.occurred_at DESC, e.xid DESC
         LIMIT 1
      ) ended ON ended.state_to NOT IN ('queued', 'dispatched', 'running')
     WHERE a.type = 'command.accepted'
"""

DENIALS = """
    CREATE VIEW audit.denials WITH (security_invoker) AS
    SELECT e.tenant_id, e.occurred_at AS at, e.actor AS who, e.user_id AS on_behalf_of,
           e.type AS what, e.tool, e.method, e.command_id, e.body ->> 'reason' AS reason,
           e.body AS details, e.event_id
      FROM audit.events e
     WHERE e.type LIKE '%.denied' OR e.type LIKE '%.refused' OR e.type = 'login.failed'
"""

SEALING = """
    CREATE VIEW audit.sealing WITH (security_invoker) AS
    SELECT s.tenant_id, s.seal_no, s.seq_to AS events_sealed, s.sealed_at, s.key_id, s.root,
           s.checkpoint,
           (SELECT max(r.retired_before) FROM audit.seals r WHERE r.tenant_id = s.tenant_id)
               AS retired_before
      FROM audit.seals s
     WHERE s.seal_no = (SELECT max(x.seal_no) FROM audit.seals x WHERE x.tenant_id = s.tenant_id)
"""

# An event that claims to be much older than its seal: the sealer was down, or the event is
# backdated. The database's clock writes the time, so only a database administrator could do that.
SEALED_LATE = """
    CREATE VIEW audit.sealed_late WITH (security_invoker) AS
    SELECT m.tenant_id, m.seq, m.event_id, m.occurred_at AS at, s.seal_no, s.sealed_at,
           s.sealed_at - m.occurred_at AS late_by
      FROM audit.seals s
      JOIN audit.members m ON m.tenant_id = s.tenant_id AND m.seq BETWEEN s.seq_from AND s.seq_to
     WHERE s.sealed_at - m.occurred_at > interval '1 hour'
"""

VIEWS = (
    ("who_did_what", WHO_DID_WHAT),
    ("command_story", STORY.format(name="command_story", key="command_id", columns="e.saga_id,")),
    ("saga_story", STORY.format(name="saga_story", key="saga_id", columns="e.command_id,")),
    ("agent_activity", AGENT_ACTIVITY),
    ("denials", DENIALS),
    ("sealing", SEALING),
    ("sealed_late", SEALED_LATE),
)


def upgrade() -> None:
    for _, body in VIEWS:
        op.execute(body)
    op.execute("ALTER TABLE audit.auditors ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE audit.auditors FORCE ROW LEVEL SECURITY")
    op.execute(
        "CREATE POLICY owner ON audit.auditors TO broker_owner USING (true) WITH CHECK (true)"
    )
    op.execute(
        "CREATE POLICY auditor ON audit.auditors FOR SELECT TO broker_auditor"
        " USING (role_name = session_user)"
    )
    for table in ("events", "members", "seals"):
        op.execute(
            f"CREATE POLICY auditor ON audit.{table} FOR SELECT TO broker_auditor USING ({MINE})"
        )
    op.execute(GRANTS)


def downgrade() -> None:
    op.execute("REVOKE SELECT ON ALL TABLES IN SCHEMA audit FROM broker_auditor")
    for table in ("events", "members", "seals", "auditors"):
        op.execute(f"DROP POLICY auditor ON audit.{table}")
    op.execute("DROP POLICY owner ON audit.auditors")
    op.execute("ALTER TABLE audit.auditors NO FORCE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE audit.auditors DISABLE ROW LEVEL SECURITY")
    for name, _ in reversed(VIEWS):
        op.execute(f"DROP VIEW audit.{name}")
