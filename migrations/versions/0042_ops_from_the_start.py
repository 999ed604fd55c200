"""Schema `ops` counts how long a call took from the time at which it might start: its not_before."""

from alembic import op

revision = "0042"
down_revision = "0041"
branch_labels = None
depends_on = None

PERIODS = {"1h": "1 hour", "24h": "24 hours"}
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
MINUTES = """
    CREATE OR REPLACE FUNCTION ops.minutes(since timestamptz, until timestamptz)
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
                   ORDER BY {took})
          FROM commands c
         WHERE c.finished_at > greatest(since, until - interval '24 hours')
           AND c.finished_at <= until AND c.purged_at IS NULL
         GROUP BY 1, 2
         ORDER BY 1, 2
    $$
"""
# One that was cancelled before its start took no time.
FROM_START = (
    "greatest(0, extract(epoch FROM {c}finished_at - greatest({c}created_at, {c}not_before)))"
    "::float8"
)
FROM_ACCEPTANCE = "extract(epoch FROM {c}finished_at - {c}created_at)::float8"
RAN = "extract(epoch FROM finished_at - started_at)::float8"
SHARES = {"50": "the median", "95": "of 95 in 100 at most", "99": "of 99 in 100 at most"}


def shares(took: str) -> list[str]:
    return [
        f"percentile_cont({share}) WITHIN GROUP (ORDER BY {took})" for share in (0.5, 0.95, 0.99)
    ]


def views(took: str, since: str) -> None:
    for view, keys in (("tools", "tool, method"), ("tenants", "tenant_id")):
        levels = " UNION ALL ".join(
            LEVELS.format(
                period=period,
                length=length,
                keys=keys,
                call=shares(took.format(c="")),
                run=shares(RAN),
            )
            for period, length in PERIODS.items()
        )
        op.execute(f"CREATE OR REPLACE VIEW ops.{view} AS {levels}")
        for share, what in SHARES.items():
            said = f"Seconds from {since} to the end{':' if share == '50' else ','} {what}."
            op.execute(f"COMMENT ON COLUMN ops.{view}.call_p{share}_s IS '{said}'")
    op.execute(MINUTES.format(took=took.format(c="c.")))


def upgrade() -> None:
    views(FROM_START, "acceptance, or from not_before where that is later,")


def downgrade() -> None:
    views(FROM_ACCEPTANCE, "acceptance")
