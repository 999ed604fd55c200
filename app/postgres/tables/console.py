"""The table of the console's sessions."""

from typing import Final

from sqlalchemy import (
    CheckConstraint,
    Column,
    ForeignKeyConstraint,
    LargeBinary,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

from app.postgres.tables.base import INSTANT, NOW, metadata

CONSOLE_SESSIONS: Final = Table(
    "console_sessions",
    metadata,
    Column("id_hash", LargeBinary, primary_key=True),  # SHA-256 of the cookie
    Column("tenant_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("identity", JSONB, nullable=False),  # what else the sign-in said: groups, scopes, …
    Column("method", Text, nullable=False),
    Column("link_hash", LargeBinary, nullable=True),  # a one-time link's, which is good once
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    Column("seen_at", INSTANT, nullable=False, server_default=NOW),
    Column("expires_at", INSTANT, nullable=False),
    Column("ended_at", INSTANT, nullable=True),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], ondelete="CASCADE"),
    UniqueConstraint("link_hash"),
    CheckConstraint("octet_length(id_hash) = 32", name="hash_size"),
    CheckConstraint("method IN ('openid', 'link')", name="method_known"),
    CheckConstraint("(method = 'link') = (link_hash IS NOT NULL)", name="link_is_named"),
)
