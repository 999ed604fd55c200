-- The schema of the MCP broker's database, as the migrations leave it. Read it, do not run it:
-- `broker migrate` makes it, with its roles. Made by `make schema`, and held equal by a test.
-- The monthly partitions of audit.events are left out, as they are made month by month.

-- SCHEMA audit

CREATE SCHEMA audit;

-- SCHEMA ops

CREATE SCHEMA ops;

-- FUNCTION accept_restore(text)

CREATE FUNCTION audit.accept_restore(note text) RETURNS void
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $$
    #variable_conflict use_column
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
    END $$;

-- FUNCTION actor_kind(text)

CREATE FUNCTION audit.actor_kind(actor text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN CASE WHEN (starts_with(actor, 'adapter:'::text) OR starts_with(actor, 'relay:'::text) OR starts_with(actor, 'db:'::text) OR (strpos(actor, ':'::text) = 0)) THEN actor ELSE (split_part(actor, ':'::text, 1) || ':'::text) END;

-- FUNCTION ask_retirement(text)

CREATE FUNCTION audit.ask_retirement(note text) RETURNS bigint
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $$
    #variable_conflict use_column
    DECLARE
        asked jsonb := audit.request_of(note);
        until timestamptz := audit.instant(asked ->> 'before');
        made bigint;
    BEGIN
        IF asked ->> 'kind' IS DISTINCT FROM 'retire' OR until IS NULL OR until > now() THEN
            RAISE EXCEPTION 'no request for the retirement of what is past' USING ERRCODE = '22023';
        END IF;
        INSERT INTO audit.retirements (before, reason, asked_by, request)
        VALUES (until, coalesce(asked ->> 'reason', ''), 'db:' || session_user, note)
        RETURNING retirement_id INTO made;
        INSERT INTO audit.events (tenant_id, type, actor, body)
        SELECT log.tenant_id, 'retirement.asked', 'db:' || session_user,
               json_build_object('retirement', made, 'before', until, 'request', note)
          FROM (SELECT '_broker' AS tenant_id UNION
                SELECT s.tenant_id FROM audit.seals s WHERE s.seal_no = 1) AS log;
        RETURN made;
    END $$;

-- FUNCTION drop_oldest()

CREATE FUNCTION audit.drop_oldest() RETURNS TABLE(partition text, upto timestamp with time zone, events bigint, dropped boolean, reason text)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $$
    #variable_conflict use_column
    DECLARE
        lower timestamptz;
        found record;
        said record;
        gone jsonb := '[]';
    BEGIN
        PERFORM FROM public.turns t WHERE t.name = 'audit.retention' FOR UPDATE;
        SELECT c.relname, (regexp_match(b.bound, 'TO \(''([^'']+)''\)'))[1]::timestamptz,
               (regexp_match(b.bound, 'FROM \(''([^'']+)''\)'))[1]::timestamptz
          INTO partition, upto, lower
          FROM pg_inherits i
          JOIN pg_class c ON c.oid = i.inhrelid
         CROSS JOIN LATERAL pg_get_expr(c.relpartbound, c.oid) AS b (bound)
         WHERE i.inhparent = 'audit.events'::regclass ORDER BY 2 LIMIT 1;
        IF upto IS NULL OR upto > now() OR NOT EXISTS (
            SELECT FROM audit.seals s WHERE s.kind = 'retirement' AND s.request IS NOT NULL
               AND s.retired_before >= upto) THEN
            RETURN;
        END IF;
        events := 0;
        dropped := false;
        FOR found IN
            SELECT e.tenant_id, count(*) AS events, count(m.event_id) AS sealed, max(m.seq) AS last
              FROM audit.events e
              LEFT JOIN audit.members m
                ON m.event_id = e.event_id AND m.tenant_id = e.tenant_id
               AND m.occurred_at = e.occurred_at
             WHERE e.occurred_at >= lower AND e.occurred_at < upto
             GROUP BY e.tenant_id ORDER BY e.tenant_id
        LOOP
            events := events + found.events;
            SELECT s.seal_no, audit.request_of(s.request) ->> 'id' AS request INTO said
              FROM audit.seals s
             WHERE s.tenant_id = found.tenant_id AND s.kind = 'retirement'
               AND s.retired_before >= upto AND s.seq_to >= found.last
               AND s.digest = audit.seal_digest(s)
               AND audit.instant(audit.request_of(s.request) ->> 'before') >= s.retired_before
             ORDER BY s.seal_no LIMIT 1;
            gone := gone || jsonb_build_object('tenant', found.tenant_id, 'events', found.events,
                                               'seal', said.seal_no, 'request', said.request);
            reason := CASE
                WHEN found.sealed < found.events THEN
                    format('tenant %s has events there that no seal covers', found.tenant_id)
                WHEN EXISTS (SELECT FROM audit.held(found.tenant_id) h WHERE h.keeps_from < upto)
                THEN
                    format('tenant %s is under a legal hold', found.tenant_id)
                WHEN said.seal_no IS NULL THEN
                    format('the log of tenant %s does not say that it was retired', found.tenant_id)
            END;
            IF reason IS NOT NULL THEN
                RETURN NEXT;
                RETURN;
            END IF;
        END LOOP;
        PERFORM set_config('lock_timeout', '300ms', true);
        EXECUTE format('DROP TABLE audit.%I', partition);
        PERFORM set_config('lock_timeout', '3s', true);
        INSERT INTO audit.events (tenant_id, type, actor, body)
        SELECT g.tenant, 'audit.retired', 'db:' || session_user,
               json_build_object('partition', partition, 'before', upto, 'events', g.events,
                                 'seal', g.seal, 'request', g.request)
          FROM jsonb_to_recordset(gone) AS g (tenant text, events bigint, seal bigint, request text);
        dropped := true;
        RETURN NEXT;
    END $$;

-- FUNCTION ensure_partitions(integer)

CREATE FUNCTION audit.ensure_partitions(months_ahead integer DEFAULT 2) RETURNS integer
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    DECLARE
        month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
        name text;
        made integer := 0;
    BEGIN
        PERFORM FROM public.turns t WHERE t.name = 'audit.ensure_partitions' FOR UPDATE;
        FOR ahead IN greatest(least(months_ahead, 0), -1) .. least(months_ahead, 24) LOOP
            name := 'events_' || to_char(month + make_interval(months => ahead), 'YYYYMM');
            IF to_regclass('audit.' || name) IS NULL THEN
                EXECUTE format(
                    'CREATE TABLE audit.%I (LIKE audit.events INCLUDING DEFAULTS'
                    ' INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE)', name);
                EXECUTE format(
                    'ALTER TABLE audit.events ATTACH PARTITION audit.%I'
                    ' FOR VALUES FROM (%L) TO (%L)',
                    name,
                    (month + make_interval(months => ahead)) AT TIME ZONE 'UTC',
                    (month + make_interval(months => ahead + 1)) AT TIME ZONE 'UTC');
                -- A partition is reached through its parent only.
                EXECUTE format('ALTER TABLE audit.%I ENABLE ROW LEVEL SECURITY', name);
                EXECUTE format('ALTER TABLE audit.%I FORCE ROW LEVEL SECURITY', name);
                PERFORM audit.guard(('audit.' || name)::regclass);
                made := made + 1;
            END IF;
        END LOOP;
        RETURN made;
    END $$;

-- FUNCTION erase(text, text, text, uuid[], timestamp with time zone[], integer)

CREATE FUNCTION audit.erase(tenant text, person text, note text, ids uuid[], ats timestamp with time zone[], batch integer) RETURNS TABLE(erasure uuid, events bigint, commands bigint, kept bigint, more boolean)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $_$
    #variable_conflict use_column
    DECLARE
        asked jsonb := audit.request_of(note);
        months jsonb;
    BEGIN
        PERFORM FROM public.turns t WHERE t.name = 'audit.retention' FOR UPDATE;
        IF asked ->> 'kind' IS DISTINCT FROM 'erase' OR asked ->> 'tenant_id' IS DISTINCT FROM tenant
        THEN
            RAISE EXCEPTION 'no request for an erasure in tenant %', tenant USING ERRCODE = '22023';
        END IF;
        erasure := asked ->> 'id';
        IF EXISTS (SELECT FROM audit.held(tenant)) THEN
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

        IF EXISTS (SELECT FROM audit.events e WHERE e.tenant_id = tenant
                      AND e.type = 'person.erased' AND e.event_id = erasure) THEN
            RAISE EXCEPTION 'that request was followed before' USING ERRCODE = '55000';
        END IF;
        UPDATE audit.events e
           SET commitment = audit.personal_v1(e.salt, e.actor, e.user_id, e.fingerprint, e.body),
               actor = audit.actor_kind(e.actor)
                       || repeat('[erased]', (audit.actor_kind(e.actor) ~ ':$')::int),
               user_id = NULL, fingerprint = NULL, body = '{}', salt = NULL, erased_by = erasure
         WHERE e.tenant_id = tenant AND e.tenant_id = tenant AND (e.user_id = person OR (audit.actor_kind(e.actor) ~ ':$'
                  AND substr(e.actor, strpos(e.actor, ':') + 1) = person)) AND e.salt IS NOT NULL
           AND (e.occurred_at, e.event_id) IN (SELECT * FROM unnest(ats, ids));
        GET DIAGNOSTICS events = ROW_COUNT;
        DELETE FROM public.ordering_heads h
         WHERE h.tenant_id = tenant AND h.active_id IS NULL AND h.blocked_reason IS NULL
           AND h.saga_id IS NULL
           AND h.ordering_key IN (SELECT c.ordering_key FROM public.commands c
                                   WHERE c.tenant_id = tenant AND c.user_id = person)
           AND NOT EXISTS (SELECT FROM public.commands c
                            WHERE c.tenant_id = tenant AND c.ordering_key = h.ordering_key
                              AND c.held);
        WITH mine AS (
            UPDATE public.commands c
               SET user_id = '[erased]', args = NULL, result = NULL, message = NULL, stage = NULL,
                   error = CASE WHEN c.error IS NOT NULL
                                THEN jsonb_build_object('code', c.error -> 'code') END,
                   compensation = NULL, cancel_reason = NULL,
                   ordering_key = CASE WHEN EXISTS (SELECT FROM public.ordering_heads k
                         WHERE k.tenant_id = c.tenant_id AND k.ordering_key = c.ordering_key
                           AND k.blocked_reason = 'outcome of ' || c.id || ' unknown') THEN c.ordering_key END,
                   ordering = CASE WHEN EXISTS (SELECT FROM public.ordering_heads k
                         WHERE k.tenant_id = c.tenant_id AND k.ordering_key = c.ordering_key
                           AND k.blocked_reason = 'outcome of ' || c.id || ' unknown') THEN c.ordering END, idempotency_key = NULL,
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
               stop = NULL, reason = NULL
         WHERE tenant_id = tenant AND user_id = person;

        SELECT jsonb_object_agg(x.month, jsonb_build_object('events', x.events,
                                                            'digest', x.digest))
          INTO months FROM audit.erased(tenant) x WHERE x.erasure = erase.erasure;
        IF coalesce(months, '{}') IS DISTINCT FROM asked -> 'months' THEN
            RAISE EXCEPTION 'the events are not those that the request names'
                  USING ERRCODE = '55000';
        END IF;
        INSERT INTO audit.events (event_id, tenant_id, type, actor, body)
        VALUES (erasure, tenant, 'person.erased', 'db:' || session_user, json_build_object(
            'reason', asked ->> 'reason', 'events', events, 'commands', commands,
            'months', months, 'request', note));
        kept := (SELECT count(*) FROM audit.events e WHERE e.tenant_id = tenant AND (e.user_id = person OR (audit.actor_kind(e.actor) ~ ':$'
                  AND substr(e.actor, strpos(e.actor, ':') + 1) = person)) AND e.salt IS NULL
                    AND e.commitment IS NULL);
        more := events = batch OR commands = batch;
        RETURN NEXT;
    END $_$;

-- TABLE events

CREATE TABLE audit.events (
    event_id uuid DEFAULT gen_random_uuid() NOT NULL,
    occurred_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    tenant_id text NOT NULL,
    type text NOT NULL,
    actor text NOT NULL,
    user_id text,
    command_id uuid,
    saga_id uuid,
    tool text,
    method text,
    attempt integer,
    state_from text,
    state_to text,
    fingerprint bytea,
    body json DEFAULT '{}'::json NOT NULL,
    salt bytea DEFAULT uuid_send(gen_random_uuid()),
    commitment bytea,
    erased_by uuid
)
PARTITION BY RANGE (occurred_at);

ALTER TABLE ONLY audit.events FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE events

COMMENT ON TABLE audit.events IS 'The audit trail: what happened, written by the transaction that did it. Append only, for every role.';

-- COMMENT COLUMN events.event_id

COMMENT ON COLUMN audit.events.event_id IS 'The event.';

-- COMMENT COLUMN events.occurred_at

COMMENT ON COLUMN audit.events.occurred_at IS 'When it happened, by the database''s clock.';

-- COMMENT COLUMN events.xid

COMMENT ON COLUMN audit.events.xid IS 'The transaction that wrote the event.';

-- COMMENT COLUMN events.tenant_id

COMMENT ON COLUMN audit.events.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN events.type

COMMENT ON COLUMN audit.events.type IS 'What happened, as noun.verb: command.accepted, saga.step, login.failed.';

-- COMMENT COLUMN events.actor

COMMENT ON COLUMN audit.events.actor IS 'Who did it, as kind:name: user, client, adapter, relay, operator, db.';

-- COMMENT COLUMN events.user_id

COMMENT ON COLUMN audit.events.user_id IS 'The user on whose behalf; null where it is nobody''s, or was erased.';

-- COMMENT COLUMN events.command_id

COMMENT ON COLUMN audit.events.command_id IS 'The command (its correlation id), where there is one.';

-- COMMENT COLUMN events.saga_id

COMMENT ON COLUMN audit.events.saga_id IS 'The saga, where it belongs to one.';

-- COMMENT COLUMN events.tool

COMMENT ON COLUMN audit.events.tool IS 'The tool.';

-- COMMENT COLUMN events.method

COMMENT ON COLUMN audit.events.method IS 'The method of the tool.';

-- COMMENT COLUMN events.attempt

COMMENT ON COLUMN audit.events.attempt IS 'The attempt of the command, from 1.';

-- COMMENT COLUMN events.state_from

COMMENT ON COLUMN audit.events.state_from IS 'The command''s state before.';

-- COMMENT COLUMN events.state_to

COMMENT ON COLUMN audit.events.state_to IS 'The command''s state after.';

-- COMMENT COLUMN events.fingerprint

COMMENT ON COLUMN audit.events.fingerprint IS 'SHA-256 of the canonical request.';

-- COMMENT COLUMN events.body

COMMENT ON COLUMN audit.events.body IS 'The rest, as JSON, by the type of event.';

-- COMMENT COLUMN events.salt

COMMENT ON COLUMN audit.events.salt IS 'Hides the personal fields in the leaf; null once erased.';

-- COMMENT COLUMN events.commitment

COMMENT ON COLUMN audit.events.commitment IS 'What the leaf keeps of the personal fields after an erasure; null before one.';

-- COMMENT COLUMN events.erased_by

COMMENT ON COLUMN audit.events.erased_by IS 'The event that records the erasure; null where nothing was erased.';

-- FUNCTION erased(text)

CREATE FUNCTION audit.erased(tenant text) RETURNS TABLE(erasure uuid, month text, events bigint, digest text, event_id uuid)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    BEGIN ATOMIC
 SELECT e.erased_by,
     to_char((e.occurred_at AT TIME ZONE 'UTC'::text), 'YYYYMM'::text) AS to_char,
     count(*) AS count,
     encode(sha256(string_agg(uuid_send(e.event_id), '\x'::bytea ORDER BY e.event_id)), 'hex'::text) AS encode,
     (array_agg(e.event_id ORDER BY e.event_id))[1] AS array_agg
    FROM audit.events e
   WHERE ((e.tenant_id = erased.tenant) AND (e.commitment IS NOT NULL))
   GROUP BY e.erased_by, (to_char((e.occurred_at AT TIME ZONE 'UTC'::text), 'YYYYMM'::text));
END;

-- FUNCTION instant(text)

CREATE FUNCTION audit.instant(words text) RETURNS timestamp with time zone
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog'
    AS $$
    BEGIN
        RETURN words::timestamptz;
    EXCEPTION WHEN data_exception THEN
        RETURN NULL;
    END $$;

-- TABLE members

CREATE TABLE audit.members (
    tenant_id text NOT NULL,
    seq bigint NOT NULL,
    event_id uuid NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    leaf bytea NOT NULL
);

ALTER TABLE ONLY audit.members FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE members

COMMENT ON TABLE audit.members IS 'The leaves of each tenant''s tree: the number and the hash of each sealed event.';

-- COMMENT COLUMN members.tenant_id

COMMENT ON COLUMN audit.members.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN members.seq

COMMENT ON COLUMN audit.members.seq IS 'The event''s number in its tenant''s log, dense, from 1.';

-- COMMENT COLUMN members.event_id

COMMENT ON COLUMN audit.members.event_id IS 'The event.';

-- COMMENT COLUMN members.occurred_at

COMMENT ON COLUMN audit.members.occurred_at IS 'When it happened, by the database''s clock.';

-- COMMENT COLUMN members.leaf

COMMENT ON COLUMN audit.members.leaf IS 'The event''s leaf hash (RFC 6962), as it was sealed.';

-- FUNCTION held_at(text, bigint)

CREATE FUNCTION audit.held_at(tenant text, place bigint) RETURNS TABLE(hold text, from_at timestamp with time zone)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    BEGIN ATOMIC
 SELECT (e.body ->> 'hold'::text),
     COALESCE(audit.instant((e.body ->> 'from'::text)), '-infinity'::timestamp with time zone) AS "coalesce"
    FROM (audit.events e
      JOIN audit.members m ON (((m.event_id = e.event_id) AND (m.tenant_id = e.tenant_id) AND (m.occurred_at = e.occurred_at))))
   WHERE ((e.tenant_id = held_at.tenant) AND (e.type = 'hold.placed'::text) AND ((e.body ->> 'hold'::text) IS NOT NULL) AND (m.seq <= held_at.place) AND (NOT (EXISTS ( SELECT
            FROM (audit.events r
              JOIN audit.members n ON (((n.event_id = r.event_id) AND (n.tenant_id = r.tenant_id) AND (n.occurred_at = r.occurred_at))))
           WHERE ((r.tenant_id = held_at.tenant) AND (r.type = 'hold.released'::text) AND ((r.body ->> 'hold'::text) = (e.body ->> 'hold'::text)) AND (n.seq > m.seq) AND (n.seq <= held_at.place))))));
END;

-- FUNCTION request_of(text)

CREATE FUNCTION audit.request_of(note text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE
    SET search_path TO 'pg_catalog'
    AS $$
    BEGIN
        IF split_part(note, E'\n', 1) = 'mcpbroker.audit.request.v1'
           AND split_part(note, E'\n', 4) = '' THEN
            RETURN split_part(note, E'\n', 3)::jsonb;
        END IF;
        RETURN NULL;
    EXCEPTION WHEN data_exception THEN
        RETURN NULL;
    END $$;

-- FUNCTION erasure_fault(text)

CREATE FUNCTION audit.erasure_fault(tenant text) RETURNS TABLE(event_id uuid, reason text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    BEGIN ATOMIC
 SELECT x.event_id,
     format('events of %s were erased: %s'::text, x.month,
         CASE
             WHEN (a.asked IS NULL) THEN 'no request says so'::text
             WHEN a.held THEN 'a legal hold was on'::text
             ELSE 'the record of it says otherwise'::text
         END) AS format
    FROM (audit.erased(erasure_fault.tenant) x(erasure, month, events, digest, event_id)
      LEFT JOIN LATERAL ( SELECT q.asked,
             (EXISTS ( SELECT
                    FROM audit.held_at(erasure_fault.tenant, COALESCE(m.seq, ((1)::bigint << 62))) held_at(hold, from_at))) AS held
            FROM ((audit.events r
              CROSS JOIN LATERAL audit.request_of((r.body ->> 'request'::text)) q(asked))
              LEFT JOIN audit.members m ON (((m.event_id = r.event_id) AND (m.tenant_id = r.tenant_id) AND (m.occurred_at = r.occurred_at))))
           WHERE ((r.tenant_id = erasure_fault.tenant) AND (r.event_id = x.erasure) AND (r.type = 'person.erased'::text) AND ((q.asked ->> 'kind'::text) = 'erase'::text) AND ((q.asked ->> 'tenant_id'::text) = erasure_fault.tenant) AND ((q.asked ->> 'id'::text) = (r.event_id)::text))
          LIMIT 1) a ON (true))
   WHERE ((a.asked IS NULL) OR a.held OR (((a.asked -> 'months'::text) -> x.month) IS DISTINCT FROM jsonb_build_object('events', x.events, 'digest', x.digest)))
   ORDER BY x.month, x.event_id
  LIMIT 1;
END;

-- TABLE watermark

CREATE TABLE audit.watermark (
    one_row boolean DEFAULT true NOT NULL,
    cluster bigint NOT NULL,
    xid xid8 NOT NULL,
    CONSTRAINT ck_watermark_one_row CHECK (one_row)
);

-- COMMENT TABLE watermark

COMMENT ON TABLE audit.watermark IS 'How far the sealer has looked: a hint, rebuilt when lost, proof of nothing.';

-- COMMENT COLUMN watermark.one_row

COMMENT ON COLUMN audit.watermark.one_row IS 'Keeps the table to one row.';

-- COMMENT COLUMN watermark.cluster

COMMENT ON COLUMN audit.watermark.cluster IS 'The cluster that the transaction id belongs to.';

-- COMMENT COLUMN watermark.xid

COMMENT ON COLUMN audit.watermark.xid IS 'The transaction up to which every event is sealed.';

-- FUNCTION first_unsealed(text, interval)

CREATE FUNCTION audit.first_unsealed(tenant text, waited interval) RETURNS TABLE(event_id uuid, reason text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    BEGIN ATOMIC
 SELECT e.event_id,
         CASE
             WHEN (e.xid <= w.xid) THEN 'event was inserted behind the sealer, or its membership was deleted'::text
             WHEN ((e.xid IS NULL) OR ((e.xid >= pg_snapshot_xmax(pg_current_snapshot())) AND (w.cluster = c.system_identifier))) THEN 'event is of no transaction, or of one that is yet to come: it is not sealed'::text
             WHEN (e.occurred_at > (clock_timestamp() + '00:01:00'::interval)) THEN format('event bears a time that is yet to come, %s: it is not sealed'::text, e.occurred_at)
             ELSE format('event of %s is not sealed'::text, e.occurred_at)
         END AS format
    FROM ((audit.events e
      CROSS JOIN pg_control_system() c(pg_control_version, catalog_version_no, system_identifier, pg_control_last_modified))
      LEFT JOIN audit.watermark w ON (true))
   WHERE ((e.tenant_id = first_unsealed.tenant) AND ((e.xid <= w.xid) OR (e.xid IS NULL) OR ((e.xid >= pg_snapshot_xmax(pg_current_snapshot())) AND (w.cluster = c.system_identifier)) OR (e.occurred_at < (statement_timestamp() - first_unsealed.waited)) OR (e.occurred_at > (clock_timestamp() + '00:01:00'::interval))) AND (NOT (EXISTS ( SELECT
            FROM audit.members m
           WHERE ((m.event_id = e.event_id) AND (m.tenant_id = e.tenant_id) AND (m.occurred_at = e.occurred_at))))))
   ORDER BY e.xid, e.occurred_at, e.event_id
  LIMIT 1;
END;

-- FUNCTION grow(bytea, bigint, bytea)

CREATE FUNCTION audit.grow(frontier bytea, size bigint, leaf bytea) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $$
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
    END $$;

-- FUNCTION guard(regclass)

CREATE FUNCTION audit.guard(target regclass) RETURNS void
    LANGUAGE plpgsql
    AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = target AND tgname = 'refuse_change')
        THEN
            EXECUTE format('CREATE TRIGGER refuse_change BEFORE UPDATE OR DELETE ON %s'
                           ' FOR EACH ROW EXECUTE FUNCTION audit.refuse()', target);
        END IF;
        EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON %s'
                       ' FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse()', target);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER refuse_change', target);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER refuse_truncate', target);
    END $$;

-- TABLE holds

CREATE TABLE audit.holds (
    hold_id uuid DEFAULT gen_random_uuid() NOT NULL,
    tenant_id text NOT NULL,
    from_at timestamp with time zone,
    to_at timestamp with time zone,
    reason text NOT NULL,
    placed_by text NOT NULL,
    placed_at timestamp with time zone DEFAULT now() NOT NULL,
    released_by text,
    released_at timestamp with time zone,
    CONSTRAINT ck_holds_range CHECK ((from_at < to_at))
);

ALTER TABLE ONLY audit.holds FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE holds

COMMENT ON TABLE audit.holds IS 'Legal holds: what they cover is neither purged, retired nor erased.';

-- COMMENT COLUMN holds.hold_id

COMMENT ON COLUMN audit.holds.hold_id IS 'The hold.';

-- COMMENT COLUMN holds.tenant_id

COMMENT ON COLUMN audit.holds.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN holds.from_at

COMMENT ON COLUMN audit.holds.from_at IS 'The earliest time that the hold covers; null is from the beginning.';

-- COMMENT COLUMN holds.to_at

COMMENT ON COLUMN audit.holds.to_at IS 'The first time that the hold covers no more; null is for ever.';

-- COMMENT COLUMN holds.reason

COMMENT ON COLUMN audit.holds.reason IS 'Why, as it was given.';

-- COMMENT COLUMN holds.placed_by

COMMENT ON COLUMN audit.holds.placed_by IS 'The login role that placed the hold.';

-- COMMENT COLUMN holds.placed_at

COMMENT ON COLUMN audit.holds.placed_at IS 'When the hold was placed.';

-- COMMENT COLUMN holds.released_by

COMMENT ON COLUMN audit.holds.released_by IS 'The login role that released the hold.';

-- COMMENT COLUMN holds.released_at

COMMENT ON COLUMN audit.holds.released_at IS 'When the hold was released; null while it is in force.';

-- FUNCTION held(text)

CREATE FUNCTION audit.held(tenant text) RETURNS TABLE(hold text, keeps_from timestamp with time zone)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    BEGIN ATOMIC
 SELECT (h.hold_id)::text AS hold_id,
     LEAST(COALESCE(h.from_at, '-infinity'::timestamp with time zone), h.placed_at) AS "least"
    FROM audit.holds h
   WHERE ((h.tenant_id = held.tenant) AND (h.released_at IS NULL))
 UNION
  SELECT (e.body ->> 'hold'::text),
     LEAST(COALESCE(audit.instant((e.body ->> 'from'::text)), '-infinity'::timestamp with time zone), e.occurred_at) AS "least"
    FROM (audit.events e
      JOIN audit.members m ON (((m.event_id = e.event_id) AND (m.tenant_id = e.tenant_id) AND (m.occurred_at = e.occurred_at))))
   WHERE ((e.tenant_id = held.tenant) AND (e.type = 'hold.placed'::text) AND ((e.body ->> 'hold'::text) IS NOT NULL) AND (NOT (EXISTS ( SELECT
            FROM (audit.events r
              JOIN audit.members n ON (((n.event_id = r.event_id) AND (n.tenant_id = r.tenant_id) AND (n.occurred_at = r.occurred_at))))
           WHERE ((r.tenant_id = held.tenant) AND (r.type = 'hold.released'::text) AND ((r.body ->> 'hold'::text) = (e.body ->> 'hold'::text)) AND (n.seq > m.seq))))));
END;

-- FUNCTION hold(text, text, timestamp with time zone, timestamp with time zone)

CREATE FUNCTION audit.hold(tenant text, why text, since timestamp with time zone, until timestamp with time zone) RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $$
    #variable_conflict use_column
    DECLARE
        made uuid;
    BEGIN
        PERFORM FROM public.turns t WHERE t.name = 'audit.retention' FOR UPDATE;
        -- Of a tenant that is gone the log stays.
        IF NOT EXISTS (SELECT FROM public.tenants t WHERE t.tenant_id = tenant)
           AND NOT EXISTS (SELECT FROM audit.seals s WHERE s.tenant_id = tenant) THEN
            RAISE EXCEPTION 'there is no tenant %', tenant USING ERRCODE = 'no_data_found';
        END IF;
        INSERT INTO audit.holds (tenant_id, from_at, to_at, reason, placed_by)
        VALUES (tenant, since, until, why, 'db:' || session_user) RETURNING hold_id INTO made;
        INSERT INTO audit.events (tenant_id, type, actor, body)
        VALUES (tenant, 'hold.placed', 'db:' || session_user,
                json_build_object('hold', made, 'from', since, 'to', until, 'reason', why));
        RETURN made;
    END $$;

-- FUNCTION leaf_v2(uuid, timestamp with time zone, text, text, text, text, uuid, uuid, text, text, integer, text, text, bytea, json, bytea, bytea)

CREATE FUNCTION audit.leaf_v2(event_id uuid, occurred_at timestamp with time zone, tenant_id text, type text, actor text, user_id text, command_id uuid, saga_id uuid, tool text, method text, attempt integer, state_from text, state_to text, fingerprint bytea, body json, salt bytea, commitment bytea) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $_$
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
                'mcpbroker.audit.personal.v1,' || coalesce(octet_length(encode(salt, 'hex'))::text || ':' || encode(salt, 'hex'), '-') || ',' || coalesce(octet_length(actor)::text || ':' || actor, '-') || ',' || coalesce(octet_length(user_id)::text || ':' || user_id, '-') || ',' || coalesce(octet_length(encode(fingerprint, 'hex'))::text || ':' || encode(fingerprint, 'hex'), '-') || ',' || coalesce(octet_length(body::text)::text || ':' || body::text, '-') || ',', 'UTF8')), 'hex');
        ELSIF salt IS NOT NULL OR user_id IS NOT NULL OR fingerprint IS NOT NULL
              OR body::text <> '{}' OR actor <> kind || repeat('[erased]', (kind ~ ':$')::int) THEN
            personal := '';
        END IF;
        RETURN sha256('\x00'::bytea || convert_to('mcpbroker.audit.v2,' || coalesce(octet_length(event_id::text)::text || ':' || event_id::text, '-') || ',' || coalesce(octet_length((extract(epoch FROM occurred_at) * 1000000)::bigint::text)::text || ':' || (extract(epoch FROM occurred_at) * 1000000)::bigint::text, '-') || ',' || coalesce(octet_length(tenant_id)::text || ':' || tenant_id, '-') || ',' || coalesce(octet_length(type)::text || ':' || type, '-') || ',' || coalesce(octet_length(kind)::text || ':' || kind, '-') || ',' || coalesce(octet_length(command_id::text)::text || ':' || command_id::text, '-') || ',' || coalesce(octet_length(saga_id::text)::text || ':' || saga_id::text, '-') || ',' || coalesce(octet_length(tool)::text || ':' || tool, '-') || ',' || coalesce(octet_length(method)::text || ':' || method, '-') || ',' || coalesce(octet_length(attempt::text)::text || ':' || attempt::text, '-') || ',' || coalesce(octet_length(state_from)::text || ':' || state_from, '-') || ',' || coalesce(octet_length(state_to)::text || ':' || state_to, '-') || ',' || coalesce(octet_length(personal)::text || ':' || personal, '-') || ',', 'UTF8'));
    END $_$;

