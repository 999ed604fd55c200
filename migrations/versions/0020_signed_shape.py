"""The audit schema's own shape is signed, and audit.verify compares it; verify says what it cannot."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

TABLE = """
    CREATE TABLE audit.shapes (
        shape_no bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_shapes PRIMARY KEY,
        major integer NOT NULL, revision text NOT NULL, lines text NOT NULL, note text NOT NULL);
    SELECT audit.guard('audit.shapes'::regclass);
    COMMENT ON TABLE audit.shapes IS
        'What schema audit looks like, as a relay has signed it.';
    COMMENT ON COLUMN audit.shapes.shape_no IS
        'The number of the shape.';
    COMMENT ON COLUMN audit.shapes.major IS
        'The major version of PostgreSQL that it was read from.';
    COMMENT ON COLUMN audit.shapes.revision IS
        'The migration that the schema was at.';
    COMMENT ON COLUMN audit.shapes.lines IS
        'A line for each object: its kind, its name, a hash of all that it is.';
    COMMENT ON COLUMN audit.shapes.note IS
        'The signed note of a relay over the lines.';
    GRANT SELECT ON audit.shapes TO broker_app, broker_relay, broker_auditor;
    GRANT INSERT (major, revision, lines, note) ON audit.shapes TO broker_relay;
    ALTER TABLE audit.keys DROP COLUMN added_at
"""
BACK = """
    ALTER TABLE audit.keys ADD COLUMN added_at timestamptz NOT NULL DEFAULT now();
    COMMENT ON COLUMN audit.keys.added_at IS 'When the key was first used here.';
    DROP TABLE audit.shapes
