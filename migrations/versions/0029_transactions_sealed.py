"""A seal covers the transactions of its events, which no leaf holds; a month before the first."""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

COLUMN = """
    ALTER TABLE audit.seals ADD COLUMN transactions bytea;
    COMMENT ON COLUMN audit.seals.transactions IS
        'A hash over the transaction of each event of the batch; null in older seals.'
"""

# Every other seal is as it was.
SEAL_V3 = r"""
    CREATE FUNCTION audit.seal_v3(s audit.seals) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    DECLARE
        field text;
        canon text := 'mcpbroker.audit.seal.v3,';
    BEGIN
        FOREACH field IN ARRAY ARRAY[
            s.tenant_id, s.seal_no::text, s.kind, s.seq_from::text, s.seq_to::text,
            (extract(epoch FROM s.retired_before) * 1000000)::bigint::text,
            encode(s.root, 'hex'), encode(s.frontier, 'hex'), encode(s.previous, 'hex'), s.key_id,
            (extract(epoch FROM s.sealed_at) * 1000000)::bigint::text, s.checkpoint,
            s.request, encode(s.retired_digest, 'hex'), encode(s.transactions, 'hex')]
        LOOP
            canon := canon || coalesce(octet_length(field)::text || ':' || field, '-') || ',';
        END LOOP;
        RETURN sha256(convert_to(canon, 'UTF8'));
    END $$
"""
SEAL_DIGEST = """
    CREATE OR REPLACE FUNCTION audit.seal_digest(s audit.seals) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog
    RETURN CASE {third} WHEN (s).request IS NULL AND (s).retired_digest IS NULL
                THEN audit.seal_v1(s) ELSE audit.seal_v2(s) END
"""
THIRD = "WHEN (s).transactions IS NOT NULL THEN audit.seal_v3(s)"

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

DECLARED = "        size bigint := s.seq_from - 1;\n"
DECLARED_TOO = DECLARED + "        xids text := '';  -- null from the first event that is gone\n"
GROWN = "            size := size + 1;\n            earlier_xid := m.xid;\n"
GROWN_TOO = GROWN + "            xids := xids || m.xid::text || ',';\n"
END = """                             ' one of %s to %s', s.seq_from, s.seq_to);
        END IF;
    END """
END_TOO = """                             ' one of %s to %s', s.seq_from, s.seq_to);
        ELSIF sha256(convert_to(xids, 'UTF8')) <> s.transactions THEN
            seq := s.seq_from;
            event_id := (SELECT m.event_id FROM audit.members m
                          WHERE m.tenant_id = s.tenant_id AND m.seq = s.seq_from);
            reason := format('event was altered: it bears another transaction: one of %s to %s',
                             s.seq_from, s.seq_to);
        END IF;
    END """

# A clock that is set back over the month's beginning, on the day of the installation.
AHEAD = "FOR ahead IN 0 .. least(months_ahead, 24) LOOP"
AROUND = "FOR ahead IN greatest(least(months_ahead, 0), -1) .. least(months_ahead, 24) LOOP"

CHANGED = ((DECLARED, DECLARED_TOO), (GROWN, GROWN_TOO), (END, END_TOO), (AHEAD, AROUND))


def upgrade() -> None:
    for before, after in CHANGED:
        op.execute(REPLACE.format(before, after))
    op.execute("SELECT audit.ensure_partitions(-1) WHERE NOT EXISTS (SELECT FROM audit.seals)")
    for statement in COLUMN.split(";\n"):
        op.execute(statement)
    op.execute(SEAL_V3)
    op.execute(SEAL_DIGEST.format(third=THIRD))


def downgrade() -> None:
    for before, after in reversed(CHANGED):
        op.execute(REPLACE.format(after, before))
    op.execute(SEAL_DIGEST.format(third=""))
    op.execute("DROP FUNCTION audit.seal_v3(audit.seals)")
    op.execute("ALTER TABLE audit.seals DROP COLUMN transactions")
