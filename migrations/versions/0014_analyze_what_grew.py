"""Statistics for tables that have just grown: a plan made on an empty one reads all of it."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

# Autovacuum looks once a minute. Until then the plans that were kept while a table was empty find
# one row by a walk over all of a tenant's: an accept with an ordering key took 1.3 ms, and 4.9 ms
# 3,000 accepts later. Each doubling counts, up to 80 MB; from there on autovacuum is early enough.
# Runs as the owner, as nobody else may analyze; it takes no argument and touches no row.
GREW = """
    CREATE FUNCTION broker_analyze_grown() RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    DECLARE
        grown text;
        done text[] := '{}';
    BEGIN
        FOR grown IN
            SELECT c.oid::regclass::text
              FROM pg_class c
             WHERE c.oid IN ('public.commands'::regclass, 'public.outbox'::regclass,
                             'public.ordering_heads'::regclass, 'public.progress'::regclass,
                             'public.sagas'::regclass, 'public.saga_steps'::regclass)
               AND c.relpages < 10000
               AND pg_relation_size(c.oid) / 8192 > greatest(8, 2 * c.relpages)
             ORDER BY 1
        LOOP
            EXECUTE format('ANALYZE (SKIP_LOCKED) %s', grown);
            done := done || grown;
        END LOOP;
        RETURN done;
    END $$
"""


def upgrade() -> None:
    op.execute(GREW)
    op.execute("REVOKE ALL ON FUNCTION broker_analyze_grown() FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION broker_analyze_grown() TO broker_relay")


def downgrade() -> None:
    op.execute("DROP FUNCTION broker_analyze_grown()")
