"""Who is signed in at the console, and the indexes that its lists are read by.

A row a session, which has the hash of its cookie alone. A tenant's calls are read newest first,
what ended badly and what waits for an approval by themselves.
"""

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

MINE = "tenant_id = ANY (NULLIF(current_setting('app.tenants', true), '')::text[])"

UP = f"""
    CREATE TABLE console_sessions (
        id_hash bytea CONSTRAINT pk_console_sessions PRIMARY KEY,
        tenant_id text NOT NULL CONSTRAINT fk_console_sessions_tenant_id_tenants
            REFERENCES tenants (tenant_id) ON DELETE CASCADE,
        user_id text NOT NULL,
        identity jsonb NOT NULL,
        method text NOT NULL,
        link_hash bytea,
        created_at timestamptz NOT NULL DEFAULT now(),
        seen_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        ended_at timestamptz,
        CONSTRAINT uq_console_sessions_link_hash UNIQUE (link_hash),
        CONSTRAINT ck_console_sessions_hash_size CHECK (octet_length(id_hash) = 32),
        CONSTRAINT ck_console_sessions_method_known CHECK (method IN ('openid', 'link')),
        CONSTRAINT ck_console_sessions_link_is_named
            CHECK ((method = 'link') = (link_hash IS NOT NULL)));
    COMMENT ON TABLE console_sessions IS
        'Who is signed in at the console, by the hash of a cookie; a day after the end a row goes.';
    GRANT SELECT, INSERT, DELETE, UPDATE (seen_at, ended_at) ON console_sessions TO broker_app;
    ALTER TABLE console_sessions ENABLE ROW LEVEL SECURITY;
    ALTER TABLE console_sessions FORCE ROW LEVEL SECURITY;
    CREATE POLICY app ON console_sessions TO broker_app USING ({MINE}) WITH CHECK ({MINE});
    CREATE POLICY owner ON console_sessions TO broker_owner USING (true) WITH CHECK (true)
"""


INDEXES = {
    "ix_commands_newest": "(tenant_id, id)",
    "ix_commands_troubled": (
        "(tenant_id, id) WHERE state IN ('failed', 'cancelled', 'timed_out', 'dead_lettered')"
    ),
    "ix_commands_unapproved": (
        "(tenant_id, deadline_at, id) WHERE approval = 'pending' AND finished_at IS NULL"
    ),
}


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for name, what in INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # of a try that was cut off
            op.execute(f"CREATE INDEX CONCURRENTLY {name} ON commands {what}")
    for statement in filter(None, map(str.strip, UP.split(";\n"))):
        op.execute(statement)


def downgrade() -> None:
    op.execute("DROP TABLE console_sessions")
    for name in INDEXES:
        op.execute(f"DROP INDEX {name}")
