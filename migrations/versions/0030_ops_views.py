"""Schema `ops`: how the broker does, by tenant and tool; read by broker_observer, without content.

Aggregates alone: no argument, result, key, user or id. The views run as the owner, so they see
every tenant; what they read is bounded by an index and a window of time.
"""

import json

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

INDEXES = {
    "ix_sagas_open": "(tenant_id) WHERE finished_at IS NULL",
    "ix_sagas_ended": "(finished_at) WHERE finished_at IS NOT NULL",
}

PERIODS = {"1h": "1 hour", "24h": "24 hours"}

# Of the commands that ended in the period, by ix_commands_purge.
LEVELS = """
    SELECT '{period}' AS period, {keys}, count(*) AS calls,
           count(*) / extract(epoch FROM interval '{length}')::float8 AS calls_per_s,
           count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
           count(*) FILTER (WHERE state = 'failed') AS failed,
           count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
           count(*) FILTER (WHERE state = 'timed_out') AS timed_out,
           count(*) FILTER (WHERE state = 'dead_lettered') AS dead_lettered,
           avg((state IN ('failed', 'timed_out', 'dead_lettered'))::int)::float8 AS error_rate,
           avg((state = 'timed_out')::int)::float8 AS timeout_rate,
           avg((state = 'dead_lettered')::int)::float8 AS dead_letter_rate,
           count(deadline_missed_at) AS deadline_misses,
           sum(attempt - 1)::bigint AS retries,
           {call[0]} AS call_p50_s, {call[1]} AS call_p95_s, {call[2]} AS call_p99_s,
           {run[0]} AS run_p50_s, {run[1]} AS run_p95_s, {run[2]} AS run_p99_s
      FROM commands
     WHERE finished_at > now() - interval '{length}' AND purged_at IS NULL
     GROUP BY {keys}
"""


def shares(since: str) -> list[str]:
    """p50, p95 and p99 of the seconds up to the end; null where none of it ran."""
    took = f"extract(epoch FROM finished_at - {since})::float8"
    return [
        f"percentile_cont({share}) WITHIN GROUP (ORDER BY {took})" for share in (0.5, 0.95, 0.99)
    ]


def levels(keys: str) -> str:
    return " UNION ALL ".join(
        LEVELS.format(
            period=period,
            length=length,
            keys=keys,
            call=shares("created_at"),
            run=shares("started_at"),
        )
        for period, length in PERIODS.items()
    )


MINUTES = """
    CREATE FUNCTION ops.minutes(since timestamptz, until timestamptz)
    RETURNS TABLE (minute timestamptz, tenant_id text, calls bigint, failed bigint,
                   timed_out bigint, dead_lettered bigint, deadline_misses bigint, retries bigint,
                   call_p95_s float8)
    LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp
    AS $$
        SELECT date_trunc('minute', c.finished_at), c.tenant_id, count(*),
               count(*) FILTER (WHERE c.state = 'failed'),
               count(*) FILTER (WHERE c.state = 'timed_out'),
               count(*) FILTER (WHERE c.state = 'dead_lettered'),
               count(c.deadline_missed_at), sum(c.attempt - 1)::bigint,
               percentile_cont(0.95) WITHIN GROUP (
                   ORDER BY extract(epoch FROM c.finished_at - c.created_at)::float8)
          FROM commands c
         WHERE c.finished_at > greatest(since, until - interval '24 hours')
           AND c.finished_at <= until AND c.purged_at IS NULL
         GROUP BY 1, 2
         ORDER BY 1, 2
    $$
"""

