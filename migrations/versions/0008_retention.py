"""What may leave, and how it stays provable: retention, legal holds, erasure of a person's data."""

import importlib.util
from pathlib import Path
from typing import Any

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = """
    CREATE TABLE audit.holds (
        hold_id uuid CONSTRAINT pk_holds PRIMARY KEY DEFAULT gen_random_uuid(),
        tenant_id text NOT NULL, from_at timestamptz, to_at timestamptz, reason text NOT NULL,
        placed_by text NOT NULL, placed_at timestamptz NOT NULL DEFAULT now(),
        released_by text, released_at timestamptz,
        CONSTRAINT ck_holds_range CHECK (from_at < to_at));
    CREATE INDEX ix_holds_active ON audit.holds (tenant_id) WHERE released_at IS NULL;
    CREATE TABLE audit.retirements (
        retirement_id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_retirements PRIMARY KEY,
        before timestamptz NOT NULL, reason text NOT NULL,
        asked_by text NOT NULL, asked_at timestamptz NOT NULL DEFAULT now(),
        signed_at timestamptz);
    CREATE INDEX ix_retirements_open ON audit.retirements (before) WHERE signed_at IS NULL;
    CREATE INDEX ix_seals_retired ON audit.seals (tenant_id, retired_before)
        WHERE kind = 'retirement';
    DROP INDEX ix_commands_purge;
    CREATE INDEX ix_commands_purge ON commands (finished_at, id)
        WHERE finished_at IS NOT NULL AND purged_at IS NULL;
    CREATE INDEX ix_commands_keys ON commands (finished_at, id)
        WHERE finished_at IS NOT NULL AND idempotency_key IS NOT NULL
"""

# The leaf covers a person's data only through a commitment: a hash over them and 244 random bits.
# Erasure takes the data and the salt away and leaves the commitment, so the leaf stays what it was.
# The columns' old values have no salt: those events keep leaf_v1 and go by retention only.
PERSONAL = r"""
    CREATE FUNCTION audit.personal_v1(
        salt bytea, actor text, user_id text, fingerprint bytea, body json) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    DECLARE
        field text;
        canon text := 'mcpbroker.audit.personal.v1,';
    BEGIN
        FOREACH field IN ARRAY ARRAY[encode(salt, 'hex'), actor, user_id,
                                     encode(fingerprint, 'hex'), body::text]
        LOOP
            canon := canon || coalesce(octet_length(field)::text || ':' || field, '-') || ',';
        END LOOP;
        RETURN sha256(convert_to(canon, 'UTF8'));
    END $$
"""

# What of an actor is no person's: a machine's whole name, a person's only up to the colon. Who
# works on the database itself stays named.
ACTOR_KIND = """
    CREATE FUNCTION audit.actor_kind(actor text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN actor ~ '^(adapter|relay|db):' OR strpos(actor, ':') = 0 THEN actor
                ELSE split_part(actor, ':', 1) || ':' END
"""

# An erased event must be empty: with anything else in its place the leaf is another.
LEAF_V2 = r"""
    CREATE FUNCTION audit.leaf_v2(
        event_id uuid, occurred_at timestamptz, tenant_id text, type text, actor text,
        user_id text, command_id uuid, saga_id uuid, tool text, method text, attempt integer,
        state_from text, state_to text, fingerprint bytea, body json, salt bytea, commitment bytea
    ) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
    DECLARE
        field text;
        canon text := 'mcpbroker.audit.v2,';
        kind text := audit.actor_kind(actor);
        personal bytea := commitment;
    BEGIN
        IF salt IS NULL AND commitment IS NULL THEN
            RETURN audit.leaf_v1(event_id, occurred_at, tenant_id, type, actor, user_id,
                                 command_id, saga_id, tool, method, attempt, state_from, state_to,
                                 fingerprint, body);
        ELSIF commitment IS NULL THEN
            personal := audit.personal_v1(salt, actor, user_id, fingerprint, body);
        ELSIF salt IS NOT NULL OR user_id IS NOT NULL OR fingerprint IS NOT NULL
              OR body::text <> '{}' OR actor <> kind || repeat('[erased]', (kind ~ ':$')::int) THEN
            personal := ''::bytea;
        END IF;
        FOREACH field IN ARRAY ARRAY[
            event_id::text, (extract(epoch FROM occurred_at) * 1000000)::bigint::text,
            tenant_id, type, kind, command_id::text, saga_id::text, tool, method, attempt::text,
            state_from, state_to, encode(personal, 'hex')]
        LOOP
            canon := canon || coalesce(octet_length(field)::text || ':' || field, '-') || ',';
        END LOOP;
        RETURN sha256('\x00'::bytea || convert_to(canon, 'UTF8'));
    END $$
"""

