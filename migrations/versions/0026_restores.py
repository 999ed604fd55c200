"""A database that was put back on purpose says so in its logs, by an officer's request."""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

# A row is nobody's word: what counts is the signed note, and the event in the log.
TABLE = """
    CREATE TABLE audit.restores (
        restore_id uuid CONSTRAINT pk_restores PRIMARY KEY,
        tenant_id text NOT NULL, request text NOT NULL, accepted_by text NOT NULL,
        accepted_at timestamptz NOT NULL DEFAULT now());
    SELECT audit.guard('audit.restores'::regclass);
    COMMENT ON TABLE audit.restores IS
        'Where a log goes on from an earlier state, and what that gives up; officers sign for it.';
    COMMENT ON COLUMN audit.restores.restore_id IS
        'The id of the request and of its event in the log.';
    COMMENT ON COLUMN audit.restores.tenant_id IS
        'The tenant; _broker is the broker itself.';
    COMMENT ON COLUMN audit.restores.request IS
        'The signed request of a retention officer that it rests on.';
    COMMENT ON COLUMN audit.restores.accepted_by IS
        'The login role that handed it in.';
    COMMENT ON COLUMN audit.restores.accepted_at IS
        'When it was handed in.';
    ALTER TABLE audit.restores ENABLE ROW LEVEL SECURITY;
    ALTER TABLE audit.restores FORCE ROW LEVEL SECURITY;
    CREATE POLICY owner ON audit.restores TO broker_owner USING (true) WITH CHECK (true);
    CREATE POLICY relay ON audit.restores FOR SELECT TO broker_relay USING (true);
    CREATE POLICY retention ON audit.restores FOR SELECT TO broker_retention USING (true);
    CREATE POLICY auditor ON audit.restores FOR SELECT TO broker_auditor
        USING (tenant_id IN (SELECT a.tenant_id FROM audit.auditors a
                              WHERE a.role_name = session_user));
    GRANT SELECT ON audit.restores TO broker_relay, broker_retention, broker_auditor
"""

DEFINER = """LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
    SET lock_timeout = '3s' AS $$
    #variable_conflict use_column"""

# Of seals that were published, those that the database does not have, or has otherwise.
UNLIKE = f"""
    CREATE FUNCTION audit.unlike(tenants text[], numbers bigint[], digests bytea[])
    RETURNS TABLE (tenant_id text, seal_no bigint, digest bytea)
    {DEFINER}
    BEGIN
        RETURN QUERY
        SELECT a.tenant_id, a.seal_no, a.digest
          FROM unnest(tenants, numbers, digests) AS a (tenant_id, seal_no, digest)
          LEFT JOIN audit.seals s ON s.tenant_id = a.tenant_id AND s.seal_no = a.seal_no
         WHERE s.digest IS DISTINCT FROM a.digest;
    END $$
"""

ACCEPT = f"""
    CREATE FUNCTION audit.accept_restore(note text) RETURNS void {DEFINER}
    DECLARE
        asked jsonb := audit.request_of(note);
        lost bytea := decode(asked ->> 'lost_digest', 'hex');
        caller CONSTANT text := 'db:' || session_user;
    BEGIN
        IF asked ->> 'kind' IS DISTINCT FROM 'restore'
           OR ((asked ->> 'after_seal')::bigint < (asked ->> 'lost_seal')::bigint) IS NOT TRUE
           OR EXISTS (SELECT FROM audit.seals s WHERE s.tenant_id = asked ->> 'tenant_id'
                         AND s.seal_no = (asked ->> 'lost_seal')::bigint AND s.digest = lost) THEN
            RAISE EXCEPTION 'no request for a past that this database has not'
                  USING ERRCODE = '22023';
        END IF;
        INSERT INTO audit.restores (restore_id, tenant_id, request, accepted_by)
        VALUES ((asked ->> 'id')::uuid, asked ->> 'tenant_id', note, caller);
        INSERT INTO audit.events (event_id, tenant_id, type, actor, body)
        VALUES ((asked ->> 'id')::uuid, asked ->> 'tenant_id', 'log.restored', caller,
                json_build_object('reason', asked ->> 'reason', 'after_seal', asked -> 'after_seal',
                                  'lost_seal', asked -> 'lost_seal', 'request', note));
    END $$
"""

VERBS = (
    ("audit.unlike(text[], bigint[], bytea[])", UNLIKE),
    ("audit.accept_restore(text)", ACCEPT),
)


def upgrade() -> None:
    for statement in filter(None, map(str.strip, TABLE.split(";\n"))):
        op.execute(statement)
    for signature, body in VERBS:
        op.execute(body)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO broker_retention")


def downgrade() -> None:
    """What was recorded of restores stays in the logs."""
    for signature, _ in VERBS:
        op.execute(f"DROP FUNCTION {signature}")
    op.execute("DROP TABLE audit.restores")
