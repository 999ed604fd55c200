"""The audit trail refuses to change, and makes its own partitions."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

REFUSE = """
    CREATE FUNCTION audit.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'audit trail: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
              USING ERRCODE = 'insufficient_privilege';
    END $$
"""

# ENABLE ALWAYS: session_replication_role = replica does not pass them.
GUARD = """
    CREATE FUNCTION audit.guard(target regclass) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = target AND tgname = 'refuse_change')
        THEN
            EXECUTE format('CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON %s'
                           ' FOR EACH ROW EXECUTE FUNCTION audit.refuse()', target);
        END IF;
        EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %s'
                       ' FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse()', target);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER refuse_change', target);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER refuse_truncate', target);
    END $$
"""

# One partition a month (UTC), made ahead of time by the relay's clock. There is no default
# partition: it would make a later DETACH CONCURRENTLY impossible.
PARTITIONS = """
    CREATE FUNCTION audit.ensure_partitions(months_ahead integer DEFAULT 2) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
        name text;
        made integer := 0;
    BEGIN
        PERFORM pg_advisory_xact_lock(hashtext('audit.ensure_partitions'));
        FOR ahead IN 0 .. least(months_ahead, 24) LOOP
            name := 'events_' || to_char(month + make_interval(months => ahead), 'YYYYMM');
            IF to_regclass('audit.' || name) IS NULL THEN
                EXECUTE format(
                    'CREATE TABLE audit.%I PARTITION OF audit.events FOR VALUES FROM (%L) TO (%L)',
                    name,
                    (month + make_interval(months => ahead)) AT TIME ZONE 'UTC',
                    (month + make_interval(months => ahead + 1)) AT TIME ZONE 'UTC');
                -- A partition is reached through its parent only.
                EXECUTE format('ALTER TABLE audit.%I ENABLE ROW LEVEL SECURITY', name);
                EXECUTE format('ALTER TABLE audit.%I FORCE ROW LEVEL SECURITY', name);
                PERFORM audit.guard(('audit.' || name)::regclass);
                made := made + 1;
            END IF;
        END LOOP;
        RETURN made;
    END $$
"""


def upgrade() -> None:
    op.execute(REFUSE)
    op.execute(GUARD)
    op.execute(PARTITIONS)
    op.execute("REVOKE ALL ON FUNCTION audit.guard(regclass) FROM PUBLIC")
    op.execute("REVOKE ALL ON FUNCTION audit.ensure_partitions(integer) FROM PUBLIC")
    for table in ("events", "seals", "members"):
        op.execute(f"SELECT audit.guard('audit.{table}'::regclass)")
    op.execute("SELECT audit.ensure_partitions()")


def downgrade() -> None:
    for table in ("events", "seals", "members"):
        op.execute(f"DROP TRIGGER refuse_change ON audit.{table}")
        op.execute(f"DROP TRIGGER refuse_truncate ON audit.{table}")
    # The partitions stay with their rows; each carries its own truncate trigger.
    op.execute("DROP FUNCTION audit.ensure_partitions(integer)")
    op.execute("DROP FUNCTION audit.guard(regclass)")
    op.execute("DROP FUNCTION audit.refuse() CASCADE")
