"""Webhooks: who is told, and what is still to be told, in the order of the audit trail."""

from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

MINE = "tenant_id = ANY (NULLIF(current_setting('app.tenants', true), '')::text[])"

# ONLY: the tables are new, so no index locks anybody out, and none need be made CONCURRENTLY.
# A secret stands here sealed only: the key is a setting of app and relay. An endpoint is an
# operator's, or, with a user, what an MCP client has subscribed to for a while.
UP = """
    CREATE TABLE webhook_endpoints (
        id uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT pk_webhook_endpoints PRIMARY KEY,
        tenant_id text NOT NULL CONSTRAINT fk_webhook_endpoints_tenant_id_tenants
            REFERENCES tenants (tenant_id) ON DELETE CASCADE,
        user_id text,
        url text NOT NULL,
        kinds text[] NOT NULL,
        tool text,
        method text,
        template jsonb,
        secret bytea NOT NULL,
        secret_before bytea,
        secret_before_until timestamptz,
        enabled boolean NOT NULL DEFAULT true,
        reason text,
        disabled_at timestamptz,
        from_xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
        failing_since timestamptz,
        last_error text,
        last_delivered_at timestamptz,
        verified_at timestamptz,
        expires_at timestamptz,
        created_by text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ix_webhook_endpoints_tenant ON ONLY webhook_endpoints (tenant_id, created_at, id);
    CREATE INDEX ix_webhook_endpoints_expires ON ONLY webhook_endpoints (expires_at)
        WHERE expires_at IS NOT NULL;
    CREATE TABLE webhook_deliveries (
        id uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT pk_webhook_deliveries PRIMARY KEY,
        tenant_id text NOT NULL,
        endpoint_id uuid NOT NULL CONSTRAINT fk_webhook_deliveries_endpoint_id_webhook_endpoints
            REFERENCES webhook_endpoints (id) ON DELETE CASCADE,
        kind text NOT NULL,
        event_id uuid NOT NULL,
        xid xid8 NOT NULL,
        occurred_at timestamptz NOT NULL,
        data jsonb NOT NULL,
        state text NOT NULL DEFAULT 'waiting' CONSTRAINT ck_webhook_deliveries_state
            CHECK (state IN ('waiting', 'delivered', 'abandoned')),
        attempts integer NOT NULL DEFAULT 0,
        due_at timestamptz NOT NULL DEFAULT now(),
        lease uuid,
        last_status integer,
        last_error text,
        last_at timestamptz,
        answer text,
        created_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        CONSTRAINT uq_webhook_deliveries_endpoint_id_event_id_kind
            UNIQUE (endpoint_id, event_id, kind));
    CREATE INDEX ix_webhook_deliveries_due ON ONLY webhook_deliveries (endpoint_id, due_at)
        WHERE state = 'waiting';
    CREATE INDEX ix_webhook_deliveries_made ON ONLY webhook_deliveries (endpoint_id, created_at, id);
    CREATE INDEX ix_webhook_deliveries_ended ON ONLY webhook_deliveries (ended_at)
        WHERE ended_at IS NOT NULL;
    CREATE TABLE webhook_position (
        name text CONSTRAINT pk_webhook_position PRIMARY KEY,
        xid xid8 NOT NULL);
    INSERT INTO webhook_position (name, xid)
    VALUES ('deliveries', pg_snapshot_xmin(pg_current_snapshot()));
    INSERT INTO turns (name) VALUES ('webhooks');
    COMMENT ON TABLE webhook_endpoints IS
        'Who is told of what by webhook: operators'' endpoints, and MCP clients'' subscriptions.';
    COMMENT ON TABLE webhook_deliveries IS
        'What an endpoint is to be told, and what it was told some days ago or less.';
    COMMENT ON TABLE webhook_position IS
        'Up to which transaction the audit trail was read for webhooks.';
    GRANT SELECT, INSERT, DELETE ON webhook_endpoints TO broker_app;
    GRANT UPDATE (secret, secret_before, secret_before_until, enabled, reason, disabled_at,
                  from_xid, failing_since, last_error, verified_at, expires_at)
        ON webhook_endpoints TO broker_app;
    GRANT SELECT, DELETE ON webhook_endpoints TO broker_relay;
    GRANT UPDATE (enabled, reason, disabled_at, failing_since, last_error, last_delivered_at)
        ON webhook_endpoints TO broker_relay;
    GRANT SELECT, INSERT ON webhook_deliveries TO broker_app;
    GRANT UPDATE (state, attempts, due_at, lease, ended_at) ON webhook_deliveries TO broker_app;
    GRANT SELECT, INSERT, DELETE ON webhook_deliveries TO broker_relay;
    GRANT UPDATE (state, attempts, due_at, lease, last_status, last_error, last_at, answer,
                  ended_at) ON webhook_deliveries TO broker_relay;
    GRANT SELECT ON webhook_position TO broker_app, broker_relay;
    GRANT UPDATE (xid) ON webhook_position TO broker_relay
"""

TABLE = f"""
    ALTER TABLE {{0}} ENABLE ROW LEVEL SECURITY;
    ALTER TABLE {{0}} FORCE ROW LEVEL SECURITY;
    CREATE POLICY app ON {{0}} TO broker_app USING ({MINE}) WITH CHECK ({MINE});
    CREATE POLICY relay ON {{0}} TO broker_relay USING (true) WITH CHECK (true);
    CREATE POLICY owner ON {{0}} TO broker_owner USING (true) WITH CHECK (true)
"""

VIEW = """
    CREATE VIEW ops.webhooks AS
    SELECT e.tenant_id, count(DISTINCT e.id) AS endpoints,
           count(DISTINCT e.id) FILTER (WHERE NOT e.enabled AND e.user_id IS NULL) AS disabled,
           count(DISTINCT e.id) FILTER (WHERE e.enabled AND e.failing_since IS NOT NULL)
               AS failing,
           count(d.id) AS waiting,
           extract(epoch FROM now() - min(d.created_at))::float8 AS oldest_s
      FROM webhook_endpoints e
      LEFT JOIN webhook_deliveries d
        ON d.endpoint_id = e.id AND d.state = 'waiting' AND e.enabled
     GROUP BY e.tenant_id
"""
VIEWED = "Webhooks by tenant: endpoints, those that fail or were disabled, and what waits."
COLUMNS = {
    "tenant_id": "The tenant.",
    "endpoints": "How many endpoints it has, with subscriptions of MCP clients.",
    "disabled": "How many of its operators'' endpoints are disabled.",
    "failing": "How many have not taken the latest deliveries.",
    "waiting": "How many deliveries wait for endpoints that are enabled.",
    "oldest_s": "For how long the oldest of them has waited.",
}

DOWN = """
    DROP VIEW ops.webhooks;
    DELETE FROM turns WHERE name = 'webhooks';
    DROP TABLE webhook_position;
    DROP TABLE webhook_deliveries;
    DROP TABLE webhook_endpoints
"""


def each(script: str) -> None:
    for statement in filter(None, map(str.strip, script.split(";"))):
        op.execute(statement)


def upgrade() -> None:
    each(UP)
    for table in ("webhook_endpoints", "webhook_deliveries"):
        each(TABLE.format(table))
    op.execute(VIEW)
    op.execute(f"COMMENT ON VIEW ops.webhooks IS '{VIEWED}'")
    for column, said in COLUMNS.items():
        op.execute(f"COMMENT ON COLUMN ops.webhooks.{column} IS '{said}'")
    op.execute("GRANT SELECT ON ops.webhooks TO broker_observer")


def downgrade() -> None:
    each(DOWN)
