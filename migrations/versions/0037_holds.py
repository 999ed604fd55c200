"""Holds: an operator pauses a tool, a method, a tenant, an ordering key, or a value of an argument."""

from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

MINE = "tenant_id = ANY (NULLIF(current_setting('app.tenants', true), '')::text[])"
BEFORE = "status IN ('held', 'delayed', 'ready', 'claimed', 'parked')"
AFTER = "status IN ('held', 'delayed', 'ready', 'claimed', 'parked', 'on_hold')"

UP = f"""
    CREATE TABLE IF NOT EXISTS holds (
        id uuid CONSTRAINT pk_holds PRIMARY KEY,
        tenant_id text NOT NULL,
        tool text,
        method text,
        ordering_key text,
        args_path text[],
        args_value jsonb,
        effect text NOT NULL,
        reason text NOT NULL,
        until timestamptz,
        placed_by text NOT NULL,
        placed_at timestamptz NOT NULL DEFAULT now(),
        released_at timestamptz,
        released_by text,
        freed_at timestamptz,
        CONSTRAINT ck_holds_effect_known CHECK (effect IN ('wait', 'refuse')),
        CONSTRAINT ck_holds_method_of_a_tool CHECK (method IS NULL OR tool IS NOT NULL),
        CONSTRAINT ck_holds_argument_whole
            CHECK ((args_path IS NULL) = (args_value IS NULL)));
    COMMENT ON TABLE holds IS
        'What operators hold: calls that fit are accepted and wait, or are refused.';
    GRANT SELECT, INSERT, UPDATE (released_at, released_by) ON holds TO broker_app;
    GRANT SELECT, UPDATE (released_at, released_by, freed_at) ON holds TO broker_relay;
    ALTER TABLE holds ENABLE ROW LEVEL SECURITY;
    ALTER TABLE holds FORCE ROW LEVEL SECURITY;
    DROP POLICY IF EXISTS app ON holds;
    DROP POLICY IF EXISTS relay ON holds;
    DROP POLICY IF EXISTS owner ON holds;
    CREATE POLICY app ON holds TO broker_app USING ({MINE}) WITH CHECK ({MINE});
    CREATE POLICY relay ON holds TO broker_relay USING (true) WITH CHECK (true);
    CREATE POLICY owner ON holds TO broker_owner USING (true) WITH CHECK (true);
    ALTER TABLE outbox ADD COLUMN IF NOT EXISTS hold_id uuid;
    ALTER TABLE outbox
        DROP CONSTRAINT IF EXISTS ck_outbox_status_known,
        DROP CONSTRAINT IF EXISTS ck_outbox_on_hold_by_one,
        ADD CONSTRAINT ck_outbox_status_known CHECK ({AFTER}) NOT VALID,
        ADD CONSTRAINT ck_outbox_on_hold_by_one
            CHECK ((status = 'on_hold') = (hold_id IS NOT NULL)) NOT VALID
"""

INDEXES = {
    "ix_holds_active": "holds (tenant_id, id) WHERE released_at IS NULL",
    "ix_holds_until": "holds (until) WHERE released_at IS NULL AND until IS NOT NULL",
    "ix_holds_released": "holds (released_at) WHERE released_at IS NOT NULL AND freed_at IS NULL",
    "ix_outbox_on_hold": "outbox (hold_id) WHERE status = 'on_hold'",
}

# Figures, and no content: whose it is and of what kind, not why, nor which value or key.
VIEW = """
    CREATE OR REPLACE VIEW ops.holds AS
    SELECT h.tenant_id, h.id::text AS hold_id, h.tool, h.method,
           CASE WHEN h.args_path IS NOT NULL THEN 'argument'
                WHEN h.ordering_key IS NOT NULL THEN 'ordering key'
                WHEN h.method IS NOT NULL THEN 'method'
                WHEN h.tool IS NOT NULL THEN 'tool'
                ELSE 'tenant' END AS what,
           h.effect,
           (SELECT count(*) FROM outbox o WHERE o.hold_id = h.id AND o.status = 'on_hold')
               AS waiting,
           extract(epoch FROM now() - h.placed_at)::float8 AS age_s,
           extract(epoch FROM h.until - now())::float8 AS ends_in_s
      FROM holds h
     WHERE h.released_at IS NULL
"""
COLUMNS = {
    "tenant_id": "The tenant.",
    "hold_id": "The id of the hold, by which it is released.",
    "tool": "Of this tool only; null is any.",
    "method": "Of this method only; null is any.",
    "what": "The narrowest that it names: tenant, tool, method, ordering key or argument.",
    "effect": "wait: calls are accepted and wait; refuse: they are refused.",
    "waiting": "Rows that it keeps from going out: those whose turn had come.",
    "age_s": "Since when it is in force.",
    "ends_in_s": "When it ends by itself; null is never.",
}


def each(script: str) -> None:
    for statement in filter(None, map(str.strip, script.split(";"))):
        op.execute(statement)


def upgrade() -> None:
    each(UP)
    op.execute(VIEW)
    op.execute("COMMENT ON VIEW ops.holds IS 'What operators hold now, by tenant.'")
    for column, said in COLUMNS.items():
        op.execute(f"COMMENT ON COLUMN ops.holds.{column} IS '{said}'")
    op.execute("GRANT SELECT ON ops.holds TO broker_observer")
    with op.get_context().autocommit_block():
        for name in ("status_known", "on_hold_by_one"):
            op.execute(f"ALTER TABLE outbox VALIDATE CONSTRAINT ck_outbox_{name}")
        for name, on in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON {on}")


def downgrade() -> None:
    """What is on hold is ready again."""
    op.execute("DROP VIEW ops.holds")
    op.execute("UPDATE outbox SET status = 'ready', hold_id = NULL WHERE status = 'on_hold'")
    op.execute("ALTER TABLE outbox DROP COLUMN hold_id")
    op.execute(
        f"""
        ALTER TABLE outbox
            DROP CONSTRAINT ck_outbox_status_known,
            ADD CONSTRAINT ck_outbox_status_known CHECK ({BEFORE})
        """
    )
    op.execute("DROP TABLE holds")