LEAF = """
    leaf bytea NOT NULL GENERATED ALWAYS AS (
        audit.{function}(event_id, occurred_at, tenant_id, type, actor, user_id, command_id,
                         saga_id, tool, method, attempt, state_from, state_to, fingerprint,
                         body{more})) STORED
"""

# Rewrites the table once, under its lock.
COLUMNS = f"""
    ALTER TABLE audit.events DROP COLUMN leaf;
    ALTER TABLE audit.events ADD COLUMN salt bytea, ADD COLUMN commitment bytea,
        ADD COLUMN erased_by uuid;
    ALTER TABLE audit.events ADD COLUMN {LEAF.format(function="leaf_v2", more=", salt, commitment")};
    ALTER TABLE audit.events ALTER COLUMN salt
        SET DEFAULT uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid());
    CREATE INDEX ix_events_erased ON audit.events (tenant_id) WHERE commitment IS NOT NULL
"""

# One UPDATE passes: an erasure, which changes what it must and nothing else. It needs the owner's
# rights, and audit.verify wants a sealed record of it.
REFUSE = """
    CREATE OR REPLACE FUNCTION audit.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        personal CONSTANT text[] := '{actor,user_id,fingerprint,body,salt,commitment,erased_by,leaf}';
    BEGIN
        IF TG_OP = 'UPDATE' AND TG_TABLE_NAME LIKE 'events%' THEN
            IF OLD.salt IS NOT NULL AND OLD.commitment IS NULL AND NEW.salt IS NULL
               AND NEW.erased_by IS NOT NULL AND NEW.body::text = '{}'
               AND NEW.commitment = audit.personal_v1(OLD.salt, OLD.actor, OLD.user_id,
                                                      OLD.fingerprint, OLD.body)
               AND audit.actor_kind(NEW.actor) = audit.actor_kind(OLD.actor)
               AND to_jsonb(NEW) - personal = to_jsonb(OLD) - personal THEN
                RETURN NEW;
            END IF;
        END IF;
        RAISE EXCEPTION 'audit trail: % on %.% is refused', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
              USING ERRCODE = 'insufficient_privilege';
    END $$
"""

MEMBERS = """
    CREATE OR REPLACE FUNCTION audit.members_now(tenant text, from_seq bigint, to_seq bigint)
    RETURNS TABLE (seq bigint, event_id uuid, occurred_at timestamptz, leaf bytea,
                   there boolean, xid xid8, leaf_now bytea)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT m.seq, m.event_id, m.occurred_at, m.leaf, e.event_id IS NOT NULL, e.xid,
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

# An erasure's record says, for each month of events, how many and (by a hash of their ids) which.
# By month, because that is how events retire.
ERASED = """
    CREATE FUNCTION audit.erased(tenant text)
    RETURNS TABLE (erasure uuid, month text, events bigint, digest text, event_id uuid)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT e.erased_by, to_char(e.occurred_at AT TIME ZONE 'UTC', 'YYYYMM'), count(*),
               encode(sha256(string_agg(uuid_send(e.event_id), ''::bytea ORDER BY e.event_id)),
                      'hex'), (array_agg(e.event_id ORDER BY e.event_id))[1]
          FROM audit.events e
         WHERE e.tenant_id = tenant AND e.commitment IS NOT NULL
         GROUP BY 1, 2;
    END
"""

ERASURE_FAULT = """
    CREATE FUNCTION audit.erasure_fault(tenant text) RETURNS TABLE (event_id uuid, reason text)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT x.event_id,
               format('events of %s were erased otherwise than the record says', x.month)
          FROM audit.erased(tenant) x
          LEFT JOIN audit.events r
            ON r.tenant_id = tenant AND r.event_id = x.erasure AND r.type = 'person.erased'
         WHERE r.body -> 'months' -> x.month ->> 'digest' IS DISTINCT FROM x.digest
         ORDER BY x.month, x.event_id
         LIMIT 1;
    END
"""

# What was 0005's first_unsealed, and after it what no erasure's record explains.
UNSEALED = """
    CREATE OR REPLACE FUNCTION audit.first_unsealed(tenant text, waited interval)
    RETURNS TABLE (event_id uuid, reason text)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        (SELECT e.event_id,
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
          LIMIT 1)
        UNION ALL
        (SELECT f.event_id, f.reason FROM audit.erasure_fault(tenant) f)
        LIMIT 1;
    END
