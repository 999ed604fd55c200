-- Leases the commands that go next, in the right order, at most a batch of them.
--
--   $1 int     window: the most unclaimed of a tool that sets no in_flight_max of its own
--   $2 float8  aging_s: seconds of waiting that raise a command by one priority tier
--   $3 int     batch_max: the most commands that are leased
--   $4 text    relay: who leases them
--   $5 float8  lease_s: for how long
--   $6 bool    top_only: only commands of the highest priority that waits
--   $7 int     one place in so many of a tool's window is spared (`usual`)
--
-- Runs after LOCK, so no two of it run at a time and what it counts is exact. The order is tier
-- (priority, raised by waiting), share (in flight and place in its tenant's own order, by the
-- tenant's weight), age.
WITH RECURSIVE undo AS (
    -- A saga's undo steps, by an index of their own: exempt from windows, rates and shares.
    SELECT o.id
      FROM outbox o
      JOIN tenants t ON t.tenant_id = o.tenant_id AND t.state = 'active'
     WHERE o.status = 'ready' AND o.kind = 'command' AND o.exempt
     ORDER BY o.priority DESC, o.id
     LIMIT $3
), lane AS (
    -- The lanes (priority, tenant, tool, method) that have ready rows, by a loose index scan. Its
    -- cost is their number and not the rows' (50,000 waiting calls of one tenant are four probes),
    -- about 20 us each.
    (SELECT priority, tenant_id, tool, method
       FROM outbox
      WHERE status = 'ready' AND kind = 'command' AND NOT exempt
        AND priority >= CASE WHEN $6 THEN (
            SELECT priority
              FROM outbox
             WHERE status = 'ready' AND kind = 'command' AND NOT exempt
             ORDER BY priority DESC
             LIMIT 1
            ) ELSE 0 END
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
), busy AS MATERIALIZED (
    -- What is in flight: dispatched or running, or leased by a relay that publishes it now; and how
    -- much of it no adapter has claimed yet. A saga's own command is run by nobody, so it takes no
    -- place.
    SELECT tenant_id, tool, method, count(*) AS n, count(*) FILTER (WHERE NOT runs) AS unclaimed
      FROM (SELECT tenant_id, tool, method, state = 'running' AS runs
              FROM commands
             WHERE state IN ('dispatched', 'running')
               AND saga_role IS DISTINCT FROM 'saga'
             UNION ALL
            SELECT tenant_id, tool, method, false
              FROM outbox
             WHERE status = 'claimed' AND payload IS NULL) AS in_flight
     GROUP BY tenant_id, tool, method
), tenant AS MATERIALIZED (
    -- The lanes' tenants: what each has in flight, the tokens in its bucket now (none where it has
    -- no rate), and how many more it may have (`room`).
    SELECT t.tenant_id, t.weight, t.rate_per_s, coalesce(b.n, 0) AS n, spendable.tokens,
           least(t.in_flight_max - coalesce(b.n, 0),
                 coalesce(floor(spendable.tokens), 2147483647))::int AS room
      FROM tenants t
      LEFT JOIN (SELECT tenant_id, sum(n)::int AS n FROM busy GROUP BY tenant_id) b
        USING (tenant_id)
      LEFT JOIN tenant_budgets budget USING (tenant_id)
     CROSS JOIN LATERAL (
        SELECT CASE WHEN t.rate_per_s IS NOT NULL THEN
            least(t.rate_burst, coalesce(budget.tokens + t.rate_per_s * greatest(0,
                extract(epoch FROM statement_timestamp() - budget.refilled_at)), t.rate_burst))
        END AS tokens
     ) spendable
     WHERE t.state = 'active' AND t.tenant_id IN (SELECT tenant_id FROM lane)
), tool AS MATERIALIZED (
    -- The lanes' tools: what room each one's window has, and how much of it is spared. A tool's own
    -- bound is for what it may bear at once. The other window is what may wait at the executor: what
    -- an adapter claims makes room, so it follows the executor, however fast or slow that is.
    SELECT tool, method, coalesce(t.in_flight_max - coalesce(b.n, 0),
                                  $1 - coalesce(b.unclaimed, 0)) AS room,
           coalesce(t.in_flight_max, $1) / $7 AS spare
      FROM (SELECT DISTINCT tool, method FROM lane) AS l
      LEFT JOIN tools t USING (tool, method)
      LEFT JOIN (SELECT tool, method, sum(n)::int AS n, sum(unclaimed)::int AS unclaimed
                   FROM busy
                  GROUP BY tool, method) b
        USING (tool, method)
), going AS (
    -- The lanes whose tenant and tool have room, so that the others take nobody's place. `idle` is
    -- a tenant that has nothing of the tool in flight. `look` is how many rows of a lane are read:
    -- about twice the batch in all, shared between the lanes by weight.
    SELECT lane.*, tenant.weight, tenant.n, tenant.room, tool.room AS tool_room, tool.spare,
           least($3, tenant.room, tool.room, ceil(2.0 * $3 * tenant.weight
               / sum(tenant.weight) OVER (ORDER BY lane.priority DESC)))::bigint AS look
      FROM (SELECT *, (tenant_id, tool, method) NOT IN
                          (SELECT tenant_id, tool, method FROM busy) AS idle
              FROM lane) AS lane
      JOIN tenant USING (tenant_id)
      JOIN tool USING (tool, method)
     WHERE tenant.room > 0 AND tool.room > CASE WHEN lane.idle THEN 0 ELSE tool.spare END
), candidate AS (
    -- The oldest rows of each lane, with the tier that waiting has earned them. Written as a range
    -- that only the lane's index has in order: with `=` and ORDER BY id the planner takes the
    -- primary key, and a lane of one row walks past every waiting row of all the others.
    SELECT o.id, going.tenant_id, going.tool, going.method, going.weight, going.n, going.room,
           going.tool_room, going.spare, going.idle,
           row_number() OVER (PARTITION BY going.tenant_id, going.tool, going.method,
                                           going.priority ORDER BY o.id) AS nth,
           going.look,
           -- Never below its own: a row may be of a time to come, where the clock was set back.
           least(3, going.priority + greatest(0, floor(extract(
               epoch FROM statement_timestamp() - o.created_at) / $2::float8))) AS tier
      FROM going
     CROSS JOIN LATERAL (
        SELECT id, created_at FROM outbox
         WHERE status = 'ready' AND kind = 'command' AND NOT exempt
           AND (priority, tenant_id, tool, method)
               >= (going.priority, going.tenant_id, going.tool, going.method)
           AND (priority, tenant_id, tool, method)
               <= (going.priority, going.tenant_id, going.tool, going.method)
         ORDER BY priority, tenant_id, tool, method, id
         LIMIT going.look
     ) o
), ranked AS (
    -- Each row's place among its tenant's own.
    SELECT c.*, row_number() OVER (PARTITION BY tenant_id ORDER BY tier DESC, id) AS place_own
      FROM candidate c
), shared AS (
    -- Each row's share, within its tenant's room. `first`: a tenant's first call of a tool of which
    -- it has nothing in flight.
    SELECT r.*, (n + place_own) / weight::float8 AS share,
           idle AND row_number() OVER (
               PARTITION BY tenant_id, tool, method ORDER BY tier DESC, id) = 1 AS first
      FROM ranked r
     WHERE place_own <= room
), cut AS (
    -- Up to where the order is known: where an unread row of a lane could come, at the earliest.
    SELECT tier, (n + place_own + 1) / weight::float8 AS share
      FROM shared
     WHERE nth = look AND nth < tool_room AND place_own < room
     ORDER BY tier DESC, (n + place_own + 1) / weight::float8
     LIMIT 1
), placed AS (
    -- Each row's place in its tool's window. Nothing after the cut is taken: the lease is a part of
    -- the right order from its start, if not always a whole batch of it.
    SELECT s.*,
           row_number() OVER (
               PARTITION BY tool, method ORDER BY s.tier DESC, s.share, s.id) AS place,
           row_number() OVER (
               PARTITION BY tool, method, first ORDER BY s.tier DESC, s.share, s.id) AS place_as
      FROM shared s
      LEFT JOIN cut ON true
     WHERE (s.tier > cut.tier OR (s.tier = cut.tier AND s.share < cut.share)) IS NOT FALSE
), usual AS (
    -- What goes beside the undo steps. The last places of a tool's window are for tenants that have
    -- nothing of it in flight: whoever fills the window does not make another's first call wait
    -- for an end.
    SELECT id, tenant_id
      FROM placed
     WHERE place <= tool_room - spare
        OR first AND (place <= tool_room OR place_as <= least(spare, tool_room))
     ORDER BY tier DESC, share, id
     LIMIT greatest(0, $3 - (SELECT count(*) FROM undo))
), spent AS (
    -- Every token bucket of a lane's tenant, filled up to now and less what goes.
    INSERT INTO tenant_budgets AS b (tenant_id, tokens, refilled_at)
    SELECT tenant.tenant_id, tenant.tokens - count(usual.id), statement_timestamp()
      FROM tenant
      LEFT JOIN usual USING (tenant_id)
     WHERE tenant.rate_per_s IS NOT NULL
     GROUP BY tenant.tenant_id, tenant.tokens
        ON CONFLICT (tenant_id)
        DO UPDATE SET tokens = excluded.tokens, refilled_at = excluded.refilled_at
)
-- The lease, and what an envelope carries (app/commands/envelope.py) with the order of its key.
UPDATE outbox o
   SET status = 'claimed', claimed_by = $4,
       claimed_until = now() + make_interval(secs => $5::float8)
  FROM (SELECT id FROM undo UNION ALL SELECT id FROM usual) AS chosen
  JOIN commands c ON true
  LEFT JOIN tools t ON t.tool = c.tool AND t.method = c.method
 WHERE o.id = chosen.id AND o.status = 'ready' AND c.id = o.command_id
RETURNING o.id AS outbox_id, o.event_id, o.kind, o.topic, o.key,
          greatest(o.created_at, o.available_at) AS ready_at,
          -- Also where the call that would undo it is not for Kafka.
          coalesce(t.policy ->> 'args', 'inline') = 'by_reference'
          OR (c.compensation IS NOT NULL
              AND EXISTS (SELECT FROM tools u
                           WHERE u.tool = c.compensation ->> 'tool'
                             AND u.method = c.compensation ->> 'method'
                             AND u.policy ->> 'args' = 'by_reference')) AS by_reference,
          t.adapter ->> 'target' AS target,
          c.id, c.idempotency_key, c.tenant_id, c.user_id, c.tool, c.method, c.args,
          c.ordering_key, c.ordering, c.priority, c.accept_partials, c.accept_async, c.saga_id,
          c.saga_step, c.compensation, c.attempt, c.deadline_at, c.created_at, c.traceparent,
          c.deliveries, c.labels,
          c.not_before,
          -- The hold that an operator has placed on it, if any: then it is kept back in this
          -- transaction. One probe of an index that has the holds in force of its tenant only.
          (SELECT h.id
             FROM holds h
            WHERE h.released_at IS NULL
              AND h.tenant_id = c.tenant_id
              AND (h.tool IS NULL OR h.tool = c.tool)
              AND (h.method IS NULL OR h.method = c.method)
              AND (h.ordering_key IS NULL OR h.ordering_key = c.ordering_key)
              AND (h.args_path IS NULL OR c.args #> h.args_path = h.args_value)
            ORDER BY h.id
            LIMIT 1) AS hold_id
