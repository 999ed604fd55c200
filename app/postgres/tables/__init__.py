"""The schema as Alembic sees it, a module for each part of it."""

from typing import Final

from app.postgres.tables import (
    audit,
    calls,
    catalog,
    comments,
    console,
    holds,
    labels,
    proofs,
    sagas,
    targets,
    webhooks,
)
from app.postgres.tables.base import metadata

__all__ = [
    "TENANT_TABLES",
    "audit",
    "calls",
    "catalog",
    "console",
    "holds",
    "labels",
    "metadata",
    "proofs",
    "sagas",
    "targets",
    "webhooks",
]

comments.comment(metadata)

TENANT_TABLES: Final = (
    "tenants",
    "tenant_budgets",
    "grants",
    "commands",
    "command_labels",
    "ordering_heads",
    "outbox",
    "holds",
    "progress",
    "saga_definitions",
    "sagas",
    "saga_steps",
    "saga_turns",
    "targets",
    "console_sessions",
    "webhook_endpoints",
    "webhook_deliveries",
    "audit.events",
    "audit.seals",
    "audit.members",
)
"""Every table with a tenant_id: each has row-level security, forced."""
