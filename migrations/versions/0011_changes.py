"""What administrators change is audited by the database, and refused words are counted."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

# Whoever changes a row, by the command line or in SQL, leaves an event in the same transaction: of
# an update the columns that differ, else the whole row. The catalog is nobody's own: `_broker`.
NOTE_CHANGE = """
    CREATE FUNCTION audit.note_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    DECLARE
        was jsonb := CASE WHEN TG_OP = 'INSERT' THEN '{}' ELSE to_jsonb(OLD) END;
        made jsonb := CASE WHEN TG_OP = 'DELETE' THEN '{}' ELSE to_jsonb(NEW) END;
        named jsonb := was || made;
        before jsonb;
        after jsonb;
    BEGIN
        SELECT coalesce(jsonb_object_agg(key, was -> key) FILTER (WHERE was ? key), '{}'),
               coalesce(jsonb_object_agg(key, made -> key) FILTER (WHERE made ? key), '{}')
          INTO before, after
          FROM jsonb_object_keys(named) AS key
         WHERE was -> key IS DISTINCT FROM made -> key
           AND key NOT IN ('created_at', 'applied_at', 'digest');
        IF before = '{}' AND after = '{}' THEN
            RETURN NULL;
        END IF;
        INSERT INTO audit.events (tenant_id, type, actor, user_id, tool, method, body)
        VALUES (coalesce(named ->> 'tenant_id', '_broker'), TG_ARGV[0], 'db:' || session_user,
                CASE WHEN named ->> 'subject_kind' = 'user' THEN named ->> 'subject' END,
                named ->> 'tool', named ->> 'method',
                json_build_object('change', lower(TG_OP), 'before', before, 'after', after));
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

COUNT = """
    ALTER TABLE commands ADD COLUMN words_refused integer NOT NULL DEFAULT 0;
    GRANT UPDATE (words_refused) ON commands TO broker_app
"""


def _run(statements: str) -> None:
    for statement in filter(None, map(str.strip, statements.split(";"))):
        op.execute(statement)


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
    _run(COUNT)


def downgrade() -> None:
    op.execute("ALTER TABLE commands DROP COLUMN words_refused")
    for table in WATCHED:
        for trigger in ("noted", "not_truncated"):
            op.execute(f"DROP TRIGGER {trigger} ON {table}")
    op.execute("DROP FUNCTION audit.note_change()")
    op.execute("DROP FUNCTION audit.refuse_truncate()")
