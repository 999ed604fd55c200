"""audit.verify leaves no column out: nulls, doubles, times, transactions, requests and holds."""

import importlib.util
from pathlib import Path
from typing import Any

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

# What is wrong with a seal in itself and after the one before it; null is nothing. Each test is
# one that a null does not pass.
SEAL_FAULT = r"""
    CREATE FUNCTION audit.seal_fault(s audit.seals, earlier audit.seals) RETURNS text
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
    DECLARE
        origin text := split_part(s.checkpoint, E'\n', 1);
        public_key bytea := (SELECT max(k.public_key::text)::bytea FROM audit.keys k
                              WHERE k.key_id = s.key_id HAVING count(*) = 1);
        asked jsonb := audit.request_of(s.request);
        nothing CONSTANT bytea := decode(repeat('00', 32), 'hex');
    BEGIN
        RETURN CASE
            WHEN s.seal_no IS DISTINCT FROM coalesce(earlier.seal_no, 0) + 1 THEN
                format('seal %s is missing', coalesce(earlier.seal_no, 0) + 1)
            WHEN s.digest IS DISTINCT FROM audit.seal_digest(s) THEN
                'seal was altered: its columns do not give its digest'
            WHEN s.previous IS DISTINCT FROM coalesce(earlier.digest, nothing)
              OR s.seq_from IS DISTINCT FROM coalesce(earlier.seq_to, 0) + 1 THEN
                'seal does not continue the seal before it'
            WHEN octet_length(s.frontier) IS DISTINCT FROM 32 * bit_count(s.seq_to::bit(64))
              OR audit.root(s.frontier) IS DISTINCT FROM s.root THEN
                'seal was altered: its frontier does not give its root'
            WHEN starts_with(s.checkpoint, origin || E'\n' || s.seq_to || E'\n'
                             || encode(s.root, 'base64') || E'\n\n') IS NOT TRUE
              OR right(origin, length(s.tenant_id) + 1) IS DISTINCT FROM '/' || s.tenant_id
              OR origin IS DISTINCT FROM coalesce(split_part(earlier.checkpoint, E'\n', 1), origin)
              THEN 'checkpoint does not say what its seal says'
            WHEN starts_with(s.attestation, E'mcpbroker.audit.seal.v1\n' || s.tenant_id || '/'
                             || s.seal_no || E'\n' || encode(s.digest, 'base64') || E'\n\n')
                 IS NOT TRUE THEN
                'attestation is not over the digest of its seal'
            WHEN public_key IS NULL THEN
                format('key %s is missing', s.key_id)
            WHEN s.key_id IS DISTINCT FROM left(encode(sha256(public_key), 'hex'), 16) THEN
                format('key %s was altered', s.key_id)
            WHEN (CASE s.kind WHEN 'events' THEN s.seq_to >= s.seq_from AND s.retired_before IS NULL
                                                 AND s.request IS NULL
                              WHEN 'retirement' THEN s.seq_to = s.seq_from - 1
                                                 AND s.retired_before IS NOT NULL END) IS NOT TRUE
              OR (s.request IS NULL) <> (s.retired_digest IS NULL) THEN
                'seal is of no kind'
            WHEN (s.sealed_at >= earlier.sealed_at) IS FALSE
              OR (s.sealed_at <= clock_timestamp() + interval '1 minute') IS NOT TRUE THEN
                'seal bears a time before the seal before it, or one that is yet to come'
            WHEN s.request IS NOT NULL AND (
                 asked ->> 'kind' IS DISTINCT FROM 'retire'
                 OR (s.retired_before <= audit.instant(asked ->> 'before')) IS NOT TRUE
                 OR s.retired_before > s.sealed_at
                 OR s.retired_before AT TIME ZONE 'UTC'
                    <> date_trunc('month', s.retired_before AT TIME ZONE 'UTC')) THEN
                'retirement does not count: it is not what its request asks for'
        END;
    END $$
"""

