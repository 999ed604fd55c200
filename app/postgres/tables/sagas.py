"""The tables of sagas."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.postgres.tables.base import INSTANT, NOW, metadata

SAGA_DEFINITIONS: Final = Table(
    "saga_definitions",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("definition", JSONB, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("registered_by", Text, nullable=False),
    Column("registered_at", INSTANT, nullable=False, server_default=NOW),
    Column("retired_at", INSTANT, nullable=True),
    PrimaryKeyConstraint("tenant_id", "name", "version"),
)

SAGAS: Final = Table(
    "sagas",
    metadata,
    Column("id", Uuid, primary_key=True),  # a declared one's is that of its command
    Column("tenant_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=True),
    Column("version", Integer, nullable=True),
    Column("plan", JSONB, nullable=True),
    Column("input", JSONB, nullable=True),
    Column("state", Text, nullable=False, server_default="running"),
    Column("reason", JSONB, nullable=True),  # why it stopped, or waits for an operator
    Column("stop", JSONB, nullable=True),  # its end was asked for
    Column("closed", Boolean, nullable=False, server_default=text("true")),  # no more steps come
    Column("on_idle", Text, nullable=False, server_default="compensate"),
    Column("idle_timeout_s", Double, nullable=True),
    Column("idle_at", INSTANT, nullable=True),
    Column("steps_done", Integer, nullable=False, server_default="0"),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    Column("finished_at", INSTANT, nullable=True),
    CheckConstraint("kind IN ('adhoc', 'declared')", name="kind_known"),
    CheckConstraint(
        "state IN ('running', 'stopping', 'stuck', 'compensating', 'compensation_failed',"
        " 'completed', 'compensated')",
        name="state_known",
    ),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (state IN ('completed', 'compensated'))",
        name="finished_when_final",
    ),
    CheckConstraint("on_idle IN ('compensate', 'complete')", name="on_idle_known"),
    Index("ix_sagas_owner", "tenant_id", "user_id", "id"),
    Index("ix_sagas_newest", "tenant_id", "id"),
    Index("ix_sagas_open", "tenant_id", postgresql_where=text("finished_at IS NULL")),
    Index("ix_sagas_ended", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
    Index("ix_sagas_idle", "idle_at", postgresql_where=text("idle_at IS NOT NULL")),
    Index(
        "ix_sagas_waiting",
        "tenant_id",
        "id",
        postgresql_where=text("state IN ('stuck', 'compensation_failed')"),
    ),
)

SAGA_STEPS: Final = Table(
    "saga_steps",
    metadata,
    Column("saga_id", Uuid, nullable=False),
    Column("step", Text, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("position", Integer, nullable=False),
    Column("state", Text, nullable=False, server_default="pending"),
    Column("command_id", Uuid, nullable=True),
    Column("reconcile_id", Uuid, nullable=True),
    Column("reconcile_unmade", Boolean, nullable=False, server_default=text("false")),
    Column("undo_id", Uuid, nullable=True),
    Column("compensation", JSONB, nullable=True),
    Column("done_seq", Integer, nullable=True),  # completion order, the reverse of which is undone
    Column("issues", Integer, nullable=False, server_default="0"),  # commands made for it so far
    Column("reason", Text, nullable=True),
    PrimaryKeyConstraint("saga_id", "step"),
    ForeignKeyConstraint(["saga_id"], ["sagas.id"], ondelete="CASCADE"),
    CheckConstraint(
        "state IN ('pending', 'dispatched', 'succeeded', 'failed', 'unknown', 'reconciling',"
        " 'compensating', 'compensated', 'compensation_failed', 'skipped')",
        name="state_known",
    ),
)

SAGA_TURNS: Final = Table(
    "saga_turns",  # sagas that something happened to; inserting waits for no saga's lock
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("saga_id", Uuid, nullable=False),
    Column("due_at", INSTANT, nullable=False, server_default=NOW),
    Index("ix_saga_turns_due", "due_at", "id"),
    Index("ix_saga_turns_saga", "saga_id"),
)
