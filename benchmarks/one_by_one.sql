-- One statement a call, as intake writes it. A colon would be a variable to pgbench: chr(58).
WITH call AS (
    SELECT uuidv7() AS id
), written AS (
    INSERT INTO commands (id, tenant_id, user_id, tool, method, args, idempotency_key, key_source,
                          fingerprint, priority, deadline_at, attempts_max)
    SELECT id, 'demo', 'ada', 'probe', 'echo', jsonb_build_object('text', repeat('x', 200)),
           CAST(id AS text), 'body', sha256(CAST(CAST(id AS text) AS bytea)), 1,
           now() + interval '1 hour', 1
      FROM call
        ON CONFLICT DO NOTHING
    RETURNING id, fingerprint
), queued AS (
    INSERT INTO outbox (tenant_id, kind, topic, key, command_id, attempt, tool, method, priority)
    SELECT 'demo', 'command', 'mcp.commands', concat('demo', chr(58), id), id, 1, 'probe', 'echo', 1
      FROM written
), audited AS (
    INSERT INTO audit.events (tenant_id, type, actor, user_id, command_id, tool, method, attempt,
                              state_to, fingerprint, body)
    SELECT 'demo', 'command.accepted', concat('user', chr(58), 'ada'), 'ada', id, 'probe', 'echo',
           1, 'queued', fingerprint, json_build_object('idempotency_key', id, 'key_source', 'body',
           'args', json_build_object('text', repeat('x', 200)), 'priority', 'normal',
           'deadline_s', 3600)
      FROM written
)
SELECT id FROM written;