# A range's members with their events as they are now; the leaf is computed from the columns.
MEMBERS = """
    CREATE FUNCTION audit.members_now(tenant text, from_seq bigint, to_seq bigint)
    RETURNS TABLE (seq bigint, event_id uuid, occurred_at timestamptz, leaf bytea,
                   there boolean, xid xid8, erasure_whole boolean, leaf_now bytea)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT m.seq, m.event_id, m.occurred_at, m.leaf, e.event_id IS NOT NULL, e.xid,
               (e.commitment IS NULL) = (e.erased_by IS NULL),
               audit.leaf_v2(e.event_id, e.occurred_at, e.tenant_id, e.type, e.actor, e.user_id,
                             e.command_id, e.saga_id, e.tool, e.method, e.attempt, e.state_from,
                             e.state_to, e.fingerprint, e.body, e.salt, e.commitment)
          FROM audit.members m
          LEFT JOIN audit.events e
            ON e.tenant_id = m.tenant_id AND e.occurred_at = m.occurred_at
           AND e.event_id = m.event_id
         WHERE m.tenant_id = tenant AND m.seq BETWEEN from_seq AND to_seq
         ORDER BY m.seq;
    END
"""

# One seal's members: the first that is not as it was sealed, or the frontier behind the last.
# `chain` is over the members that `granted`, the newest retirement, lets go: app/audit/rulings.py.
MEMBER_FAULT = r"""
    CREATE FUNCTION audit.member_fault(
        s audit.seals, granted audit.seals, moved boolean, INOUT frontier bytea,
        INOUT chain bytea, INOUT last_xid xid8, INOUT retired bigint, INOUT late bigint,
        OUT seq bigint, OUT event_id uuid, OUT reason text)
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
    #variable_conflict use_column
    DECLARE
        m record;
        earlier_at timestamptz;
        earlier_id uuid;
        size bigint := s.seq_from - 1;
        yet_to_come CONSTANT xid8 := pg_snapshot_xmax(pg_current_snapshot());
    BEGIN
        FOR m IN SELECT * FROM audit.members_now(s.tenant_id, s.seq_from, s.seq_to) LOOP
            EXIT WHEN m.seq > size + 1;
            seq := m.seq;
            event_id := m.event_id;
            reason := CASE
                WHEN m.seq <= size THEN 'member or its event is there twice'
                WHEN NOT m.there AND (m.occurred_at < granted.retired_before) IS NOT TRUE
                    THEN 'event is gone: it was deleted, or its time, tenant or member was altered'
                WHEN m.there AND m.leaf_now IS DISTINCT FROM m.leaf
                    THEN 'event was altered: its columns do not give the leaf that was sealed'
                WHEN m.there AND NOT m.erasure_whole
                    THEN 'event was altered: it names an erasure that it has not had, or none'
                WHEN m.there AND (m.xid IS NULL OR (m.xid >= yet_to_come AND NOT moved))
                    THEN 'event was altered: its transaction is none, or yet to come'
                WHEN m.occurred_at > s.sealed_at + interval '1 minute'
                    THEN 'event bears a time after its seal'
            END;
            -- Events stand in the order of their transactions, unless the log moved to another
            -- cluster, where transactions are numbered anew.
            IF reason IS NULL AND (
                 (earlier_id IS NOT NULL AND (m.xid, m.occurred_at, m.event_id)
                                             < (last_xid, earlier_at, earlier_id))
                 OR (earlier_id IS NULL AND m.xid < last_xid AND NOT moved)) THEN
                reason := 'members were reordered: this one belongs behind the next';
                seq := size;
                event_id := coalesce(earlier_id, m.event_id);
            END IF;
            IF reason IS NOT NULL THEN
                RETURN;
            END IF;
            frontier := audit.grow(frontier, size, m.leaf);
            size := size + 1;
            last_xid := coalesce(m.xid, last_xid);
            earlier_at := m.occurred_at;
            earlier_id := CASE WHEN m.there THEN m.event_id END;
            retired := retired + (NOT m.there)::int;
            late := late + (s.sealed_at - m.occurred_at > interval '2 minutes')::int;
            IF m.occurred_at < granted.retired_before AND m.seq <= granted.seq_to THEN
                chain := sha256(chain || convert_to(
                    m.seq || ',' || m.event_id || ','
                    || (extract(epoch FROM m.occurred_at) * 1000000)::bigint || ',', 'UTF8'));
            END IF;
        END LOOP;
        seq := NULL;
        event_id := NULL;
        IF size < s.seq_to THEN
            seq := size + 1;
            reason := 'member was deleted; the event is the first that has none';
            event_id := (SELECT u.event_id FROM audit.first_unsealed(s.tenant_id, '0') u);
        ELSIF frontier IS DISTINCT FROM s.frontier THEN
            seq := s.seq_from;
            event_id := (SELECT m.event_id FROM audit.members m
                          WHERE m.tenant_id = s.tenant_id AND m.seq = s.seq_from);
            reason := format('an event and its member were altered together, or members moved:'
                             ' one of %s to %s', s.seq_from, s.seq_to);
        END IF;
    END $$
"""

