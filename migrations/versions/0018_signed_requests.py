"""What leaves the audit trail leaves by a request that an officer outside the database signed."""

import importlib.util
from pathlib import Path
from typing import Any

from alembic import op
from sqlalchemy import text

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

TABLES = """
    ALTER TABLE audit.seals ADD COLUMN request text, ADD COLUMN retired_digest bytea;
    ALTER TABLE audit.seals ADD CONSTRAINT ck_seals_request_shape CHECK (
        (request IS NULL) = (retired_digest IS NULL) AND (request IS NULL OR kind = 'retirement'))
        NOT VALID;
    ALTER TABLE audit.retirements ADD COLUMN request text, ADD COLUMN refused_at timestamptz,
        ADD COLUMN refusal text;
    DROP INDEX audit.ix_retirements_open;
    CREATE INDEX ix_retirements_open ON audit.retirements (retirement_id)
        WHERE signed_at IS NULL AND refused_at IS NULL;
    COMMENT ON COLUMN audit.seals.request IS
        'The signed request of a retention officer that it rests on.';
    COMMENT ON COLUMN audit.seals.retired_digest IS
        'A hash over number, id and time of every event that may go.';
    COMMENT ON COLUMN audit.retirements.request IS
        'The signed request of a retention officer that it rests on.';
    COMMENT ON COLUMN audit.retirements.refused_at IS
        'When the relay refused it, if it did.';
    COMMENT ON COLUMN audit.retirements.refusal IS
        'Why the relay refused it.';
    REVOKE INSERT (before, reason, asked_by) ON audit.retirements FROM broker_relay;
    GRANT UPDATE (refused_at, refusal) ON audit.retirements TO broker_relay
"""
BACK = """
    REVOKE UPDATE (refused_at, refusal) ON audit.retirements FROM broker_relay;
    GRANT INSERT (before, reason, asked_by) ON audit.retirements TO broker_relay;
    DROP INDEX audit.ix_retirements_open;
    CREATE INDEX ix_retirements_open ON audit.retirements (before) WHERE signed_at IS NULL;
    ALTER TABLE audit.retirements DROP COLUMN request, DROP COLUMN refused_at, DROP COLUMN refusal;
    ALTER TABLE audit.seals DROP CONSTRAINT ck_seals_request_shape;
    ALTER TABLE audit.seals DROP COLUMN request, DROP COLUMN retired_digest
"""

# Events are many: their index is made month by month beside the writers, before anything that a
# second run could not do again. A month made meanwhile has it of its parent.
RULINGS = (
    "{} (tenant_id, type)"
    " WHERE type IN ('hold.placed', 'hold.released', 'person.erased', 'log.moved')"
)
MONTHS_WITHOUT = """
    SELECT c.oid::regclass::text
      FROM pg_inherits h
      JOIN pg_class c ON c.oid = h.inhrelid
     WHERE h.inhparent = 'audit.events'::regclass
       AND NOT EXISTS (SELECT FROM pg_inherits a JOIN pg_index i ON i.indexrelid = a.inhrelid
                        WHERE a.inhparent = 'audit.ix_events_rulings'::regclass
                          AND i.indrelid = c.oid)
"""

# A retirement's seal with its request; every other seal is as it was.
SEAL_V2 = r"""
    CREATE FUNCTION audit.seal_v2(s audit.seals) RETURNS bytea
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog AS $$
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
    END $$
"""
SEAL_DIGEST = """
    CREATE FUNCTION audit.seal_digest(s audit.seals) RETURNS bytea
    LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog
    RETURN CASE WHEN (s).request IS NULL AND (s).retired_digest IS NULL
                THEN audit.seal_v1(s) ELSE audit.seal_v2(s) END
"""

# What a note asks; null where it is no request. Whose signature it bears SQL cannot tell.
REQUEST_OF = r"""
    CREATE FUNCTION audit.request_of(note text) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog AS $$
    BEGIN
        IF split_part(note, E'\n', 1) = 'mcpbroker.audit.request.v1'
           AND split_part(note, E'\n', 4) = '' THEN
            RETURN split_part(note, E'\n', 3)::jsonb;
        END IF;
        RETURN NULL;
    EXCEPTION WHEN data_exception THEN
        RETURN NULL;
    END $$
"""
INSTANT = """
    CREATE FUNCTION audit.instant(words text) RETURNS timestamptz
    LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
    BEGIN
        RETURN words::timestamptz;
    EXCEPTION WHEN data_exception THEN
        RETURN NULL;
    END $$
"""

