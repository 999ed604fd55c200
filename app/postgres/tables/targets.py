"""The table of targets: where adapters work."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKeyConstraint,
    Identity,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from app.postgres.tables.base import EMPTY, FALSE, INSTANT, NOW, metadata

TARGETS: Final = Table(
    "targets",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tenant_id", Text, nullable=True),  # null: every tenant's
    Column("name", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("address", Text, nullable=False, server_default=""),
    Column("tls", JSONB, nullable=False, server_default=EMPTY),
    Column("credential", JSONB, nullable=True),  # references; never a secret
    Column("limits", JSONB, nullable=False, server_default=EMPTY),
    Column("allowed_hosts", ARRAY(Text), nullable=False, server_default=text("'{}'::text[]")),
    Column("takes_key", Boolean, nullable=False, server_default=FALSE),
    Column("options", JSONB, nullable=False, server_default=EMPTY),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    Column("applied_at", INSTANT, nullable=False, server_default=NOW),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], ondelete="CASCADE"),
    UniqueConstraint("tenant_id", "name", postgresql_nulls_not_distinct=True),
)