-- FUNCTION leaf(audit.events)

CREATE FUNCTION audit.leaf(event audit.events) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN audit.leaf_v2((event).event_id, (event).occurred_at, (event).tenant_id, (event).type, (event).actor, (event).user_id, (event).command_id, (event).saga_id, (event).tool, (event).method, (event).attempt, (event).state_from, (event).state_to, (event).fingerprint, (event).body, (event).salt, (event).commitment);

-- FUNCTION leaf_v1(uuid, timestamp with time zone, text, text, text, text, uuid, uuid, text, text, integer, text, text, bytea, json)

CREATE FUNCTION audit.leaf_v1(event_id uuid, occurred_at timestamp with time zone, tenant_id text, type text, actor text, user_id text, command_id uuid, saga_id uuid, tool text, method text, attempt integer, state_from text, state_to text, fingerprint bytea, body json) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
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
        RETURN sha256('\x00'::bytea || convert_to(canon, 'UTF8'));
    END $$;

-- TABLE seals

CREATE TABLE audit.seals (
    tenant_id text NOT NULL,
    seal_no bigint NOT NULL,
    kind text DEFAULT 'events'::text NOT NULL,
    seq_from bigint NOT NULL,
    seq_to bigint NOT NULL,
    retired_before timestamp with time zone,
    root bytea NOT NULL,
    frontier bytea NOT NULL,
    previous bytea NOT NULL,
    key_id text NOT NULL,
    sealed_at timestamp with time zone NOT NULL,
    checkpoint text NOT NULL,
    digest bytea NOT NULL,
    attestation text NOT NULL,
    request text,
    retired_digest bytea,
    transactions bytea,
    CONSTRAINT ck_seals_kind_shape CHECK (
CASE kind
    WHEN 'events'::text THEN ((seq_to >= seq_from) AND (retired_before IS NULL))
    WHEN 'retirement'::text THEN ((seq_to = (seq_from - 1)) AND (retired_before IS NOT NULL))
    ELSE false
END),
    CONSTRAINT ck_seals_request_shape CHECK ((((request IS NULL) = (retired_digest IS NULL)) AND ((request IS NULL) OR (kind = 'retirement'::text))))
);

ALTER TABLE ONLY audit.seals FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE seals

COMMENT ON TABLE audit.seals IS 'Signed tree heads: one a batch of events, each chained to the one before.';

-- COMMENT COLUMN seals.tenant_id

COMMENT ON COLUMN audit.seals.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN seals.seal_no

COMMENT ON COLUMN audit.seals.seal_no IS 'The seal''s number in its tenant''s log, from 1.';

-- COMMENT COLUMN seals.kind

COMMENT ON COLUMN audit.seals.kind IS 'events, or retirement: a seal over what may be dropped.';

-- COMMENT COLUMN seals.seq_from

COMMENT ON COLUMN audit.seals.seq_from IS 'The first event of the batch.';

-- COMMENT COLUMN seals.seq_to

COMMENT ON COLUMN audit.seals.seq_to IS 'The last event of the batch, and the size of the tree.';

-- COMMENT COLUMN seals.retired_before

COMMENT ON COLUMN audit.seals.retired_before IS 'Events older than this may have been dropped; their leaves stay.';

-- COMMENT COLUMN seals.root

COMMENT ON COLUMN audit.seals.root IS 'The Merkle tree''s root (RFC 6962) over leaves 1 to seq_to.';

-- COMMENT COLUMN seals.frontier

COMMENT ON COLUMN audit.seals.frontier IS 'The tree''s right edge, from which it grows.';

-- COMMENT COLUMN seals.previous

COMMENT ON COLUMN audit.seals.previous IS 'The digest of the seal before.';

-- COMMENT COLUMN seals.key_id

COMMENT ON COLUMN audit.seals.key_id IS 'The signing key: 16 hex digits of its SHA-256.';

-- COMMENT COLUMN seals.sealed_at

COMMENT ON COLUMN audit.seals.sealed_at IS 'When the seal was made.';

-- COMMENT COLUMN seals.checkpoint

COMMENT ON COLUMN audit.seals.checkpoint IS 'A signed C2SP tlog-checkpoint of the whole log up to this seal.';

-- COMMENT COLUMN seals.digest

COMMENT ON COLUMN audit.seals.digest IS 'SHA-256 of the seal''s other columns; the next seal contains it as previous.';

-- COMMENT COLUMN seals.attestation

COMMENT ON COLUMN audit.seals.attestation IS 'A signed note over the digest.';

-- COMMENT COLUMN seals.request

COMMENT ON COLUMN audit.seals.request IS 'The signed request of a retention officer that it rests on.';

-- COMMENT COLUMN seals.retired_digest

COMMENT ON COLUMN audit.seals.retired_digest IS 'A hash over number, id and time of every event that may go.';

-- COMMENT COLUMN seals.transactions

COMMENT ON COLUMN audit.seals.transactions IS 'A hash over the transaction of each event of the batch; null in older seals.';

-- FUNCTION member_fault(audit.seals, audit.seals, boolean, bytea, bytea, xid8, bigint, bigint)

CREATE FUNCTION audit.member_fault(s audit.seals, granted audit.seals, moved boolean, INOUT frontier bytea, INOUT chain bytea, INOUT last_xid xid8, INOUT retired bigint, INOUT late bigint, OUT seq bigint, OUT event_id uuid, OUT reason text) RETURNS record
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog'
    AS $$
    #variable_conflict use_column
    DECLARE
        m record;
        earlier_at timestamptz;
        earlier_id uuid;
        earlier_xid xid8;
        size bigint := s.seq_from - 1;
        xids text := '';  -- null from the first event that is gone
        yet_to_come CONSTANT xid8 := pg_snapshot_xmax(pg_current_snapshot());
    BEGIN
        FOR m IN SELECT * FROM audit.members_now(s.tenant_id, s.seq_from, s.seq_to) LOOP
            EXIT WHEN m.seq > size + 1;
            seq := m.seq;
            event_id := m.event_id;
            reason := CASE
                WHEN m.seq <= size THEN 'member or its event is there twice'
                WHEN NOT m.there AND (m.occurred_at < granted.retired_before
                                      AND m.seq <= granted.seq_to) IS NOT TRUE
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
                                             < (earlier_xid, earlier_at, earlier_id))
                 ) THEN
                reason := 'members were reordered: this one belongs behind the next';
                seq := size;
                event_id := coalesce(earlier_id, m.event_id);
            END IF;
            IF reason IS NOT NULL THEN
                RETURN;
            END IF;
            frontier := audit.grow(frontier, size, m.leaf);
            size := size + 1;
            earlier_xid := m.xid;
            xids := xids || m.xid::text || ',';
            earlier_at := m.occurred_at;
            earlier_id := CASE WHEN m.there THEN m.event_id END;
            retired := retired + (NOT m.there)::int;
            late := late + ((s.sealed_at - m.occurred_at > interval '2 minutes') IS TRUE
                            OR (m.xid < last_xid AND NOT moved) IS TRUE)::int;
            last_xid := greatest(m.xid, last_xid);
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
        ELSIF sha256(convert_to(xids, 'UTF8')) <> s.transactions THEN
            seq := s.seq_from;
            event_id := (SELECT m.event_id FROM audit.members m
                          WHERE m.tenant_id = s.tenant_id AND m.seq = s.seq_from);
            reason := format('event was altered: it bears another transaction: one of %s to %s',
                             s.seq_from, s.seq_to);
        END IF;
    END $$;

-- FUNCTION members_now(text, bigint, bigint)

CREATE FUNCTION audit.members_now(tenant text, from_seq bigint, to_seq bigint) RETURNS TABLE(seq bigint, event_id uuid, occurred_at timestamp with time zone, leaf bytea, there boolean, xid xid8, erasure_whole boolean, leaf_now bytea)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    BEGIN ATOMIC
 SELECT m.seq,
     m.event_id,
     m.occurred_at,
     m.leaf,
     (e.event_id IS NOT NULL),
     e.xid,
     ((e.commitment IS NULL) = (e.erased_by IS NULL)),
     audit.leaf_v2(e.event_id, e.occurred_at, e.tenant_id, e.type, e.actor, e.user_id, e.command_id, e.saga_id, e.tool, e.method, e.attempt, e.state_from, e.state_to, e.fingerprint, e.body, e.salt, e.commitment) AS leaf_v2
    FROM (audit.members m
      LEFT JOIN audit.events e ON (((e.tenant_id = m.tenant_id) AND (e.occurred_at = m.occurred_at) AND (e.event_id = m.event_id))))
   WHERE ((m.tenant_id = members_now.tenant) AND ((m.seq >= members_now.from_seq) AND (m.seq <= members_now.to_seq)))
   ORDER BY m.seq;
END;

-- FUNCTION note_change()

CREATE FUNCTION audit.note_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
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
    END $$;

-- FUNCTION partitions_ahead_s()

CREATE FUNCTION audit.partitions_ahead_s() RETURNS double precision
    LANGUAGE plpgsql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    DECLARE
        month timestamp := date_trunc('month', now() AT TIME ZONE 'UTC');
        ahead integer := 0;
    BEGIN
        WHILE ahead < 36 AND to_regclass('audit.events_'
                || to_char(month + make_interval(months => ahead), 'YYYYMM')) IS NOT NULL LOOP
            ahead := ahead + 1;
        END LOOP;
        RETURN greatest(0, extract(epoch FROM
            (month + make_interval(months => ahead)) AT TIME ZONE 'UTC' - now()));
    END $$;

-- FUNCTION personal_v1(bytea, text, text, bytea, json)

CREATE FUNCTION audit.personal_v1(salt bytea, actor text, user_id text, fingerprint bytea, body json) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $$
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
    END $$;

-- FUNCTION plan_erasure(text, text, integer)

CREATE FUNCTION audit.plan_erasure(tenant text, person text, batch integer) RETURNS TABLE(ids uuid[], ats timestamp with time zone[], commands bigint, kept bigint, months jsonb)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $_$
    #variable_conflict use_column
    BEGIN
        SELECT array_agg(x.event_id ORDER BY x.occurred_at, x.event_id),
               array_agg(x.occurred_at ORDER BY x.occurred_at, x.event_id) INTO ids, ats
          FROM (SELECT e.event_id, e.occurred_at FROM audit.events e
                 WHERE e.tenant_id = tenant AND (e.user_id = person OR (audit.actor_kind(e.actor) ~ ':$'
                  AND substr(e.actor, strpos(e.actor, ':') + 1) = person)) AND e.salt IS NOT NULL
                 ORDER BY e.occurred_at, e.event_id LIMIT batch) AS x;
        ids := coalesce(ids, '{}');
        ats := coalesce(ats, '{}');
        SELECT jsonb_object_agg(x.month, jsonb_build_object('events', x.n, 'digest', x.digest))
          INTO months
          FROM (SELECT to_char(e.occurred_at AT TIME ZONE 'UTC', 'YYYYMM') AS month, count(*) AS n, encode(sha256(string_agg(
                           uuid_send(e.event_id), ''::bytea ORDER BY e.event_id)), 'hex') AS digest
                  FROM unnest(ids, ats) AS e (event_id, occurred_at) GROUP BY 1) AS x;
        commands := (SELECT count(*) FROM (SELECT FROM public.commands c
                      WHERE c.tenant_id = tenant AND c.user_id = person LIMIT batch) AS his);
        kept := (SELECT count(*) FROM audit.events e
                  WHERE e.tenant_id = tenant AND (e.user_id = person OR (audit.actor_kind(e.actor) ~ ':$'
                  AND substr(e.actor, strpos(e.actor, ':') + 1) = person)) AND e.salt IS NULL AND e.commitment IS NULL);
        RETURN NEXT;
    END $_$;

-- FUNCTION prove(uuid)

CREATE FUNCTION audit.prove(event uuid) RETURNS TABLE(tenant_id text, seq bigint, leaf bytea, size bigint, root bytea, path bytea[], seal_no bigint, checkpoint text)
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog'
    AS $$
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
    END $$;

-- FUNCTION refuse()

CREATE FUNCTION audit.refuse() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
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
    END $$;

-- FUNCTION refuse_truncate()

CREATE FUNCTION audit.refuse_truncate() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    BEGIN
        RAISE EXCEPTION 'TRUNCATE of % would not be audited: DELETE its rows', TG_TABLE_NAME
              USING ERRCODE = 'insufficient_privilege';
    END $$;

-- FUNCTION release(uuid, text)

CREATE FUNCTION audit.release(hold uuid, why text) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $$
    #variable_conflict use_column
    DECLARE
        held text;
    BEGIN
        PERFORM FROM public.turns t WHERE t.name = 'audit.retention' FOR UPDATE;
        UPDATE audit.holds SET released_by = 'db:' || session_user, released_at = now()
         WHERE hold_id = hold AND released_at IS NULL RETURNING tenant_id INTO held;
        IF held IS NOT NULL THEN
            INSERT INTO audit.events (tenant_id, type, actor, body)
            VALUES (held, 'hold.released', 'db:' || session_user,
                    json_build_object('hold', hold, 'reason', why));
        END IF;
        RETURN held;
    END $$;

-- FUNCTION root(bytea)

CREATE FUNCTION audit.root(frontier bytea) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $$
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
    END $$;

-- FUNCTION seal_v1(audit.seals)

CREATE FUNCTION audit.seal_v1(s audit.seals) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $$
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
    END $$;

-- FUNCTION seal_v2(audit.seals)

CREATE FUNCTION audit.seal_v2(s audit.seals) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $$
    DECLARE
        field text;
        canon text := 'mcpbroker.audit.seal.v2,';
    BEGIN
        FOREACH field IN ARRAY ARRAY[
            s.tenant_id, s.seal_no::text, s.kind, s.seq_from::text, s.seq_to::text,
            (extract(epoch FROM s.retired_before) * 1000000)::bigint::text,
            encode(s.root, 'hex'), encode(s.frontier, 'hex'), encode(s.previous, 'hex'), s.key_id,
            (extract(epoch FROM s.sealed_at) * 1000000)::bigint::text, s.checkpoint,
            s.request, encode(s.retired_digest, 'hex')]
        LOOP
            canon := canon || coalesce(octet_length(field)::text || ':' || field, '-') || ',';
        END LOOP;
        RETURN sha256(convert_to(canon, 'UTF8'));
    END $$;

-- FUNCTION seal_v3(audit.seals)

CREATE FUNCTION audit.seal_v3(s audit.seals) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $$
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
    END $$;

-- FUNCTION seal_digest(audit.seals)

CREATE FUNCTION audit.seal_digest(s audit.seals) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    RETURN CASE WHEN ((s).transactions IS NOT NULL) THEN audit.seal_v3(s) WHEN (((s).request IS NULL) AND ((s).retired_digest IS NULL)) THEN audit.seal_v1(s) ELSE audit.seal_v2(s) END;

-- FUNCTION seal_fault(audit.seals, audit.seals)

CREATE FUNCTION audit.seal_fault(s audit.seals, earlier audit.seals) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog'
    AS $$
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
    END $$;

-- FUNCTION shape()

