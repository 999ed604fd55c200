"""Tools name their adapter; where adapters work is a table of its own, whose changes are audited."""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

MINE = "tenant_id = ANY (NULLIF(current_setting('app.tenants', true), '')::text[])"

# A target without a tenant is every tenant's, and changed by who administers the broker only.
UP = f"""
    ALTER TABLE tools ADD COLUMN adapter jsonb;
    CREATE TABLE targets (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_targets PRIMARY KEY,
        tenant_id text CONSTRAINT fk_targets_tenant_id_tenants
            REFERENCES tenants (tenant_id) ON DELETE CASCADE,
        name text NOT NULL,
        kind text NOT NULL,
        address text NOT NULL DEFAULT '',
        tls jsonb NOT NULL DEFAULT '{{}}'::jsonb,
        credential jsonb,
        limits jsonb NOT NULL DEFAULT '{{}}'::jsonb,
        allowed_hosts text[] NOT NULL DEFAULT '{{}}'::text[],
        takes_key boolean NOT NULL DEFAULT false,
        options jsonb NOT NULL DEFAULT '{{}}'::jsonb,
        created_at timestamptz NOT NULL DEFAULT now(),
        applied_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT uq_targets_tenant_id_name UNIQUE NULLS NOT DISTINCT (tenant_id, name));
    COMMENT ON TABLE targets IS
        'Where adapters work: addresses, bounds, and references to credentials, never a secret.';
    GRANT SELECT ON targets TO broker_app, broker_relay;
    ALTER TABLE targets ENABLE ROW LEVEL SECURITY;
    ALTER TABLE targets FORCE ROW LEVEL SECURITY;
    CREATE POLICY app ON targets TO broker_app
        USING (tenant_id IS NULL OR {MINE}) WITH CHECK ({MINE});
    CREATE POLICY relay ON targets TO broker_relay USING (true) WITH CHECK (true);
    CREATE POLICY owner ON targets TO broker_owner USING (true) WITH CHECK (true);
    CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON targets
        FOR EACH ROW EXECUTE FUNCTION audit.note_change('target.changed');
    CREATE TRIGGER not_truncated BEFORE TRUNCATE ON targets
        FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_truncate();
    ALTER TABLE targets ENABLE ALWAYS TRIGGER noted;
    ALTER TABLE targets ENABLE ALWAYS TRIGGER not_truncated
"""

DOWN = """
    DROP TABLE targets;
    ALTER TABLE tools DROP COLUMN adapter
"""


def each(script: str) -> None:
    for statement in filter(None, map(str.strip, script.split(";"))):
        op.execute(statement)


def upgrade() -> None:
    each(UP)


def downgrade() -> None:
    each(DOWN)
