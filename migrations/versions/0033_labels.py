"""What a caller says of its call beside the request: labels, why it was made, when it may start."""

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None

MINE = "tenant_id = ANY (NULLIF(current_setting('app.tenants', true), '')::text[])"

# The labels of a command stand twice: in its row, to be shown and sent, and one a row here, to be
# searched. An index over the arrays would not serve: under row-level security the planner asks an
# index only what cannot leak, which `=` on texts is and `@>` is not, and it has no order of age.
UP = f"""
    ALTER TABLE commands ADD COLUMN labels text[], ADD COLUMN asserted jsonb,
        ADD COLUMN not_before timestamptz;
    CREATE TABLE command_labels (
        tenant_id text NOT NULL, label text NOT NULL, command_id uuid NOT NULL,
        CONSTRAINT pk_command_labels PRIMARY KEY (tenant_id, label, command_id));
    COMMENT ON TABLE command_labels IS
        'The labels that callers gave to their commands, one a row, for the search by label.';
    GRANT SELECT, INSERT ON command_labels TO broker_app;
    GRANT SELECT, INSERT, DELETE ON command_labels TO broker_relay;
    ALTER TABLE command_labels ENABLE ROW LEVEL SECURITY;
    ALTER TABLE command_labels FORCE ROW LEVEL SECURITY;
    CREATE POLICY app ON command_labels TO broker_app USING ({MINE}) WITH CHECK ({MINE});
    CREATE POLICY relay ON command_labels TO broker_relay USING (true) WITH CHECK (true);
    CREATE POLICY owner ON command_labels TO broker_owner USING (true) WITH CHECK (true)
"""

# Retention and erasure both set purged_at; what the caller said goes with the arguments.
FORGET = """
    CREATE FUNCTION broker_forget_said() RETURNS trigger LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        IF NEW.labels IS NOT NULL THEN
            DELETE FROM public.command_labels l
             WHERE l.tenant_id = NEW.tenant_id AND l.label = ANY (NEW.labels)
               AND l.command_id = NEW.id;
        END IF;
        NEW.labels := NULL;
        NEW.asserted := NULL;
        RETURN NEW;
    END $$
"""
FORGOTTEN = """
    CREATE TRIGGER forgotten BEFORE UPDATE OF purged_at ON commands
        FOR EACH ROW WHEN (OLD.purged_at IS NULL AND NEW.purged_at IS NOT NULL)
        EXECUTE FUNCTION broker_forget_said()
"""

DOWN = """
    DROP TRIGGER forgotten ON commands;
    DROP FUNCTION broker_forget_said();
    DROP TABLE command_labels;
    ALTER TABLE commands DROP COLUMN labels, DROP COLUMN asserted, DROP COLUMN not_before
"""


def each(script: str) -> None:
    for statement in filter(None, map(str.strip, script.split(";"))):
        op.execute(statement)


def upgrade() -> None:
    each(UP)
    op.execute(FORGET)
    op.execute("REVOKE ALL ON FUNCTION broker_forget_said() FROM PUBLIC")
    op.execute(FORGOTTEN)


def downgrade() -> None:
    each(DOWN)
