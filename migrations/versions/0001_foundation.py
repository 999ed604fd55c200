"""The audit schema and the function that every audit leaf is computed by."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# SHA-256 over a version tag and length-prefixed fields (netstrings; "-" is NULL), behind the
# leaf byte of RFC 6962 so that no leaf can pass for an inner node. Declared IMMUTABLE, as a
# generated column demands: each part is (epoch of an instant, text of a json, UTF-8 of a text),
# in a UTF-8 database. A change of fields is a new function, never a new body for this one.
LEAF_V1 = """
    CREATE FUNCTION audit.leaf_v1(
        event_id uuid, occurred_at timestamptz, tenant_id text, type text, actor text,
        user_id text, command_id uuid, saga_id uuid, tool text, method text, attempt integer,
        state_from text, state_to text, fingerprint bytea, body json
    ) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog
    AS $$
    DECLARE
        field text;
        canon text := 'mcpbroker.audit.v1,';
    BEGIN
        FOREACH field IN ARRAY ARRAY[
            event_id::text, (extract(epoch FROM occurred_at) * 1000000)::bigint::text,
            tenant_id, type, actor, user_id, command_id::text, saga_id::text, tool, method,
            attempt::text, state_from, state_to, encode(fingerprint, 'hex'), body::text]
        LOOP
            canon := canon || coalesce(octet_length(field)::text || ':' || field, '-') || ',';
        END LOOP;
        RETURN sha256('\\x00'::bytea || convert_to(canon, 'UTF8'));
    END $$
"""


def upgrade() -> None:
    op.execute("CREATE SCHEMA audit")
    op.execute(LEAF_V1)


def downgrade() -> None:
    op.execute("DROP FUNCTION audit.leaf_v1")
    op.execute("DROP SCHEMA audit")