# The first event that no seal covers although the sealer has passed it, or has had the time to.
# The newest transactions of this cluster are below the snapshot's end; those of a dump are not.
UNSEALED = r"""
    CREATE FUNCTION audit.first_unsealed(tenant text, waited interval)
    RETURNS TABLE (event_id uuid, reason text)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT e.event_id,
               CASE WHEN e.xid <= w.xid
                    THEN 'event was inserted behind the sealer, or its membership was deleted'
                    WHEN e.xid IS NULL
                      OR (e.xid >= pg_snapshot_xmax(pg_current_snapshot())
                          AND w.cluster = c.system_identifier)
                    THEN 'event is of no transaction, or of one that is yet to come: it is not sealed'
                    WHEN e.occurred_at > clock_timestamp() + interval '1 minute'
                    THEN format('event bears a time that is yet to come, %s: it is not sealed',
                                e.occurred_at)
                    ELSE format('event of %s is not sealed', e.occurred_at) END
          FROM audit.events e
         CROSS JOIN pg_control_system() c
          LEFT JOIN audit.watermark w ON true
         WHERE e.tenant_id = tenant
           AND (e.xid <= w.xid OR e.xid IS NULL
                OR (e.xid >= pg_snapshot_xmax(pg_current_snapshot())
                    AND w.cluster = c.system_identifier)
                OR e.occurred_at < statement_timestamp() - waited
                OR e.occurred_at > clock_timestamp() + interval '1 minute')
           AND NOT EXISTS (SELECT FROM audit.members m
                            WHERE m.event_id = e.event_id AND m.tenant_id = e.tenant_id
                              AND m.occurred_at = e.occurred_at)
         ORDER BY e.xid, e.occurred_at, e.event_id
         LIMIT 1;
    END
"""

# The holds that the log has on at one of its places.
HELD_AT = """
    CREATE FUNCTION audit.held_at(tenant text, place bigint)
    RETURNS TABLE (hold text, from_at timestamptz)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT e.body ->> 'hold', coalesce(audit.instant(e.body ->> 'from'), '-infinity')
          FROM audit.events e
          JOIN audit.members m ON m.event_id = e.event_id AND m.tenant_id = e.tenant_id
                              AND m.occurred_at = e.occurred_at
         WHERE e.tenant_id = tenant AND e.type = 'hold.placed' AND e.body ->> 'hold' IS NOT NULL
           AND m.seq <= place
           AND NOT EXISTS (
               SELECT FROM audit.events r
                 JOIN audit.members n ON n.event_id = r.event_id AND n.tenant_id = r.tenant_id
                                     AND n.occurred_at = r.occurred_at
                WHERE r.tenant_id = tenant AND r.type = 'hold.released'
                  AND r.body ->> 'hold' = e.body ->> 'hold' AND n.seq > m.seq AND n.seq <= place);
    END
"""

# Events that are erased otherwise than a request says, or while a hold was on. That the request
# is an officer's SQL cannot tell.
ERASURE_FAULT = """
    CREATE OR REPLACE FUNCTION audit.erasure_fault(tenant text)
    RETURNS TABLE (event_id uuid, reason text)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT x.event_id, format('events of %s were erased: %s', x.month,
                   CASE WHEN a.asked IS NULL THEN 'no request says so'
                        WHEN a.held THEN 'a legal hold was on'
                        ELSE 'the record of it says otherwise' END)
          FROM audit.erased(tenant) x
          LEFT JOIN LATERAL (
            SELECT q.asked, EXISTS (SELECT FROM audit.held_at(tenant, coalesce(m.seq, 1::bigint << 62)))
                            AS held
              FROM audit.events r
             CROSS JOIN LATERAL audit.request_of(r.body ->> 'request') AS q (asked)
              LEFT JOIN audit.members m ON m.event_id = r.event_id AND m.tenant_id = r.tenant_id
                                       AND m.occurred_at = r.occurred_at
             WHERE r.tenant_id = tenant AND r.event_id = x.erasure AND r.type = 'person.erased'
               AND q.asked ->> 'kind' = 'erase' AND q.asked ->> 'tenant_id' = tenant
               AND q.asked ->> 'id' = r.event_id::text
             LIMIT 1
          ) AS a ON true
         WHERE a.asked IS NULL OR a.held
            OR a.asked -> 'months' -> x.month
               IS DISTINCT FROM jsonb_build_object('events', x.events, 'digest', x.digest)
         ORDER BY x.month, x.event_id
         LIMIT 1;
    END
"""

