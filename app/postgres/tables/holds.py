"""The table of holds: what operators keep from being dispatched."""

from typing import Final

from sqlalchemy import CheckConstraint, Column, Index, Table, Text, Uuid, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from app.postgres.tables.base import INSTANT, NOW, metadata

HOLDS: Final = Table(
    "holds",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    # Which calls: those that fit all that is given; nothing given is every call of the tenant.
    Column("tool", Text, nullable=True),
    Column("method", Text, nullable=True),
    Column("ordering_key", Text, nullable=True),
    Column("args_path", ARRAY(Text), nullable=True),
    Column("args_value", JSONB, nullable=True),
    Column("effect", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("until", INSTANT, nullable=True),
    Column("placed_by", Text, nullable=False),
    Column("placed_at", INSTANT, nullable=False, server_default=NOW),
    Column("released_at", INSTANT, nullable=True),
    Column("released_by", Text, nullable=True),
    Column("freed_at", INSTANT, nullable=True),  # nothing waits for it any more
    CheckConstraint("effect IN ('wait', 'refuse')", name="effect_known"),
    CheckConstraint("method IS NULL OR tool IS NOT NULL", name="method_of_a_tool"),
    CheckConstraint("(args_path IS NULL) = (args_value IS NULL)", name="argument_whole"),
    Index("ix_holds_active", "tenant_id", "id", postgresql_where=text("released_at IS NULL")),
    Index(
        "ix_holds_until",
        "until",
        postgresql_where=text("released_at IS NULL AND until IS NOT NULL"),
    ),
    Index(
        "ix_holds_released",
        "released_at",
        postgresql_where=text("released_at IS NOT NULL AND freed_at IS NULL"),
    ),
)
