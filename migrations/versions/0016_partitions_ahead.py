"""Whoever writes to the audit log may make its months, and see how far they reach."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

# Months in a row from the present one: a gap is where writes would end.
AHEAD = """
    CREATE FUNCTION audit.partitions_ahead_s() RETURNS double precision
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
        ahead integer := 0;
    BEGIN
        WHILE ahead < 36 AND to_regclass('audit.events_'
                || to_char(month + make_interval(months => ahead), 'YYYYMM')) IS NOT NULL LOOP
            ahead := ahead + 1;
        END LOOP;
        RETURN greatest(0, extract(epoch FROM
            (month + make_interval(months => ahead)) AT TIME ZONE 'UTC' - now()));
    END $$
"""


def upgrade() -> None:
    op.execute(AHEAD)
    op.execute("REVOKE ALL ON FUNCTION audit.partitions_ahead_s() FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION audit.partitions_ahead_s() TO broker_app, broker_relay")
    op.execute("GRANT EXECUTE ON FUNCTION audit.ensure_partitions(integer) TO broker_app")


def downgrade() -> None:
    op.execute("REVOKE EXECUTE ON FUNCTION audit.ensure_partitions(integer) FROM broker_app")
    op.execute("DROP FUNCTION audit.partitions_ahead_s()")
