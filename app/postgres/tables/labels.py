"""The table of labels, for the search by them; what is shown and sent is `commands.labels`."""

from typing import Final

from sqlalchemy import Column, PrimaryKeyConstraint, Table, Text, Uuid

from app.postgres.tables.base import metadata

COMMAND_LABELS: Final = Table(
    "command_labels",
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("command_id", Uuid, nullable=False),
    PrimaryKeyConstraint("tenant_id", "label", "command_id"),
)