"""

# As app/audit/store/shape.py has it; a test compares the two.
ACL = "(SELECT string_agg(a::text, ',' ORDER BY a::text) FROM unnest({acl}) AS a)"
COLUMNS = """(
    SELECT string_agg(concat_ws(' ', t.attname, format_type(t.atttypid, t.atttypmod), t.attnotnull,
                                t.attidentity, t.attgenerated, pg_get_expr(d.adbin, d.adrelid),
                                {acl}), ',' ORDER BY t.attname)
      FROM pg_attribute t
      LEFT JOIN pg_attrdef d ON d.adrelid = t.attrelid AND d.adnum = t.attnum
     WHERE t.attrelid = c.oid AND t.attnum > 0 AND NOT t.attisdropped)""".format(
    acl=ACL.format(acl="t.attacl")
)
CONSTRAINTS = """(
    SELECT string_agg(concat_ws(' ', k.contype, pg_get_constraintdef(k.oid), k.convalidated), ','
                      ORDER BY k.contype, pg_get_constraintdef(k.oid))
      FROM pg_constraint k
     WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'c', 'f', 'x'))"""
TRIGGERS = """(
    SELECT string_agg(concat_ws(' ', g.tgname, g.tgtype, g.tgfoid::regprocedure, g.tgenabled,
                                pg_get_expr(g.tgqual, g.tgrelid), encode(g.tgargs, 'hex')), ','
                      ORDER BY g.tgname)
      FROM pg_trigger g
     WHERE g.tgrelid = c.oid AND NOT g.tgisinternal)"""
RULES = """(
    SELECT string_agg(pg_get_ruledef(r.oid), ',' ORDER BY r.rulename)
      FROM pg_rewrite r
     WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN')"""
POLICIES = """(
    SELECT string_agg(concat_ws(' ', p.polname, p.polcmd, p.polpermissive,
                                (SELECT string_agg(w.rolname, '+' ORDER BY w.rolname)
                                   FROM pg_roles w WHERE w.oid = ANY (p.polroles)),
                                pg_get_expr(p.polqual, p.polrelid),
                                pg_get_expr(p.polwithcheck, p.polrelid)), ',' ORDER BY p.polname)
      FROM pg_policy p
     WHERE p.polrelid = c.oid)"""
RELATION = (
    "concat_ws('|', c.relkind, c.relpersistence, c.relowner::regrole, "
    + ACL.format(acl="c.relacl")
    + f", c.relrowsecurity, c.relforcerowsecurity, c.reloptions, {COLUMNS}, {CONSTRAINTS},"
    + f" {TRIGGERS}, {RULES}, {POLICIES})"
)
# A month's name and bounds are its own; all else must be as of every other month.
SHAPE = f"""
    SELECT kind, name, encode(sha256(convert_to(said, 'UTF8')), 'hex') AS digest
      FROM (
        SELECT 'schema' AS kind, n.nspname::text AS name,
               concat_ws('|', n.nspowner::regrole, {ACL.format(acl="n.nspacl")}) AS said
          FROM pg_namespace n
         WHERE n.nspname = 'audit'
        UNION ALL
        SELECT CASE WHEN c.relkind IN ('v', 'm') THEN 'view' ELSE 'table' END,
               c.oid::regclass::text, {RELATION} || coalesce(
                   CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END, '')
          FROM pg_class c
         WHERE c.relnamespace = 'audit'::regnamespace AND c.relkind NOT IN ('i', 'I', 'c', 't')
           AND NOT c.relispartition
        UNION ALL
        SELECT DISTINCT 'month', h.inhparent::regclass::text, concat_ws('#', {RELATION},
               c.relnamespace::regnamespace,
               CASE WHEN c.relname ~ '^events_[0-9]{{4}}(0[1-9]|1[0-2])$' THEN
                   pg_get_expr(c.relpartbound, c.oid) = format(
                       'FOR VALUES FROM (''%s'') TO (''%s'')',
                       to_date(right(c.relname, 6), 'YYYYMM')::timestamp AT TIME ZONE 'UTC',
                       (to_date(right(c.relname, 6), 'YYYYMM') + interval '1 month')
                           AT TIME ZONE 'UTC')
               END)
          FROM pg_inherits h
          JOIN pg_class c ON c.oid = h.inhrelid
         WHERE h.inhparent IN (SELECT x.oid FROM pg_class x
                                WHERE x.relnamespace = 'audit'::regnamespace
                                  AND x.relkind IN ('r', 'p'))
        UNION ALL
        SELECT 'function', f.oid::regprocedure::text, concat_ws('|', f.prokind, f.prosecdef,
               f.proleakproof, f.provolatile, f.proisstrict, f.proparallel, f.proowner::regrole,
               {ACL.format(acl="f.proacl")}, f.proconfig, l.lanname, pg_get_function_arguments(f.oid),
               pg_get_function_result(f.oid), f.prosrc, pg_get_function_sqlbody(f.oid))
          FROM pg_proc f
          JOIN pg_language l ON l.oid = f.prolang
         WHERE f.pronamespace = 'audit'::regnamespace
        UNION ALL
        SELECT 'trigger', c.oid::regclass::text || '.' || g.tgname,
               concat_ws('|', g.tgtype, g.tgfoid::regprocedure, g.tgenabled,
                         pg_get_expr(g.tgqual, g.tgrelid), encode(g.tgargs, 'hex'))
          FROM pg_trigger g
          JOIN pg_class c ON c.oid = g.tgrelid
          JOIN pg_proc f ON f.oid = g.tgfoid
         WHERE f.pronamespace = 'audit'::regnamespace
           AND c.relnamespace <> 'audit'::regnamespace
        UNION ALL
        SELECT 'role', w.rolname::text, concat_ws('|', w.rolsuper, w.rolcreaterole,
               w.rolcreatedb, w.rolreplication, w.rolbypassrls)
          FROM pg_roles w
         WHERE w.rolname IN ('broker_owner', 'broker_app', 'broker_relay', 'broker_auditor',
                             'broker_retention')
      ) AS item
     ORDER BY kind COLLATE "C", name COLLATE "C", said COLLATE "C"
"""

# The first object that is not as it was signed. Whether the signature is good SQL cannot tell.
SHAPE_FAULT = """
    CREATE FUNCTION audit.shape_fault() RETURNS text
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        WITH signed AS (
            SELECT string_to_array(s.lines, chr(10)) AS lines
              FROM audit.shapes s ORDER BY s.shape_no DESC LIMIT 1
        ), here AS (
            SELECT array_agg(concat_ws(' ', x.kind, x.name, x.digest)) AS lines FROM audit.shape() x
        )
        SELECT format('%s is not as it was signed', regexp_replace(odd.line, ' [^ ]*$', ''))
          FROM signed CROSS JOIN here CROSS JOIN LATERAL (
            (SELECT unnest(signed.lines) AS line EXCEPT SELECT unnest(here.lines))
            UNION ALL
            (SELECT unnest(here.lines) EXCEPT SELECT unnest(signed.lines))) AS odd
         ORDER BY odd.line COLLATE "C"
         LIMIT 1;
    END
"""

# STABLE, so that all of it reads one snapshot: sealing goes on meanwhile.
VERIFY = r"""
    CREATE FUNCTION audit.verify(
        tenant text, from_seq bigint DEFAULT 1, to_seq bigint DEFAULT NULL,
        waited interval DEFAULT '10 minutes')
    RETURNS TABLE (ok boolean, seq bigint, event_id uuid, seal_no bigint, reason text,
                   events bigint, seals bigint, size bigint, root bytea, retired bigint,
                   late bigint, unsealed bigint, unsealed_from timestamptz, beyond text[])
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
    #variable_conflict use_column
    DECLARE
        s audit.seals;
        earlier audit.seals;
        granted audit.seals;
        moved CONSTANT boolean := EXISTS (SELECT FROM audit.events e WHERE e.tenant_id = tenant
                                             AND e.type = 'log.moved');
        grown bytea := '';
        chain bytea := '';
        last_xid xid8;
        erased bigint;
    BEGIN
        seals := 0;
        events := 0;
        retired := 0;
        late := 0;
        SELECT x.* INTO granted FROM audit.seals x
         WHERE x.tenant_id = tenant AND x.kind = 'retirement' AND x.request IS NOT NULL
         ORDER BY x.retired_before DESC, x.seal_no LIMIT 1;
        SELECT x.* INTO earlier FROM audit.seals x
         WHERE x.tenant_id = tenant AND x.seq_to < from_seq ORDER BY x.seal_no DESC LIMIT 1;
        IF earlier.seal_no IS NOT NULL THEN  -- its frontier stands for all before it
            grown := earlier.frontier;
            IF earlier.digest IS DISTINCT FROM audit.seal_digest(earlier)
               OR audit.root(earlier.frontier) IS DISTINCT FROM earlier.root THEN
                reason := 'seal was altered: its columns do not give its digest';
                seal_no := earlier.seal_no;
            END IF;
        END IF;
        FOR s IN SELECT x.* FROM audit.seals x
                  WHERE x.tenant_id = tenant
                    AND (x.seal_no > coalesce(earlier.seal_no, 0) OR x.seal_no IS NULL
                         OR x.seal_no < 1)
                    AND (to_seq IS NULL OR (x.seq_from <= to_seq) IS NOT FALSE)
                  ORDER BY x.seal_no
        LOOP
            EXIT WHEN reason IS NOT NULL;
            seal_no := s.seal_no;
            reason := audit.seal_fault(s, earlier);
            IF reason IS NOT NULL THEN
                SELECT m.seq, m.event_id INTO seq, event_id FROM audit.members m
                 WHERE m.tenant_id = tenant AND m.seq = coalesce(earlier.seq_to, 0) + 1;
                EXIT;
            END IF;
            SELECT f.frontier, f.chain, f.last_xid, f.retired, f.late, f.seq, f.event_id, f.reason
              INTO grown, chain, last_xid, retired, late, seq, event_id, reason
              FROM audit.member_fault(s, granted, moved, grown, chain, last_xid, retired, late) f;
            EXIT WHEN reason IS NOT NULL;
            seals := seals + 1;
            events := events + s.seq_to - s.seq_from + 1;
            earlier := s;
        END LOOP;
        size := coalesce(earlier.seq_to, 0);
        IF reason IS NULL AND to_seq IS NULL THEN
            seal_no := NULL;
            SELECT m.seq, m.event_id, 'member has no seal: the seal was deleted, or it was inserted'
              INTO seq, event_id, reason
              FROM audit.members m
             WHERE m.tenant_id = tenant AND (m.seq > size OR m.seq < 1 OR m.seq IS NULL)
             ORDER BY m.seq LIMIT 1;
            IF reason IS NULL AND from_seq <= 1 AND granted.seal_no IS NOT NULL
               AND granted.retired_digest IS DISTINCT FROM coalesce(nullif(chain, ''), sha256(''))
            THEN
                reason := 'members are not those that were retired';
                seal_no := granted.seal_no;
            END IF;
            IF reason IS NULL THEN
                SELECT u.event_id, u.reason INTO event_id, reason
                  FROM audit.first_unsealed(tenant, waited) u;
            END IF;
            IF reason IS NULL THEN
                SELECT u.event_id, u.reason INTO event_id, reason FROM audit.erasure_fault(tenant) u;
            END IF;
            IF reason IS NULL THEN
                SELECT u.seal_no, u.reason INTO seal_no, reason FROM audit.table_fault(tenant) u;
            END IF;
        END IF;
        reason := coalesce(reason, audit.shape_fault());
        SELECT count(*), min(e.occurred_at) INTO unsealed, unsealed_from
          FROM audit.events e LEFT JOIN audit.watermark w ON true
         WHERE e.tenant_id = tenant AND (e.xid > w.xid) IS NOT FALSE
           AND NOT EXISTS (SELECT FROM audit.members m
                            WHERE m.event_id = e.event_id AND m.tenant_id = e.tenant_id
                              AND m.occurred_at = e.occurred_at);
        erased := (SELECT sum(x.events) FROM audit.erased(tenant) x);
        beyond := array_remove(ARRAY[
            CASE WHEN retired > 0 THEN
                format('%s events are gone: whether an officer signed for that', retired) END,
            CASE WHEN erased > 0 THEN
                format('%s events were erased: whether an officer signed for that', erased) END,
            CASE WHEN unsealed > 0 THEN
                format('%s events since %s: no seal vouches for them yet', unsealed, unsealed_from)
                END,
            CASE WHEN NOT EXISTS (SELECT FROM audit.shapes) THEN
                'the shape of schema audit: no relay has signed it yet' END], NULL);
        ok := reason IS NULL;
        IF ok THEN
            root := audit.root(grown);
            IF size = 0 AND NOT EXISTS (SELECT FROM audit.events e WHERE e.tenant_id = tenant) THEN
                ok := NULL;
                reason := 'nothing to verify: you can see no event and no seal of this tenant';
            END IF;
        END IF;
        RETURN NEXT;
    END $$
"""


def each(script: str) -> None:
    for statement in filter(None, map(str.strip, script.split(";"))):
        op.execute(statement)


def upgrade() -> None:
    each(TABLE)
    op.execute(f"""
        CREATE FUNCTION audit.shape() RETURNS TABLE (kind text, name text, digest text)
        LANGUAGE sql STABLE SET search_path = pg_catalog BEGIN ATOMIC {SHAPE}; END
    """)
    op.execute(SHAPE_FAULT)
    op.execute(VERIFY)


def downgrade() -> None:
    op.execute("DROP FUNCTION audit.verify(text, bigint, bigint, interval)")
    op.execute("DROP FUNCTION audit.shape_fault()")
    op.execute("DROP FUNCTION audit.shape()")
    each(BACK)