"""

# The verbs of the retention role. They run as the owner of the tables; who called is recorded.
# One lock for all: no hold can be placed between the look at the holds and the DROP.
DEFINER = """LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
    SET lock_timeout = '3s' AS $$
    #variable_conflict use_column"""
ALONE = "PERFORM pg_advisory_xact_lock(hashtext('audit.retention'))"
CALLER = "'db:' || session_user"

HOLD = f"""
    CREATE FUNCTION audit.hold(tenant text, why text, since timestamptz, until timestamptz)
    RETURNS uuid {DEFINER}
    DECLARE
        made uuid;
    BEGIN
        {ALONE};
        INSERT INTO audit.holds (tenant_id, from_at, to_at, reason, placed_by)
        VALUES (tenant, since, until, why, {CALLER}) RETURNING hold_id INTO made;
        INSERT INTO audit.events (tenant_id, type, actor, body)
        VALUES (tenant, 'hold.placed', {CALLER},
                json_build_object('hold', made, 'from', since, 'to', until, 'reason', why));
        RETURN made;
    END $$
"""

RELEASE = f"""
    CREATE FUNCTION audit.release(hold uuid, why text) RETURNS text {DEFINER}
    DECLARE
        held text;
    BEGIN
        {ALONE};
        UPDATE audit.holds SET released_by = {CALLER}, released_at = now()
         WHERE hold_id = hold AND released_at IS NULL RETURNING tenant_id INTO held;
        IF held IS NOT NULL THEN
            INSERT INTO audit.events (tenant_id, type, actor, body)
            VALUES (held, 'hold.released', {CALLER},
                    json_build_object('hold', hold, 'reason', why));
        END IF;
        RETURN held;
    END $$
"""

ASK = f"""
    CREATE FUNCTION audit.ask_retirement(until timestamptz, why text) RETURNS bigint {DEFINER}
    DECLARE
        made bigint;
    BEGIN
        IF until > now() THEN
            RAISE EXCEPTION 'only what is past can be retired' USING ERRCODE = '22023';
        END IF;
        INSERT INTO audit.retirements (before, reason, asked_by) VALUES (until, why, {CALLER})
        RETURNING retirement_id INTO made;
        RETURN made;
    END $$
"""

# The oldest partition goes, if the log of every tenant in it says so and no hold is on it. One a
# transaction, oldest first: a record of an erasure is never gone before the events that it erased.
# The lock on all of events is asked for last and briefly.
DROP_OLDEST = f"""
    CREATE FUNCTION audit.drop_oldest()
    RETURNS TABLE (partition text, upto timestamptz, events bigint, dropped boolean, reason text)
    {DEFINER}
    DECLARE
        lower timestamptz;
        found record;
        counts jsonb := '{{}}';
    BEGIN
        {ALONE};
        SELECT c.relname, (regexp_match(b.bound, 'TO \\(''([^'']+)''\\)'))[1]::timestamptz,
               (regexp_match(b.bound, 'FROM \\(''([^'']+)''\\)'))[1]::timestamptz
          INTO partition, upto, lower
          FROM pg_inherits i
          JOIN pg_class c ON c.oid = i.inhrelid
         CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS b (bound)
         WHERE i.inhparent = 'audit.events'::regclass ORDER BY 2 LIMIT 1;
        IF upto IS NULL OR upto > now() OR NOT EXISTS (
            SELECT FROM audit.seals s WHERE s.kind = 'retirement' AND s.retired_before >= upto) THEN
            RETURN;
        END IF;
        events := 0;
        dropped := false;
        FOR found IN
            SELECT e.tenant_id, count(*) AS events, count(m.event_id) AS sealed
              FROM audit.events e
              LEFT JOIN audit.members m
                ON m.event_id = e.event_id AND m.tenant_id = e.tenant_id
               AND m.occurred_at = e.occurred_at
             WHERE e.occurred_at >= lower AND e.occurred_at < upto
             GROUP BY e.tenant_id ORDER BY e.tenant_id
        LOOP
            events := events + found.events;
            counts := counts || jsonb_build_object(found.tenant_id, found.events);
            reason := CASE
                WHEN found.sealed < found.events THEN
                    format('tenant %s has events there that no seal covers', found.tenant_id)
                WHEN EXISTS (SELECT FROM audit.holds h
                              WHERE h.tenant_id = found.tenant_id AND h.released_at IS NULL
                                AND coalesce(h.from_at, '-infinity') < upto) THEN
                    format('tenant %s is under a legal hold', found.tenant_id)
                WHEN NOT EXISTS (SELECT FROM audit.seals s
                                  WHERE s.tenant_id = found.tenant_id AND s.kind = 'retirement'
                                    AND s.retired_before >= upto) THEN
                    format('the log of tenant %s does not say that it was retired', found.tenant_id)
            END;
            IF reason IS NOT NULL THEN
                RETURN NEXT;
                RETURN;
            END IF;
        END LOOP;
        EXECUTE format('DROP TABLE audit.%I', partition);
        INSERT INTO audit.events (tenant_id, type, actor, body)
        SELECT c.key, 'audit.retired', {CALLER},
               json_build_object('partition', partition, 'before', upto, 'events', c.value)
          FROM jsonb_each(counts) c;
        dropped := true;
        RETURN NEXT;
    END $$
"""