# The lanes by a loose index scan, as the relay's lease finds them; of each its oldest row.
TENANTS_NOW = """
    CREATE VIEW ops.tenants_now AS
    WITH RECURSIVE lane AS (
        (SELECT priority, tenant_id, tool, method
           FROM outbox
          WHERE status = 'ready' AND kind = 'command' AND NOT exempt
          ORDER BY priority, tenant_id, tool, method
          LIMIT 1)
        UNION ALL
        SELECT following.*
          FROM lane
         CROSS JOIN LATERAL (
            SELECT o.priority, o.tenant_id, o.tool, o.method
              FROM outbox o
             WHERE o.status = 'ready' AND o.kind = 'command' AND NOT o.exempt
               AND (o.priority, o.tenant_id, o.tool, o.method)
                   > (lane.priority, lane.tenant_id, lane.tool, lane.method)
             ORDER BY o.priority, o.tenant_id, o.tool, o.method
             LIMIT 1
         ) following
    ), oldest AS (
        SELECT lane.tenant_id, min(first.since) AS since
          FROM lane
         CROSS JOIN LATERAL (
            SELECT greatest(o.created_at, o.available_at) AS since
              FROM outbox o
             WHERE o.status = 'ready' AND o.kind = 'command' AND NOT o.exempt
               AND o.priority = lane.priority AND o.tenant_id = lane.tenant_id
               AND o.tool = lane.tool AND o.method = lane.method
             ORDER BY o.priority, o.tenant_id, o.tool, o.method, o.id
             LIMIT 1
         ) first
         GROUP BY lane.tenant_id
    )
    SELECT t.tenant_id,
           (SELECT count(*) FROM commands c
             WHERE c.tenant_id = t.tenant_id AND c.state = 'queued') AS queued,
           t.queued_max,
           coalesce(extract(epoch FROM now() - oldest.since), 0)::float8 AS oldest_ready_s,
           (SELECT count(*) FROM commands c
             WHERE c.tenant_id = t.tenant_id AND c.state IN ('dispatched', 'running')
               AND c.saga_role IS DISTINCT FROM 'saga') AS in_flight,
           t.in_flight_max,
           (SELECT count(*) FROM commands c
             WHERE c.tenant_id = t.tenant_id AND c.state = 'dead_lettered'
               AND c.discarded_at IS NULL) AS dead_letters,
           (SELECT count(*) FROM ordering_heads h
             WHERE h.tenant_id = t.tenant_id AND h.blocked_reason IS NOT NULL) AS blocked_keys
      FROM tenants t
      LEFT JOIN oldest USING (tenant_id)
"""

EXECUTORS = """
    CREATE VIEW ops.executors AS
    SELECT CASE WHEN t.adapter IS NULL OR t.adapter ->> 'runs_on' = 'eda' THEN 'eda' ELSE 'worker'
           END AS executor, c.tool, c.method,
           count(*) FILTER (WHERE c.state = 'dispatched') AS unclaimed,
           count(*) FILTER (WHERE c.state = 'running') AS running,
           t.in_flight_max,
           coalesce(extract(epoch FROM now() - min(c.dispatched_at)
               FILTER (WHERE c.state = 'dispatched')), 0)::float8 AS oldest_unclaimed_s
      FROM commands c
      LEFT JOIN tools t ON t.tool = c.tool AND t.method = c.method
     WHERE c.state IN ('dispatched', 'running') AND c.saga_role IS DISTINCT FROM 'saga'
     GROUP BY 1, 2, 3, t.in_flight_max
"""

SAGAS = """
    CREATE VIEW ops.sagas AS
    SELECT tenant_id, state, count(*) AS sagas,
           coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS oldest_s
      FROM sagas
     WHERE finished_at IS NULL
     GROUP BY tenant_id, state
     UNION ALL
    SELECT tenant_id, state, count(*), 0
      FROM sagas
     WHERE finished_at > now() - interval '24 hours'
     GROUP BY tenant_id, state
"""

SEALS = """
    CREATE VIEW ops.seals AS
    SELECT log.tenant_id, s.seal_no, s.seq_to AS events_sealed, s.sealed_at,
           extract(epoch FROM now() - s.sealed_at)::float8 AS age_s
      FROM (SELECT tenant_id FROM tenants UNION ALL SELECT '_broker') log
     CROSS JOIN LATERAL (
        SELECT seal_no, seq_to, sealed_at
          FROM audit.seals
         WHERE tenant_id = log.tenant_id
         ORDER BY seal_no DESC
         LIMIT 1
     ) s
"""