# Tables beside the log that must say what the log says: holds, and requests for retirements.
TABLE_FAULT = """
    CREATE FUNCTION audit.table_fault(tenant text) RETURNS TABLE (seal_no bigint, reason text)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT s.seal_no, 'events were retired under a legal hold' AS reason
          FROM audit.seals s
         WHERE s.tenant_id = tenant AND s.request IS NOT NULL
           AND EXISTS (SELECT FROM audit.held_at(tenant, s.seq_to) h
                        WHERE h.from_at < s.retired_before)
        UNION ALL
        SELECT NULL, format('hold %s is not what the log says of it', h.hold_id)
          FROM audit.holds h
         WHERE h.tenant_id = tenant AND h.released_at IS NULL
           AND NOT EXISTS (
               SELECT FROM audit.events e
                WHERE e.tenant_id = tenant AND e.type = 'hold.placed'
                  AND e.body ->> 'hold' = h.hold_id::text AND e.actor = h.placed_by
                  AND audit.instant(e.body ->> 'from') IS NOT DISTINCT FROM h.from_at
                  AND audit.instant(e.body ->> 'to') IS NOT DISTINCT FROM h.to_at
                  AND e.body ->> 'reason' = h.reason
                  AND e.occurred_at - h.placed_at BETWEEN '-1 minute' AND '1 minute')
        UNION ALL
        SELECT NULL, format('hold %s was released or deleted, and the log does not say so', a.hold)
          FROM audit.held_at(tenant, 1::bigint << 62) a
         WHERE NOT EXISTS (SELECT FROM audit.holds h
                            WHERE h.hold_id::text = a.hold AND h.tenant_id = tenant
                              AND h.released_at IS NULL)
           AND NOT EXISTS (SELECT FROM audit.events e
                            WHERE e.tenant_id = tenant AND e.type = 'hold.released'
                              AND e.body ->> 'hold' = a.hold)
         LIMIT 1;
    END
"""

BEFORE = ("0005_audit_verify", "0008_retention")


def older(name: str) -> Any:
    """An earlier migration, whose words a downgrade says again."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


DROPPED = (
    "audit.verify(text, bigint, bigint, interval)",
    "audit.member_fault(audit.seals, timestamptz, bytea)",
    "audit.seal_fault(audit.seals, audit.seals)",
    "audit.members_now(text, bigint, bigint)",
    "audit.first_unsealed(text, interval)",
)
MADE = (
    "audit.table_fault(text)",
    "audit.member_fault(audit.seals, audit.seals, boolean, bytea, bytea, xid8, bigint, bigint)",
    "audit.seal_fault(audit.seals, audit.seals)",
    "audit.members_now(text, bigint, bigint)",
    "audit.first_unsealed(text, interval)",
)


def upgrade() -> None:
    """The verify that puts all of it together is the next migration's."""
    for signature in DROPPED:
        op.execute(f"DROP FUNCTION {signature}")
    for body in (SEAL_FAULT, MEMBERS, UNSEALED, MEMBER_FAULT, HELD_AT, ERASURE_FAULT, TABLE_FAULT):
        op.execute(body)


def downgrade() -> None:
    first, second = (older(name) for name in BEFORE)
    for signature in MADE:
        op.execute(f"DROP FUNCTION {signature}")
    op.execute(second.ERASURE_FAULT.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute("DROP FUNCTION audit.held_at(text, bigint)")
    for body in (first.SEAL_FAULT, first.MEMBER_FAULT, first.VERIFY):
        op.execute(body)
    for body in (second.MEMBERS, second.UNSEALED):
        op.execute(body.replace("CREATE OR REPLACE FUNCTION", "CREATE FUNCTION"))
