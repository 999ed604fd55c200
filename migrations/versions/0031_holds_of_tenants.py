"""A legal hold is of a tenant that there is: a name that was mistyped kept nothing."""

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

REPLACE = """
    DO $outer$
    DECLARE
        f oid;
    BEGIN
        FOR f IN SELECT p.oid FROM pg_proc p
                  WHERE p.pronamespace = 'audit'::regnamespace AND strpos(p.prosrc, $q${0}$q$) > 0
        LOOP
            EXECUTE replace(pg_get_functiondef(f), $q${0}$q$, $q${1}$q$);
        END LOOP;
    END $outer$
"""

HELD = "        INSERT INTO audit.holds (tenant_id, from_at, to_at, reason, placed_by)\n"
KNOWN = (
    """        -- Of a tenant that is gone the log stays.
        IF NOT EXISTS (SELECT FROM public.tenants t WHERE t.tenant_id = tenant)
           AND NOT EXISTS (SELECT FROM audit.seals s WHERE s.tenant_id = tenant) THEN
            RAISE EXCEPTION 'there is no tenant %', tenant USING ERRCODE = 'no_data_found';
        END IF;
"""
    + HELD
)


def upgrade() -> None:
    op.execute(REPLACE.format(HELD, KNOWN))


def downgrade() -> None:
    op.execute(REPLACE.format(KNOWN, HELD))