# The holds that are on: those of the table, and those that the sealed log has placed and not
# released, so that whoever deletes a row lifts nothing. A hold keeps its own record too.
HELD = """
    CREATE FUNCTION audit.held(tenant text) RETURNS TABLE (hold text, keeps_from timestamptz)
    LANGUAGE sql STABLE SET search_path = pg_catalog
    BEGIN ATOMIC
        SELECT h.hold_id::text, least(coalesce(h.from_at, '-infinity'), h.placed_at)
          FROM audit.holds h
         WHERE h.tenant_id = tenant AND h.released_at IS NULL
        UNION
        SELECT e.body ->> 'hold',
               least(coalesce(audit.instant(e.body ->> 'from'), '-infinity'), e.occurred_at)
          FROM audit.events e
          JOIN audit.members m ON m.event_id = e.event_id AND m.tenant_id = e.tenant_id
                              AND m.occurred_at = e.occurred_at
         WHERE e.tenant_id = tenant AND e.type = 'hold.placed' AND e.body ->> 'hold' IS NOT NULL
           AND NOT EXISTS (
               SELECT FROM audit.events r
                 JOIN audit.members n ON n.event_id = r.event_id AND n.tenant_id = r.tenant_id
                                     AND n.occurred_at = r.occurred_at
                WHERE r.tenant_id = tenant AND r.type = 'hold.released'
                  AND r.body ->> 'hold' = e.body ->> 'hold' AND n.seq > m.seq);
    END
"""

DEFINER = """LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
    SET lock_timeout = '3s' AS $$
    #variable_conflict use_column"""
ALONE = "PERFORM pg_advisory_xact_lock(hashtext('audit.retention'))"
CALLER = "'db:' || session_user"

# Every log that there is says who asked for what, before anything of it can go.
ASK = f"""
    CREATE FUNCTION audit.ask_retirement(note text) RETURNS bigint {DEFINER}
    DECLARE
        asked jsonb := audit.request_of(note);
        until timestamptz := audit.instant(asked ->> 'before');
        made bigint;
    BEGIN
        IF asked ->> 'kind' IS DISTINCT FROM 'retire' OR until IS NULL OR until > now() THEN
            RAISE EXCEPTION 'no request for the retirement of what is past' USING ERRCODE = '22023';
        END IF;
        INSERT INTO audit.retirements (before, reason, asked_by, request)
        VALUES (until, coalesce(asked ->> 'reason', ''), {CALLER}, note)
        RETURNING retirement_id INTO made;
        INSERT INTO audit.events (tenant_id, type, actor, body)
        SELECT log.tenant_id, 'retirement.asked', {CALLER},
               json_build_object('retirement', made, 'before', until, 'request', note)
          FROM (SELECT '_broker' AS tenant_id UNION
                SELECT s.tenant_id FROM audit.seals s WHERE s.seal_no = 1) AS log;
        RETURN made;
    END $$
"""

# The oldest partition goes, if every log in it says so by a sealed request and no hold is on it.
DROP_OLDEST = f"""
    CREATE FUNCTION audit.drop_oldest()
    RETURNS TABLE (partition text, upto timestamptz, events bigint, dropped boolean, reason text)
    {DEFINER}
    DECLARE
        lower timestamptz;
        found record;
        said record;
        gone jsonb := '[]';
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
            SELECT FROM audit.seals s WHERE s.kind = 'retirement' AND s.request IS NOT NULL
               AND s.retired_before >= upto) THEN
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
            SELECT s.seal_no, audit.request_of(s.request) ->> 'id' AS request INTO said
              FROM audit.seals s
             WHERE s.tenant_id = found.tenant_id AND s.kind = 'retirement'
               AND s.retired_before >= upto AND s.digest = audit.seal_digest(s)
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
        EXECUTE format('DROP TABLE audit.%I', partition);
        INSERT INTO audit.events (tenant_id, type, actor, body)
        SELECT g.tenant, 'audit.retired', {CALLER},
               json_build_object('partition', partition, 'before', upto, 'events', g.events,
                                 'seal', g.seal, 'request', g.request)
          FROM jsonb_to_recordset(gone) AS g (tenant text, events bigint, seal bigint, request text);
        dropped := true;
        RETURN NEXT;
    END $$
"""

