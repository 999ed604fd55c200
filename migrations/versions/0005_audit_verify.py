"""The audit trail proves itself: audit.verify and audit.prove, in SQL."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

# The arithmetic of app/audit/event.py once more, as neither side is taken at its word. A change of a
# seal's fields is a new function, never a new body for this one.
SEAL_V1 = r"""
    CREATE FUNCTION audit.seal_v1(s audit.seals) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    DECLARE
        field text;
        canon text := 'mcpbroker.audit.seal.v1,';
    BEGIN
        FOREACH field IN ARRAY ARRAY[
            s.tenant_id, s.seal_no::text, s.kind, s.seq_from::text, s.seq_to::text,
            (extract(epoch FROM s.retired_before) * 1000000)::bigint::text,
            encode(s.root, 'hex'), encode(s.frontier, 'hex'), encode(s.previous, 'hex'), s.key_id,
            (extract(epoch FROM s.sealed_at) * 1000000)::bigint::text, s.checkpoint]
        LOOP
            canon := canon || coalesce(octet_length(field)::text || ':' || field, '-') || ',';
        END LOOP;
        RETURN sha256(convert_to(canon, 'UTF8'));
    END $$
"""

# The frontier of a tree of `size` leaves, with one more.
GROW = r"""
    CREATE FUNCTION audit.grow(frontier bytea, size bigint, leaf bytea) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    DECLARE
        carry bigint := size;
        kept integer := octet_length(frontier);
        top bytea := leaf;
    BEGIN
        WHILE carry & 1 = 1 LOOP
            top := sha256('\x01'::bytea || substring(frontier FROM kept - 31 FOR 32) || top);
            kept := kept - 32;
            carry := carry >> 1;
        END LOOP;
        RETURN substring(frontier FROM 1 FOR kept) || top;
    END $$
"""

ROOT = r"""
    CREATE FUNCTION audit.root(frontier bytea) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    DECLARE
        at integer := octet_length(frontier) - 31;
        found bytea := substring(frontier FROM greatest(at, 1));
    BEGIN
        IF at < 1 THEN
            RETURN sha256('');
        END IF;
        WHILE at > 1 LOOP
            at := at - 32;
            found := sha256('\x01'::bytea || substring(frontier FROM at FOR 32) || found);
        END LOOP;
        RETURN found;
    END $$
"""

# What is wrong with a seal in itself and after the one before it; null is nothing.
SEAL_FAULT = r"""
    CREATE FUNCTION audit.seal_fault(s audit.seals, earlier audit.seals) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
    DECLARE
        origin text := split_part(s.checkpoint, E'\n', 1);
        public_key bytea := (SELECT k.public_key FROM audit.keys k WHERE k.key_id = s.key_id);
    BEGIN
        RETURN CASE
            WHEN s.seal_no <> coalesce(earlier.seal_no, 0) + 1 THEN
                format('seal %s is missing', coalesce(earlier.seal_no, 0) + 1)
            WHEN s.digest <> audit.seal_v1(s) THEN
                'seal was altered: its columns do not give its digest'
            WHEN s.previous <> coalesce(earlier.digest, decode(repeat('00', 32), 'hex'))
              OR s.seq_from <> coalesce(earlier.seq_to, 0) + 1 THEN
                'seal does not continue the seal before it'
            WHEN octet_length(s.frontier) <> 32 * bit_count(s.seq_to::bit(64))
              OR audit.root(s.frontier) <> s.root THEN
                'seal was altered: its frontier does not give its root'
            WHEN NOT starts_with(s.checkpoint, origin || E'\n' || s.seq_to || E'\n'
                                 || encode(s.root, 'base64') || E'\n\n')
              OR right(origin, length(s.tenant_id) + 1) <> '/' || s.tenant_id
              OR origin <> coalesce(split_part(earlier.checkpoint, E'\n', 1), origin) THEN
                'checkpoint does not say what its seal says'
            WHEN NOT starts_with(s.attestation, E'mcpbroker.audit.seal.v1\n' || s.tenant_id || '/'
                                 || s.seal_no || E'\n' || encode(s.digest, 'base64') || E'\n\n') THEN
                'attestation is not over the digest of its seal'
            WHEN public_key IS NULL THEN
                format('key %s is missing', s.key_id)
            WHEN s.key_id <> left(encode(sha256(public_key), 'hex'), 16) THEN
                format('key %s was altered', s.key_id)
        END;
    END $$