CREATE FUNCTION audit.shape() RETURNS TABLE(kind text, name text, digest text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    BEGIN ATOMIC
 SELECT item.kind,
     item.name,
     encode(sha256(convert_to(item.said, 'UTF8'::name)), 'hex'::text) AS digest
    FROM ( SELECT 'schema'::text AS kind,
             (n.nspname)::text AS name,
             concat_ws('|'::text, (n.nspowner)::regrole, ( SELECT string_agg((a.a)::text, ','::text ORDER BY (a.a)::text) AS string_agg
                    FROM unnest(n.nspacl) a(a))) AS said
            FROM pg_namespace n
           WHERE (n.nspname = 'audit'::name)
         UNION ALL
          SELECT
                 CASE
                     WHEN (c.relkind = ANY (ARRAY['v'::"char", 'm'::"char"])) THEN 'view'::text
                     ELSE 'table'::text
                 END AS "case",
             ((c.oid)::regclass)::text AS oid,
             (concat_ws('|'::text, c.relkind, c.relpersistence, (c.relowner)::regrole, ( SELECT string_agg((a.a)::text, ','::text ORDER BY (a.a)::text) AS string_agg
                    FROM unnest(c.relacl) a(a)), c.relrowsecurity, c.relforcerowsecurity, c.reloptions, ( SELECT string_agg(concat_ws(' '::text, t.attname, format_type(t.atttypid, t.atttypmod), t.attnotnull, t.attidentity, t.attgenerated, pg_get_expr(d.adbin, d.adrelid), ( SELECT string_agg((a.a)::text, ','::text ORDER BY (a.a)::text) AS string_agg
                            FROM unnest(t.attacl) a(a))), ','::text ORDER BY t.attname) AS string_agg
                    FROM (pg_attribute t
                      LEFT JOIN pg_attrdef d ON (((d.adrelid = t.attrelid) AND (d.adnum = t.attnum))))
                   WHERE ((t.attrelid = c.oid) AND (t.attnum > 0) AND (NOT t.attisdropped))), ( SELECT string_agg(concat_ws(' '::text, k.contype, pg_get_constraintdef(k.oid), k.convalidated), ','::text ORDER BY k.contype, (pg_get_constraintdef(k.oid))) AS string_agg
                    FROM pg_constraint k
                   WHERE ((k.conrelid = c.oid) AND (k.contype = ANY (ARRAY['p'::"char", 'u'::"char", 'c'::"char", 'f'::"char", 'x'::"char"])))), ( SELECT string_agg(concat_ws(' '::text, g.tgname, g.tgtype, (g.tgfoid)::regprocedure, g.tgenabled, pg_get_expr(g.tgqual, g.tgrelid), encode(g.tgargs, 'hex'::text)), ','::text ORDER BY g.tgname) AS string_agg
                    FROM pg_trigger g
                   WHERE ((g.tgrelid = c.oid) AND (NOT g.tgisinternal))), ( SELECT string_agg(pg_get_ruledef(r.oid), ','::text ORDER BY r.rulename) AS string_agg
                    FROM pg_rewrite r
                   WHERE ((r.ev_class = c.oid) AND (r.rulename <> '_RETURN'::name))), ( SELECT string_agg(concat_ws(' '::text, p.polname, p.polcmd, p.polpermissive, ( SELECT string_agg((w.rolname)::text, '+'::text ORDER BY ((w.rolname)::text)) AS string_agg
                            FROM pg_roles w
                           WHERE (w.oid = ANY (p.polroles))), pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)), ','::text ORDER BY p.polname) AS string_agg
                    FROM pg_policy p
                   WHERE (p.polrelid = c.oid))) || COALESCE(
                 CASE
                     WHEN (c.relkind = ANY (ARRAY['v'::"char", 'm'::"char"])) THEN pg_get_viewdef(c.oid)
                     ELSE NULL::text
                 END, ''::text))
            FROM pg_class c
           WHERE ((c.relnamespace = ('audit'::regnamespace)::oid) AND (c.relkind <> ALL (ARRAY['i'::"char", 'I'::"char", 'c'::"char", 't'::"char"])) AND (NOT c.relispartition))
         UNION ALL
          SELECT DISTINCT 'month'::text,
             ((h.inhparent)::regclass)::text AS inhparent,
             concat_ws('#'::text, concat_ws('|'::text, c.relkind, c.relpersistence, (c.relowner)::regrole, ( SELECT string_agg((a.a)::text, ','::text ORDER BY (a.a)::text) AS string_agg
                    FROM unnest(c.relacl) a(a)), c.relrowsecurity, c.relforcerowsecurity, c.reloptions, ( SELECT string_agg(concat_ws(' '::text, t.attname, format_type(t.atttypid, t.atttypmod), t.attnotnull, t.attidentity, t.attgenerated, pg_get_expr(d.adbin, d.adrelid), ( SELECT string_agg((a.a)::text, ','::text ORDER BY (a.a)::text) AS string_agg
                            FROM unnest(t.attacl) a(a))), ','::text ORDER BY t.attname) AS string_agg
                    FROM (pg_attribute t
                      LEFT JOIN pg_attrdef d ON (((d.adrelid = t.attrelid) AND (d.adnum = t.attnum))))
                   WHERE ((t.attrelid = c.oid) AND (t.attnum > 0) AND (NOT t.attisdropped))), ( SELECT string_agg(concat_ws(' '::text, k.contype, pg_get_constraintdef(k.oid), k.convalidated), ','::text ORDER BY k.contype, (pg_get_constraintdef(k.oid))) AS string_agg
                    FROM pg_constraint k
                   WHERE ((k.conrelid = c.oid) AND (k.contype = ANY (ARRAY['p'::"char", 'u'::"char", 'c'::"char", 'f'::"char", 'x'::"char"])))), ( SELECT string_agg(concat_ws(' '::text, g.tgname, g.tgtype, (g.tgfoid)::regprocedure, g.tgenabled, pg_get_expr(g.tgqual, g.tgrelid), encode(g.tgargs, 'hex'::text)), ','::text ORDER BY g.tgname) AS string_agg
                    FROM pg_trigger g
                   WHERE ((g.tgrelid = c.oid) AND (NOT g.tgisinternal))), ( SELECT string_agg(pg_get_ruledef(r.oid), ','::text ORDER BY r.rulename) AS string_agg
                    FROM pg_rewrite r
                   WHERE ((r.ev_class = c.oid) AND (r.rulename <> '_RETURN'::name))), ( SELECT string_agg(concat_ws(' '::text, p.polname, p.polcmd, p.polpermissive, ( SELECT string_agg((w.rolname)::text, '+'::text ORDER BY ((w.rolname)::text)) AS string_agg
                            FROM pg_roles w
                           WHERE (w.oid = ANY (p.polroles))), pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)), ','::text ORDER BY p.polname) AS string_agg
                    FROM pg_policy p
                   WHERE (p.polrelid = c.oid))), (c.relnamespace)::regnamespace,
                 CASE
                     WHEN (c.relname ~ '^events_[0-9]{4}(0[1-9]|1[0-2])$'::text) THEN (pg_get_expr(c.relpartbound, c.oid) = format('FOR VALUES FROM (''%s'') TO (''%s'')'::text, ((to_date("right"((c.relname)::text, 6), 'YYYYMM'::text))::timestamp without time zone AT TIME ZONE 'UTC'::text), ((to_date("right"((c.relname)::text, 6), 'YYYYMM'::text) + '1 mon'::interval) AT TIME ZONE 'UTC'::text)))
                     ELSE NULL::boolean
                 END) AS concat_ws
            FROM (pg_inherits h
              JOIN pg_class c ON ((c.oid = h.inhrelid)))
           WHERE (h.inhparent IN ( SELECT x.oid
                    FROM pg_class x
                   WHERE ((x.relnamespace = ('audit'::regnamespace)::oid) AND (x.relkind = ANY (ARRAY['r'::"char", 'p'::"char"])))))
         UNION ALL
          SELECT 'function'::text,
             ((f.oid)::regprocedure)::text AS oid,
             concat_ws('|'::text, f.prokind, f.prosecdef, f.proleakproof, f.provolatile, f.proisstrict, f.proparallel, (f.proowner)::regrole, ( SELECT string_agg((a.a)::text, ','::text ORDER BY (a.a)::text) AS string_agg
                    FROM unnest(f.proacl) a(a)), f.proconfig, l.lanname, pg_get_function_arguments(f.oid), pg_get_function_result(f.oid), f.prosrc, pg_get_function_sqlbody(f.oid)) AS concat_ws
            FROM (pg_proc f
              JOIN pg_language l ON ((l.oid = f.prolang)))
           WHERE (f.pronamespace = ('audit'::regnamespace)::oid)
         UNION ALL
          SELECT 'trigger'::text,
             ((((c.oid)::regclass)::text || '.'::text) || (g.tgname)::text),
             concat_ws('|'::text, g.tgtype, (g.tgfoid)::regprocedure, g.tgenabled, pg_get_expr(g.tgqual, g.tgrelid), encode(g.tgargs, 'hex'::text)) AS concat_ws
            FROM ((pg_trigger g
              JOIN pg_class c ON ((c.oid = g.tgrelid)))
              JOIN pg_proc f ON ((f.oid = g.tgfoid)))
           WHERE ((f.pronamespace = ('audit'::regnamespace)::oid) AND (c.relnamespace <> ('audit'::regnamespace)::oid))
         UNION ALL
          SELECT 'role'::text,
             (w.rolname)::text AS rolname,
             concat_ws('|'::text, w.rolsuper, w.rolcreaterole, w.rolcreatedb, w.rolreplication, w.rolbypassrls) AS concat_ws
            FROM pg_roles w
           WHERE (w.rolname = ANY (ARRAY['broker_owner'::name, 'broker_app'::name, 'broker_relay'::name, 'broker_auditor'::name, 'broker_retention'::name]))) item
   ORDER BY (item.kind COLLATE "C"), (item.name COLLATE "C"), (item.said COLLATE "C");
END;

-- TABLE shapes

CREATE TABLE audit.shapes (
    shape_no bigint NOT NULL,
    major integer NOT NULL,
    revision text NOT NULL,
    lines text NOT NULL,
    note text NOT NULL
);

-- COMMENT TABLE shapes

COMMENT ON TABLE audit.shapes IS 'What schema audit looks like, as a relay has signed it.';

-- COMMENT COLUMN shapes.shape_no

COMMENT ON COLUMN audit.shapes.shape_no IS 'The number of the shape.';

-- COMMENT COLUMN shapes.major

COMMENT ON COLUMN audit.shapes.major IS 'The major version of PostgreSQL that it was read from.';

-- COMMENT COLUMN shapes.revision

COMMENT ON COLUMN audit.shapes.revision IS 'The migration that the schema was at.';

-- COMMENT COLUMN shapes.lines

COMMENT ON COLUMN audit.shapes.lines IS 'A line for each object: its kind, its name, a hash of all that it is.';

-- COMMENT COLUMN shapes.note

COMMENT ON COLUMN audit.shapes.note IS 'The signed note of a relay over the lines.';

-- FUNCTION shape_fault()

CREATE FUNCTION audit.shape_fault() RETURNS text
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    BEGIN ATOMIC
 WITH signed AS (
          SELECT string_to_array(s.lines, chr(10)) AS lines
            FROM audit.shapes s
           ORDER BY s.shape_no DESC
          LIMIT 1
         ), here AS (
          SELECT array_agg(concat_ws(' '::text, x.kind, x.name, x.digest)) AS lines
            FROM audit.shape() x(kind, name, digest)
         )
  SELECT format('%s is not as it was signed'::text, regexp_replace(odd.line, ' [^ ]*$'::text, ''::text)) AS format
    FROM ((signed
      CROSS JOIN here)
      CROSS JOIN LATERAL ((
                  SELECT unnest(signed.lines) AS line
                 EXCEPT
                  SELECT unnest(here.lines) AS unnest
         ) UNION ALL (
                  SELECT unnest(here.lines) AS unnest
                 EXCEPT
                  SELECT unnest(signed.lines) AS unnest
         )) odd)
   ORDER BY (odd.line COLLATE "C")
  LIMIT 1;
END;

-- FUNCTION subtree(bytea, bigint, bytea, bigint, bigint)

CREATE FUNCTION audit.subtree(frontier bytea, size bigint, leaves bytea, lo bigint, hi bigint) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path TO 'pg_catalog'
    AS $$
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
    END $$;

-- FUNCTION table_fault(text)

CREATE FUNCTION audit.table_fault(tenant text) RETURNS TABLE(seal_no bigint, reason text)
    LANGUAGE sql STABLE
    SET search_path TO 'pg_catalog'
    BEGIN ATOMIC
 SELECT s.seal_no,
     'events were retired under a legal hold'::text AS reason
    FROM audit.seals s
   WHERE ((s.tenant_id = table_fault.tenant) AND (s.request IS NOT NULL) AND (EXISTS ( SELECT
            FROM audit.held_at(table_fault.tenant, s.seq_to) h(hold, from_at)
           WHERE (h.from_at < s.retired_before))))
 UNION ALL
  SELECT NULL::bigint,
     format('hold %s is not what the log says of it'::text, h.hold_id) AS format
    FROM audit.holds h
   WHERE ((h.tenant_id = table_fault.tenant) AND (h.released_at IS NULL) AND (NOT (EXISTS ( SELECT
            FROM audit.events e
           WHERE ((e.tenant_id = table_fault.tenant) AND (e.type = 'hold.placed'::text) AND ((e.body ->> 'hold'::text) = (h.hold_id)::text) AND (e.actor = h.placed_by) AND (NOT (audit.instant((e.body ->> 'from'::text)) IS DISTINCT FROM h.from_at)) AND (NOT (audit.instant((e.body ->> 'to'::text)) IS DISTINCT FROM h.to_at)) AND ((e.body ->> 'reason'::text) = h.reason) AND (((e.occurred_at - h.placed_at) >= '-00:01:00'::interval) AND ((e.occurred_at - h.placed_at) <= '00:01:00'::interval)))))))
 UNION ALL
  SELECT NULL::bigint,
     format('hold %s was released or deleted, and the log does not say so'::text, a.hold) AS format
    FROM audit.held_at(table_fault.tenant, ((1)::bigint << 62)) a(hold, from_at)
   WHERE ((NOT (EXISTS ( SELECT
            FROM audit.holds h
           WHERE (((h.hold_id)::text = a.hold) AND (h.tenant_id = table_fault.tenant) AND (h.released_at IS NULL))))) AND (NOT (EXISTS ( SELECT
            FROM audit.events e
           WHERE ((e.tenant_id = table_fault.tenant) AND (e.type = 'hold.released'::text) AND ((e.body ->> 'hold'::text) = a.hold))))))
 LIMIT 1;
END;

-- FUNCTION unlike(text[], bigint[], bytea[])

CREATE FUNCTION audit.unlike(tenants text[], numbers bigint[], digests bytea[]) RETURNS TABLE(tenant_id text, seal_no bigint, digest bytea)
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    SET lock_timeout TO '3s'
    AS $$
    #variable_conflict use_column
    BEGIN
        RETURN QUERY
        SELECT a.tenant_id, a.seal_no, a.digest
          FROM unnest(tenants, numbers, digests) AS a (tenant_id, seal_no, digest)
          LEFT JOIN audit.seals s ON s.tenant_id = a.tenant_id AND s.seal_no = a.seal_no
         WHERE s.digest IS DISTINCT FROM a.digest;
    END $$;

-- FUNCTION verify(text, bigint, bigint, interval)

CREATE FUNCTION audit.verify(tenant text, from_seq bigint DEFAULT 1, to_seq bigint DEFAULT NULL::bigint, waited interval DEFAULT '00:10:00'::interval) RETURNS TABLE(ok boolean, seq bigint, event_id uuid, seal_no bigint, reason text, events bigint, seals bigint, size bigint, root bytea, retired bigint, late bigint, unsealed bigint, unsealed_from timestamp with time zone, beyond text[])
    LANGUAGE plpgsql STABLE
    SET search_path TO 'pg_catalog'
    AS $$
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
            CASE WHEN EXISTS (SELECT FROM audit.out_of_time o WHERE o.tenant_id = tenant
                                 AND o.seq >= from_seq AND o.seq <= size) THEN
                'which of two neighbours bears a false time: see audit.out_of_time' END,
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
    END $$;

-- FUNCTION minutes(timestamp with time zone, timestamp with time zone)

CREATE FUNCTION ops.minutes(since timestamp with time zone, until timestamp with time zone) RETURNS TABLE(minute timestamp with time zone, tenant_id text, calls bigint, failed bigint, timed_out bigint, dead_lettered bigint, deadline_misses bigint, retries bigint, call_p95_s double precision)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    AS $$
        SELECT date_trunc('minute', c.finished_at), c.tenant_id, count(*),
               count(*) FILTER (WHERE c.state = 'failed'),
               count(*) FILTER (WHERE c.state = 'timed_out'),
               count(*) FILTER (WHERE c.state = 'dead_lettered'),
               count(c.deadline_missed_at), sum(c.attempt - 1)::bigint,
               percentile_cont(0.95) WITHIN GROUP (
                   ORDER BY greatest(0, extract(epoch FROM c.finished_at - greatest(c.created_at, c.not_before)))::float8)
          FROM commands c
         WHERE c.finished_at > greatest(since, until - interval '24 hours')
           AND c.finished_at <= until AND c.purged_at IS NULL
         GROUP BY 1, 2
         ORDER BY 1, 2
    $$;

-- COMMENT FUNCTION minutes(since timestamp with time zone, until timestamp with time zone)

COMMENT ON FUNCTION ops.minutes(since timestamp with time zone, until timestamp with time zone) IS 'How each tenant''s calls did, by the minute: of the last 24 hours before until at most.';

-- FUNCTION broker_analyze_grown()

CREATE FUNCTION public.broker_analyze_grown() RETURNS text[]
    LANGUAGE plpgsql SECURITY DEFINER
    SET search_path TO 'pg_catalog', 'public', 'pg_temp'
    AS $$
    DECLARE
        grown text;
        done text[] := '{}';
    BEGIN
        FOR grown IN
            SELECT c.oid::regclass::text
              FROM pg_class c
             WHERE c.oid IN ('public.commands'::regclass, 'public.outbox'::regclass,
                             'public.ordering_heads'::regclass, 'public.progress'::regclass,
                             'public.sagas'::regclass, 'public.saga_steps'::regclass)
               AND c.relpages < 10000
               AND pg_relation_size(c.oid) / 8192 > greatest(8, 2 * c.relpages)
             ORDER BY 1
        LOOP
            EXECUTE format('ANALYZE (SKIP_LOCKED) %s', grown);
            done := done || grown;
        END LOOP;
        RETURN done;
    END $$;

-- FUNCTION broker_forget_approvals()

CREATE FUNCTION public.broker_forget_approvals() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'public'
    AS $$
    BEGIN
        NEW.approvals := NULL;
        RETURN NEW;
    END $$;

-- FUNCTION broker_forget_said()

CREATE FUNCTION public.broker_forget_said() RETURNS trigger
    LANGUAGE plpgsql
    SET search_path TO 'pg_catalog', 'pg_temp'
    AS $$
    BEGIN
        IF NEW.labels IS NOT NULL THEN
            DELETE FROM public.command_labels l
             WHERE l.tenant_id = NEW.tenant_id AND l.label = ANY (NEW.labels)
               AND l.command_id = NEW.id;
        END IF;
        NEW.labels := NULL;
        NEW.asserted := NULL;
        RETURN NEW;
    END $$;

-- TABLE commands

CREATE TABLE public.commands (
    id uuid NOT NULL,
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    tool text NOT NULL,
    method text NOT NULL,
    args jsonb,
    idempotency_key text,
    key_source text NOT NULL,
    fingerprint bytea NOT NULL,
    dedupe_key bytea,
    ordering_key text,
    ordering text,
    key_seq bigint,
    held boolean DEFAULT false NOT NULL,
    approval text,
    priority smallint DEFAULT '1'::smallint NOT NULL,
    accept_async boolean DEFAULT false NOT NULL,
    accept_partials boolean DEFAULT false NOT NULL,
    deadline_at timestamp with time zone NOT NULL,
    deadline_missed_at timestamp with time zone,
    hard_stop_at timestamp with time zone,
    saga_id uuid,
    saga_step text,
    saga_role text,
    compensation jsonb,
    state text DEFAULT 'queued'::text NOT NULL,
    attempt integer DEFAULT 1 NOT NULL,
    attempts_max integer DEFAULT 1 NOT NULL,
    deliveries integer DEFAULT 0 NOT NULL,
    adapter text,
    lease_until timestamp with time zone,
    cancel_requested_at timestamp with time zone,
    cancel_reason text,
    cancel_target text,
    outcome_unknown boolean DEFAULT false NOT NULL,
    progress_seq integer DEFAULT 0 NOT NULL,
    stage text,
    percent double precision,
    message text,
    result jsonb,
    error jsonb,
    traceparent text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    dispatched_at timestamp with time zone,
    started_at timestamp with time zone,
    finished_at timestamp with time zone,
    discarded_at timestamp with time zone,
    purged_at timestamp with time zone,
    dedupe_until timestamp with time zone,
    attempts_lost integer DEFAULT 0 NOT NULL,
    reports_rejected integer DEFAULT 0 CONSTRAINT commands_words_refused_not_null NOT NULL,
    run jsonb,
    labels text[],
    asserted jsonb,
    not_before timestamp with time zone,
    approval_rule jsonb,
    approvals jsonb,
    approval_until timestamp with time zone,
    approval_due timestamp with time zone,
    escalated_at timestamp with time zone,
    CONSTRAINT ck_commands_approval_known CHECK ((approval = ANY (ARRAY['pending'::text, 'approved'::text, 'denied'::text]))),
    CONSTRAINT ck_commands_approvals_enough CHECK (((approval <> 'approved'::text) OR (approval_rule IS NULL) OR (purged_at IS NOT NULL) OR (((approval_rule ->> 'quorum'::text))::integer <= GREATEST(1, COALESCE(jsonb_array_length(approvals), 0))))),
    CONSTRAINT ck_commands_attempt_range CHECK (((attempt >= 1) AND (attempts_max >= 1))),
    CONSTRAINT ck_commands_cancel_target_known CHECK ((cancel_target = ANY (ARRAY['cancelled'::text, 'timed_out'::text]))),
    CONSTRAINT ck_commands_fingerprint_size CHECK ((octet_length(fingerprint) = 32)),
    CONSTRAINT ck_commands_finished_when_final CHECK (((finished_at IS NOT NULL) = (state <> ALL (ARRAY['queued'::text, 'dispatched'::text, 'running'::text])))),
    CONSTRAINT ck_commands_held CHECK (((NOT held) OR ((ordering_key IS NOT NULL) AND (state = 'queued'::text)))),
    CONSTRAINT ck_commands_ordering_known CHECK ((ordering = ANY (ARRAY['completion'::text, 'delivery'::text]))),
    CONSTRAINT ck_commands_ordering_whole CHECK (((ordering_key IS NULL) = (ordering IS NULL))),
    CONSTRAINT ck_commands_priority_range CHECK (((priority >= 0) AND (priority <= 3))),
    CONSTRAINT ck_commands_running_has_lease CHECK (((state <> 'running'::text) OR (lease_until IS NOT NULL))),
    CONSTRAINT ck_commands_saga_role_known CHECK ((saga_role = ANY (ARRAY['saga'::text, 'step'::text, 'retriable'::text, 'reconcile'::text, 'undo'::text]))),
    CONSTRAINT ck_commands_state_known CHECK ((state = ANY (ARRAY['queued'::text, 'dispatched'::text, 'running'::text, 'succeeded'::text, 'failed'::text, 'cancelled'::text, 'timed_out'::text, 'dead_lettered'::text])))
)
WITH (fillfactor='80');

ALTER TABLE ONLY public.commands FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE commands

COMMENT ON TABLE public.commands IS 'One row a call: what was asked, and where it stands.';

-- FUNCTION broker_tenant_of(uuid)

CREATE FUNCTION public.broker_tenant_of(command uuid) RETURNS text
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path TO 'public', 'pg_temp'
    RETURN (SELECT commands.tenant_id FROM public.commands WHERE (commands.id = broker_tenant_of.command));

-- VIEW agent_activity

CREATE VIEW audit.agent_activity WITH (security_invoker='true') AS
 SELECT a.tenant_id,
    a.user_id AS agent,
    a.actor AS who,
    a.occurred_at AS asked_at,
    a.tool,
    a.method,
    (a.body -> 'args'::text) AS args,
    a.command_id,
    a.saga_id,
    COALESCE(ended.state_to, 'open'::text) AS outcome,
    ended.occurred_at AS ended_at,
    ended.attempt AS attempts
   FROM (audit.events a
     LEFT JOIN LATERAL ( SELECT e.state_to,
            e.occurred_at,
            e.attempt
           FROM audit.events e
          WHERE ((e.command_id = a.command_id) AND (e.state_to IS NOT NULL))
          ORDER BY e.occurred_at DESC, e.xid DESC
         LIMIT 1) ended ON ((ended.state_to <> ALL (ARRAY['queued'::text, 'dispatched'::text, 'running'::text]))))
  WHERE (a.type = 'command.accepted'::text);

-- COMMENT VIEW agent_activity

COMMENT ON VIEW audit.agent_activity IS 'One row an accepted call: which agent asked for what, and how it ended.';

-- COMMENT COLUMN agent_activity.tenant_id

COMMENT ON COLUMN audit.agent_activity.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN agent_activity.agent

COMMENT ON COLUMN audit.agent_activity.agent IS 'The user on whose behalf the call was made; null once erased.';

-- COMMENT COLUMN agent_activity.who

COMMENT ON COLUMN audit.agent_activity.who IS 'Who did it, as kind:name: user, client, adapter, relay, operator, db.';

-- COMMENT COLUMN agent_activity.asked_at

COMMENT ON COLUMN audit.agent_activity.asked_at IS 'When it was asked for.';

-- COMMENT COLUMN agent_activity.tool

COMMENT ON COLUMN audit.agent_activity.tool IS 'The tool.';

-- COMMENT COLUMN agent_activity.method

COMMENT ON COLUMN audit.agent_activity.method IS 'The method of the tool.';

-- COMMENT COLUMN agent_activity.args

COMMENT ON COLUMN audit.agent_activity.args IS 'The call''s arguments, with what the tool''s schema marks as sensitive redacted.';

-- COMMENT COLUMN agent_activity.command_id

COMMENT ON COLUMN audit.agent_activity.command_id IS 'The command (its correlation id), where there is one.';

-- COMMENT COLUMN agent_activity.saga_id

COMMENT ON COLUMN audit.agent_activity.saga_id IS 'The saga, where it belongs to one.';

-- COMMENT COLUMN agent_activity.outcome

COMMENT ON COLUMN audit.agent_activity.outcome IS 'The state in which it ended; open until then.';

-- COMMENT COLUMN agent_activity.ended_at

COMMENT ON COLUMN audit.agent_activity.ended_at IS 'When it ended; null while it is open.';

-- COMMENT COLUMN agent_activity.attempts

COMMENT ON COLUMN audit.agent_activity.attempts IS 'The attempt with which it ended.';

-- TABLE auditors

CREATE TABLE audit.auditors (
    role_name text NOT NULL,
    tenant_id text NOT NULL
);

ALTER TABLE ONLY audit.auditors FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE auditors

COMMENT ON TABLE audit.auditors IS 'Which login role may read which tenant''s trail.';

-- COMMENT COLUMN auditors.role_name

COMMENT ON COLUMN audit.auditors.role_name IS 'The login role.';

-- COMMENT COLUMN auditors.tenant_id

COMMENT ON COLUMN audit.auditors.tenant_id IS 'The tenant; _broker is the broker itself.';

-- VIEW command_story

CREATE VIEW audit.command_story WITH (security_invoker='true') AS
 SELECT tenant_id,
    command_id,
    row_number() OVER story AS step,
    occurred_at AS at,
    (occurred_at - first_value(occurred_at) OVER story) AS since_start,
    saga_id,
    actor AS who,
    user_id AS on_behalf_of,
    type AS what,
    tool,
    method,
    attempt,
    state_from,
    state_to,
    body AS details,
    event_id
   FROM audit.events e
  WHERE (command_id IS NOT NULL)
  WINDOW story AS (PARTITION BY tenant_id, command_id ORDER BY occurred_at, xid, event_id);

-- COMMENT VIEW command_story

COMMENT ON VIEW audit.command_story IS 'The events of each command, numbered, from its acceptance to its end.';

-- COMMENT COLUMN command_story.tenant_id

COMMENT ON COLUMN audit.command_story.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN command_story.command_id

COMMENT ON COLUMN audit.command_story.command_id IS 'The command (its correlation id), where there is one.';

-- COMMENT COLUMN command_story.step

COMMENT ON COLUMN audit.command_story.step IS 'The event''s number in the story, from 1.';

-- COMMENT COLUMN command_story.at

COMMENT ON COLUMN audit.command_story.at IS 'When it happened, by the database''s clock.';

-- COMMENT COLUMN command_story.since_start

COMMENT ON COLUMN audit.command_story.since_start IS 'How long after the first event of the story.';

-- COMMENT COLUMN command_story.saga_id