MINE = """e.tenant_id = tenant AND (e.user_id = person OR (audit.actor_kind(e.actor) ~ ':$'
                  AND substr(e.actor, strpos(e.actor, ':') + 1) = person))"""
MONTH = "to_char(e.occurred_at AT TIME ZONE 'UTC', 'YYYYMM')"

# What the next batch would blank: what its request is signed over. It shows ids and no words.
PLAN = f"""
    CREATE FUNCTION audit.plan_erasure(tenant text, person text, batch integer)
    RETURNS TABLE (ids uuid[], ats timestamptz[], commands bigint, kept bigint, months jsonb)
    {DEFINER}
    BEGIN
        SELECT array_agg(x.event_id ORDER BY x.occurred_at, x.event_id),
               array_agg(x.occurred_at ORDER BY x.occurred_at, x.event_id) INTO ids, ats
          FROM (SELECT e.event_id, e.occurred_at FROM audit.events e
                 WHERE {MINE} AND e.salt IS NOT NULL
                 ORDER BY e.occurred_at, e.event_id LIMIT batch) AS x;
        ids := coalesce(ids, '{{}}');
        ats := coalesce(ats, '{{}}');
        SELECT jsonb_object_agg(x.month, jsonb_build_object('events', x.n, 'digest', x.digest))
          INTO months
          FROM (SELECT {MONTH} AS month, count(*) AS n, encode(sha256(string_agg(
                           uuid_send(e.event_id), ''::bytea ORDER BY e.event_id)), 'hex') AS digest
                  FROM unnest(ids, ats) AS e (event_id, occurred_at) GROUP BY 1) AS x;
        commands := (SELECT count(*) FROM (SELECT FROM public.commands c
                      WHERE c.tenant_id = tenant AND c.user_id = person LIMIT batch) AS his);
        kept := (SELECT count(*) FROM audit.events e
                  WHERE {MINE} AND e.salt IS NULL AND e.commitment IS NULL);
        RETURN NEXT;
    END $$
"""


def older(name: str) -> Any:
    """An earlier migration, whose words are said again."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BEFORE = older("0008_retention")
ERASE_BEFORE = BEFORE.ERASE.replace(*older("0009_sagas").ERASED)


def between(text: str, start: str, end: str) -> str:
    """A part of an earlier function's body."""
    return start + text.partition(start)[2].partition(end)[0]