"""

# A range's members with their events as they are now; the leaf is computed from the columns.
MEMBERS = r"""
    CREATE FUNCTION audit.members_now(tenant text, from_seq bigint, to_seq bigint)
    RETURNS TABLE (seq bigint, event_id uuid, occurred_at timestamptz, leaf bytea,
                   there boolean, xid xid8, leaf_now bytea)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT m.seq, m.event_id, m.occurred_at, m.leaf, e.event_id IS NOT NULL, e.xid,
               audit.leaf_v1(e.event_id, e.occurred_at, e.tenant_id, e.type, e.actor, e.user_id,
                             e.command_id, e.saga_id, e.tool, e.method, e.attempt, e.state_from,
                             e.state_to, e.fingerprint, e.body)
          FROM audit.members m
          LEFT JOIN audit.events e
            ON e.tenant_id = m.tenant_id AND e.occurred_at = m.occurred_at
           AND e.event_id = m.event_id
         WHERE m.tenant_id = tenant AND m.seq BETWEEN from_seq AND to_seq
         ORDER BY m.seq;
    END
"""

# The first event that no seal covers although the sealer has passed it, or has had the time to.
UNSEALED = r"""
    CREATE FUNCTION audit.first_unsealed(tenant text, waited interval)
    RETURNS TABLE (event_id uuid, reason text)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT e.event_id,
               CASE WHEN e.xid <= w.xid
                    THEN 'event was inserted behind the sealer, or its membership was deleted'
                    ELSE format('event of %s is not sealed', e.occurred_at) END
          FROM audit.events e
          LEFT JOIN audit.watermark w ON true
         WHERE e.tenant_id = tenant
           AND (e.xid <= w.xid OR e.occurred_at < statement_timestamp() - waited
                OR e.occurred_at > statement_timestamp() + interval '1 hour')
           AND NOT EXISTS (SELECT FROM audit.members m
                            WHERE m.event_id = e.event_id AND m.tenant_id = e.tenant_id
                              AND m.occurred_at = e.occurred_at)
         ORDER BY e.xid, e.occurred_at, e.event_id
         LIMIT 1;
    END
