"""What administrators change is audited by the database; refused words are counted; leaves cost less."""

import importlib.util
from pathlib import Path
from typing import Any

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# Whoever changes a row, by the command line or in SQL, leaves an event in the same transaction: of
# an update the columns that differ, else the whole row. One that makes it another's row (tenant,
# person, tool) leaves two, each with its own side. The catalog is nobody's own: `_broker`.
NOTE_CHANGE = """
    CREATE FUNCTION audit.note_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        was jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{}' ELSE to_jsonb(OLD) END;
        made jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{}' ELSE to_jsonb(NEW) END;
        before jsonb;
        after jsonb;
        renamed boolean := TG_OP = 'UPDATE' AND EXISTS (
            SELECT FROM unnest('{tenant_id,subject_kind,subject,tool,method}'::text[]) AS key
             WHERE was -> key IS DISTINCT FROM made -> key);
    BEGIN
        SELECT coalesce(jsonb_object_agg(key, was -> key) FILTER (WHERE was ? key), '{}'),
               coalesce(jsonb_object_agg(key, made -> key) FILTER (WHERE made ? key), '{}')
          INTO before, after
          FROM jsonb_object_keys(was || made) AS key
         WHERE was -> key IS DISTINCT FROM made -> key
           AND key NOT IN ('created_at', 'applied_at', 'digest');
        IF before = '{}' AND after = '{}' THEN
            RETURN NULL;
        END IF;
        INSERT INTO audit.events (tenant_id, type, actor, user_id, tool, method, body)
        SELECT coalesce(named ->> 'tenant_id', '_broker'), TG_ARGV[0], 'db:' || session_user,
               CASE WHEN named ->> 'subject_kind' = 'user' THEN named ->> 'subject' END,
               named ->> 'tool', named ->> 'method',
               json_build_object('change', lower(TG_OP), 'before', gone, 'after', come)
          FROM (SELECT was || made, before, after WHERE NOT renamed
                UNION ALL SELECT was, was, '{}' WHERE renamed
                UNION ALL SELECT made, '{}', made WHERE renamed) AS said (named, gone, come);
        RETURN NULL;
    END $$
"""

REFUSE_TRUNCATE = """
    CREATE FUNCTION audit.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
    BEGIN
        RAISE EXCEPTION 'TRUNCATE of % would not be audited: DELETE its rows', TG_TABLE_NAME
              USING ERRCODE = 'insufficient_privilege';
    END $$
"""

WATCHED = {
    "tenants": "tenant.changed",
    "grants": "grant.changed",
    "tools": "tool.changed",
    "audit.auditors": "auditor.changed",
}

COUNT = "ALTER TABLE commands ADD COLUMN words_refused integer NOT NULL DEFAULT 0"
COUNTS = "GRANT UPDATE (words_refused) ON commands TO broker_app"


def netstrings(*fields: str) -> str:
    """SQL for the fields behind each other, as `app.audit.canonical` has them."""
    return " || ".join(
        f"coalesce(octet_length({one})::text || ':' || {one}, '-') || ','" for one in fields
    )


# The same leaves as before, bit for bit, in one expression each instead of a loop over an array.
ACTOR_KIND = """
    CREATE OR REPLACE FUNCTION audit.actor_kind(actor text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN starts_with(actor, 'adapter:') OR starts_with(actor, 'relay:')
                     OR starts_with(actor, 'db:') OR strpos(actor, ':') = 0 THEN actor
                ELSE split_part(actor, ':', 1) || ':' END
"""

PERSONAL = netstrings(
    "encode(salt, 'hex')", "actor", "user_id", "encode(fingerprint, 'hex')", "body::text"
)
WHOLE = netstrings(
    "event_id::text",
    "(extract(epoch FROM occurred_at) * 1000000)::bigint::text",
    *("tenant_id", "type", "kind", "command_id::text", "saga_id::text", "tool", "method"),
    *("attempt::text", "state_from", "state_to", "personal"),
)
LEAF_V2 = rf"""
    CREATE OR REPLACE FUNCTION audit.leaf_v2(
        event_id uuid, occurred_at timestamptz, tenant_id text, type text, actor text,
        user_id text, command_id uuid, saga_id uuid, tool text, method text, attempt integer,
        state_from text, state_to text, fingerprint bytea, body json, salt bytea, commitment bytea
    ) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    DECLARE
        kind text := audit.actor_kind(actor);
        personal text := encode(commitment, 'hex');
    BEGIN
        IF salt IS NULL AND commitment IS NULL THEN
            RETURN audit.leaf_v1(event_id, occurred_at, tenant_id, type, actor, user_id,
                                 command_id, saga_id, tool, method, attempt, state_from, state_to,
                                 fingerprint, body);
        ELSIF commitment IS NULL THEN
            personal := encode(sha256(convert_to(
                'mcpbroker.audit.personal.v1,' || {PERSONAL}, 'UTF8')), 'hex');
        ELSIF salt IS NOT NULL OR user_id IS NOT NULL OR fingerprint IS NOT NULL
              OR body::text <> '{{}}' OR actor <> kind || repeat('[erased]', (kind ~ ':$')::int) THEN
            personal := '';
        END IF;
        RETURN sha256('\x00'::bytea || convert_to('mcpbroker.audit.v2,' || {WHOLE}, 'UTF8'));
    END $$
"""


# Random numbers are a tenth of an event's cost: 122 bits hide what the leaf commits to as well as 244.
SALT = "ALTER TABLE audit.events ALTER COLUMN salt SET DEFAULT uuid_send(gen_random_uuid())"
SALT_BEFORE = f"{SALT} || uuid_send(gen_random_uuid())"


def older(name: str) -> Any:
    """An earlier migration, whose words a downgrade says again."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def upgrade() -> None:
    op.execute(NOTE_CHANGE)
    op.execute(REFUSE_TRUNCATE)
    for function in ("note_change", "refuse_truncate"):
        op.execute(f"REVOKE ALL ON FUNCTION audit.{function}() FROM PUBLIC")
    for table, kind in WATCHED.items():
        op.execute(
            f"CREATE TRIGGER noted AFTER INSERT OR UPDATE OR DELETE ON {table}"
            f" FOR EACH ROW EXECUTE FUNCTION audit.note_change('{kind}')"
        )
        op.execute(
            f"CREATE TRIGGER not_truncated BEFORE TRUNCATE ON {table}"
            " FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_truncate()"
        )
        for trigger in ("noted", "not_truncated"):
            op.execute(f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {trigger}")
    for statement in (COUNT, COUNTS, ACTOR_KIND, LEAF_V2, SALT):
        op.execute(statement)


def downgrade() -> None:
    op.execute(SALT_BEFORE)
    before = older("0008_retention")
    for body in (before.ACTOR_KIND, before.LEAF_V2):
        op.execute(body.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute("ALTER TABLE commands DROP COLUMN words_refused")
    for table in WATCHED:
        for trigger in ("noted", "not_truncated"):
            op.execute(f"DROP TRIGGER {trigger} ON {table}")
    op.execute("DROP FUNCTION audit.note_change()")
    op.execute("DROP FUNCTION audit.refuse_truncate()")