# As before, with a request that says which events; what it does to commands and sagas is the same.
ERASE = f"""
    CREATE FUNCTION audit.erase(tenant text, person text, note text, ids uuid[], ats timestamptz[],
                                batch integer)
    RETURNS TABLE (erasure uuid, events bigint, commands bigint, kept bigint, more boolean)
    {DEFINER}
    DECLARE
        asked jsonb := audit.request_of(note);
        months jsonb;
    BEGIN
        {ALONE};
        IF asked ->> 'kind' IS DISTINCT FROM 'erase' OR asked ->> 'tenant_id' IS DISTINCT FROM tenant
        THEN
            RAISE EXCEPTION 'no request for an erasure in tenant %', tenant USING ERRCODE = '22023';
        END IF;
        erasure := asked ->> 'id';
        IF EXISTS (SELECT FROM audit.held(tenant)) THEN
            RAISE EXCEPTION 'tenant % is under a legal hold', tenant USING ERRCODE = '55000';
        {between(ERASE_BEFORE, "ELSIF EXISTS", "erasure := gen_random_uuid();")}
        IF EXISTS (SELECT FROM audit.events e WHERE e.tenant_id = tenant
                      AND e.type = 'person.erased' AND e.event_id = erasure) THEN
            RAISE EXCEPTION 'that request was followed before' USING ERRCODE = '55000';
        END IF;
        UPDATE audit.events e
           SET commitment = audit.personal_v1(e.salt, e.actor, e.user_id, e.fingerprint, e.body),
               actor = audit.actor_kind(e.actor)
                       || repeat('[erased]', (audit.actor_kind(e.actor) ~ ':$')::int),
               user_id = NULL, fingerprint = NULL, body = '{{}}', salt = NULL, erased_by = erasure
         WHERE e.tenant_id = tenant AND {MINE} AND e.salt IS NOT NULL
           AND (e.occurred_at, e.event_id) IN (SELECT * FROM unnest(ats, ids));
        GET DIAGNOSTICS events = ROW_COUNT;
        {between(ERASE_BEFORE, "WITH mine AS", "SELECT jsonb_object_agg")}
        SELECT jsonb_object_agg(x.month, jsonb_build_object('events', x.events,
                                                            'digest', x.digest))
          INTO months FROM audit.erased(tenant) x WHERE x.erasure = erase.erasure;
        IF coalesce(months, '{{}}') IS DISTINCT FROM asked -> 'months' THEN
            RAISE EXCEPTION 'the events are not those that the request names'
                  USING ERRCODE = '55000';
        END IF;
        INSERT INTO audit.events (event_id, tenant_id, type, actor, body)
        VALUES (erasure, tenant, 'person.erased', {CALLER}, json_build_object(
            'reason', asked ->> 'reason', 'events', events, 'commands', commands,
            'months', months, 'request', note));
        kept := (SELECT count(*) FROM audit.events e WHERE {MINE} AND e.salt IS NULL
                    AND e.commitment IS NULL);
        more := events = batch OR commands = batch;
        RETURN NEXT;
    END $$
"""

VERBS = (
    ("audit.ask_retirement(text)", ASK),
    ("audit.drop_oldest()", DROP_OLDEST),
    ("audit.plan_erasure(text, text, integer)", PLAN),
    ("audit.erase(text, text, text, uuid[], timestamptz[], integer)", ERASE),
)
OLD_VERBS = tuple(
    (signature, ERASE_BEFORE if "erase" in signature else body)
    for signature, body in BEFORE.VERBS
    if "hold" not in signature and "release" not in signature
)


def each(script: str) -> None:
    for statement in filter(None, map(str.strip, script.split(";"))):
        op.execute(statement)


def grant(verbs: tuple[tuple[str, str], ...]) -> None:
    for signature, body in verbs:
        op.execute(body)
        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {signature} TO broker_retention")


def index_events() -> None:
    made = "CREATE INDEX IF NOT EXISTS ix_events_rulings ON ONLY audit.events"
    op.execute(RULINGS.format(made))
    for month in op.get_bind().execute(text(MONTHS_WITHOUT)).scalars().all():
        index = f"{month}_tenant_id_type_idx"
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {index}")
        own = RULINGS.format(f"{index.removeprefix('audit.')} ON {month}")
        op.execute(f"CREATE INDEX CONCURRENTLY {own}")
        op.execute(f"ALTER INDEX audit.ix_events_rulings ATTACH PARTITION {index}")


def upgrade() -> None:
    """A retirement or erasure of before has no request: docs/AUDITORS.md says what that means."""
    with op.get_context().autocommit_block():
        index_events()
    each(TABLES)
    for body in (SEAL_V2, SEAL_DIGEST, REQUEST_OF, INSTANT, HELD):
        op.execute(body)
    for signature, _ in OLD_VERBS:
        op.execute(f"DROP FUNCTION {signature}")
    grant(VERBS)


def downgrade() -> None:
    """Seals of retirements made meanwhile no longer verify."""
    for signature, _ in VERBS:
        op.execute(f"DROP FUNCTION {signature}")
    grant(OLD_VERBS)
    op.execute("DROP FUNCTION audit.held(text)")
    op.execute("DROP FUNCTION audit.instant(text)")
    op.execute("DROP FUNCTION audit.request_of(text)")
    op.execute("DROP FUNCTION audit.seal_digest(audit.seals)")
    op.execute("DROP FUNCTION audit.seal_v2(audit.seals)")
    op.execute("DROP INDEX audit.ix_events_rulings")
    each(BACK)