MINE = """e.tenant_id = tenant AND (e.user_id = person OR (audit.actor_kind(e.actor) ~ ':$'
                  AND substr(e.actor, strpos(e.actor, ':') + 1) = person))"""

# One batch a call and transaction: the caller goes on while `more`.
ERASE = f"""
    CREATE FUNCTION audit.erase(tenant text, person text, why text, batch integer DEFAULT 5000)
    RETURNS TABLE (erasure uuid, events bigint, commands bigint, kept bigint, more boolean)
    {DEFINER}
    DECLARE
        months jsonb;
    BEGIN
        {ALONE};
        IF EXISTS (SELECT FROM audit.holds h WHERE h.tenant_id = tenant AND h.released_at IS NULL)
        THEN
            RAISE EXCEPTION 'tenant % is under a legal hold', tenant USING ERRCODE = '55000';
        ELSIF EXISTS (SELECT FROM public.commands c
                       WHERE c.tenant_id = tenant AND c.user_id = person
                         AND (c.finished_at IS NULL
                              OR (c.state = 'dead_lettered' AND c.discarded_at IS NULL)))
           OR EXISTS (SELECT FROM public.sagas s
                       WHERE s.tenant_id = tenant AND s.user_id = person AND s.finished_at IS NULL)
        THEN
            RAISE EXCEPTION 'the person has open commands, sagas or dead letters; settle them first'
                  USING ERRCODE = '55000';
        END IF;
        erasure := gen_random_uuid();
        UPDATE audit.events e
           SET commitment = audit.personal_v1(e.salt, e.actor, e.user_id, e.fingerprint, e.body),
               actor = audit.actor_kind(e.actor)
                       || repeat('[erased]', (audit.actor_kind(e.actor) ~ ':$')::int),
               user_id = NULL, fingerprint = NULL, body = '{{}}', salt = NULL, erased_by = erasure
         WHERE (e.tenant_id, e.occurred_at, e.event_id) IN (
                SELECT e.tenant_id, e.occurred_at, e.event_id
                  FROM audit.events e
                 WHERE {MINE} AND e.salt IS NOT NULL LIMIT batch);
        GET DIAGNOSTICS events = ROW_COUNT;
        WITH mine AS (
            UPDATE public.commands c
               SET user_id = '[erased]', args = NULL, result = NULL, message = NULL, stage = NULL,
                   error = CASE WHEN c.error IS NOT NULL
                                THEN jsonb_build_object('code', c.error -> 'code') END,
                   compensation = NULL, cancel_reason = NULL, idempotency_key = NULL,
                   dedupe_key = NULL, traceparent = NULL, purged_at = now(),
                   fingerprint = sha256(uuid_send(gen_random_uuid()))
             WHERE c.id IN (SELECT c.id FROM public.commands c
                             WHERE c.tenant_id = tenant AND c.user_id = person LIMIT batch)
            RETURNING c.id
        ), said AS (
            DELETE FROM public.progress p USING mine WHERE p.command_id = mine.id
        )
        SELECT count(*) INTO commands FROM mine;
        UPDATE public.sagas SET user_id = '[erased]', input = NULL, plan = NULL,
               idempotency_key = NULL
         WHERE tenant_id = tenant AND user_id = person;
        SELECT jsonb_object_agg(x.month, jsonb_build_object('events', x.events,
                                                            'digest', x.digest))
          INTO months FROM audit.erased(tenant) x WHERE x.erasure = erase.erasure;
        IF events + commands > 0 THEN
            INSERT INTO audit.events (event_id, tenant_id, type, actor, body)
            VALUES (erasure, tenant, 'person.erased', {CALLER}, json_build_object(
                'reason', why, 'events', events, 'commands', commands, 'months', months));
        ELSE
            erasure := NULL;
        END IF;
        kept := (SELECT count(*) FROM audit.events e WHERE {MINE} AND e.salt IS NULL
                    AND e.commitment IS NULL);
        more := events = batch OR commands = batch;
        RETURN NEXT;
    END $$
"""

