"""An idempotency key is its user's own, and an erasure reaches ordering keys."""

from typing import Any

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

ERASE = "audit.erase(text, text, text, uuid[], timestamptz[], integer)"

# A key that waits to know what one of these commands did stays, and its text with it.
WAITS = """EXISTS (SELECT FROM public.ordering_heads k
                         WHERE k.tenant_id = c.tenant_id AND k.ordering_key = c.ordering_key
                           AND k.blocked_reason = 'outcome of ' || c.id || ' unknown')"""
CHANGES = (
    (
        "        WITH mine AS (\n",
        """        DELETE FROM public.ordering_heads h
         WHERE h.tenant_id = tenant AND h.active_id IS NULL AND h.blocked_reason IS NULL
           AND h.saga_id IS NULL
           AND h.ordering_key IN (SELECT c.ordering_key FROM public.commands c
                                   WHERE c.tenant_id = tenant AND c.user_id = person)
           AND NOT EXISTS (SELECT FROM public.commands c
                            WHERE c.tenant_id = tenant AND c.ordering_key = h.ordering_key
                              AND c.held);
        WITH mine AS (\n""",
    ),
    (
        "compensation = NULL, cancel_reason = NULL,",
        f"""compensation = NULL, cancel_reason = NULL,
                   ordering_key = CASE WHEN {WAITS} THEN c.ordering_key END,
                   ordering = CASE WHEN {WAITS} THEN c.ordering END,""",
    ),
)


def rewrite(changes: Any) -> None:
    """Change what audit.erase does to commands; the rest of it, and its owner, stay."""
    bind = op.get_bind()
    text: str = bind.exec_driver_sql(
        f"SELECT pg_get_functiondef('{ERASE}'::regprocedure)"
    ).scalar_one()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    bind.exec_driver_sql(text)


def keyed(columns: str, name: str) -> None:
    """Make the keys unique by these columns; built beside the writers."""
    with op.get_context().autocommit_block():
        op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
        op.execute(f"CREATE UNIQUE INDEX CONCURRENTLY {name} ON commands ({columns})")


def upgrade() -> None:
    keyed("tenant_id, user_id, idempotency_key", "uq_commands_key_of_user")
    op.execute("ALTER TABLE commands DROP CONSTRAINT uq_commands_idempotency")
    rewrite(CHANGES)


def downgrade() -> None:
    """Of a key that several users have, the first command keeps it."""
    op.execute(
        """
        UPDATE commands c SET idempotency_key = NULL
         WHERE EXISTS (SELECT FROM commands e
                        WHERE e.tenant_id = c.tenant_id AND e.idempotency_key = c.idempotency_key
                          AND e.id < c.id)
        """
    )
    keyed("tenant_id, idempotency_key", "uq_commands_idempotency")
    op.execute(
        "ALTER TABLE commands"
        " ADD CONSTRAINT uq_commands_idempotency UNIQUE USING INDEX uq_commands_idempotency"
    )
    op.execute("DROP INDEX uq_commands_key_of_user")
    rewrite([(after, before) for before, after in CHANGES])