VIEWS = {
    "tools": "How calls of each method did: of the commands that ended in the period.",
    "tenants": "How each tenant's calls did: of the commands that ended in the period.",
    "tenants_now": "What each tenant has in the queue and in flight, and what waits for a person.",
    "executors": "What is with EDA and the workers, by method.",
    "sagas": "Each tenant's sagas by state: those that are open, and the last 24 hours' ended ones.",
    "seals": "Each log's newest seal.",
}
COLUMNS = {
    "period": "1h or 24h, up to now.",
    "tenant_id": "The tenant; _broker is the broker itself.",
    "tool": "The tool.",
    "method": "Its method.",
    "calls": "How many ended.",
    "calls_per_s": "The same, a second.",
    "succeeded": "How many succeeded.",
    "failed": "How many failed.",
    "cancelled": "How many were cancelled.",
    "timed_out": "How many ended at their deadline or their longest running time.",
    "dead_lettered": "How many became dead letters.",
    "error_rate": "The share that failed, timed out or became dead letters, from 0 to 1.",
    "timeout_rate": "The share that timed out, from 0 to 1.",
    "dead_letter_rate": "The share that became dead letters, from 0 to 1.",
    "deadline_misses": "How many had not ended at their deadline.",
    "retries": "Attempts beyond the first.",
    "call_p50_s": "Seconds from acceptance to the end: the median.",
    "call_p95_s": "Seconds from acceptance to the end, of 95 in 100 at most.",
    "call_p99_s": "Seconds from acceptance to the end, of 99 in 100 at most.",
    "run_p50_s": "Seconds from the last attempt's claim to the end: the median.",
    "run_p95_s": "Seconds from the last attempt's claim to the end, of 95 in 100 at most.",
    "run_p99_s": "Seconds from the last attempt's claim to the end, of 99 in 100 at most.",
    "queued": "Commands in the queue, held and delayed ones too.",
    "queued_max": "How many may be; then calls are refused.",
    "oldest_ready_s": "For how long the oldest command has been ready to be dispatched.",
    "in_flight": "Commands that are dispatched or run.",
    "in_flight_max": "How many may be.",
    "dead_letters": "Dead letters neither redriven nor discarded.",
    "blocked_keys": "Ordering keys that wait for a person's decision.",
    "executor": "eda or worker.",
    "unclaimed": "Dispatched commands that nobody has claimed.",
    "running": "Claimed commands.",
    "oldest_unclaimed_s": "For how long the oldest of the unclaimed has been dispatched.",
    "state": "The state.",
    "sagas": "How many there are.",
    "oldest_s": "The age of the oldest that is open.",
    "seal_no": "The seal's number in its log, from 1.",
    "events_sealed": "How many events of the log are sealed.",
    "sealed_at": "When it was made.",
    "age_s": "How long ago that was.",
}
COMMENT = """
    DO $$
    DECLARE said CONSTANT jsonb := '{said}'; one record;
    BEGIN
        FOR one IN SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a
                       ON a.attrelid = c.oid AND a.attnum > 0
                    WHERE c.relnamespace = 'ops'::regnamespace AND c.relkind = 'v' LOOP
            EXECUTE format('COMMENT ON COLUMN ops.%I.%I IS %L', one.relname, one.attname,
                           said ->> one.attname);
        END LOOP;
    END $$
"""


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, what in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON sagas {what}")
    op.execute("CREATE SCHEMA ops")
    op.execute(f"CREATE VIEW ops.tools AS {levels('tool, method')}")
    op.execute(f"CREATE VIEW ops.tenants AS {levels('tenant_id')}")
    for statement in (TENANTS_NOW, EXECUTORS, SAGAS, SEALS, MINUTES):
        op.execute(statement)
    for view, said in VIEWS.items():
        op.execute(f"COMMENT ON VIEW ops.{view} IS '{said.replace(chr(39), chr(39) * 2)}'")
    said = json.dumps(COLUMNS).replace("'", "''")
    op.execute(COMMENT.format(said=said))
    op.execute(
        "COMMENT ON FUNCTION ops.minutes(timestamptz, timestamptz) IS"
        " 'How each tenant''s calls did, by the minute: of the last 24 hours before until at most.'"
    )
    op.execute("REVOKE ALL ON FUNCTION ops.minutes(timestamptz, timestamptz) FROM PUBLIC")
    op.execute("GRANT USAGE ON SCHEMA ops TO broker_observer")
    op.execute("GRANT SELECT ON ALL TABLES IN SCHEMA ops TO broker_observer")
    op.execute("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ops TO broker_observer")


def downgrade() -> None:
    op.execute("DROP SCHEMA ops CASCADE")
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
