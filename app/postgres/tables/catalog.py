"""The tables of tenants, tools and grants."""

from typing import Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    Double,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.postgres.tables.base import EMPTY, INSTANT, NOW, metadata

TENANTS: Final = Table(
    "tenants",
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("title", Text, nullable=False, server_default=""),
    Column("state", Text, nullable=False, server_default="active"),
    # Fair share: a tenant of weight 2 gets two dispatches for each one of weight 1.
    Column("weight", Integer, nullable=False, server_default="1"),
    Column("rate_per_s", Double, nullable=True),
    Column("rate_burst", Integer, nullable=False, server_default="100"),
    Column("in_flight_max", Integer, nullable=False, server_default="100"),
    Column("queued_max", Integer, nullable=False, server_default="100000"),
    Column("inline_wait_s", Double, nullable=True),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    CheckConstraint("tenant_id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'", name="id_shape"),
    CheckConstraint("state IN ('active', 'suspended')", name="state_known"),
    CheckConstraint("weight BETWEEN 1 AND 1000", name="weight_range"),
    CheckConstraint("rate_per_s > 0", name="rate_positive"),
    CheckConstraint("in_flight_max > 0 AND queued_max > 0 AND rate_burst > 0", name="limits"),
)

TENANT_BUDGETS: Final = Table(
    "tenant_budgets",  # the token bucket; written under the dispatch lock only
    metadata,
    Column("tenant_id", Text, primary_key=True),
    Column("tokens", Double, nullable=False),
    Column("refilled_at", INSTANT, nullable=False, server_default=NOW),
)

TOOLS: Final = Table(
    "tools",
    metadata,
    Column("tool", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("name", Text, nullable=False),  # on the MCP wire
    Column("title", Text, nullable=False, server_default=""),
    Column("description", Text, nullable=False),
    Column("input_schema", JSONB, nullable=False),
    Column("output_schema", JSONB, nullable=True),
    Column("annotations", JSONB, nullable=False, server_default=EMPTY),
    Column("policy", JSONB, nullable=False, server_default=EMPTY),  # app.policy.ToolPolicy
    Column("adapter", JSONB, nullable=True),  # app.catalog.adapter.ToolAdapter; null: EDA's
    Column("in_flight_max", Integer, nullable=True),
    Column("digest", LargeBinary, nullable=False),
    Column("applied_at", INSTANT, nullable=False, server_default=NOW),
    Column("retired_at", INSTANT, nullable=True),
    PrimaryKeyConstraint("tool", "method"),
    UniqueConstraint("name"),
    CheckConstraint("name ~ '^[A-Za-z0-9_-]{1,64}$'", name="name_shape"),
)

GRANTS: Final = Table(
    "grants",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("subject_kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("pattern", Text, nullable=False),
    Column("effect", Text, nullable=False),
    Column("condition", Text, nullable=False, server_default=""),  # CEL; empty: every call
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    PrimaryKeyConstraint("tenant_id", "subject_kind", "subject", "pattern", "effect"),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], ondelete="CASCADE"),
    CheckConstraint("subject_kind IN ('tenant', 'user', 'group')", name="subject_known"),
    CheckConstraint("effect IN ('allow', 'deny')", name="effect_known"),
)