"""

# One seal's members: the first that is not as it was sealed, or the frontier behind the last.
MEMBER_FAULT = r"""
    CREATE FUNCTION audit.member_fault(
        s audit.seals, retired_before timestamptz, INOUT frontier bytea,
        OUT seq bigint, OUT event_id uuid, OUT reason text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
    #variable_conflict use_column
    DECLARE
        m record;
        earlier_xid xid8;
        earlier_at timestamptz;
        earlier_id uuid;
        size bigint := s.seq_from - 1;
    BEGIN
        FOR m IN SELECT * FROM audit.members_now(s.tenant_id, s.seq_from, s.seq_to) LOOP
            EXIT WHEN m.seq <> size + 1;
            seq := m.seq;
            event_id := m.event_id;
            reason := CASE
                WHEN NOT m.there AND (retired_before IS NULL OR m.occurred_at >= retired_before)
                    THEN 'event is gone: it was deleted, or its time, tenant or member was altered'
                WHEN m.there AND m.leaf_now <> m.leaf
                    THEN 'event was altered: its columns do not give the leaf that was sealed'
            END;
            -- Within a seal, events stand in the order of their transactions.
            IF reason IS NULL AND (m.xid, m.occurred_at, m.event_id)
                                  < (earlier_xid, earlier_at, earlier_id) THEN
                reason := 'members were reordered: this one belongs behind the next';
                seq := size;
                event_id := earlier_id;
            END IF;
            IF reason IS NOT NULL THEN
                RETURN;
            END IF;
            frontier := audit.grow(frontier, size, m.leaf);
            size := size + 1;
            earlier_xid := m.xid;
            earlier_at := m.occurred_at;
            earlier_id := m.event_id;
        END LOOP;
        seq := NULL;
        event_id := NULL;
        IF size < s.seq_to THEN
            seq := size + 1;
            reason := 'member was deleted; the event is the first that has none';
            event_id := (SELECT u.event_id FROM audit.first_unsealed(s.tenant_id, '0') u);
        ELSIF frontier <> s.frontier THEN
            seq := s.seq_from;
            event_id := (SELECT m.event_id FROM audit.members m
                          WHERE m.tenant_id = s.tenant_id AND m.seq = s.seq_from);
            reason := format('an event and its member were altered together, or members moved:'
                             ' one of %s to %s', s.seq_from, s.seq_to);
        END IF;
    END $$
"""

# STABLE, so that all of it reads one snapshot: sealing goes on meanwhile.
VERIFY = r"""
    CREATE FUNCTION audit.verify(
        tenant text, from_seq bigint DEFAULT 1, to_seq bigint DEFAULT NULL,
        waited interval DEFAULT '10 minutes')
    RETURNS TABLE (ok boolean, seq bigint, event_id uuid, seal_no bigint, reason text,
                   events bigint, seals bigint, size bigint, root bytea)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
    #variable_conflict use_column
    DECLARE
        s audit.seals;
        earlier audit.seals;
        retired timestamptz := (SELECT max(x.retired_before) FROM audit.seals x
                                 WHERE x.tenant_id = tenant);
        grown bytea := '';
    BEGIN
        seals := 0;
        events := 0;
        SELECT x.* INTO earlier FROM audit.seals x
         WHERE x.tenant_id = tenant AND x.seq_to < from_seq ORDER BY x.seal_no DESC LIMIT 1;
        IF earlier.seal_no IS NOT NULL THEN  -- its frontier stands for all before it
            grown := earlier.frontier;
            IF earlier.digest <> audit.seal_v1(earlier)
               OR audit.root(earlier.frontier) <> earlier.root THEN
                reason := 'seal was altered: its columns do not give its digest';
                seal_no := earlier.seal_no;
            END IF;
        END IF;
        FOR s IN SELECT x.* FROM audit.seals x
                  WHERE x.tenant_id = tenant AND x.seal_no > coalesce(earlier.seal_no, 0)
                    AND (to_seq IS NULL OR x.seq_from <= to_seq)
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
            SELECT f.frontier, f.seq, f.event_id, f.reason INTO grown, seq, event_id, reason
              FROM audit.member_fault(s, retired, grown) f;
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
             WHERE m.tenant_id = tenant AND (m.seq > size OR m.seq < 1)
             ORDER BY m.seq LIMIT 1;
            IF reason IS NULL THEN
                SELECT u.event_id, u.reason INTO event_id, reason
                  FROM audit.first_unsealed(tenant, waited) u;
            END IF;
        END IF;
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

# The hash of leaves lo+1 to hi of a log whose first `size` leaves are known by their frontier and
# the next ones as they are, 32 bytes each.
SUBTREE = r"""
    CREATE FUNCTION audit.subtree(
        frontier bytea, size bigint, leaves bytea, lo bigint, hi bigint) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    DECLARE
        half bigint := 1;
    BEGIN
        IF hi <= size THEN  -- a perfect subtree of the frontier: as many are larger as bits above
            RETURN substring(frontier FROM 32 * bit_count((size / (2 * (hi - lo)))::bit(64))::int + 1
                             FOR 32);
        ELSIF hi - lo = 1 THEN
            RETURN substring(leaves FROM (32 * (lo - size))::int + 1 FOR 32);
        END IF;
        WHILE half * 2 < hi - lo LOOP
            half := half * 2;
        END LOOP;
        RETURN sha256('\x01'::bytea || audit.subtree(frontier, size, leaves, lo, lo + half)
                                    || audit.subtree(frontier, size, leaves, lo + half, hi));
    END $$
"""

# The proof is against the checkpoint of the event's own seal: it costs a batch, not the log.
PROVE = r"""
    CREATE FUNCTION audit.prove(event uuid)
    RETURNS TABLE (tenant_id text, seq bigint, leaf bytea, size bigint, root bytea, path bytea[],
                   seal_no bigint, checkpoint text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
    DECLARE
        m audit.members;
        s audit.seals;
        leaves bytea;
        known bytea;
        lo bigint := 0;
        hi bigint;
        half bigint;
    BEGIN
        SELECT x.* INTO m FROM audit.members x WHERE x.event_id = event;
        SELECT x.* INTO s FROM audit.seals x
         WHERE x.tenant_id = m.tenant_id AND x.seq_to >= m.seq
         ORDER BY x.seq_to, x.seal_no LIMIT 1;
        IF s.seal_no IS NULL THEN
            RETURN;  -- not known to you, or not sealed yet
        END IF;
        known := coalesce((SELECT x.frontier FROM audit.seals x
                            WHERE x.tenant_id = s.tenant_id AND x.seal_no = s.seal_no - 1), '');
        leaves := (SELECT string_agg(x.leaf, '' ORDER BY x.seq) FROM audit.members x
                    WHERE x.tenant_id = s.tenant_id AND x.seq BETWEEN s.seq_from AND s.seq_to);
        hi := s.seq_to;
        path := '{}';
        WHILE hi - lo > 1 LOOP
            half := 1;
            WHILE half * 2 < hi - lo LOOP
                half := half * 2;
            END LOOP;
            IF m.seq <= lo + half THEN
                path := audit.subtree(known, s.seq_from - 1, leaves, lo + half, hi) || path;
                hi := lo + half;
            ELSE
                path := audit.subtree(known, s.seq_from - 1, leaves, lo, lo + half) || path;
                lo := lo + half;
            END IF;
        END LOOP;
        RETURN QUERY
        SELECT m.tenant_id, m.seq, m.leaf, s.seq_to, s.root, path, s.seal_no, s.checkpoint;
    END $$
"""

FUNCTIONS = (
    ("audit.seal_v1(audit.seals)", SEAL_V1),
    ("audit.grow(bytea, bigint, bytea)", GROW),
    ("audit.root(bytea)", ROOT),
    ("audit.seal_fault(audit.seals, audit.seals)", SEAL_FAULT),
    ("audit.members_now(text, bigint, bigint)", MEMBERS),
    ("audit.first_unsealed(text, interval)", UNSEALED),
    ("audit.member_fault(audit.seals, timestamptz, bytea)", MEMBER_FAULT),
    ("audit.verify(text, bigint, bigint, interval)", VERIFY),
    ("audit.subtree(bytea, bigint, bytea, bigint, bigint)", SUBTREE),
    ("audit.prove(uuid)", PROVE),
)


def upgrade() -> None:
    for _, body in FUNCTIONS:
        op.execute(body)
    op.execute("SELECT audit.guard('audit.keys'::regclass)")
    op.execute("GRANT SELECT, INSERT, UPDATE ON audit.watermark TO broker_relay")


def downgrade() -> None:
    op.execute("DROP TRIGGER refuse_change ON audit.keys")
    op.execute("DROP TRIGGER refuse_truncate ON audit.keys")
    for signature, _ in reversed(FUNCTIONS):
        op.execute(f"DROP FUNCTION {signature}")