COMMENT ON COLUMN audit.command_story.saga_id IS 'The saga, where it belongs to one.';

-- COMMENT COLUMN command_story.who

COMMENT ON COLUMN audit.command_story.who IS 'Who did it, as kind:name: user, client, adapter, relay, operator, db.';

-- COMMENT COLUMN command_story.on_behalf_of

COMMENT ON COLUMN audit.command_story.on_behalf_of IS 'The user on whose behalf; null where it is nobody''s, or was erased.';

-- COMMENT COLUMN command_story.what

COMMENT ON COLUMN audit.command_story.what IS 'What happened, as noun.verb: command.accepted, saga.step, login.failed.';

-- COMMENT COLUMN command_story.tool

COMMENT ON COLUMN audit.command_story.tool IS 'The tool.';

-- COMMENT COLUMN command_story.method

COMMENT ON COLUMN audit.command_story.method IS 'The method of the tool.';

-- COMMENT COLUMN command_story.attempt

COMMENT ON COLUMN audit.command_story.attempt IS 'The attempt of the command, from 1.';

-- COMMENT COLUMN command_story.state_from

COMMENT ON COLUMN audit.command_story.state_from IS 'The command''s state before.';

-- COMMENT COLUMN command_story.state_to

COMMENT ON COLUMN audit.command_story.state_to IS 'The command''s state after.';

-- COMMENT COLUMN command_story.details

COMMENT ON COLUMN audit.command_story.details IS 'The rest, as JSON, by the type of event.';

-- COMMENT COLUMN command_story.event_id

COMMENT ON COLUMN audit.command_story.event_id IS 'The event.';

-- VIEW denials

CREATE VIEW audit.denials WITH (security_invoker='true') AS
 SELECT tenant_id,
    occurred_at AS at,
    actor AS who,
    user_id AS on_behalf_of,
    type AS what,
    tool,
    method,
    command_id,
    (body ->> 'reason'::text) AS reason,
    body AS details,
    event_id
   FROM audit.events e
  WHERE ((type ~~ '%.denied'::text) OR (type ~~ '%.refused'::text) OR (type = 'login.failed'::text));

-- COMMENT VIEW denials

COMMENT ON VIEW audit.denials IS 'What was refused: calls, logins and reports, with the reason.';

-- COMMENT COLUMN denials.tenant_id

COMMENT ON COLUMN audit.denials.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN denials.at

COMMENT ON COLUMN audit.denials.at IS 'When it happened, by the database''s clock.';

-- COMMENT COLUMN denials.who

COMMENT ON COLUMN audit.denials.who IS 'Who did it, as kind:name: user, client, adapter, relay, operator, db.';

-- COMMENT COLUMN denials.on_behalf_of

COMMENT ON COLUMN audit.denials.on_behalf_of IS 'The user on whose behalf; null where it is nobody''s, or was erased.';

-- COMMENT COLUMN denials.what

COMMENT ON COLUMN audit.denials.what IS 'What happened, as noun.verb: command.accepted, saga.step, login.failed.';

-- COMMENT COLUMN denials.tool

COMMENT ON COLUMN audit.denials.tool IS 'The tool.';

-- COMMENT COLUMN denials.method

COMMENT ON COLUMN audit.denials.method IS 'The method of the tool.';

-- COMMENT COLUMN denials.command_id

COMMENT ON COLUMN audit.denials.command_id IS 'The command (its correlation id), where there is one.';

-- COMMENT COLUMN denials.reason

COMMENT ON COLUMN audit.denials.reason IS 'Why, as it was given.';

-- COMMENT COLUMN denials.details

COMMENT ON COLUMN audit.denials.details IS 'The rest, as JSON, by the type of event.';

-- COMMENT COLUMN denials.event_id

COMMENT ON COLUMN audit.denials.event_id IS 'The event.';

-- TABLE keys

CREATE TABLE audit.keys (
    key_id text NOT NULL,
    public_key bytea NOT NULL
);

-- COMMENT TABLE keys

COMMENT ON TABLE audit.keys IS 'Public keys that sign seals.';

-- COMMENT COLUMN keys.key_id

COMMENT ON COLUMN audit.keys.key_id IS 'The signing key: 16 hex digits of its SHA-256.';

-- COMMENT COLUMN keys.public_key

COMMENT ON COLUMN audit.keys.public_key IS 'The Ed25519 public key.';

-- VIEW out_of_time

CREATE VIEW audit.out_of_time WITH (security_invoker='true') AS
 SELECT m.tenant_id,
    m.seq,
    m.event_id,
    m.occurred_at AS at,
    e.event_id AS earlier_id,
    e.occurred_at AS earlier_at,
    (e.occurred_at - m.occurred_at) AS back_by
   FROM (audit.members m
     JOIN audit.members e ON (((e.tenant_id = m.tenant_id) AND (e.seq = (m.seq - 1)))))
  WHERE (m.occurred_at < (e.occurred_at - '00:01:00'::interval));

-- COMMENT VIEW out_of_time

COMMENT ON VIEW audit.out_of_time IS 'Neighbours in the log of which the later one bears a time over a minute older: the time of one of the two may be false.';

-- COMMENT COLUMN out_of_time.tenant_id

COMMENT ON COLUMN audit.out_of_time.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN out_of_time.seq

COMMENT ON COLUMN audit.out_of_time.seq IS 'The number of the later one, dense, from 1.';

-- COMMENT COLUMN out_of_time.event_id

COMMENT ON COLUMN audit.out_of_time.event_id IS 'The event.';

-- COMMENT COLUMN out_of_time.at

COMMENT ON COLUMN audit.out_of_time.at IS 'The time that it bears.';

-- COMMENT COLUMN out_of_time.earlier_id

COMMENT ON COLUMN audit.out_of_time.earlier_id IS 'The event before it.';

-- COMMENT COLUMN out_of_time.earlier_at

COMMENT ON COLUMN audit.out_of_time.earlier_at IS 'The time that the event before it bears.';

-- COMMENT COLUMN out_of_time.back_by

COMMENT ON COLUMN audit.out_of_time.back_by IS 'How far the time steps back.';

-- TABLE restores

