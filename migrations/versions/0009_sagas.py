"""Sagas that run: whose turn it is, what holds a key, which outcome is in doubt, what was asked."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

MINE = "tenant_id = ANY (NULLIF(current_setting('app.tenants', true), '')::text[])"

UP = """
    ALTER TABLE commands ADD COLUMN attempts_lost integer NOT NULL DEFAULT 0;
    GRANT UPDATE (attempts_lost) ON commands TO broker_app, broker_relay;
    ALTER TABLE commands DROP CONSTRAINT ck_commands_saga_role_known;
    ALTER TABLE commands ADD CONSTRAINT ck_commands_saga_role_known
        CHECK (saga_role IN ('saga', 'step', 'retriable', 'reconcile', 'undo'));
    DROP INDEX ix_commands_in_flight;
    CREATE INDEX ix_commands_in_flight ON commands (tenant_id, tool, method)
        WHERE state IN ('dispatched', 'running') AND saga_role IS DISTINCT FROM 'saga';
    CREATE INDEX ix_commands_waiting_saga ON commands (saga_id, ordering_key, key_seq)
        WHERE held AND saga_id IS NOT NULL;
    CREATE INDEX ix_ordering_heads_saga ON ordering_heads (saga_id) WHERE saga_id IS NOT NULL;

    ALTER TABLE sagas DROP CONSTRAINT uq_sagas_idempotency;
    ALTER TABLE sagas DROP CONSTRAINT ck_sagas_state_known;
    DROP INDEX ix_sagas_open;
    ALTER TABLE sagas
        DROP COLUMN idempotency_key, DROP COLUMN fingerprint, DROP COLUMN deadline_at,
        DROP COLUMN pivoted, DROP COLUMN touched_at,
        ALTER COLUMN reason TYPE jsonb USING to_jsonb(reason),
        ADD COLUMN stop jsonb,
        ADD COLUMN closed boolean NOT NULL DEFAULT true,
        ADD COLUMN idle_at timestamptz,
        ADD CONSTRAINT ck_sagas_state_known CHECK (state IN ('running', 'stopping', 'stuck',
            'compensating', 'compensation_failed', 'completed', 'compensated')),
        ADD CONSTRAINT ck_sagas_finished_when_final
            CHECK ((finished_at IS NOT NULL) = (state IN ('completed', 'compensated')));
    CREATE INDEX ix_sagas_idle ON sagas (idle_at) WHERE idle_at IS NOT NULL;
    CREATE INDEX ix_sagas_waiting ON sagas (tenant_id, id)
        WHERE state IN ('stuck', 'compensation_failed');

    ALTER TABLE saga_steps DROP CONSTRAINT ck_saga_steps_state_known;
    DROP INDEX ix_saga_steps_command;
    ALTER TABLE saga_steps
        DROP COLUMN touched_at,
        ADD COLUMN reconcile_id uuid,
        ADD COLUMN issues integer NOT NULL DEFAULT 0,
        ADD CONSTRAINT ck_saga_steps_state_known CHECK (state IN ('pending', 'dispatched',
            'succeeded', 'failed', 'unknown', 'reconciling', 'compensating', 'compensated',
            'compensation_failed', 'skipped'));

    CREATE TABLE saga_turns (
        id bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT pk_saga_turns PRIMARY KEY,
        tenant_id text NOT NULL, saga_id uuid NOT NULL,
        due_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ix_saga_turns_due ON saga_turns (due_at, id);
    CREATE INDEX ix_saga_turns_saga ON saga_turns (saga_id);
    GRANT INSERT ON saga_turns TO broker_app;
    GRANT SELECT, INSERT, UPDATE, DELETE ON saga_turns TO broker_relay;
    ALTER TABLE saga_turns ENABLE ROW LEVEL SECURITY;
    ALTER TABLE saga_turns FORCE ROW LEVEL SECURITY;
    CREATE POLICY relay ON saga_turns TO broker_relay USING (true) WITH CHECK (true);
    CREATE POLICY owner ON saga_turns TO broker_owner USING (true) WITH CHECK (true)
"""

DOWN = """
    DROP TABLE saga_turns;
    ALTER TABLE saga_steps DROP CONSTRAINT ck_saga_steps_state_known;
    ALTER TABLE saga_steps
        DROP COLUMN reconcile_id, DROP COLUMN issues,
        ADD COLUMN touched_at timestamptz NOT NULL DEFAULT now(),
        ADD CONSTRAINT ck_saga_steps_state_known CHECK (state IN ('pending', 'dispatched',
            'succeeded', 'failed', 'unknown', 'compensating', 'compensated',
            'compensation_failed', 'skipped'));
    CREATE INDEX ix_saga_steps_command ON saga_steps (command_id) WHERE command_id IS NOT NULL;
    DROP INDEX ix_sagas_idle;
    DROP INDEX ix_sagas_waiting;
    ALTER TABLE sagas DROP CONSTRAINT ck_sagas_state_known;
    ALTER TABLE sagas DROP CONSTRAINT ck_sagas_finished_when_final;
    ALTER TABLE sagas
        DROP COLUMN stop, DROP COLUMN closed, DROP COLUMN idle_at,
        ALTER COLUMN reason TYPE text USING reason::text,
        ADD COLUMN idempotency_key text, ADD COLUMN fingerprint bytea,
        ADD COLUMN deadline_at timestamptz,
        ADD COLUMN pivoted boolean NOT NULL DEFAULT false,
        ADD COLUMN touched_at timestamptz NOT NULL DEFAULT now(),
        ADD CONSTRAINT uq_sagas_idempotency UNIQUE (tenant_id, idempotency_key),
        ADD CONSTRAINT ck_sagas_state_known CHECK (state IN
            ('running', 'completed', 'compensating', 'compensated', 'compensation_failed'));
    CREATE INDEX ix_sagas_open ON sagas (touched_at)
        WHERE state IN ('running', 'compensating');
    DROP INDEX ix_ordering_heads_saga;
    DROP INDEX ix_commands_waiting_saga;
    DROP INDEX ix_commands_in_flight;
    CREATE INDEX ix_commands_in_flight ON commands (tenant_id, tool, method)
        WHERE state IN ('dispatched', 'running');
    ALTER TABLE commands DROP CONSTRAINT ck_commands_saga_role_known;
    ALTER TABLE commands ADD CONSTRAINT ck_commands_saga_role_known
        CHECK (saga_role IN ('step', 'undo'));
    ALTER TABLE commands DROP COLUMN attempts_lost
"""


ERASE = "audit.erase(text, text, text, integer)"
ERASED = (
    "input = NULL, plan = NULL,\n               idempotency_key = NULL",
    "input = NULL, plan = NULL,\n               stop = NULL, reason = NULL",
)


def _rewrite(old: str, new: str) -> None:
    """Change what audit.erase does to a person's sagas; the rest of it, and its owner, stay."""
    found = op.get_bind().exec_driver_sql(f"SELECT pg_get_functiondef('{ERASE}'::regprocedure)")
    text = str(found.scalar_one())
    assert old in text
    op.get_bind().exec_driver_sql(text.replace(old, new))


def _run(statements: str) -> None:
    for statement in filter(None, map(str.strip, statements.split(";"))):
        op.execute(statement)


def upgrade() -> None:
    _run(UP)
    _rewrite(*ERASED)
    # A writer may give any of its tenants' sagas a turn; it reads none.
    op.execute(f"CREATE POLICY app ON saga_turns TO broker_app USING ({MINE}) WITH CHECK ({MINE})")


def downgrade() -> None:
    _rewrite(*reversed(ERASED))
    _run(DOWN)