VERBS = (
    ("audit.hold(text, text, timestamptz, timestamptz)", HOLD),
    ("audit.release(uuid, text)", RELEASE),
    ("audit.ask_retirement(timestamptz, text)", ASK),
    ("audit.drop_oldest()", DROP_OLDEST),
    ("audit.erase(text, text, text, integer)", ERASE),
)

MINE_AS_AUDITOR = """
    tenant_id IN (SELECT a.tenant_id FROM audit.auditors a WHERE a.role_name = session_user)
"""

ACCESS = f"""
    ALTER TABLE audit.holds ENABLE ROW LEVEL SECURITY;
    ALTER TABLE audit.holds FORCE ROW LEVEL SECURITY;
    CREATE POLICY owner ON audit.holds TO broker_owner USING (true) WITH CHECK (true);
    CREATE POLICY relay ON audit.holds FOR SELECT TO broker_relay USING (true);
    CREATE POLICY retention ON audit.holds FOR SELECT TO broker_retention USING (true);
    CREATE POLICY auditor ON audit.holds FOR SELECT TO broker_auditor USING ({MINE_AS_AUDITOR});
    GRANT USAGE ON SCHEMA audit TO broker_retention;
    GRANT SELECT ON audit.holds, audit.retirements
        TO broker_relay, broker_retention, broker_auditor;
    GRANT INSERT (before, reason, asked_by), UPDATE (signed_at) ON audit.retirements
        TO broker_relay;
    GRANT UPDATE (compensation) ON commands TO broker_relay
"""


def older(name: str) -> Any:
    """An earlier migration, whose words a downgrade says again."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def each(script: str) -> None:
    for statement in filter(None, map(str.strip, script.split(";"))):
        op.execute(statement)


def upgrade() -> None:
    each(TABLES)
    for body in (PERSONAL, ACTOR_KIND, LEAF_V2):
        op.execute(body)
    each(COLUMNS)
    for body in (REFUSE, MEMBERS, ERASED, ERASURE_FAULT, UNSEALED):
        op.execute(body)
    each(ACCESS)
    for signature, body in VERBS:
        op.execute(body)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO broker_retention")


def downgrade() -> None:
    """Events written meanwhile get leaf_v1: what was sealed of them no longer verifies."""
    for signature, _ in reversed(VERBS):
        op.execute(f"DROP FUNCTION {signature}")
    again = older("0005_audit_verify")
    op.execute(again.MEMBERS.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute(again.UNSEALED.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute(older("0003_audit").REFUSE.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION"))
    op.execute("DROP FUNCTION audit.erasure_fault(text)")
    op.execute("DROP FUNCTION audit.erased(text)")
    op.execute("ALTER TABLE audit.events DROP COLUMN leaf")
    op.execute(
        "ALTER TABLE audit.events DROP COLUMN salt, DROP COLUMN commitment, DROP COLUMN erased_by"
    )
    op.execute(f"ALTER TABLE audit.events ADD COLUMN {LEAF.format(function='leaf_v1', more='')}")
    op.execute("DROP FUNCTION audit.leaf_v2")
    op.execute("DROP FUNCTION audit.actor_kind")
    op.execute("DROP FUNCTION audit.personal_v1")
    op.execute("REVOKE UPDATE (compensation) ON commands FROM broker_relay")
    op.execute("REVOKE USAGE ON SCHEMA audit FROM broker_retention")
    op.execute("DROP INDEX audit.ix_seals_retired")
    op.execute("DROP TABLE audit.retirements")
    op.execute("DROP TABLE audit.holds")
    op.execute("DROP INDEX ix_commands_keys")
    op.execute("DROP INDEX ix_commands_purge")
    op.execute(
        "CREATE INDEX ix_commands_purge ON commands (finished_at)"
        " WHERE finished_at IS NOT NULL AND purged_at IS NULL"
    )
