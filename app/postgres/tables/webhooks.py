"""The tables of webhooks."""

from typing import Final

from sqlalchemy import (
    Boolean,
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from app.postgres.tables.base import INSTANT, NOW, Xid8, metadata

MADE: Final = text("gen_random_uuid()")

WEBHOOK_ENDPOINTS: Final = Table(
    "webhook_endpoints",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=MADE),  # of MCP's: a hash of its key
    Column("tenant_id", Text, nullable=False),
    Column("user_id", Text, nullable=True),  # of an MCP client's subscription; null: operators'
    Column("url", Text, nullable=False),
    Column("kinds", ARRAY(Text), nullable=False),
    Column("tool", Text, nullable=True),
    Column("method", Text, nullable=True),
    Column("template", JSONB, nullable=True),
    Column("secret", LargeBinary, nullable=False),  # sealed: the key is a setting
    Column("secret_before", LargeBinary, nullable=True),
    Column("secret_before_until", INSTANT, nullable=True),
    Column("enabled", Boolean, nullable=False, server_default=text("true")),
    Column("reason", Text, nullable=True),  # why it is disabled
    Column("disabled_at", INSTANT, nullable=True),
    Column("from_xid", Xid8, nullable=False, server_default=text("pg_current_xact_id()")),
    Column("failing_since", INSTANT, nullable=True),
    Column("last_error", Text, nullable=True),
    Column("last_delivered_at", INSTANT, nullable=True),
    Column("verified_at", INSTANT, nullable=True),
    Column("expires_at", INSTANT, nullable=True),
    Column("created_by", Text, nullable=False),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], ondelete="CASCADE"),
    Index("ix_webhook_endpoints_tenant", "tenant_id", "created_at", "id"),
    Index(
        "ix_webhook_endpoints_expires",
        "expires_at",
        postgresql_where=text("expires_at IS NOT NULL"),
    ),
)

WEBHOOK_DELIVERIES: Final = Table(
    "webhook_deliveries",
    metadata,
    Column("id", Uuid, primary_key=True, server_default=MADE),
    Column("tenant_id", Text, nullable=False),
    Column("endpoint_id", Uuid, nullable=False),
    Column("kind", Text, nullable=False),
    Column("event_id", Uuid, nullable=False),  # of the audit trail; a made-up one of a test
    Column("xid", Xid8, nullable=False),
    Column("occurred_at", INSTANT, nullable=False),
    Column("data", JSONB, nullable=False),
    Column("state", Text, nullable=False, server_default="waiting"),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", INSTANT, nullable=False, server_default=NOW),  # of a leased one: its end
    Column("lease", Uuid, nullable=True),
    Column("last_status", Integer, nullable=True),
    Column("last_error", Text, nullable=True),
    Column("last_at", INSTANT, nullable=True),
    Column("answer", Text, nullable=True),  # of a test, its beginning
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    Column("ended_at", INSTANT, nullable=True),
    ForeignKeyConstraint(["endpoint_id"], ["webhook_endpoints.id"], ondelete="CASCADE"),
    UniqueConstraint("endpoint_id", "event_id", "kind"),
    CheckConstraint("state IN ('waiting', 'delivered', 'abandoned')", name="state"),
    Index(
        "ix_webhook_deliveries_due",
        "endpoint_id",
        "due_at",
        postgresql_where=text("state = 'waiting'"),
    ),
    Index("ix_webhook_deliveries_made", "endpoint_id", "created_at", "id"),
    Index("ix_webhook_deliveries_ended", "ended_at", postgresql_where=text("ended_at IS NOT NULL")),
)

WEBHOOK_POSITION: Final = Table(
    "webhook_position",
    metadata,
    Column("name", Text, primary_key=True),
    Column("xid", Xid8, nullable=False),
)