CREATE TABLE audit.restores (
    restore_id uuid NOT NULL,
    tenant_id text NOT NULL,
    request text NOT NULL,
    accepted_by text NOT NULL,
    accepted_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY audit.restores FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE restores

COMMENT ON TABLE audit.restores IS 'Where a log goes on from an earlier state, and what that gives up; officers sign for it.';

-- COMMENT COLUMN restores.restore_id

COMMENT ON COLUMN audit.restores.restore_id IS 'The id of the request and of its event in the log.';

-- COMMENT COLUMN restores.tenant_id

COMMENT ON COLUMN audit.restores.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN restores.request

COMMENT ON COLUMN audit.restores.request IS 'The signed request of a retention officer that it rests on.';

-- COMMENT COLUMN restores.accepted_by

COMMENT ON COLUMN audit.restores.accepted_by IS 'The login role that handed it in.';

-- COMMENT COLUMN restores.accepted_at

COMMENT ON COLUMN audit.restores.accepted_at IS 'When it was handed in.';

-- TABLE retirements

CREATE TABLE audit.retirements (
    retirement_id bigint NOT NULL,
    before timestamp with time zone NOT NULL,
    reason text NOT NULL,
    asked_by text NOT NULL,
    asked_at timestamp with time zone DEFAULT now() NOT NULL,
    signed_at timestamp with time zone,
    request text,
    refused_at timestamp with time zone,
    refusal text
);

-- COMMENT TABLE retirements

COMMENT ON TABLE audit.retirements IS 'Requests to drop old events; the relay signs them before anything goes.';

-- COMMENT COLUMN retirements.retirement_id

COMMENT ON COLUMN audit.retirements.retirement_id IS 'The request.';

-- COMMENT COLUMN retirements.before

COMMENT ON COLUMN audit.retirements.before IS 'Events older than this may be dropped.';

-- COMMENT COLUMN retirements.reason

COMMENT ON COLUMN audit.retirements.reason IS 'Why, as it was given.';

-- COMMENT COLUMN retirements.asked_by

COMMENT ON COLUMN audit.retirements.asked_by IS 'The login role that asked for it.';

-- COMMENT COLUMN retirements.asked_at

COMMENT ON COLUMN audit.retirements.asked_at IS 'When it was asked for.';

-- COMMENT COLUMN retirements.signed_at

COMMENT ON COLUMN audit.retirements.signed_at IS 'When the relay signed it; null until then.';

-- COMMENT COLUMN retirements.request

COMMENT ON COLUMN audit.retirements.request IS 'The signed request of a retention officer that it rests on.';

-- COMMENT COLUMN retirements.refused_at

COMMENT ON COLUMN audit.retirements.refused_at IS 'When the relay refused it, if it did.';

-- COMMENT COLUMN retirements.refusal

COMMENT ON COLUMN audit.retirements.refusal IS 'Why the relay refused it.';

-- SEQUENCE retirements_retirement_id_seq

ALTER TABLE audit.retirements ALTER COLUMN retirement_id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.retirements_retirement_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- VIEW saga_story

CREATE VIEW audit.saga_story WITH (security_invoker='true') AS
 SELECT tenant_id,
    saga_id,
    row_number() OVER story AS step,
    occurred_at AS at,
    (occurred_at - first_value(occurred_at) OVER story) AS since_start,
    command_id,
    actor AS who,
    user_id AS on_behalf_of,
    type AS what,
    tool,
    method,
    attempt,
    state_from,
    state_to,
    body AS details,
    event_id
   FROM audit.events e
  WHERE (saga_id IS NOT NULL)
  WINDOW story AS (PARTITION BY tenant_id, saga_id ORDER BY occurred_at, xid, event_id);

-- COMMENT VIEW saga_story

COMMENT ON VIEW audit.saga_story IS 'The events of each saga and of its steps'' commands, numbered.';

-- COMMENT COLUMN saga_story.tenant_id

COMMENT ON COLUMN audit.saga_story.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN saga_story.saga_id

COMMENT ON COLUMN audit.saga_story.saga_id IS 'The saga, where it belongs to one.';

-- COMMENT COLUMN saga_story.step

COMMENT ON COLUMN audit.saga_story.step IS 'The event''s number in the story, from 1.';

-- COMMENT COLUMN saga_story.at

COMMENT ON COLUMN audit.saga_story.at IS 'When it happened, by the database''s clock.';

-- COMMENT COLUMN saga_story.since_start

COMMENT ON COLUMN audit.saga_story.since_start IS 'How long after the first event of the story.';

-- COMMENT COLUMN saga_story.command_id

COMMENT ON COLUMN audit.saga_story.command_id IS 'The command (its correlation id), where there is one.';

-- COMMENT COLUMN saga_story.who

COMMENT ON COLUMN audit.saga_story.who IS 'Who did it, as kind:name: user, client, adapter, relay, operator, db.';

-- COMMENT COLUMN saga_story.on_behalf_of

COMMENT ON COLUMN audit.saga_story.on_behalf_of IS 'The user on whose behalf; null where it is nobody''s, or was erased.';

-- COMMENT COLUMN saga_story.what

COMMENT ON COLUMN audit.saga_story.what IS 'What happened, as noun.verb: command.accepted, saga.step, login.failed.';

-- COMMENT COLUMN saga_story.tool

COMMENT ON COLUMN audit.saga_story.tool IS 'The tool.';

-- COMMENT COLUMN saga_story.method

COMMENT ON COLUMN audit.saga_story.method IS 'The method of the tool.';

-- COMMENT COLUMN saga_story.attempt

COMMENT ON COLUMN audit.saga_story.attempt IS 'The attempt of the command, from 1.';

-- COMMENT COLUMN saga_story.state_from

COMMENT ON COLUMN audit.saga_story.state_from IS 'The command''s state before.';

-- COMMENT COLUMN saga_story.state_to

COMMENT ON COLUMN audit.saga_story.state_to IS 'The command''s state after.';

-- COMMENT COLUMN saga_story.details

COMMENT ON COLUMN audit.saga_story.details IS 'The rest, as JSON, by the type of event.';

-- COMMENT COLUMN saga_story.event_id

COMMENT ON COLUMN audit.saga_story.event_id IS 'The event.';

-- VIEW sealed_late

CREATE VIEW audit.sealed_late WITH (security_invoker='true') AS
 SELECT m.tenant_id,
    m.seq,
    m.event_id,
    m.occurred_at AS at,
    s.seal_no,
    s.sealed_at,
    (s.sealed_at - m.occurred_at) AS late_by
   FROM (audit.seals s
     JOIN audit.members m ON (((m.tenant_id = s.tenant_id) AND ((m.seq >= s.seq_from) AND (m.seq <= s.seq_to)))))
  WHERE ((s.sealed_at - m.occurred_at) > '01:00:00'::interval);

-- COMMENT VIEW sealed_late

COMMENT ON VIEW audit.sealed_late IS 'Events that were sealed more than an hour after they had happened.';

-- COMMENT COLUMN sealed_late.tenant_id

COMMENT ON COLUMN audit.sealed_late.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN sealed_late.seq

COMMENT ON COLUMN audit.sealed_late.seq IS 'The event''s number in its tenant''s log, dense, from 1.';

-- COMMENT COLUMN sealed_late.event_id

COMMENT ON COLUMN audit.sealed_late.event_id IS 'The event.';

-- COMMENT COLUMN sealed_late.at

COMMENT ON COLUMN audit.sealed_late.at IS 'When it happened, by the database''s clock.';

-- COMMENT COLUMN sealed_late.seal_no

COMMENT ON COLUMN audit.sealed_late.seal_no IS 'The seal''s number in its tenant''s log, from 1.';

-- COMMENT COLUMN sealed_late.sealed_at

COMMENT ON COLUMN audit.sealed_late.sealed_at IS 'When the seal was made.';

-- COMMENT COLUMN sealed_late.late_by

COMMENT ON COLUMN audit.sealed_late.late_by IS 'How long it waited for its seal.';

-- VIEW sealing

CREATE VIEW audit.sealing WITH (security_invoker='true') AS
 SELECT tenant_id,
    seal_no,
    seq_to AS events_sealed,
    sealed_at,
    key_id,
    root,
    checkpoint,
    ( SELECT max(r.retired_before) AS max
           FROM audit.seals r
          WHERE (r.tenant_id = s.tenant_id)) AS retired_before
   FROM audit.seals s
  WHERE (seal_no = ( SELECT max(x.seal_no) AS max
           FROM audit.seals x
          WHERE (x.tenant_id = s.tenant_id)));

-- COMMENT VIEW sealing

COMMENT ON VIEW audit.sealing IS 'Each tenant''s newest seal: how much is sealed, when, and by which key.';

-- COMMENT COLUMN sealing.tenant_id

COMMENT ON COLUMN audit.sealing.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN sealing.seal_no

COMMENT ON COLUMN audit.sealing.seal_no IS 'The seal''s number in its tenant''s log, from 1.';

-- COMMENT COLUMN sealing.events_sealed

COMMENT ON COLUMN audit.sealing.events_sealed IS 'How many events of the tenant are sealed.';

-- COMMENT COLUMN sealing.sealed_at

COMMENT ON COLUMN audit.sealing.sealed_at IS 'When the seal was made.';

-- COMMENT COLUMN sealing.key_id

COMMENT ON COLUMN audit.sealing.key_id IS 'The signing key: 16 hex digits of its SHA-256.';

-- COMMENT COLUMN sealing.root

COMMENT ON COLUMN audit.sealing.root IS 'The Merkle tree''s root (RFC 6962) over leaves 1 to seq_to.';

-- COMMENT COLUMN sealing.checkpoint

COMMENT ON COLUMN audit.sealing.checkpoint IS 'A signed C2SP tlog-checkpoint of the whole log up to this seal.';

-- COMMENT COLUMN sealing.retired_before

COMMENT ON COLUMN audit.sealing.retired_before IS 'Events older than this may have been dropped, by any seal.';

-- SEQUENCE shapes_shape_no_seq

ALTER TABLE audit.shapes ALTER COLUMN shape_no ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME audit.shapes_shape_no_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- VIEW who_did_what

CREATE VIEW audit.who_did_what WITH (security_invoker='true') AS
 SELECT tenant_id,
    occurred_at AS at,
    actor AS who,
    user_id AS on_behalf_of,
    type AS what,
    tool,
    method,
    state_to AS outcome,
    command_id,
    saga_id,
    attempt,
    body AS details,
    event_id
   FROM audit.events e;

-- COMMENT VIEW who_did_what

COMMENT ON VIEW audit.who_did_what IS 'Every event, in plain words: who did what, on whose behalf, and the outcome.';

-- COMMENT COLUMN who_did_what.tenant_id

COMMENT ON COLUMN audit.who_did_what.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN who_did_what.at

COMMENT ON COLUMN audit.who_did_what.at IS 'When it happened, by the database''s clock.';

-- COMMENT COLUMN who_did_what.who

COMMENT ON COLUMN audit.who_did_what.who IS 'Who did it, as kind:name: user, client, adapter, relay, operator, db.';

-- COMMENT COLUMN who_did_what.on_behalf_of

COMMENT ON COLUMN audit.who_did_what.on_behalf_of IS 'The user on whose behalf; null where it is nobody''s, or was erased.';

-- COMMENT COLUMN who_did_what.what

COMMENT ON COLUMN audit.who_did_what.what IS 'What happened, as noun.verb: command.accepted, saga.step, login.failed.';

-- COMMENT COLUMN who_did_what.tool

COMMENT ON COLUMN audit.who_did_what.tool IS 'The tool.';

-- COMMENT COLUMN who_did_what.method

COMMENT ON COLUMN audit.who_did_what.method IS 'The method of the tool.';

-- COMMENT COLUMN who_did_what.outcome

COMMENT ON COLUMN audit.who_did_what.outcome IS 'The command''s state after the event; null where it did not move.';

-- COMMENT COLUMN who_did_what.command_id

COMMENT ON COLUMN audit.who_did_what.command_id IS 'The command (its correlation id), where there is one.';

-- COMMENT COLUMN who_did_what.saga_id

COMMENT ON COLUMN audit.who_did_what.saga_id IS 'The saga, where it belongs to one.';

-- COMMENT COLUMN who_did_what.attempt

COMMENT ON COLUMN audit.who_did_what.attempt IS 'The attempt of the command, from 1.';

-- COMMENT COLUMN who_did_what.details

COMMENT ON COLUMN audit.who_did_what.details IS 'The rest, as JSON, by the type of event.';

-- COMMENT COLUMN who_did_what.event_id

COMMENT ON COLUMN audit.who_did_what.event_id IS 'The event.';

-- TABLE tools

CREATE TABLE public.tools (
    tool text NOT NULL,
    method text NOT NULL,
    name text NOT NULL,
    title text DEFAULT ''::text NOT NULL,
    description text NOT NULL,
    input_schema jsonb NOT NULL,
    output_schema jsonb,
    annotations jsonb DEFAULT '{}'::jsonb NOT NULL,
    policy jsonb DEFAULT '{}'::jsonb NOT NULL,
    in_flight_max integer,
    digest bytea NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL,
    retired_at timestamp with time zone,
    adapter jsonb,
    CONSTRAINT ck_tools_name_shape CHECK ((name ~ '^[A-Za-z0-9_-]{1,64}$'::text))
);

-- COMMENT TABLE tools

COMMENT ON TABLE public.tools IS 'The catalog: what may be called, with its schemas and policy.';

-- VIEW executors

CREATE VIEW ops.executors AS
 SELECT
        CASE
            WHEN ((t.adapter IS NULL) OR ((t.adapter ->> 'runs_on'::text) = 'eda'::text)) THEN 'eda'::text
            ELSE 'worker'::text
        END AS executor,
    c.tool,
    c.method,
    count(*) FILTER (WHERE (c.state = 'dispatched'::text)) AS unclaimed,
    count(*) FILTER (WHERE (c.state = 'running'::text)) AS running,
    t.in_flight_max,
    (COALESCE(EXTRACT(epoch FROM (now() - min(c.dispatched_at) FILTER (WHERE (c.state = 'dispatched'::text)))), (0)::numeric))::double precision AS oldest_unclaimed_s
   FROM (public.commands c
     LEFT JOIN public.tools t ON (((t.tool = c.tool) AND (t.method = c.method))))
  WHERE ((c.state = ANY (ARRAY['dispatched'::text, 'running'::text])) AND (c.saga_role IS DISTINCT FROM 'saga'::text))
  GROUP BY
        CASE
            WHEN ((t.adapter IS NULL) OR ((t.adapter ->> 'runs_on'::text) = 'eda'::text)) THEN 'eda'::text
            ELSE 'worker'::text
        END, c.tool, c.method, t.in_flight_max;

-- COMMENT VIEW executors

COMMENT ON VIEW ops.executors IS 'What is with EDA and the workers, by method.';

-- COMMENT COLUMN executors.executor

COMMENT ON COLUMN ops.executors.executor IS 'eda or worker.';

-- COMMENT COLUMN executors.tool

COMMENT ON COLUMN ops.executors.tool IS 'The tool.';

-- COMMENT COLUMN executors.method

COMMENT ON COLUMN ops.executors.method IS 'Its method.';

-- COMMENT COLUMN executors.unclaimed

COMMENT ON COLUMN ops.executors.unclaimed IS 'Dispatched commands that nobody has claimed.';

-- COMMENT COLUMN executors.running

COMMENT ON COLUMN ops.executors.running IS 'Claimed commands.';

-- COMMENT COLUMN executors.in_flight_max

COMMENT ON COLUMN ops.executors.in_flight_max IS 'How many may be.';

-- COMMENT COLUMN executors.oldest_unclaimed_s

COMMENT ON COLUMN ops.executors.oldest_unclaimed_s IS 'For how long the oldest of the unclaimed has been dispatched.';

-- TABLE holds

CREATE TABLE public.holds (
    id uuid NOT NULL,
    tenant_id text NOT NULL,
    tool text,
    method text,
    ordering_key text,
    args_path text[],
    args_value jsonb,
    effect text NOT NULL,
    reason text NOT NULL,
    until timestamp with time zone,
    placed_by text NOT NULL,
    placed_at timestamp with time zone DEFAULT now() NOT NULL,
    released_at timestamp with time zone,
    released_by text,
    freed_at timestamp with time zone,
    CONSTRAINT ck_holds_argument_whole CHECK (((args_path IS NULL) = (args_value IS NULL))),
    CONSTRAINT ck_holds_effect_known CHECK ((effect = ANY (ARRAY['wait'::text, 'refuse'::text]))),
    CONSTRAINT ck_holds_method_of_a_tool CHECK (((method IS NULL) OR (tool IS NOT NULL)))
);

ALTER TABLE ONLY public.holds FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE holds

COMMENT ON TABLE public.holds IS 'What operators hold: calls that fit are accepted and wait, or are refused.';

-- TABLE outbox

CREATE TABLE public.outbox (
    id bigint NOT NULL,
    event_id uuid DEFAULT gen_random_uuid() NOT NULL,
    tenant_id text NOT NULL,
    kind text NOT NULL,
    topic text NOT NULL,
    key text NOT NULL,
    command_id uuid,
    attempt integer,
    tool text DEFAULT ''::text NOT NULL,
    method text DEFAULT ''::text NOT NULL,
    priority smallint DEFAULT '1'::smallint NOT NULL,
    exempt boolean DEFAULT false NOT NULL,
    status text DEFAULT 'ready'::text NOT NULL,
    available_at timestamp with time zone DEFAULT now() NOT NULL,
    claimed_by text,
    claimed_until timestamp with time zone,
    payload json,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    refusal text,
    refused_at timestamp with time zone,
    hold_id uuid,
    CONSTRAINT ck_outbox_claimed_has_lease CHECK (((status = 'claimed'::text) = (claimed_until IS NOT NULL))),
    CONSTRAINT ck_outbox_command_named CHECK (((kind <> 'command'::text) OR ((command_id IS NOT NULL) AND (attempt IS NOT NULL)))),
    CONSTRAINT ck_outbox_kind_known CHECK ((kind = ANY (ARRAY['command'::text, 'result'::text, 'control'::text, 'deadletter'::text, 'audit'::text]))),
    CONSTRAINT ck_outbox_on_hold_by_one CHECK (((status = 'on_hold'::text) = (hold_id IS NOT NULL))),
    CONSTRAINT ck_outbox_parked_has_reason CHECK (((status <> 'parked'::text) OR (refusal IS NOT NULL))),
    CONSTRAINT ck_outbox_payload_present CHECK (((kind = 'command'::text) OR (payload IS NOT NULL))),
    CONSTRAINT ck_outbox_status_known CHECK ((status = ANY (ARRAY['held'::text, 'delayed'::text, 'ready'::text, 'claimed'::text, 'parked'::text, 'on_hold'::text])))
)
WITH (fillfactor='70', autovacuum_vacuum_scale_factor='0.01', autovacuum_vacuum_cost_delay='0');

ALTER TABLE ONLY public.outbox FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE outbox

COMMENT ON TABLE public.outbox IS 'What is to be published to Kafka; deleted once Kafka has it.';

-- VIEW holds

CREATE VIEW ops.holds AS
 SELECT tenant_id,
    (id)::text AS hold_id,
    tool,
    method,
        CASE
            WHEN (args_path IS NOT NULL) THEN 'argument'::text
            WHEN (ordering_key IS NOT NULL) THEN 'ordering key'::text
            WHEN (method IS NOT NULL) THEN 'method'::text
            WHEN (tool IS NOT NULL) THEN 'tool'::text
            ELSE 'tenant'::text
        END AS what,
    effect,
    ( SELECT count(*) AS count
           FROM public.outbox o
          WHERE ((o.hold_id = h.id) AND (o.status = 'on_hold'::text))) AS waiting,
    (EXTRACT(epoch FROM (now() - placed_at)))::double precision AS age_s,
    (EXTRACT(epoch FROM (until - now())))::double precision AS ends_in_s
   FROM public.holds h
  WHERE (released_at IS NULL);

-- COMMENT VIEW holds

COMMENT ON VIEW ops.holds IS 'What operators hold now, by tenant.';

-- COMMENT COLUMN holds.tenant_id

COMMENT ON COLUMN ops.holds.tenant_id IS 'The tenant.';

-- COMMENT COLUMN holds.hold_id

COMMENT ON COLUMN ops.holds.hold_id IS 'The id of the hold, by which it is released.';

-- COMMENT COLUMN holds.tool

COMMENT ON COLUMN ops.holds.tool IS 'Of this tool only; null is any.';

-- COMMENT COLUMN holds.method

COMMENT ON COLUMN ops.holds.method IS 'Of this method only; null is any.';

-- COMMENT COLUMN holds.what

COMMENT ON COLUMN ops.holds.what IS 'The narrowest that it names: tenant, tool, method, ordering key or argument.';

-- COMMENT COLUMN holds.effect

COMMENT ON COLUMN ops.holds.effect IS 'wait: calls are accepted and wait; refuse: they are refused.';

-- COMMENT COLUMN holds.waiting

COMMENT ON COLUMN ops.holds.waiting IS 'Rows that it keeps from going out: those whose turn had come.';

-- COMMENT COLUMN holds.age_s

COMMENT ON COLUMN ops.holds.age_s IS 'Since when it is in force.';

-- COMMENT COLUMN holds.ends_in_s

COMMENT ON COLUMN ops.holds.ends_in_s IS 'When it ends by itself; null is never.';

-- VIEW outbox

CREATE VIEW ops.outbox AS
 SELECT status,
    count(*) AS count,
    (EXTRACT(epoch FROM (now() - min(GREATEST(created_at, available_at)))))::double precision AS oldest_s
   FROM public.outbox
  GROUP BY status;

-- COMMENT VIEW outbox

COMMENT ON VIEW ops.outbox IS 'The outbox rows by status: the ready ones are for a relay to publish.';

-- COMMENT COLUMN outbox.status

COMMENT ON COLUMN ops.outbox.status IS 'held, delayed, ready, claimed or parked.';

-- COMMENT COLUMN outbox.count

COMMENT ON COLUMN ops.outbox.count IS 'How many rows there are.';

-- COMMENT COLUMN outbox.oldest_s

COMMENT ON COLUMN ops.outbox.oldest_s IS 'For how long the oldest could have gone; below 0 where it is to wait yet.';

-- TABLE sagas

CREATE TABLE public.sagas (
    id uuid NOT NULL,
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    kind text NOT NULL,
    name text,
    version integer,
    plan jsonb,
    input jsonb,
    state text DEFAULT 'running'::text NOT NULL,
    reason jsonb,
    on_idle text DEFAULT 'compensate'::text NOT NULL,
    idle_timeout_s double precision,
    steps_done integer DEFAULT 0 NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    finished_at timestamp with time zone,
    stop jsonb,
    closed boolean DEFAULT true NOT NULL,
    idle_at timestamp with time zone,
    CONSTRAINT ck_sagas_finished_when_final CHECK (((finished_at IS NOT NULL) = (state = ANY (ARRAY['completed'::text, 'compensated'::text])))),
    CONSTRAINT ck_sagas_kind_known CHECK ((kind = ANY (ARRAY['adhoc'::text, 'declared'::text]))),
    CONSTRAINT ck_sagas_on_idle_known CHECK ((on_idle = ANY (ARRAY['compensate'::text, 'complete'::text]))),
    CONSTRAINT ck_sagas_state_known CHECK ((state = ANY (ARRAY['running'::text, 'stopping'::text, 'stuck'::text, 'compensating'::text, 'compensation_failed'::text, 'completed'::text, 'compensated'::text])))
);

ALTER TABLE ONLY public.sagas FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE sagas

COMMENT ON TABLE public.sagas IS 'Sagas: their plan, input and state.';

-- VIEW sagas

CREATE VIEW ops.sagas AS
 SELECT sagas.tenant_id,
    sagas.state,
    count(*) AS sagas,
    (COALESCE(EXTRACT(epoch FROM (now() - min(sagas.created_at))), (0)::numeric))::double precision AS oldest_s
   FROM public.sagas
  WHERE (sagas.finished_at IS NULL)
  GROUP BY sagas.tenant_id, sagas.state
UNION ALL
 SELECT sagas.tenant_id,
    sagas.state,
    count(*) AS sagas,
    0 AS oldest_s
   FROM public.sagas
  WHERE (sagas.finished_at > (now() - '24:00:00'::interval))
  GROUP BY sagas.tenant_id, sagas.state;

-- COMMENT VIEW sagas

COMMENT ON VIEW ops.sagas IS 'Each tenant''s sagas by state: those that are open, and the last 24 hours'' ended ones.';

-- COMMENT COLUMN sagas.tenant_id

COMMENT ON COLUMN ops.sagas.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN sagas.state

COMMENT ON COLUMN ops.sagas.state IS 'The state.';

-- COMMENT COLUMN sagas.sagas

COMMENT ON COLUMN ops.sagas.sagas IS 'How many there are.';

-- COMMENT COLUMN sagas.oldest_s

COMMENT ON COLUMN ops.sagas.oldest_s IS 'The age of the oldest that is open.';

-- TABLE tenants

CREATE TABLE public.tenants (
    tenant_id text NOT NULL,
    title text DEFAULT ''::text NOT NULL,
    state text DEFAULT 'active'::text NOT NULL,
    weight integer DEFAULT 1 NOT NULL,
    rate_per_s double precision,
    rate_burst integer DEFAULT 100 NOT NULL,
    in_flight_max integer DEFAULT 100 NOT NULL,
    queued_max integer DEFAULT 100000 NOT NULL,
    inline_wait_s double precision,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT ck_tenants_id_shape CHECK ((tenant_id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'::text)),
    CONSTRAINT ck_tenants_limits CHECK (((in_flight_max > 0) AND (queued_max > 0) AND (rate_burst > 0))),
    CONSTRAINT ck_tenants_rate_positive CHECK ((rate_per_s > (0)::double precision)),
    CONSTRAINT ck_tenants_state_known CHECK ((state = ANY (ARRAY['active'::text, 'suspended'::text]))),
    CONSTRAINT ck_tenants_weight_range CHECK (((weight >= 1) AND (weight <= 1000)))
);

ALTER TABLE ONLY public.tenants FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE tenants

COMMENT ON TABLE public.tenants IS 'Tenants, with their limits: fair share, rate, window and queue.';

-- VIEW seals

CREATE VIEW ops.seals AS
 SELECT log.tenant_id,
    s.seal_no,
    s.seq_to AS events_sealed,
    s.sealed_at,
    (EXTRACT(epoch FROM (now() - s.sealed_at)))::double precision AS age_s
   FROM (( SELECT tenants.tenant_id
           FROM public.tenants
        UNION ALL
         SELECT '_broker'::text) log
     CROSS JOIN LATERAL ( SELECT seals.seal_no,
            seals.seq_to,
            seals.sealed_at
           FROM audit.seals
          WHERE (seals.tenant_id = log.tenant_id)
          ORDER BY seals.seal_no DESC
         LIMIT 1) s);

-- COMMENT VIEW seals

COMMENT ON VIEW ops.seals IS 'Each log''s newest seal.';

-- COMMENT COLUMN seals.tenant_id

COMMENT ON COLUMN ops.seals.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN seals.seal_no

COMMENT ON COLUMN ops.seals.seal_no IS 'The seal''s number in its log, from 1.';

-- COMMENT COLUMN seals.events_sealed

COMMENT ON COLUMN ops.seals.events_sealed IS 'How many events of the log are sealed.';

-- COMMENT COLUMN seals.sealed_at

COMMENT ON COLUMN ops.seals.sealed_at IS 'When it was made.';

-- COMMENT COLUMN seals.age_s

COMMENT ON COLUMN ops.seals.age_s IS 'How long ago that was.';

-- VIEW tenants

CREATE VIEW ops.tenants AS
 SELECT '1h'::text AS period,
    commands.tenant_id,
    count(*) AS calls,
    ((count(*))::double precision / (EXTRACT(epoch FROM '01:00:00'::interval))::double precision) AS calls_per_s,
    count(*) FILTER (WHERE (commands.state = 'succeeded'::text)) AS succeeded,
    count(*) FILTER (WHERE (commands.state = 'failed'::text)) AS failed,
    count(*) FILTER (WHERE (commands.state = 'cancelled'::text)) AS cancelled,
    count(*) FILTER (WHERE (commands.state = 'timed_out'::text)) AS timed_out,
    count(*) FILTER (WHERE (commands.state = 'dead_lettered'::text)) AS dead_lettered,
    (avg(((commands.state = ANY (ARRAY['failed'::text, 'timed_out'::text, 'dead_lettered'::text])))::integer))::double precision AS error_rate,
    (avg(((commands.state = 'timed_out'::text))::integer))::double precision AS timeout_rate,
    (avg(((commands.state = 'dead_lettered'::text))::integer))::double precision AS dead_letter_rate,
    count(commands.deadline_missed_at) AS deadline_misses,
    sum((commands.attempt - 1)) AS retries,
    percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p50_s,
    percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p95_s,
    percentile_cont((0.99)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p99_s,
    percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p50_s,
    percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p95_s,
    percentile_cont((0.99)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p99_s
   FROM public.commands
  WHERE ((commands.finished_at > (now() - '01:00:00'::interval)) AND (commands.purged_at IS NULL))
  GROUP BY commands.tenant_id
UNION ALL
 SELECT '24h'::text AS period,
    commands.tenant_id,
    count(*) AS calls,
    ((count(*))::double precision / (EXTRACT(epoch FROM '24:00:00'::interval))::double precision) AS calls_per_s,
    count(*) FILTER (WHERE (commands.state = 'succeeded'::text)) AS succeeded,
    count(*) FILTER (WHERE (commands.state = 'failed'::text)) AS failed,
    count(*) FILTER (WHERE (commands.state = 'cancelled'::text)) AS cancelled,
    count(*) FILTER (WHERE (commands.state = 'timed_out'::text)) AS timed_out,
    count(*) FILTER (WHERE (commands.state = 'dead_lettered'::text)) AS dead_lettered,
    (avg(((commands.state = ANY (ARRAY['failed'::text, 'timed_out'::text, 'dead_lettered'::text])))::integer))::double precision AS error_rate,
    (avg(((commands.state = 'timed_out'::text))::integer))::double precision AS timeout_rate,
    (avg(((commands.state = 'dead_lettered'::text))::integer))::double precision AS dead_letter_rate,
    count(commands.deadline_missed_at) AS deadline_misses,
    sum((commands.attempt - 1)) AS retries,
    percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p50_s,
    percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p95_s,
    percentile_cont((0.99)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p99_s,
    percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p50_s,
    percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p95_s,
    percentile_cont((0.99)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p99_s
   FROM public.commands
  WHERE ((commands.finished_at > (now() - '24:00:00'::interval)) AND (commands.purged_at IS NULL))
  GROUP BY commands.tenant_id;

-- COMMENT VIEW tenants

COMMENT ON VIEW ops.tenants IS 'How each tenant''s calls did: of the commands that ended in the period.';

-- COMMENT COLUMN tenants.period

COMMENT ON COLUMN ops.tenants.period IS '1h or 24h, up to now.';

-- COMMENT COLUMN tenants.tenant_id

COMMENT ON COLUMN ops.tenants.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN tenants.calls

COMMENT ON COLUMN ops.tenants.calls IS 'How many ended.';

-- COMMENT COLUMN tenants.calls_per_s

COMMENT ON COLUMN ops.tenants.calls_per_s IS 'The same, a second.';

-- COMMENT COLUMN tenants.succeeded

COMMENT ON COLUMN ops.tenants.succeeded IS 'How many succeeded.';

-- COMMENT COLUMN tenants.failed

COMMENT ON COLUMN ops.tenants.failed IS 'How many failed.';

-- COMMENT COLUMN tenants.cancelled

COMMENT ON COLUMN ops.tenants.cancelled IS 'How many were cancelled.';

-- COMMENT COLUMN tenants.timed_out

COMMENT ON COLUMN ops.tenants.timed_out IS 'How many ended at their deadline or their longest running time.';

-- COMMENT COLUMN tenants.dead_lettered

COMMENT ON COLUMN ops.tenants.dead_lettered IS 'How many became dead letters.';

-- COMMENT COLUMN tenants.error_rate

COMMENT ON COLUMN ops.tenants.error_rate IS 'The share that failed, timed out or became dead letters, from 0 to 1.';

-- COMMENT COLUMN tenants.timeout_rate

COMMENT ON COLUMN ops.tenants.timeout_rate IS 'The share that timed out, from 0 to 1.';

-- COMMENT COLUMN tenants.dead_letter_rate

COMMENT ON COLUMN ops.tenants.dead_letter_rate IS 'The share that became dead letters, from 0 to 1.';

-- COMMENT COLUMN tenants.deadline_misses

COMMENT ON COLUMN ops.tenants.deadline_misses IS 'How many had not ended at their deadline.';

-- COMMENT COLUMN tenants.retries

COMMENT ON COLUMN ops.tenants.retries IS 'Attempts beyond the first.';

-- COMMENT COLUMN tenants.call_p50_s

COMMENT ON COLUMN ops.tenants.call_p50_s IS 'Seconds from acceptance, or from not_before where that is later, to the end: the median.';

-- COMMENT COLUMN tenants.call_p95_s

COMMENT ON COLUMN ops.tenants.call_p95_s IS 'Seconds from acceptance, or from not_before where that is later, to the end, of 95 in 100 at most.';

-- COMMENT COLUMN tenants.call_p99_s

COMMENT ON COLUMN ops.tenants.call_p99_s IS 'Seconds from acceptance, or from not_before where that is later, to the end, of 99 in 100 at most.';

-- COMMENT COLUMN tenants.run_p50_s

COMMENT ON COLUMN ops.tenants.run_p50_s IS 'Seconds from the last attempt''s claim to the end: the median.';

-- COMMENT COLUMN tenants.run_p95_s

COMMENT ON COLUMN ops.tenants.run_p95_s IS 'Seconds from the last attempt''s claim to the end, of 95 in 100 at most.';

-- COMMENT COLUMN tenants.run_p99_s

COMMENT ON COLUMN ops.tenants.run_p99_s IS 'Seconds from the last attempt''s claim to the end, of 99 in 100 at most.';

-- TABLE ordering_heads

CREATE TABLE public.ordering_heads (
    tenant_id text NOT NULL,
    ordering_key text NOT NULL,
    next_seq bigint DEFAULT '1'::bigint NOT NULL,
    active_id uuid,
    blocked_reason text,
    saga_id uuid,
    moved_at timestamp with time zone DEFAULT now() NOT NULL
)
WITH (fillfactor='50');

ALTER TABLE ONLY public.ordering_heads FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE ordering_heads

COMMENT ON TABLE public.ordering_heads IS 'One row an ordering key: the lock of the key, and who has it.';

-- VIEW tenants_now

CREATE VIEW ops.tenants_now AS
 WITH RECURSIVE lane AS (
        ( SELECT outbox.priority,
            outbox.tenant_id,
            outbox.tool,
            outbox.method
           FROM public.outbox
          WHERE ((outbox.status = 'ready'::text) AND (outbox.kind = 'command'::text) AND (NOT outbox.exempt))
          ORDER BY outbox.priority, outbox.tenant_id, outbox.tool, outbox.method
         LIMIT 1)
        UNION ALL
         SELECT following.priority,
            following.tenant_id,
            following.tool,
            following.method
           FROM (lane
             CROSS JOIN LATERAL ( SELECT o.priority,
                    o.tenant_id,
                    o.tool,
                    o.method
                   FROM public.outbox o
                  WHERE ((o.status = 'ready'::text) AND (o.kind = 'command'::text) AND (NOT o.exempt) AND (ROW(o.priority, o.tenant_id, o.tool, o.method) > ROW(lane.priority, lane.tenant_id, lane.tool, lane.method)))
                  ORDER BY o.priority, o.tenant_id, o.tool, o.method
                 LIMIT 1) following)
        ), oldest AS (
         SELECT lane.tenant_id,
            min(first.since) AS since
           FROM (lane
             CROSS JOIN LATERAL ( SELECT GREATEST(o.created_at, o.available_at) AS since
                   FROM public.outbox o
                  WHERE ((o.status = 'ready'::text) AND (o.kind = 'command'::text) AND (NOT o.exempt) AND (o.priority = lane.priority) AND (o.tenant_id = lane.tenant_id) AND (o.tool = lane.tool) AND (o.method = lane.method))
                  ORDER BY o.priority, o.tenant_id, o.tool, o.method, o.id
                 LIMIT 1) first)
          GROUP BY lane.tenant_id
        )
 SELECT t.tenant_id,
    ( SELECT count(*) AS count
           FROM public.commands c
          WHERE ((c.tenant_id = t.tenant_id) AND (c.state = 'queued'::text))) AS queued,
    t.queued_max,
    (COALESCE(EXTRACT(epoch FROM (now() - oldest.since)), (0)::numeric))::double precision AS oldest_ready_s,
    ( SELECT count(*) AS count
           FROM public.commands c
          WHERE ((c.tenant_id = t.tenant_id) AND (c.state = ANY (ARRAY['dispatched'::text, 'running'::text])) AND (c.saga_role IS DISTINCT FROM 'saga'::text))) AS in_flight,
    t.in_flight_max,
    ( SELECT count(*) AS count
           FROM public.commands c
          WHERE ((c.tenant_id = t.tenant_id) AND (c.state = 'dead_lettered'::text) AND (c.discarded_at IS NULL))) AS dead_letters,
    ( SELECT count(*) AS count
           FROM public.ordering_heads h
          WHERE ((h.tenant_id = t.tenant_id) AND (h.blocked_reason IS NOT NULL))) AS blocked_keys
   FROM (public.tenants t
     LEFT JOIN oldest USING (tenant_id));

-- COMMENT VIEW tenants_now

COMMENT ON VIEW ops.tenants_now IS 'What each tenant has in the queue and in flight, and what waits for a person.';

-- COMMENT COLUMN tenants_now.tenant_id

COMMENT ON COLUMN ops.tenants_now.tenant_id IS 'The tenant; _broker is the broker itself.';

-- COMMENT COLUMN tenants_now.queued

COMMENT ON COLUMN ops.tenants_now.queued IS 'Commands in the queue, held and delayed ones too.';

-- COMMENT COLUMN tenants_now.queued_max

COMMENT ON COLUMN ops.tenants_now.queued_max IS 'How many may be; then calls are refused.';

-- COMMENT COLUMN tenants_now.oldest_ready_s

COMMENT ON COLUMN ops.tenants_now.oldest_ready_s IS 'For how long the oldest command has been ready to be dispatched.';

-- COMMENT COLUMN tenants_now.in_flight

COMMENT ON COLUMN ops.tenants_now.in_flight IS 'Commands that are dispatched or run.';

-- COMMENT COLUMN tenants_now.in_flight_max

COMMENT ON COLUMN ops.tenants_now.in_flight_max IS 'How many may be.';

-- COMMENT COLUMN tenants_now.dead_letters

COMMENT ON COLUMN ops.tenants_now.dead_letters IS 'Dead letters neither redriven nor discarded.';

-- COMMENT COLUMN tenants_now.blocked_keys

COMMENT ON COLUMN ops.tenants_now.blocked_keys IS 'Ordering keys that wait for a person''s decision.';

-- VIEW tools

CREATE VIEW ops.tools AS
 SELECT '1h'::text AS period,
    commands.tool,
    commands.method,
    count(*) AS calls,
    ((count(*))::double precision / (EXTRACT(epoch FROM '01:00:00'::interval))::double precision) AS calls_per_s,
    count(*) FILTER (WHERE (commands.state = 'succeeded'::text)) AS succeeded,
    count(*) FILTER (WHERE (commands.state = 'failed'::text)) AS failed,
    count(*) FILTER (WHERE (commands.state = 'cancelled'::text)) AS cancelled,
    count(*) FILTER (WHERE (commands.state = 'timed_out'::text)) AS timed_out,
    count(*) FILTER (WHERE (commands.state = 'dead_lettered'::text)) AS dead_lettered,
    (avg(((commands.state = ANY (ARRAY['failed'::text, 'timed_out'::text, 'dead_lettered'::text])))::integer))::double precision AS error_rate,
    (avg(((commands.state = 'timed_out'::text))::integer))::double precision AS timeout_rate,
    (avg(((commands.state = 'dead_lettered'::text))::integer))::double precision AS dead_letter_rate,
    count(commands.deadline_missed_at) AS deadline_misses,
    sum((commands.attempt - 1)) AS retries,
    percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p50_s,
    percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p95_s,
    percentile_cont((0.99)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p99_s,
    percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p50_s,
    percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p95_s,
    percentile_cont((0.99)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p99_s
   FROM public.commands
  WHERE ((commands.finished_at > (now() - '01:00:00'::interval)) AND (commands.purged_at IS NULL))
  GROUP BY commands.tool, commands.method
UNION ALL
 SELECT '24h'::text AS period,
    commands.tool,
    commands.method,
    count(*) AS calls,
    ((count(*))::double precision / (EXTRACT(epoch FROM '24:00:00'::interval))::double precision) AS calls_per_s,
    count(*) FILTER (WHERE (commands.state = 'succeeded'::text)) AS succeeded,
    count(*) FILTER (WHERE (commands.state = 'failed'::text)) AS failed,
    count(*) FILTER (WHERE (commands.state = 'cancelled'::text)) AS cancelled,
    count(*) FILTER (WHERE (commands.state = 'timed_out'::text)) AS timed_out,
    count(*) FILTER (WHERE (commands.state = 'dead_lettered'::text)) AS dead_lettered,
    (avg(((commands.state = ANY (ARRAY['failed'::text, 'timed_out'::text, 'dead_lettered'::text])))::integer))::double precision AS error_rate,
    (avg(((commands.state = 'timed_out'::text))::integer))::double precision AS timeout_rate,
    (avg(((commands.state = 'dead_lettered'::text))::integer))::double precision AS dead_letter_rate,
    count(commands.deadline_missed_at) AS deadline_misses,
    sum((commands.attempt - 1)) AS retries,
    percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p50_s,
    percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p95_s,
    percentile_cont((0.99)::double precision) WITHIN GROUP (ORDER BY ((GREATEST((0)::numeric, EXTRACT(epoch FROM (commands.finished_at - GREATEST(commands.created_at, commands.not_before)))))::double precision)) AS call_p99_s,
    percentile_cont((0.5)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p50_s,
    percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p95_s,
    percentile_cont((0.99)::double precision) WITHIN GROUP (ORDER BY ((EXTRACT(epoch FROM (commands.finished_at - commands.started_at)))::double precision)) AS run_p99_s
   FROM public.commands
  WHERE ((commands.finished_at > (now() - '24:00:00'::interval)) AND (commands.purged_at IS NULL))
  GROUP BY commands.tool, commands.method;

-- COMMENT VIEW tools

COMMENT ON VIEW ops.tools IS 'How calls of each method did: of the commands that ended in the period.';

-- COMMENT COLUMN tools.period

COMMENT ON COLUMN ops.tools.period IS '1h or 24h, up to now.';

-- COMMENT COLUMN tools.tool

COMMENT ON COLUMN ops.tools.tool IS 'The tool.';

-- COMMENT COLUMN tools.method

COMMENT ON COLUMN ops.tools.method IS 'Its method.';

-- COMMENT COLUMN tools.calls

COMMENT ON COLUMN ops.tools.calls IS 'How many ended.';

-- COMMENT COLUMN tools.calls_per_s

COMMENT ON COLUMN ops.tools.calls_per_s IS 'The same, a second.';

-- COMMENT COLUMN tools.succeeded

COMMENT ON COLUMN ops.tools.succeeded IS 'How many succeeded.';

-- COMMENT COLUMN tools.failed

COMMENT ON COLUMN ops.tools.failed IS 'How many failed.';

-- COMMENT COLUMN tools.cancelled

COMMENT ON COLUMN ops.tools.cancelled IS 'How many were cancelled.';

-- COMMENT COLUMN tools.timed_out

COMMENT ON COLUMN ops.tools.timed_out IS 'How many ended at their deadline or their longest running time.';

-- COMMENT COLUMN tools.dead_lettered

COMMENT ON COLUMN ops.tools.dead_lettered IS 'How many became dead letters.';

-- COMMENT COLUMN tools.error_rate

COMMENT ON COLUMN ops.tools.error_rate IS 'The share that failed, timed out or became dead letters, from 0 to 1.';

-- COMMENT COLUMN tools.timeout_rate

COMMENT ON COLUMN ops.tools.timeout_rate IS 'The share that timed out, from 0 to 1.';

-- COMMENT COLUMN tools.dead_letter_rate

COMMENT ON COLUMN ops.tools.dead_letter_rate IS 'The share that became dead letters, from 0 to 1.';

-- COMMENT COLUMN tools.deadline_misses

COMMENT ON COLUMN ops.tools.deadline_misses IS 'How many had not ended at their deadline.';

-- COMMENT COLUMN tools.retries

COMMENT ON COLUMN ops.tools.retries IS 'Attempts beyond the first.';

-- COMMENT COLUMN tools.call_p50_s

COMMENT ON COLUMN ops.tools.call_p50_s IS 'Seconds from acceptance, or from not_before where that is later, to the end: the median.';

-- COMMENT COLUMN tools.call_p95_s

COMMENT ON COLUMN ops.tools.call_p95_s IS 'Seconds from acceptance, or from not_before where that is later, to the end, of 95 in 100 at most.';

-- COMMENT COLUMN tools.call_p99_s

COMMENT ON COLUMN ops.tools.call_p99_s IS 'Seconds from acceptance, or from not_before where that is later, to the end, of 99 in 100 at most.';

-- COMMENT COLUMN tools.run_p50_s

COMMENT ON COLUMN ops.tools.run_p50_s IS 'Seconds from the last attempt''s claim to the end: the median.';

-- COMMENT COLUMN tools.run_p95_s

COMMENT ON COLUMN ops.tools.run_p95_s IS 'Seconds from the last attempt''s claim to the end, of 95 in 100 at most.';

-- COMMENT COLUMN tools.run_p99_s

COMMENT ON COLUMN ops.tools.run_p99_s IS 'Seconds from the last attempt''s claim to the end, of 99 in 100 at most.';

-- VIEW waiting

CREATE VIEW ops.waiting AS
 SELECT commands.tenant_id,
    'approval'::text AS what,
    count(*) AS count,
    (EXTRACT(epoch FROM (now() - min(commands.created_at))))::double precision AS oldest_s
   FROM public.commands
  WHERE ((commands.state = 'queued'::text) AND (commands.approval = 'pending'::text))
  GROUP BY commands.tenant_id
UNION ALL
 SELECT commands.tenant_id,
    'dead letter'::text AS what,
    count(*) AS count,
    (EXTRACT(epoch FROM (now() - min(commands.finished_at))))::double precision AS oldest_s
   FROM public.commands
  WHERE ((commands.state = 'dead_lettered'::text) AND (commands.discarded_at IS NULL))
  GROUP BY commands.tenant_id
UNION ALL
 SELECT ordering_heads.tenant_id,
    'blocked key'::text AS what,
    count(*) AS count,
    (EXTRACT(epoch FROM (now() - min(ordering_heads.moved_at))))::double precision AS oldest_s
   FROM public.ordering_heads
  WHERE (ordering_heads.blocked_reason IS NOT NULL)
  GROUP BY ordering_heads.tenant_id
UNION ALL
 SELECT sagas.tenant_id,
    'saga'::text AS what,
    count(*) AS count,
    (EXTRACT(epoch FROM (now() - min(sagas.created_at))))::double precision AS oldest_s
   FROM public.sagas
  WHERE (sagas.state = ANY (ARRAY['stuck'::text, 'compensation_failed'::text]))
  GROUP BY sagas.tenant_id
UNION ALL
 SELECT outbox.tenant_id,
    'refused row'::text AS what,
    count(*) AS count,
    (EXTRACT(epoch FROM (now() - min(outbox.refused_at))))::double precision AS oldest_s
   FROM public.outbox
  WHERE ((outbox.refusal IS NOT NULL) AND (outbox.status = 'parked'::text))
  GROUP BY outbox.tenant_id;

-- COMMENT VIEW waiting

COMMENT ON VIEW ops.waiting IS 'What waits for a person, by tenant and kind; none where there is nothing.';

-- COMMENT COLUMN waiting.tenant_id

COMMENT ON COLUMN ops.waiting.tenant_id IS 'The tenant.';

-- COMMENT COLUMN waiting.what

COMMENT ON COLUMN ops.waiting.what IS 'approval, dead letter, blocked key, saga, or refused row (by Kafka).';

-- COMMENT COLUMN waiting.count

COMMENT ON COLUMN ops.waiting.count IS 'How many there are.';

-- COMMENT COLUMN waiting.oldest_s

COMMENT ON COLUMN ops.waiting.oldest_s IS 'For how long the oldest has waited.';

-- TABLE webhook_deliveries

CREATE TABLE public.webhook_deliveries (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    tenant_id text NOT NULL,
    endpoint_id uuid NOT NULL,
    kind text NOT NULL,
    event_id uuid NOT NULL,
    xid xid8 NOT NULL,
    occurred_at timestamp with time zone NOT NULL,
    data jsonb NOT NULL,
    state text DEFAULT 'waiting'::text NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL,
    lease uuid,
    last_status integer,
    last_error text,
    last_at timestamp with time zone,
    answer text,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT ck_webhook_deliveries_state CHECK ((state = ANY (ARRAY['waiting'::text, 'delivered'::text, 'abandoned'::text])))
);

ALTER TABLE ONLY public.webhook_deliveries FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE webhook_deliveries

COMMENT ON TABLE public.webhook_deliveries IS 'What an endpoint is to be told, and what it was told some days ago or less.';

-- TABLE webhook_endpoints

CREATE TABLE public.webhook_endpoints (
    id uuid DEFAULT gen_random_uuid() NOT NULL,
    tenant_id text NOT NULL,
    user_id text,
    url text NOT NULL,
    kinds text[] NOT NULL,
    tool text,
    method text,
    template jsonb,
    secret bytea NOT NULL,
    secret_before bytea,
    secret_before_until timestamp with time zone,
    enabled boolean DEFAULT true NOT NULL,
    reason text,
    disabled_at timestamp with time zone,
    from_xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
    failing_since timestamp with time zone,
    last_error text,
    last_delivered_at timestamp with time zone,
    verified_at timestamp with time zone,
    expires_at timestamp with time zone,
    created_by text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY public.webhook_endpoints FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE webhook_endpoints

COMMENT ON TABLE public.webhook_endpoints IS 'Who is told of what by webhook: operators'' endpoints, and MCP clients'' subscriptions.';

-- VIEW webhooks

CREATE VIEW ops.webhooks AS
 SELECT e.tenant_id,
    count(DISTINCT e.id) AS endpoints,
    count(DISTINCT e.id) FILTER (WHERE ((NOT e.enabled) AND (e.user_id IS NULL))) AS disabled,
    count(DISTINCT e.id) FILTER (WHERE (e.enabled AND (e.failing_since IS NOT NULL))) AS failing,
    count(d.id) AS waiting,
    (EXTRACT(epoch FROM (now() - min(d.created_at))))::double precision AS oldest_s
   FROM (public.webhook_endpoints e
     LEFT JOIN public.webhook_deliveries d ON (((d.endpoint_id = e.id) AND (d.state = 'waiting'::text) AND e.enabled)))
  GROUP BY e.tenant_id;

-- COMMENT VIEW webhooks

COMMENT ON VIEW ops.webhooks IS 'Webhooks by tenant: endpoints, those that fail or were disabled, and what waits.';

-- COMMENT COLUMN webhooks.tenant_id

COMMENT ON COLUMN ops.webhooks.tenant_id IS 'The tenant.';

-- COMMENT COLUMN webhooks.endpoints

COMMENT ON COLUMN ops.webhooks.endpoints IS 'How many endpoints it has, with subscriptions of MCP clients.';

-- COMMENT COLUMN webhooks.disabled

COMMENT ON COLUMN ops.webhooks.disabled IS 'How many of its operators'' endpoints are disabled.';

-- COMMENT COLUMN webhooks.failing

COMMENT ON COLUMN ops.webhooks.failing IS 'How many have not taken the latest deliveries.';

-- COMMENT COLUMN webhooks.waiting

COMMENT ON COLUMN ops.webhooks.waiting IS 'How many deliveries wait for endpoints that are enabled.';

-- COMMENT COLUMN webhooks.oldest_s

COMMENT ON COLUMN ops.webhooks.oldest_s IS 'For how long the oldest of them has waited.';

-- TABLE command_labels

CREATE TABLE public.command_labels (
    tenant_id text NOT NULL,
    label text NOT NULL,
    command_id uuid NOT NULL
);

ALTER TABLE ONLY public.command_labels FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE command_labels

COMMENT ON TABLE public.command_labels IS 'The labels that callers gave to their commands, one a row, for the search by label.';

-- TABLE console_sessions

CREATE TABLE public.console_sessions (
    id_hash bytea NOT NULL,
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    identity jsonb NOT NULL,
    method text NOT NULL,
    link_hash bytea,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    seen_at timestamp with time zone DEFAULT now() NOT NULL,
    expires_at timestamp with time zone NOT NULL,
    ended_at timestamp with time zone,
    CONSTRAINT ck_console_sessions_hash_size CHECK ((octet_length(id_hash) = 32)),
    CONSTRAINT ck_console_sessions_link_is_named CHECK (((method = 'link'::text) = (link_hash IS NOT NULL))),
    CONSTRAINT ck_console_sessions_method_known CHECK ((method = ANY (ARRAY['openid'::text, 'link'::text])))
);

ALTER TABLE ONLY public.console_sessions FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE console_sessions

COMMENT ON TABLE public.console_sessions IS 'Who is signed in at the console, by the hash of a cookie; a day after the end a row goes.';

-- TABLE dpop_proofs

CREATE UNLOGGED TABLE public.dpop_proofs (
    digest bytea NOT NULL,
    kept_until timestamp with time zone NOT NULL
);

-- COMMENT TABLE dpop_proofs

COMMENT ON TABLE public.dpop_proofs IS 'Proofs of possession (DPoP) that were taken, by a hash; each counts once, at any replica.';

-- TABLE grants

CREATE TABLE public.grants (
    tenant_id text NOT NULL,
    subject_kind text NOT NULL,
    subject text NOT NULL,
    pattern text NOT NULL,
    effect text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    condition text DEFAULT ''::text NOT NULL,
    CONSTRAINT ck_grants_effect_known CHECK ((effect = ANY (ARRAY['allow'::text, 'deny'::text]))),
    CONSTRAINT ck_grants_subject_known CHECK ((subject_kind = ANY (ARRAY['tenant'::text, 'user'::text, 'group'::text])))
);

ALTER TABLE ONLY public.grants FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE grants

COMMENT ON TABLE public.grants IS 'Who of a tenant may call what; a deny outweighs every allow.';

-- TABLE leases

CREATE TABLE public.leases (
    name text NOT NULL,
    owner text NOT NULL,
    epoch bigint DEFAULT '1'::bigint NOT NULL,
    until timestamp with time zone NOT NULL
);

-- COMMENT TABLE leases

COMMENT ON TABLE public.leases IS 'Work that one relay does at a time; the epoch fences a predecessor.';

-- SEQUENCE outbox_id_seq

ALTER TABLE public.outbox ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.outbox_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- TABLE progress

CREATE TABLE public.progress (
    command_id uuid NOT NULL,
    seq integer NOT NULL,
    tenant_id text NOT NULL,
    attempt integer NOT NULL,
    stage text NOT NULL,
    percent double precision,
    message text,
    at timestamp with time zone DEFAULT clock_timestamp() NOT NULL
);

ALTER TABLE ONLY public.progress FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE progress

COMMENT ON TABLE public.progress IS 'Progress reports, numbered per command.';

-- TABLE saga_definitions

CREATE TABLE public.saga_definitions (
    tenant_id text NOT NULL,
    name text NOT NULL,
    version integer NOT NULL,
    definition jsonb NOT NULL,
    digest bytea NOT NULL,
    registered_by text NOT NULL,
    registered_at timestamp with time zone DEFAULT now() NOT NULL,
    retired_at timestamp with time zone
);

ALTER TABLE ONLY public.saga_definitions FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE saga_definitions

COMMENT ON TABLE public.saga_definitions IS 'Saga definitions; each registration is a version that never changes.';

-- TABLE saga_steps

CREATE TABLE public.saga_steps (
    saga_id uuid NOT NULL,
    step text NOT NULL,
    tenant_id text NOT NULL,
    "position" integer NOT NULL,
    state text DEFAULT 'pending'::text NOT NULL,
    command_id uuid,
    undo_id uuid,
    compensation jsonb,
    done_seq integer,
    reason text,
    reconcile_id uuid,
    issues integer DEFAULT 0 NOT NULL,
    reconcile_unmade boolean DEFAULT false NOT NULL,
    CONSTRAINT ck_saga_steps_state_known CHECK ((state = ANY (ARRAY['pending'::text, 'dispatched'::text, 'succeeded'::text, 'failed'::text, 'unknown'::text, 'reconciling'::text, 'compensating'::text, 'compensated'::text, 'compensation_failed'::text, 'skipped'::text])))
);

ALTER TABLE ONLY public.saga_steps FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE saga_steps

COMMENT ON TABLE public.saga_steps IS 'Steps of sagas, with the commands that were written for each.';

-- TABLE saga_turns

CREATE TABLE public.saga_turns (
    id bigint NOT NULL,
    tenant_id text NOT NULL,
    saga_id uuid NOT NULL,
    due_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY public.saga_turns FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE saga_turns

COMMENT ON TABLE public.saga_turns IS 'Ticks: which saga has something to look at, and since when.';

-- SEQUENCE saga_turns_id_seq

ALTER TABLE public.saga_turns ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.saga_turns_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- TABLE targets

CREATE TABLE public.targets (
    id bigint NOT NULL,
    tenant_id text,
    name text NOT NULL,
    kind text NOT NULL,
    address text DEFAULT ''::text NOT NULL,
    tls jsonb DEFAULT '{}'::jsonb NOT NULL,
    credential jsonb,
    limits jsonb DEFAULT '{}'::jsonb NOT NULL,
    allowed_hosts text[] DEFAULT '{}'::text[] NOT NULL,
    takes_key boolean DEFAULT false NOT NULL,
    options jsonb DEFAULT '{}'::jsonb NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    applied_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY public.targets FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE targets

COMMENT ON TABLE public.targets IS 'Where adapters work: addresses, bounds, and references to credentials, never a secret.';

-- SEQUENCE targets_id_seq

ALTER TABLE public.targets ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.targets_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);

-- TABLE tenant_budgets

CREATE TABLE public.tenant_budgets (
    tenant_id text NOT NULL,
    tokens double precision NOT NULL,
    refilled_at timestamp with time zone DEFAULT now() NOT NULL
);

ALTER TABLE ONLY public.tenant_budgets FORCE ROW LEVEL SECURITY;

-- COMMENT TABLE tenant_budgets

COMMENT ON TABLE public.tenant_budgets IS 'Each rated tenant''s token bucket, as the last lease left it.';

-- TABLE turns

CREATE TABLE public.turns (
    name text NOT NULL,
    held boolean
);

-- COMMENT TABLE turns

COMMENT ON TABLE public.turns IS 'Rows to lock, so that some work is done by one process at a time.';

-- TABLE webhook_position

CREATE TABLE public.webhook_position (
    name text NOT NULL,
    xid xid8 NOT NULL
);

-- COMMENT TABLE webhook_position

COMMENT ON TABLE public.webhook_position IS 'Up to which transaction the audit trail was read for webhooks.';

-- CONSTRAINT auditors pk_auditors

ALTER TABLE ONLY audit.auditors
    ADD CONSTRAINT pk_auditors PRIMARY KEY (role_name, tenant_id);

-- CONSTRAINT events pk_events

ALTER TABLE ONLY audit.events
    ADD CONSTRAINT pk_events PRIMARY KEY (tenant_id, occurred_at, event_id);

-- CONSTRAINT holds pk_holds

ALTER TABLE ONLY audit.holds
    ADD CONSTRAINT pk_holds PRIMARY KEY (hold_id);

-- CONSTRAINT keys pk_keys

ALTER TABLE ONLY audit.keys
    ADD CONSTRAINT pk_keys PRIMARY KEY (key_id);

-- CONSTRAINT members pk_members

ALTER TABLE ONLY audit.members
    ADD CONSTRAINT pk_members PRIMARY KEY (tenant_id, seq);

-- CONSTRAINT restores pk_restores

ALTER TABLE ONLY audit.restores
    ADD CONSTRAINT pk_restores PRIMARY KEY (restore_id);

-- CONSTRAINT retirements pk_retirements

ALTER TABLE ONLY audit.retirements
    ADD CONSTRAINT pk_retirements PRIMARY KEY (retirement_id);

-- CONSTRAINT seals pk_seals

ALTER TABLE ONLY audit.seals
    ADD CONSTRAINT pk_seals PRIMARY KEY (tenant_id, seal_no);

-- CONSTRAINT shapes pk_shapes

ALTER TABLE ONLY audit.shapes
    ADD CONSTRAINT pk_shapes PRIMARY KEY (shape_no);

-- CONSTRAINT watermark pk_watermark

ALTER TABLE ONLY audit.watermark
    ADD CONSTRAINT pk_watermark PRIMARY KEY (one_row);

-- CONSTRAINT members uq_members_event

ALTER TABLE ONLY audit.members
    ADD CONSTRAINT uq_members_event UNIQUE (event_id, occurred_at, tenant_id);

-- CONSTRAINT command_labels pk_command_labels

ALTER TABLE ONLY public.command_labels
    ADD CONSTRAINT pk_command_labels PRIMARY KEY (tenant_id, label, command_id);

-- CONSTRAINT commands pk_commands

ALTER TABLE ONLY public.commands
    ADD CONSTRAINT pk_commands PRIMARY KEY (id);

-- CONSTRAINT console_sessions pk_console_sessions

ALTER TABLE ONLY public.console_sessions
    ADD CONSTRAINT pk_console_sessions PRIMARY KEY (id_hash);

-- CONSTRAINT dpop_proofs pk_dpop_proofs

ALTER TABLE ONLY public.dpop_proofs
    ADD CONSTRAINT pk_dpop_proofs PRIMARY KEY (digest);

-- CONSTRAINT grants pk_grants

ALTER TABLE ONLY public.grants
    ADD CONSTRAINT pk_grants PRIMARY KEY (tenant_id, subject_kind, subject, pattern, effect);

-- CONSTRAINT holds pk_holds

ALTER TABLE ONLY public.holds
    ADD CONSTRAINT pk_holds PRIMARY KEY (id);

-- CONSTRAINT leases pk_leases

ALTER TABLE ONLY public.leases
    ADD CONSTRAINT pk_leases PRIMARY KEY (name);

-- CONSTRAINT ordering_heads pk_ordering_heads

ALTER TABLE ONLY public.ordering_heads
    ADD CONSTRAINT pk_ordering_heads PRIMARY KEY (tenant_id, ordering_key);

-- CONSTRAINT outbox pk_outbox

ALTER TABLE ONLY public.outbox
    ADD CONSTRAINT pk_outbox PRIMARY KEY (id);

-- CONSTRAINT progress pk_progress

ALTER TABLE ONLY public.progress
    ADD CONSTRAINT pk_progress PRIMARY KEY (command_id, seq);

-- CONSTRAINT saga_definitions pk_saga_definitions

ALTER TABLE ONLY public.saga_definitions
    ADD CONSTRAINT pk_saga_definitions PRIMARY KEY (tenant_id, name, version);

-- CONSTRAINT saga_steps pk_saga_steps

ALTER TABLE ONLY public.saga_steps
    ADD CONSTRAINT pk_saga_steps PRIMARY KEY (saga_id, step);

-- CONSTRAINT saga_turns pk_saga_turns

ALTER TABLE ONLY public.saga_turns
    ADD CONSTRAINT pk_saga_turns PRIMARY KEY (id);

-- CONSTRAINT sagas pk_sagas

ALTER TABLE ONLY public.sagas
    ADD CONSTRAINT pk_sagas PRIMARY KEY (id);

-- CONSTRAINT targets pk_targets

ALTER TABLE ONLY public.targets
    ADD CONSTRAINT pk_targets PRIMARY KEY (id);

-- CONSTRAINT tenant_budgets pk_tenant_budgets

ALTER TABLE ONLY public.tenant_budgets
    ADD CONSTRAINT pk_tenant_budgets PRIMARY KEY (tenant_id);

-- CONSTRAINT tenants pk_tenants

ALTER TABLE ONLY public.tenants
    ADD CONSTRAINT pk_tenants PRIMARY KEY (tenant_id);

-- CONSTRAINT tools pk_tools

ALTER TABLE ONLY public.tools
    ADD CONSTRAINT pk_tools PRIMARY KEY (tool, method);

-- CONSTRAINT turns pk_turns

ALTER TABLE ONLY public.turns
    ADD CONSTRAINT pk_turns PRIMARY KEY (name);

-- CONSTRAINT webhook_deliveries pk_webhook_deliveries

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT pk_webhook_deliveries PRIMARY KEY (id);

-- CONSTRAINT webhook_endpoints pk_webhook_endpoints

ALTER TABLE ONLY public.webhook_endpoints
    ADD CONSTRAINT pk_webhook_endpoints PRIMARY KEY (id);

-- CONSTRAINT webhook_position pk_webhook_position

ALTER TABLE ONLY public.webhook_position
    ADD CONSTRAINT pk_webhook_position PRIMARY KEY (name);

-- CONSTRAINT console_sessions uq_console_sessions_link_hash

ALTER TABLE ONLY public.console_sessions
    ADD CONSTRAINT uq_console_sessions_link_hash UNIQUE (link_hash);

-- CONSTRAINT targets uq_targets_tenant_id_name

ALTER TABLE ONLY public.targets
    ADD CONSTRAINT uq_targets_tenant_id_name UNIQUE NULLS NOT DISTINCT (tenant_id, name);

-- CONSTRAINT tools uq_tools_name

ALTER TABLE ONLY public.tools
    ADD CONSTRAINT uq_tools_name UNIQUE (name);

-- CONSTRAINT webhook_deliveries uq_webhook_deliveries_endpoint_id_event_id_kind

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT uq_webhook_deliveries_endpoint_id_event_id_kind UNIQUE (endpoint_id, event_id, kind);

-- INDEX ix_events_command

CREATE INDEX ix_events_command ON ONLY audit.events USING btree (command_id) WHERE (command_id IS NOT NULL);

-- INDEX ix_events_erased

CREATE INDEX ix_events_erased ON ONLY audit.events USING btree (tenant_id) WHERE (commitment IS NOT NULL);

-- INDEX ix_events_rulings

CREATE INDEX ix_events_rulings ON ONLY audit.events USING btree (tenant_id, type) WHERE (type = ANY (ARRAY['hold.placed'::text, 'hold.released'::text, 'person.erased'::text, 'log.moved'::text]));

-- INDEX ix_events_saga

CREATE INDEX ix_events_saga ON ONLY audit.events USING btree (saga_id) WHERE (saga_id IS NOT NULL);

-- INDEX ix_events_xid

CREATE INDEX ix_events_xid ON ONLY audit.events USING btree (xid);

-- INDEX ix_holds_active

CREATE INDEX ix_holds_active ON audit.holds USING btree (tenant_id) WHERE (released_at IS NULL);

-- INDEX ix_retirements_open

CREATE INDEX ix_retirements_open ON audit.retirements USING btree (retirement_id) WHERE ((signed_at IS NULL) AND (refused_at IS NULL));

-- INDEX ix_seals_retired

CREATE INDEX ix_seals_retired ON audit.seals USING btree (tenant_id, retired_before) WHERE (kind = 'retirement'::text);

-- INDEX ix_seals_seq

CREATE INDEX ix_seals_seq ON audit.seals USING btree (tenant_id, seq_to);

-- INDEX ix_commands_approval_due

CREATE INDEX ix_commands_approval_due ON public.commands USING btree (approval_due) WHERE ((approval = 'pending'::text) AND (state = 'queued'::text) AND (approval_due IS NOT NULL));

-- INDEX ix_commands_approval_waiting

CREATE INDEX ix_commands_approval_waiting ON public.commands USING btree (tenant_id, id) WHERE ((approval = 'pending'::text) AND (state = 'queued'::text));

-- INDEX ix_commands_dead

CREATE INDEX ix_commands_dead ON public.commands USING btree (tenant_id, finished_at) WHERE ((state = 'dead_lettered'::text) AND (discarded_at IS NULL));

-- INDEX ix_commands_deadline

CREATE INDEX ix_commands_deadline ON public.commands USING btree (deadline_at) WHERE ((state = ANY (ARRAY['queued'::text, 'dispatched'::text, 'running'::text])) AND (deadline_missed_at IS NULL));

-- INDEX ix_commands_in_flight

CREATE INDEX ix_commands_in_flight ON public.commands USING btree (tenant_id, tool, method) WHERE ((state = ANY (ARRAY['dispatched'::text, 'running'::text])) AND (saga_role IS DISTINCT FROM 'saga'::text));

-- INDEX ix_commands_keys

CREATE INDEX ix_commands_keys ON public.commands USING btree (finished_at, id) WHERE ((finished_at IS NOT NULL) AND (idempotency_key IS NOT NULL));

-- INDEX ix_commands_lease

CREATE INDEX ix_commands_lease ON public.commands USING btree (lease_until) WHERE (state = ANY (ARRAY['dispatched'::text, 'running'::text]));

-- INDEX ix_commands_newest

CREATE INDEX ix_commands_newest ON public.commands USING btree (tenant_id, id);

-- INDEX ix_commands_owner

CREATE INDEX ix_commands_owner ON public.commands USING btree (tenant_id, user_id, id);

-- INDEX ix_commands_purge

CREATE INDEX ix_commands_purge ON public.commands USING btree (finished_at, id) WHERE ((finished_at IS NOT NULL) AND (purged_at IS NULL));

-- INDEX ix_commands_queued

CREATE INDEX ix_commands_queued ON public.commands USING btree (tenant_id) WHERE (state = 'queued'::text);

-- INDEX ix_commands_saga

CREATE INDEX ix_commands_saga ON public.commands USING btree (saga_id) WHERE (saga_id IS NOT NULL);

-- INDEX ix_commands_troubled

CREATE INDEX ix_commands_troubled ON public.commands USING btree (tenant_id, id) WHERE (state = ANY (ARRAY['failed'::text, 'cancelled'::text, 'timed_out'::text, 'dead_lettered'::text]));

-- INDEX ix_commands_unapproved

CREATE INDEX ix_commands_unapproved ON public.commands USING btree (tenant_id, deadline_at, id) WHERE ((approval = 'pending'::text) AND (finished_at IS NULL));

-- INDEX ix_commands_waiting

CREATE INDEX ix_commands_waiting ON public.commands USING btree (tenant_id, ordering_key, key_seq) WHERE held;

-- INDEX ix_commands_waiting_saga

CREATE INDEX ix_commands_waiting_saga ON public.commands USING btree (saga_id, ordering_key, key_seq) WHERE (held AND (saga_id IS NOT NULL));

-- INDEX ix_dpop_proofs_kept_until

CREATE INDEX ix_dpop_proofs_kept_until ON public.dpop_proofs USING btree (kept_until);

-- INDEX ix_holds_active

CREATE INDEX ix_holds_active ON public.holds USING btree (tenant_id, id) WHERE (released_at IS NULL);

-- INDEX ix_holds_released

CREATE INDEX ix_holds_released ON public.holds USING btree (released_at) WHERE ((released_at IS NOT NULL) AND (freed_at IS NULL));

-- INDEX ix_holds_until

CREATE INDEX ix_holds_until ON public.holds USING btree (until) WHERE ((released_at IS NULL) AND (until IS NOT NULL));

-- INDEX ix_ordering_heads_blocked

CREATE INDEX ix_ordering_heads_blocked ON public.ordering_heads USING btree (tenant_id, ordering_key) WHERE (blocked_reason IS NOT NULL);

-- INDEX ix_ordering_heads_saga

CREATE INDEX ix_ordering_heads_saga ON public.ordering_heads USING btree (saga_id) WHERE (saga_id IS NOT NULL);

-- INDEX ix_outbox_claimed

CREATE INDEX ix_outbox_claimed ON public.outbox USING btree (claimed_until) WHERE (status = 'claimed'::text);

-- INDEX ix_outbox_delayed

CREATE INDEX ix_outbox_delayed ON public.outbox USING btree (available_at) WHERE (status = 'delayed'::text);

-- INDEX ix_outbox_delayed_at

CREATE INDEX ix_outbox_delayed_at ON public.outbox USING btree (created_at) WHERE (status = 'delayed'::text);

-- INDEX ix_outbox_events

CREATE INDEX ix_outbox_events ON public.outbox USING btree (id) WHERE ((status = 'ready'::text) AND (kind <> 'command'::text));

-- INDEX ix_outbox_lane

CREATE INDEX ix_outbox_lane ON public.outbox USING btree (priority, tenant_id, tool, method, id) WHERE ((status = 'ready'::text) AND (kind = 'command'::text) AND (NOT exempt));

-- INDEX ix_outbox_on_hold

CREATE INDEX ix_outbox_on_hold ON public.outbox USING btree (hold_id) WHERE (status = 'on_hold'::text);

-- INDEX ix_outbox_refused

CREATE INDEX ix_outbox_refused ON public.outbox USING btree (id) WHERE (refusal IS NOT NULL);

-- INDEX ix_outbox_undo

CREATE INDEX ix_outbox_undo ON public.outbox USING btree (priority DESC, id) WHERE ((status = 'ready'::text) AND (kind = 'command'::text) AND exempt);

-- INDEX ix_saga_turns_due

CREATE INDEX ix_saga_turns_due ON public.saga_turns USING btree (due_at, id);

-- INDEX ix_saga_turns_saga

CREATE INDEX ix_saga_turns_saga ON public.saga_turns USING btree (saga_id);

-- INDEX ix_sagas_ended

CREATE INDEX ix_sagas_ended ON public.sagas USING btree (finished_at) WHERE (finished_at IS NOT NULL);

-- INDEX ix_sagas_idle

CREATE INDEX ix_sagas_idle ON public.sagas USING btree (idle_at) WHERE (idle_at IS NOT NULL);

-- INDEX ix_sagas_newest

CREATE INDEX ix_sagas_newest ON public.sagas USING btree (tenant_id, id);

-- INDEX ix_sagas_open

CREATE INDEX ix_sagas_open ON public.sagas USING btree (tenant_id) WHERE (finished_at IS NULL);

-- INDEX ix_sagas_owner

CREATE INDEX ix_sagas_owner ON public.sagas USING btree (tenant_id, user_id, id);

-- INDEX ix_sagas_waiting

CREATE INDEX ix_sagas_waiting ON public.sagas USING btree (tenant_id, id) WHERE (state = ANY (ARRAY['stuck'::text, 'compensation_failed'::text]));

-- INDEX ix_webhook_deliveries_due

CREATE INDEX ix_webhook_deliveries_due ON public.webhook_deliveries USING btree (endpoint_id, due_at) WHERE (state = 'waiting'::text);

-- INDEX ix_webhook_deliveries_ended

CREATE INDEX ix_webhook_deliveries_ended ON public.webhook_deliveries USING btree (ended_at) WHERE (ended_at IS NOT NULL);

-- INDEX ix_webhook_deliveries_made

CREATE INDEX ix_webhook_deliveries_made ON public.webhook_deliveries USING btree (endpoint_id, created_at, id);

-- INDEX ix_webhook_endpoints_expires

CREATE INDEX ix_webhook_endpoints_expires ON public.webhook_endpoints USING btree (expires_at) WHERE (expires_at IS NOT NULL);

-- INDEX ix_webhook_endpoints_tenant

CREATE INDEX ix_webhook_endpoints_tenant ON public.webhook_endpoints USING btree (tenant_id, created_at, id);

-- INDEX uq_commands_dedupe

CREATE UNIQUE INDEX uq_commands_dedupe ON public.commands USING btree (tenant_id, dedupe_key) WHERE (dedupe_key IS NOT NULL);

-- INDEX uq_commands_key_of_user

CREATE UNIQUE INDEX uq_commands_key_of_user ON public.commands USING btree (tenant_id, user_id, idempotency_key);

-- INDEX uq_outbox_command

CREATE UNIQUE INDEX uq_outbox_command ON public.outbox USING btree (command_id, attempt) WHERE (kind = 'command'::text);

-- TRIGGER auditors not_truncated

CREATE TRIGGER not_truncated BEFORE TRUNCATE ON audit.auditors FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_truncate();

ALTER TABLE audit.auditors ENABLE ALWAYS TRIGGER not_truncated;

-- TRIGGER auditors noted

CREATE TRIGGER noted AFTER INSERT OR DELETE OR UPDATE ON audit.auditors FOR EACH ROW EXECUTE FUNCTION audit.note_change('auditor.changed');

ALTER TABLE audit.auditors ENABLE ALWAYS TRIGGER noted;

-- TRIGGER events refuse_change

CREATE TRIGGER refuse_change BEFORE DELETE OR UPDATE ON audit.events FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.events ENABLE ALWAYS TRIGGER refuse_change;

-- TRIGGER keys refuse_change

CREATE TRIGGER refuse_change BEFORE DELETE OR UPDATE ON audit.keys FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.keys ENABLE ALWAYS TRIGGER refuse_change;

-- TRIGGER members refuse_change

CREATE TRIGGER refuse_change BEFORE DELETE OR UPDATE ON audit.members FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.members ENABLE ALWAYS TRIGGER refuse_change;

-- TRIGGER restores refuse_change

CREATE TRIGGER refuse_change BEFORE DELETE OR UPDATE ON audit.restores FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.restores ENABLE ALWAYS TRIGGER refuse_change;

-- TRIGGER seals refuse_change

CREATE TRIGGER refuse_change BEFORE DELETE OR UPDATE ON audit.seals FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.seals ENABLE ALWAYS TRIGGER refuse_change;

-- TRIGGER shapes refuse_change

CREATE TRIGGER refuse_change BEFORE DELETE OR UPDATE ON audit.shapes FOR EACH ROW EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.shapes ENABLE ALWAYS TRIGGER refuse_change;

-- TRIGGER events refuse_truncate

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON audit.events FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.events ENABLE ALWAYS TRIGGER refuse_truncate;

-- TRIGGER keys refuse_truncate

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON audit.keys FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.keys ENABLE ALWAYS TRIGGER refuse_truncate;

-- TRIGGER members refuse_truncate

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON audit.members FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.members ENABLE ALWAYS TRIGGER refuse_truncate;

-- TRIGGER restores refuse_truncate

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON audit.restores FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.restores ENABLE ALWAYS TRIGGER refuse_truncate;

-- TRIGGER seals refuse_truncate

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON audit.seals FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.seals ENABLE ALWAYS TRIGGER refuse_truncate;

-- TRIGGER shapes refuse_truncate

CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON audit.shapes FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse();

ALTER TABLE audit.shapes ENABLE ALWAYS TRIGGER refuse_truncate;

-- TRIGGER commands approvals_forgotten

CREATE TRIGGER approvals_forgotten BEFORE UPDATE OF user_id ON public.commands FOR EACH ROW WHEN (((old.user_id <> new.user_id) AND (new.approvals IS NOT NULL))) EXECUTE FUNCTION public.broker_forget_approvals();

-- TRIGGER commands forgotten

CREATE TRIGGER forgotten BEFORE UPDATE OF purged_at ON public.commands FOR EACH ROW WHEN (((old.purged_at IS NULL) AND (new.purged_at IS NOT NULL))) EXECUTE FUNCTION public.broker_forget_said();

-- TRIGGER grants not_truncated

CREATE TRIGGER not_truncated BEFORE TRUNCATE ON public.grants FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_truncate();

ALTER TABLE public.grants ENABLE ALWAYS TRIGGER not_truncated;

-- TRIGGER targets not_truncated

CREATE TRIGGER not_truncated BEFORE TRUNCATE ON public.targets FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_truncate();

ALTER TABLE public.targets ENABLE ALWAYS TRIGGER not_truncated;

-- TRIGGER tenants not_truncated

CREATE TRIGGER not_truncated BEFORE TRUNCATE ON public.tenants FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_truncate();

ALTER TABLE public.tenants ENABLE ALWAYS TRIGGER not_truncated;

-- TRIGGER tools not_truncated

CREATE TRIGGER not_truncated BEFORE TRUNCATE ON public.tools FOR EACH STATEMENT EXECUTE FUNCTION audit.refuse_truncate();

ALTER TABLE public.tools ENABLE ALWAYS TRIGGER not_truncated;

-- TRIGGER grants noted

CREATE TRIGGER noted AFTER INSERT OR DELETE OR UPDATE ON public.grants FOR EACH ROW EXECUTE FUNCTION audit.note_change('grant.changed');

ALTER TABLE public.grants ENABLE ALWAYS TRIGGER noted;

-- TRIGGER targets noted

CREATE TRIGGER noted AFTER INSERT OR DELETE OR UPDATE ON public.targets FOR EACH ROW EXECUTE FUNCTION audit.note_change('target.changed');

ALTER TABLE public.targets ENABLE ALWAYS TRIGGER noted;

-- TRIGGER tenants noted

CREATE TRIGGER noted AFTER INSERT OR DELETE OR UPDATE ON public.tenants FOR EACH ROW EXECUTE FUNCTION audit.note_change('tenant.changed');

ALTER TABLE public.tenants ENABLE ALWAYS TRIGGER noted;

-- TRIGGER tools noted

CREATE TRIGGER noted AFTER INSERT OR DELETE OR UPDATE ON public.tools FOR EACH ROW EXECUTE FUNCTION audit.note_change('tool.changed');

ALTER TABLE public.tools ENABLE ALWAYS TRIGGER noted;

-- FK CONSTRAINT console_sessions fk_console_sessions_tenant_id_tenants

ALTER TABLE ONLY public.console_sessions
    ADD CONSTRAINT fk_console_sessions_tenant_id_tenants FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id) ON DELETE CASCADE;

-- FK CONSTRAINT grants fk_grants_tenant_id

ALTER TABLE ONLY public.grants
    ADD CONSTRAINT fk_grants_tenant_id FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id) ON DELETE CASCADE;

-- FK CONSTRAINT progress fk_progress_command_id

ALTER TABLE ONLY public.progress
    ADD CONSTRAINT fk_progress_command_id FOREIGN KEY (command_id) REFERENCES public.commands(id) ON DELETE CASCADE;

-- FK CONSTRAINT saga_steps fk_saga_steps_saga_id

ALTER TABLE ONLY public.saga_steps
    ADD CONSTRAINT fk_saga_steps_saga_id FOREIGN KEY (saga_id) REFERENCES public.sagas(id) ON DELETE CASCADE;

-- FK CONSTRAINT targets fk_targets_tenant_id_tenants

ALTER TABLE ONLY public.targets
    ADD CONSTRAINT fk_targets_tenant_id_tenants FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id) ON DELETE CASCADE;

-- FK CONSTRAINT webhook_deliveries fk_webhook_deliveries_endpoint_id_webhook_endpoints

ALTER TABLE ONLY public.webhook_deliveries
    ADD CONSTRAINT fk_webhook_deliveries_endpoint_id_webhook_endpoints FOREIGN KEY (endpoint_id) REFERENCES public.webhook_endpoints(id) ON DELETE CASCADE;

-- FK CONSTRAINT webhook_endpoints fk_webhook_endpoints_tenant_id_tenants

ALTER TABLE ONLY public.webhook_endpoints
    ADD CONSTRAINT fk_webhook_endpoints_tenant_id_tenants FOREIGN KEY (tenant_id) REFERENCES public.tenants(tenant_id) ON DELETE CASCADE;

-- POLICY events app

CREATE POLICY app ON audit.events TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY members app

CREATE POLICY app ON audit.members TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY seals app

CREATE POLICY app ON audit.seals TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY auditors auditor

CREATE POLICY auditor ON audit.auditors FOR SELECT TO broker_auditor USING ((role_name = SESSION_USER));

-- POLICY events auditor

CREATE POLICY auditor ON audit.events FOR SELECT TO broker_auditor USING ((tenant_id IN ( SELECT a.tenant_id
   FROM audit.auditors a
  WHERE (a.role_name = SESSION_USER))));

-- POLICY holds auditor

CREATE POLICY auditor ON audit.holds FOR SELECT TO broker_auditor USING ((tenant_id IN ( SELECT a.tenant_id
   FROM audit.auditors a
  WHERE (a.role_name = SESSION_USER))));

-- POLICY members auditor

CREATE POLICY auditor ON audit.members FOR SELECT TO broker_auditor USING ((tenant_id IN ( SELECT a.tenant_id
   FROM audit.auditors a
  WHERE (a.role_name = SESSION_USER))));

-- POLICY restores auditor

CREATE POLICY auditor ON audit.restores FOR SELECT TO broker_auditor USING ((tenant_id IN ( SELECT a.tenant_id
   FROM audit.auditors a
  WHERE (a.role_name = SESSION_USER))));

-- POLICY seals auditor

CREATE POLICY auditor ON audit.seals FOR SELECT TO broker_auditor USING ((tenant_id IN ( SELECT a.tenant_id
   FROM audit.auditors a
  WHERE (a.role_name = SESSION_USER))));

-- ROW SECURITY auditors

ALTER TABLE audit.auditors ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY events

ALTER TABLE audit.events ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY holds

ALTER TABLE audit.holds ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY members

ALTER TABLE audit.members ENABLE ROW LEVEL SECURITY;

-- POLICY auditors owner

CREATE POLICY owner ON audit.auditors TO broker_owner USING (true) WITH CHECK (true);

-- POLICY events owner

CREATE POLICY owner ON audit.events TO broker_owner USING (true) WITH CHECK (true);

-- POLICY holds owner

CREATE POLICY owner ON audit.holds TO broker_owner USING (true) WITH CHECK (true);

-- POLICY members owner

CREATE POLICY owner ON audit.members TO broker_owner USING (true) WITH CHECK (true);

-- POLICY restores owner

CREATE POLICY owner ON audit.restores TO broker_owner USING (true) WITH CHECK (true);

-- POLICY seals owner

CREATE POLICY owner ON audit.seals TO broker_owner USING (true) WITH CHECK (true);

-- POLICY events relay

CREATE POLICY relay ON audit.events TO broker_relay USING (true) WITH CHECK (true);

-- POLICY holds relay

CREATE POLICY relay ON audit.holds FOR SELECT TO broker_relay USING (true);

-- POLICY members relay

CREATE POLICY relay ON audit.members TO broker_relay USING (true) WITH CHECK (true);

-- POLICY restores relay

CREATE POLICY relay ON audit.restores FOR SELECT TO broker_relay USING (true);

-- POLICY seals relay

CREATE POLICY relay ON audit.seals TO broker_relay USING (true) WITH CHECK (true);

-- ROW SECURITY restores

ALTER TABLE audit.restores ENABLE ROW LEVEL SECURITY;

-- POLICY holds retention

CREATE POLICY retention ON audit.holds FOR SELECT TO broker_retention USING (true);

-- POLICY restores retention

CREATE POLICY retention ON audit.restores FOR SELECT TO broker_retention USING (true);

-- ROW SECURITY seals

ALTER TABLE audit.seals ENABLE ROW LEVEL SECURITY;

-- POLICY command_labels app

CREATE POLICY app ON public.command_labels TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY commands app

CREATE POLICY app ON public.commands TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY console_sessions app

CREATE POLICY app ON public.console_sessions TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY grants app

CREATE POLICY app ON public.grants TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY holds app

CREATE POLICY app ON public.holds TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY ordering_heads app

CREATE POLICY app ON public.ordering_heads TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY outbox app

CREATE POLICY app ON public.outbox TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY progress app

CREATE POLICY app ON public.progress TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY saga_definitions app

CREATE POLICY app ON public.saga_definitions TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY saga_steps app

CREATE POLICY app ON public.saga_steps TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY saga_turns app

CREATE POLICY app ON public.saga_turns TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY sagas app

CREATE POLICY app ON public.sagas TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY targets app

CREATE POLICY app ON public.targets TO broker_app USING (((tenant_id IS NULL) OR (tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY tenant_budgets app

CREATE POLICY app ON public.tenant_budgets TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY tenants app

CREATE POLICY app ON public.tenants TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY webhook_deliveries app

CREATE POLICY app ON public.webhook_deliveries TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- POLICY webhook_endpoints app

CREATE POLICY app ON public.webhook_endpoints TO broker_app USING ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[]))) WITH CHECK ((tenant_id = ANY ((NULLIF(current_setting('app.tenants'::text, true), ''::text))::text[])));

-- ROW SECURITY command_labels

ALTER TABLE public.command_labels ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY commands

ALTER TABLE public.commands ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY console_sessions

ALTER TABLE public.console_sessions ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY grants

ALTER TABLE public.grants ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY holds

ALTER TABLE public.holds ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY ordering_heads

ALTER TABLE public.ordering_heads ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY outbox

ALTER TABLE public.outbox ENABLE ROW LEVEL SECURITY;

-- POLICY command_labels owner

CREATE POLICY owner ON public.command_labels TO broker_owner USING (true) WITH CHECK (true);

-- POLICY commands owner

CREATE POLICY owner ON public.commands TO broker_owner USING (true) WITH CHECK (true);

-- POLICY console_sessions owner

CREATE POLICY owner ON public.console_sessions TO broker_owner USING (true) WITH CHECK (true);

-- POLICY grants owner

CREATE POLICY owner ON public.grants TO broker_owner USING (true) WITH CHECK (true);

-- POLICY holds owner

CREATE POLICY owner ON public.holds TO broker_owner USING (true) WITH CHECK (true);

-- POLICY ordering_heads owner

CREATE POLICY owner ON public.ordering_heads TO broker_owner USING (true) WITH CHECK (true);

-- POLICY outbox owner

CREATE POLICY owner ON public.outbox TO broker_owner USING (true) WITH CHECK (true);

-- POLICY progress owner

CREATE POLICY owner ON public.progress TO broker_owner USING (true) WITH CHECK (true);

-- POLICY saga_definitions owner

CREATE POLICY owner ON public.saga_definitions TO broker_owner USING (true) WITH CHECK (true);

-- POLICY saga_steps owner

CREATE POLICY owner ON public.saga_steps TO broker_owner USING (true) WITH CHECK (true);

-- POLICY saga_turns owner

CREATE POLICY owner ON public.saga_turns TO broker_owner USING (true) WITH CHECK (true);

-- POLICY sagas owner

CREATE POLICY owner ON public.sagas TO broker_owner USING (true) WITH CHECK (true);

-- POLICY targets owner

CREATE POLICY owner ON public.targets TO broker_owner USING (true) WITH CHECK (true);

-- POLICY tenant_budgets owner

CREATE POLICY owner ON public.tenant_budgets TO broker_owner USING (true) WITH CHECK (true);

-- POLICY tenants owner

CREATE POLICY owner ON public.tenants TO broker_owner USING (true) WITH CHECK (true);

-- POLICY webhook_deliveries owner

CREATE POLICY owner ON public.webhook_deliveries TO broker_owner USING (true) WITH CHECK (true);

-- POLICY webhook_endpoints owner

CREATE POLICY owner ON public.webhook_endpoints TO broker_owner USING (true) WITH CHECK (true);

-- ROW SECURITY progress

ALTER TABLE public.progress ENABLE ROW LEVEL SECURITY;

-- POLICY command_labels relay

CREATE POLICY relay ON public.command_labels TO broker_relay USING (true) WITH CHECK (true);

-- POLICY commands relay

CREATE POLICY relay ON public.commands TO broker_relay USING (true) WITH CHECK (true);

-- POLICY grants relay

CREATE POLICY relay ON public.grants TO broker_relay USING (true) WITH CHECK (true);

-- POLICY holds relay

CREATE POLICY relay ON public.holds TO broker_relay USING (true) WITH CHECK (true);

-- POLICY ordering_heads relay

CREATE POLICY relay ON public.ordering_heads TO broker_relay USING (true) WITH CHECK (true);

-- POLICY outbox relay

CREATE POLICY relay ON public.outbox TO broker_relay USING (true) WITH CHECK (true);

-- POLICY progress relay

CREATE POLICY relay ON public.progress TO broker_relay USING (true) WITH CHECK (true);

-- POLICY saga_definitions relay

CREATE POLICY relay ON public.saga_definitions TO broker_relay USING (true) WITH CHECK (true);

-- POLICY saga_steps relay

CREATE POLICY relay ON public.saga_steps TO broker_relay USING (true) WITH CHECK (true);

-- POLICY saga_turns relay

CREATE POLICY relay ON public.saga_turns TO broker_relay USING (true) WITH CHECK (true);

-- POLICY sagas relay

CREATE POLICY relay ON public.sagas TO broker_relay USING (true) WITH CHECK (true);

-- POLICY targets relay

CREATE POLICY relay ON public.targets TO broker_relay USING (true) WITH CHECK (true);

-- POLICY tenant_budgets relay

CREATE POLICY relay ON public.tenant_budgets TO broker_relay USING (true) WITH CHECK (true);

-- POLICY tenants relay

CREATE POLICY relay ON public.tenants TO broker_relay USING (true) WITH CHECK (true);

-- POLICY webhook_deliveries relay

CREATE POLICY relay ON public.webhook_deliveries TO broker_relay USING (true) WITH CHECK (true);

-- POLICY webhook_endpoints relay

CREATE POLICY relay ON public.webhook_endpoints TO broker_relay USING (true) WITH CHECK (true);

-- ROW SECURITY saga_definitions

ALTER TABLE public.saga_definitions ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY saga_steps

ALTER TABLE public.saga_steps ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY saga_turns

ALTER TABLE public.saga_turns ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY sagas

ALTER TABLE public.sagas ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY targets

ALTER TABLE public.targets ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY tenant_budgets

ALTER TABLE public.tenant_budgets ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY tenants

ALTER TABLE public.tenants ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY webhook_deliveries

ALTER TABLE public.webhook_deliveries ENABLE ROW LEVEL SECURITY;

-- ROW SECURITY webhook_endpoints

ALTER TABLE public.webhook_endpoints ENABLE ROW LEVEL SECURITY;

-- ACL SCHEMA audit

GRANT USAGE ON SCHEMA audit TO broker_app;
GRANT USAGE ON SCHEMA audit TO broker_relay;
GRANT USAGE ON SCHEMA audit TO broker_auditor;
GRANT USAGE ON SCHEMA audit TO broker_retention;

-- ACL SCHEMA ops

GRANT USAGE ON SCHEMA ops TO broker_observer;

-- ACL SCHEMA public

GRANT ALL ON SCHEMA public TO broker_owner;

-- ACL FUNCTION accept_restore(note text)

REVOKE ALL ON FUNCTION audit.accept_restore(note text) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.accept_restore(note text) TO broker_retention;

-- ACL FUNCTION ask_retirement(note text)

REVOKE ALL ON FUNCTION audit.ask_retirement(note text) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.ask_retirement(note text) TO broker_retention;

-- ACL FUNCTION drop_oldest()

REVOKE ALL ON FUNCTION audit.drop_oldest() FROM PUBLIC;
GRANT ALL ON FUNCTION audit.drop_oldest() TO broker_retention;

-- ACL FUNCTION ensure_partitions(months_ahead integer)

REVOKE ALL ON FUNCTION audit.ensure_partitions(months_ahead integer) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.ensure_partitions(months_ahead integer) TO broker_relay;
GRANT ALL ON FUNCTION audit.ensure_partitions(months_ahead integer) TO broker_app;

-- ACL FUNCTION erase(tenant text, person text, note text, ids uuid[], ats timestamp with time zone[], batch integer)

REVOKE ALL ON FUNCTION audit.erase(tenant text, person text, note text, ids uuid[], ats timestamp with time zone[], batch integer) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.erase(tenant text, person text, note text, ids uuid[], ats timestamp with time zone[], batch integer) TO broker_retention;

-- ACL TABLE events

GRANT SELECT ON TABLE audit.events TO broker_app;
GRANT SELECT ON TABLE audit.events TO broker_relay;
GRANT SELECT ON TABLE audit.events TO broker_auditor;

-- ACL COLUMN events.event_id

GRANT INSERT(event_id) ON TABLE audit.events TO broker_app;
GRANT INSERT(event_id) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.tenant_id

GRANT INSERT(tenant_id) ON TABLE audit.events TO broker_app;
GRANT INSERT(tenant_id) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.type

GRANT INSERT(type) ON TABLE audit.events TO broker_app;
GRANT INSERT(type) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.actor

GRANT INSERT(actor) ON TABLE audit.events TO broker_app;
GRANT INSERT(actor) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.user_id

GRANT INSERT(user_id) ON TABLE audit.events TO broker_app;
GRANT INSERT(user_id) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.command_id

GRANT INSERT(command_id) ON TABLE audit.events TO broker_app;
GRANT INSERT(command_id) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.saga_id

GRANT INSERT(saga_id) ON TABLE audit.events TO broker_app;
GRANT INSERT(saga_id) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.tool

GRANT INSERT(tool) ON TABLE audit.events TO broker_app;
GRANT INSERT(tool) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.method

GRANT INSERT(method) ON TABLE audit.events TO broker_app;
GRANT INSERT(method) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.attempt

GRANT INSERT(attempt) ON TABLE audit.events TO broker_app;
GRANT INSERT(attempt) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.state_from

GRANT INSERT(state_from) ON TABLE audit.events TO broker_app;
GRANT INSERT(state_from) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.state_to

GRANT INSERT(state_to) ON TABLE audit.events TO broker_app;
GRANT INSERT(state_to) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.fingerprint

GRANT INSERT(fingerprint) ON TABLE audit.events TO broker_app;
GRANT INSERT(fingerprint) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.body

GRANT INSERT(body) ON TABLE audit.events TO broker_app;
GRANT INSERT(body) ON TABLE audit.events TO broker_relay;

-- ACL COLUMN events.salt

GRANT INSERT(salt) ON TABLE audit.events TO broker_app;
GRANT INSERT(salt) ON TABLE audit.events TO broker_relay;

-- ACL TABLE members

GRANT SELECT ON TABLE audit.members TO broker_app;
GRANT SELECT,INSERT ON TABLE audit.members TO broker_relay;
GRANT SELECT ON TABLE audit.members TO broker_auditor;

-- ACL TABLE watermark

GRANT SELECT,INSERT,UPDATE ON TABLE audit.watermark TO broker_relay;
GRANT SELECT ON TABLE audit.watermark TO broker_auditor;

-- ACL FUNCTION guard(target regclass)

REVOKE ALL ON FUNCTION audit.guard(target regclass) FROM PUBLIC;

-- ACL TABLE holds

GRANT SELECT ON TABLE audit.holds TO broker_relay;
GRANT SELECT ON TABLE audit.holds TO broker_retention;
GRANT SELECT ON TABLE audit.holds TO broker_auditor;

-- ACL FUNCTION hold(tenant text, why text, since timestamp with time zone, until timestamp with time zone)

REVOKE ALL ON FUNCTION audit.hold(tenant text, why text, since timestamp with time zone, until timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.hold(tenant text, why text, since timestamp with time zone, until timestamp with time zone) TO broker_retention;

-- ACL TABLE seals

GRANT SELECT ON TABLE audit.seals TO broker_app;
GRANT SELECT,INSERT ON TABLE audit.seals TO broker_relay;
GRANT SELECT ON TABLE audit.seals TO broker_auditor;

-- ACL FUNCTION note_change()

REVOKE ALL ON FUNCTION audit.note_change() FROM PUBLIC;

-- ACL FUNCTION partitions_ahead_s()

REVOKE ALL ON FUNCTION audit.partitions_ahead_s() FROM PUBLIC;
GRANT ALL ON FUNCTION audit.partitions_ahead_s() TO broker_app;
GRANT ALL ON FUNCTION audit.partitions_ahead_s() TO broker_relay;

-- ACL FUNCTION plan_erasure(tenant text, person text, batch integer)

REVOKE ALL ON FUNCTION audit.plan_erasure(tenant text, person text, batch integer) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.plan_erasure(tenant text, person text, batch integer) TO broker_retention;

-- ACL FUNCTION refuse_truncate()

REVOKE ALL ON FUNCTION audit.refuse_truncate() FROM PUBLIC;

-- ACL FUNCTION release(hold uuid, why text)

REVOKE ALL ON FUNCTION audit.release(hold uuid, why text) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.release(hold uuid, why text) TO broker_retention;

-- ACL TABLE shapes

GRANT SELECT ON TABLE audit.shapes TO broker_app;
GRANT SELECT ON TABLE audit.shapes TO broker_relay;
GRANT SELECT ON TABLE audit.shapes TO broker_auditor;

-- ACL COLUMN shapes.major

GRANT INSERT(major) ON TABLE audit.shapes TO broker_relay;

-- ACL COLUMN shapes.revision

GRANT INSERT(revision) ON TABLE audit.shapes TO broker_relay;

-- ACL COLUMN shapes.lines

GRANT INSERT(lines) ON TABLE audit.shapes TO broker_relay;

-- ACL COLUMN shapes.note

GRANT INSERT(note) ON TABLE audit.shapes TO broker_relay;

-- ACL FUNCTION unlike(tenants text[], numbers bigint[], digests bytea[])

REVOKE ALL ON FUNCTION audit.unlike(tenants text[], numbers bigint[], digests bytea[]) FROM PUBLIC;
GRANT ALL ON FUNCTION audit.unlike(tenants text[], numbers bigint[], digests bytea[]) TO broker_retention;

-- ACL FUNCTION minutes(since timestamp with time zone, until timestamp with time zone)

REVOKE ALL ON FUNCTION ops.minutes(since timestamp with time zone, until timestamp with time zone) FROM PUBLIC;
GRANT ALL ON FUNCTION ops.minutes(since timestamp with time zone, until timestamp with time zone) TO broker_observer;

-- ACL FUNCTION broker_analyze_grown()

REVOKE ALL ON FUNCTION public.broker_analyze_grown() FROM PUBLIC;
GRANT ALL ON FUNCTION public.broker_analyze_grown() TO broker_relay;

-- ACL FUNCTION broker_forget_said()

REVOKE ALL ON FUNCTION public.broker_forget_said() FROM PUBLIC;

-- ACL TABLE commands

GRANT SELECT,INSERT ON TABLE public.commands TO broker_app;
GRANT SELECT,INSERT ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.args

GRANT UPDATE(args) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.idempotency_key

GRANT UPDATE(idempotency_key) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.dedupe_key

GRANT UPDATE(dedupe_key) ON TABLE public.commands TO broker_app;
GRANT UPDATE(dedupe_key) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.held

GRANT UPDATE(held) ON TABLE public.commands TO broker_app;
GRANT UPDATE(held) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.approval

GRANT UPDATE(approval) ON TABLE public.commands TO broker_app;
GRANT UPDATE(approval) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.priority

GRANT UPDATE(priority) ON TABLE public.commands TO broker_app;
GRANT UPDATE(priority) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.deadline_at

GRANT UPDATE(deadline_at) ON TABLE public.commands TO broker_app;
GRANT UPDATE(deadline_at) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.deadline_missed_at

GRANT UPDATE(deadline_missed_at) ON TABLE public.commands TO broker_app;
GRANT UPDATE(deadline_missed_at) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.hard_stop_at

GRANT UPDATE(hard_stop_at) ON TABLE public.commands TO broker_app;
GRANT UPDATE(hard_stop_at) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.compensation

GRANT UPDATE(compensation) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.state

GRANT UPDATE(state) ON TABLE public.commands TO broker_app;
GRANT UPDATE(state) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.attempt

GRANT UPDATE(attempt) ON TABLE public.commands TO broker_app;
GRANT UPDATE(attempt) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.attempts_max

GRANT UPDATE(attempts_max) ON TABLE public.commands TO broker_app;
GRANT UPDATE(attempts_max) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.deliveries

GRANT UPDATE(deliveries) ON TABLE public.commands TO broker_app;
GRANT UPDATE(deliveries) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.adapter

GRANT UPDATE(adapter) ON TABLE public.commands TO broker_app;
GRANT UPDATE(adapter) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.lease_until

GRANT UPDATE(lease_until) ON TABLE public.commands TO broker_app;
GRANT UPDATE(lease_until) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.cancel_requested_at

GRANT UPDATE(cancel_requested_at) ON TABLE public.commands TO broker_app;
GRANT UPDATE(cancel_requested_at) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.cancel_reason

GRANT UPDATE(cancel_reason) ON TABLE public.commands TO broker_app;
GRANT UPDATE(cancel_reason) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.cancel_target

GRANT UPDATE(cancel_target) ON TABLE public.commands TO broker_app;
GRANT UPDATE(cancel_target) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.outcome_unknown

GRANT UPDATE(outcome_unknown) ON TABLE public.commands TO broker_app;
GRANT UPDATE(outcome_unknown) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.progress_seq

GRANT UPDATE(progress_seq) ON TABLE public.commands TO broker_app;
GRANT UPDATE(progress_seq) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.stage

GRANT UPDATE(stage) ON TABLE public.commands TO broker_app;
GRANT UPDATE(stage) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.percent

GRANT UPDATE(percent) ON TABLE public.commands TO broker_app;
GRANT UPDATE(percent) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.message

GRANT UPDATE(message) ON TABLE public.commands TO broker_app;
GRANT UPDATE(message) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.result

GRANT UPDATE(result) ON TABLE public.commands TO broker_app;
GRANT UPDATE(result) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.error

GRANT UPDATE(error) ON TABLE public.commands TO broker_app;
GRANT UPDATE(error) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.dispatched_at

GRANT UPDATE(dispatched_at) ON TABLE public.commands TO broker_app;
GRANT UPDATE(dispatched_at) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.started_at

GRANT UPDATE(started_at) ON TABLE public.commands TO broker_app;
GRANT UPDATE(started_at) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.finished_at

GRANT UPDATE(finished_at) ON TABLE public.commands TO broker_app;
GRANT UPDATE(finished_at) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.discarded_at

GRANT UPDATE(discarded_at) ON TABLE public.commands TO broker_app;
GRANT UPDATE(discarded_at) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.purged_at

GRANT UPDATE(purged_at) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.dedupe_until

GRANT UPDATE(dedupe_until) ON TABLE public.commands TO broker_app;
GRANT UPDATE(dedupe_until) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.attempts_lost

GRANT UPDATE(attempts_lost) ON TABLE public.commands TO broker_app;
GRANT UPDATE(attempts_lost) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.reports_rejected

GRANT UPDATE(reports_rejected) ON TABLE public.commands TO broker_app;

-- ACL COLUMN commands.run

GRANT UPDATE(run) ON TABLE public.commands TO broker_app;
GRANT UPDATE(run) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.approvals

GRANT UPDATE(approvals) ON TABLE public.commands TO broker_app;
GRANT UPDATE(approvals) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.approval_due

GRANT UPDATE(approval_due) ON TABLE public.commands TO broker_app;
GRANT UPDATE(approval_due) ON TABLE public.commands TO broker_relay;

-- ACL COLUMN commands.escalated_at

GRANT UPDATE(escalated_at) ON TABLE public.commands TO broker_app;
GRANT UPDATE(escalated_at) ON TABLE public.commands TO broker_relay;

-- ACL FUNCTION broker_tenant_of(command uuid)

REVOKE ALL ON FUNCTION public.broker_tenant_of(command uuid) FROM PUBLIC;
GRANT ALL ON FUNCTION public.broker_tenant_of(command uuid) TO broker_app;
GRANT ALL ON FUNCTION public.broker_tenant_of(command uuid) TO broker_relay;

-- ACL TABLE agent_activity

GRANT SELECT ON TABLE audit.agent_activity TO broker_auditor;

-- ACL TABLE auditors

GRANT SELECT ON TABLE audit.auditors TO broker_auditor;

-- ACL TABLE command_story

GRANT SELECT ON TABLE audit.command_story TO broker_auditor;

-- ACL TABLE denials

GRANT SELECT ON TABLE audit.denials TO broker_auditor;

-- ACL TABLE keys

GRANT SELECT ON TABLE audit.keys TO broker_app;
GRANT SELECT,INSERT ON TABLE audit.keys TO broker_relay;
GRANT SELECT ON TABLE audit.keys TO broker_auditor;

-- ACL TABLE out_of_time

GRANT SELECT ON TABLE audit.out_of_time TO broker_auditor;

-- ACL TABLE restores

GRANT SELECT ON TABLE audit.restores TO broker_relay;
GRANT SELECT ON TABLE audit.restores TO broker_retention;
GRANT SELECT ON TABLE audit.restores TO broker_auditor;

-- ACL TABLE retirements

GRANT SELECT ON TABLE audit.retirements TO broker_relay;
GRANT SELECT ON TABLE audit.retirements TO broker_retention;
GRANT SELECT ON TABLE audit.retirements TO broker_auditor;

-- ACL COLUMN retirements.signed_at

GRANT UPDATE(signed_at) ON TABLE audit.retirements TO broker_relay;

-- ACL COLUMN retirements.refused_at

GRANT UPDATE(refused_at) ON TABLE audit.retirements TO broker_relay;

-- ACL COLUMN retirements.refusal

GRANT UPDATE(refusal) ON TABLE audit.retirements TO broker_relay;

-- ACL TABLE saga_story

GRANT SELECT ON TABLE audit.saga_story TO broker_auditor;

-- ACL TABLE sealed_late

GRANT SELECT ON TABLE audit.sealed_late TO broker_auditor;

-- ACL TABLE sealing

GRANT SELECT ON TABLE audit.sealing TO broker_auditor;

-- ACL TABLE who_did_what

GRANT SELECT ON TABLE audit.who_did_what TO broker_auditor;

-- ACL TABLE tools

GRANT SELECT ON TABLE public.tools TO broker_app;
GRANT SELECT ON TABLE public.tools TO broker_relay;

-- ACL TABLE executors

GRANT SELECT ON TABLE ops.executors TO broker_observer;

-- ACL TABLE holds

GRANT SELECT,INSERT ON TABLE public.holds TO broker_app;
GRANT SELECT ON TABLE public.holds TO broker_relay;

-- ACL COLUMN holds.released_at

GRANT UPDATE(released_at) ON TABLE public.holds TO broker_app;
GRANT UPDATE(released_at) ON TABLE public.holds TO broker_relay;

-- ACL COLUMN holds.released_by

GRANT UPDATE(released_by) ON TABLE public.holds TO broker_app;
GRANT UPDATE(released_by) ON TABLE public.holds TO broker_relay;

-- ACL COLUMN holds.freed_at

GRANT UPDATE(freed_at) ON TABLE public.holds TO broker_relay;

-- ACL TABLE outbox

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.outbox TO broker_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.outbox TO broker_relay;

-- ACL TABLE holds

GRANT SELECT ON TABLE ops.holds TO broker_observer;

-- ACL TABLE outbox

GRANT SELECT ON TABLE ops.outbox TO broker_observer;

-- ACL TABLE sagas

GRANT SELECT,INSERT,UPDATE ON TABLE public.sagas TO broker_app;
GRANT SELECT,INSERT,UPDATE ON TABLE public.sagas TO broker_relay;

-- ACL TABLE sagas

GRANT SELECT ON TABLE ops.sagas TO broker_observer;

-- ACL TABLE tenants

GRANT SELECT ON TABLE public.tenants TO broker_app;
GRANT SELECT ON TABLE public.tenants TO broker_relay;

-- ACL TABLE seals

GRANT SELECT ON TABLE ops.seals TO broker_observer;

-- ACL TABLE tenants

GRANT SELECT ON TABLE ops.tenants TO broker_observer;

-- ACL TABLE ordering_heads

GRANT SELECT,INSERT,UPDATE ON TABLE public.ordering_heads TO broker_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.ordering_heads TO broker_relay;

-- ACL TABLE tenants_now

GRANT SELECT ON TABLE ops.tenants_now TO broker_observer;

-- ACL TABLE tools

GRANT SELECT ON TABLE ops.tools TO broker_observer;

-- ACL TABLE waiting

GRANT SELECT ON TABLE ops.waiting TO broker_observer;

-- ACL TABLE webhook_deliveries

GRANT SELECT,INSERT ON TABLE public.webhook_deliveries TO broker_app;
GRANT SELECT,INSERT,DELETE ON TABLE public.webhook_deliveries TO broker_relay;

-- ACL COLUMN webhook_deliveries.state

GRANT UPDATE(state) ON TABLE public.webhook_deliveries TO broker_app;
GRANT UPDATE(state) ON TABLE public.webhook_deliveries TO broker_relay;

-- ACL COLUMN webhook_deliveries.attempts

GRANT UPDATE(attempts) ON TABLE public.webhook_deliveries TO broker_app;
GRANT UPDATE(attempts) ON TABLE public.webhook_deliveries TO broker_relay;

-- ACL COLUMN webhook_deliveries.due_at

GRANT UPDATE(due_at) ON TABLE public.webhook_deliveries TO broker_app;
GRANT UPDATE(due_at) ON TABLE public.webhook_deliveries TO broker_relay;

-- ACL COLUMN webhook_deliveries.lease

GRANT UPDATE(lease) ON TABLE public.webhook_deliveries TO broker_app;
GRANT UPDATE(lease) ON TABLE public.webhook_deliveries TO broker_relay;

-- ACL COLUMN webhook_deliveries.last_status

GRANT UPDATE(last_status) ON TABLE public.webhook_deliveries TO broker_relay;

-- ACL COLUMN webhook_deliveries.last_error

GRANT UPDATE(last_error) ON TABLE public.webhook_deliveries TO broker_relay;

-- ACL COLUMN webhook_deliveries.last_at

GRANT UPDATE(last_at) ON TABLE public.webhook_deliveries TO broker_relay;

-- ACL COLUMN webhook_deliveries.answer

GRANT UPDATE(answer) ON TABLE public.webhook_deliveries TO broker_relay;

-- ACL COLUMN webhook_deliveries.ended_at

GRANT UPDATE(ended_at) ON TABLE public.webhook_deliveries TO broker_app;
GRANT UPDATE(ended_at) ON TABLE public.webhook_deliveries TO broker_relay;

-- ACL TABLE webhook_endpoints

GRANT SELECT,INSERT,DELETE ON TABLE public.webhook_endpoints TO broker_app;
GRANT SELECT,DELETE ON TABLE public.webhook_endpoints TO broker_relay;

-- ACL COLUMN webhook_endpoints.secret

GRANT UPDATE(secret) ON TABLE public.webhook_endpoints TO broker_app;

-- ACL COLUMN webhook_endpoints.secret_before

GRANT UPDATE(secret_before) ON TABLE public.webhook_endpoints TO broker_app;

-- ACL COLUMN webhook_endpoints.secret_before_until

GRANT UPDATE(secret_before_until) ON TABLE public.webhook_endpoints TO broker_app;

-- ACL COLUMN webhook_endpoints.enabled

GRANT UPDATE(enabled) ON TABLE public.webhook_endpoints TO broker_app;
GRANT UPDATE(enabled) ON TABLE public.webhook_endpoints TO broker_relay;

-- ACL COLUMN webhook_endpoints.reason

GRANT UPDATE(reason) ON TABLE public.webhook_endpoints TO broker_app;
GRANT UPDATE(reason) ON TABLE public.webhook_endpoints TO broker_relay;

-- ACL COLUMN webhook_endpoints.disabled_at

GRANT UPDATE(disabled_at) ON TABLE public.webhook_endpoints TO broker_app;
GRANT UPDATE(disabled_at) ON TABLE public.webhook_endpoints TO broker_relay;

-- ACL COLUMN webhook_endpoints.from_xid

GRANT UPDATE(from_xid) ON TABLE public.webhook_endpoints TO broker_app;

-- ACL COLUMN webhook_endpoints.failing_since

GRANT UPDATE(failing_since) ON TABLE public.webhook_endpoints TO broker_app;
GRANT UPDATE(failing_since) ON TABLE public.webhook_endpoints TO broker_relay;

-- ACL COLUMN webhook_endpoints.last_error

GRANT UPDATE(last_error) ON TABLE public.webhook_endpoints TO broker_app;
GRANT UPDATE(last_error) ON TABLE public.webhook_endpoints TO broker_relay;

-- ACL COLUMN webhook_endpoints.last_delivered_at

GRANT UPDATE(last_delivered_at) ON TABLE public.webhook_endpoints TO broker_relay;

-- ACL COLUMN webhook_endpoints.verified_at

GRANT UPDATE(verified_at) ON TABLE public.webhook_endpoints TO broker_app;

-- ACL COLUMN webhook_endpoints.expires_at

GRANT UPDATE(expires_at) ON TABLE public.webhook_endpoints TO broker_app;

-- ACL TABLE webhooks

GRANT SELECT ON TABLE ops.webhooks TO broker_observer;

-- ACL TABLE command_labels

GRANT SELECT,INSERT ON TABLE public.command_labels TO broker_app;
GRANT SELECT,INSERT,DELETE ON TABLE public.command_labels TO broker_relay;

-- ACL TABLE console_sessions

GRANT SELECT,INSERT,DELETE ON TABLE public.console_sessions TO broker_app;

-- ACL COLUMN console_sessions.seen_at

GRANT UPDATE(seen_at) ON TABLE public.console_sessions TO broker_app;

-- ACL COLUMN console_sessions.ended_at

GRANT UPDATE(ended_at) ON TABLE public.console_sessions TO broker_app;

-- ACL TABLE dpop_proofs

GRANT SELECT,INSERT,DELETE ON TABLE public.dpop_proofs TO broker_app;

-- ACL TABLE grants

GRANT SELECT ON TABLE public.grants TO broker_app;
GRANT SELECT ON TABLE public.grants TO broker_relay;

-- ACL TABLE leases

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.leases TO broker_relay;

-- ACL TABLE progress

GRANT SELECT,INSERT ON TABLE public.progress TO broker_app;
GRANT SELECT,INSERT,DELETE ON TABLE public.progress TO broker_relay;

-- ACL TABLE saga_definitions

GRANT SELECT,INSERT,UPDATE ON TABLE public.saga_definitions TO broker_app;
GRANT SELECT ON TABLE public.saga_definitions TO broker_relay;

-- ACL TABLE saga_steps

GRANT SELECT,INSERT,UPDATE ON TABLE public.saga_steps TO broker_app;
GRANT SELECT,INSERT,UPDATE ON TABLE public.saga_steps TO broker_relay;

-- ACL TABLE saga_turns

GRANT INSERT ON TABLE public.saga_turns TO broker_app;
GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.saga_turns TO broker_relay;

-- ACL TABLE targets

GRANT SELECT ON TABLE public.targets TO broker_app;
GRANT SELECT ON TABLE public.targets TO broker_relay;

-- ACL TABLE tenant_budgets

GRANT SELECT,INSERT,DELETE,UPDATE ON TABLE public.tenant_budgets TO broker_relay;

-- ACL TABLE turns

GRANT SELECT ON TABLE public.turns TO broker_app;
GRANT SELECT ON TABLE public.turns TO broker_relay;

-- ACL COLUMN turns.held

GRANT UPDATE(held) ON TABLE public.turns TO broker_app;
GRANT UPDATE(held) ON TABLE public.turns TO broker_relay;

-- ACL TABLE webhook_position

GRANT SELECT ON TABLE public.webhook_position TO broker_app;
GRANT SELECT ON TABLE public.webhook_position TO broker_relay;

-- ACL COLUMN webhook_position.xid

GRANT UPDATE(xid) ON TABLE public.webhook_position TO broker_relay;
