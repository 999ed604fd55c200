"""The tables of the audit log, in a schema of their own."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON

from app.postgres.tables.base import INSTANT, NOW, SALT, Xid8, metadata

AUDIT_EVENTS: Final = Table(
    "events",
    metadata,
    Column("event_id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("occurred_at", INSTANT, nullable=False, server_default=text("clock_timestamp()")),
    Column("xid", Xid8, nullable=False, server_default=text("pg_current_xact_id()")),
    Column("tenant_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("user_id", Text, nullable=True),  # on whose behalf
    Column("command_id", Uuid, nullable=True),
    Column("saga_id", Uuid, nullable=True),
    Column("tool", Text, nullable=True),
    Column("method", Text, nullable=True),
    Column("attempt", Integer, nullable=True),
    Column("state_from", Text, nullable=True),
    Column("state_to", Text, nullable=True),
    Column("fingerprint", LargeBinary, nullable=True),
    Column("body", JSON, nullable=False, server_default=text("'{}'::json")),
    # The leaf (`audit.leaf`, when it is sealed) holds actor, user_id, fingerprint and body as a
    # commitment only, hidden by the salt. Erasure leaves the commitment; an event from before
    # migration 0008 has neither.
    Column("salt", LargeBinary, nullable=True, server_default=SALT),
    Column("commitment", LargeBinary, nullable=True),
    Column("erased_by", Uuid, nullable=True),  # the event that records the erasure
    PrimaryKeyConstraint("tenant_id", "occurred_at", "event_id", name="pk_events"),
    Index("ix_events_xid", "xid"),  # the sealer's way from its watermark on
    Index("ix_events_command", "command_id", postgresql_where=text("command_id IS NOT NULL")),
    Index("ix_events_saga", "saga_id", postgresql_where=text("saga_id IS NOT NULL")),
    Index(
        "ix_events_rulings",
        "tenant_id",
        "type",
        postgresql_where=text(
            "type IN ('hold.placed', 'hold.released', 'person.erased', 'log.moved')"
        ),
    ),
    Index("ix_events_erased", "tenant_id", postgresql_where=text("commitment IS NOT NULL")),
    schema="audit",
    postgresql_partition_by="RANGE (occurred_at)",
)

AUDIT_SEALS: Final = Table(
    "seals",  # one a batch: the tenant's whole log so far, as one signed Merkle tree head
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("seal_no", BigInteger, nullable=False),
    Column("kind", Text, nullable=False, server_default="events"),
    Column("seq_from", BigInteger, nullable=False),
    Column("seq_to", BigInteger, nullable=False),
    # Of a retirement: events older than this may be gone; their leaves stay in members.
    Column("retired_before", INSTANT, nullable=True),
    Column("root", LargeBinary, nullable=False),  # RFC 6962, over leaves 1 to seq_to
    Column("frontier", LargeBinary, nullable=False),  # the tree's right edge, to grow it from
    Column("previous", LargeBinary, nullable=False),
    Column("key_id", Text, nullable=False),
    Column("sealed_at", INSTANT, nullable=False),
    Column("checkpoint", Text, nullable=False),  # C2SP tlog-checkpoint: a signed note
    Column("digest", LargeBinary, nullable=False),  # audit.seal_digest of the others
    Column("attestation", Text, nullable=False),  # a signed note over the digest
    Column("request", Text, nullable=True),  # of a retirement: an officer's, which it follows
    Column("retired_digest", LargeBinary, nullable=True),  # and over the members that it lets go
    Column("transactions", LargeBinary, nullable=True),  # over each event's xid
    PrimaryKeyConstraint("tenant_id", "seal_no"),
    Index("ix_seals_seq", "tenant_id", "seq_to"),
    Index(
        "ix_seals_retired",
        "tenant_id",
        "retired_before",
        postgresql_where=text("kind = 'retirement'"),
    ),
    CheckConstraint(
        "CASE kind WHEN 'events' THEN seq_to >= seq_from AND retired_before IS NULL"
        " WHEN 'retirement' THEN seq_to = seq_from - 1 AND retired_before IS NOT NULL"
        " ELSE false END",
        name="kind_shape",
    ),
    CheckConstraint(
        "(request IS NULL) = (retired_digest IS NULL) AND (request IS NULL OR kind = 'retirement')",
        name="request_shape",
    ),
    schema="audit",
)

AUDIT_MEMBERS: Final = Table(
    "members",  # the dense number that sealing gave to an event, and the leaf that was sealed
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    Column("occurred_at", INSTANT, nullable=False),
    Column("leaf", LargeBinary, nullable=False),
    PrimaryKeyConstraint("tenant_id", "seq"),
    # Not by the id alone: a writer chooses it, and one that was there must not stop the sealer.
    UniqueConstraint("event_id", "occurred_at", "tenant_id", name="uq_members_event"),
    schema="audit",
)

AUDIT_WATERMARK: Final = Table(
    "watermark",  # how far the sealer has looked; a hint, rebuilt when lost, proof of nothing
    metadata,
    Column("one_row", Boolean, primary_key=True, server_default=text("true")),
    Column("cluster", BigInteger, nullable=False),  # transaction ids belong to one cluster
    Column("xid", Xid8, nullable=False),
    CheckConstraint("one_row", name="one_row"),
    schema="audit",
)

AUDIT_KEYS: Final = Table(
    "keys",
    metadata,
    Column("key_id", Text, primary_key=True),  # from the key itself: 16 hex digits of its SHA-256
    Column("public_key", LargeBinary, nullable=False),
    schema="audit",
)

AUDIT_SHAPES: Final = Table(
    "shapes",  # of this schema: what a relay has signed of it
    metadata,
    Column("shape_no", BigInteger, Identity(always=True), primary_key=True),
    Column("major", Integer, nullable=False),
    Column("revision", Text, nullable=False),
    Column("lines", Text, nullable=False),
    Column("note", Text, nullable=False),
    schema="audit",
)

AUDIT_AUDITORS: Final = Table(
    "auditors",  # which login role may read which tenant
    metadata,
    Column("role_name", Text, nullable=False),
    Column("tenant_id", Text, nullable=False),
    PrimaryKeyConstraint("role_name", "tenant_id"),
    schema="audit",
)

AUDIT_HOLDS: Final = Table(
    "holds",  # legal holds: nothing of the tenant's is purged, retired or erased meanwhile
    metadata,
    Column("hold_id", Uuid, primary_key=True, server_default=text("gen_random_uuid()")),
    Column("tenant_id", Text, nullable=False),
    Column("from_at", INSTANT, nullable=True),
    Column("to_at", INSTANT, nullable=True),
    Column("reason", Text, nullable=False),
    Column("placed_by", Text, nullable=False),
    Column("placed_at", INSTANT, nullable=False, server_default=NOW),
    Column("released_by", Text, nullable=True),
    Column("released_at", INSTANT, nullable=True),
    CheckConstraint("from_at < to_at", name="range"),
    Index("ix_holds_active", "tenant_id", postgresql_where=text("released_at IS NULL")),
    schema="audit",
)

AUDIT_RESTORES: Final = Table(
    "restores",  # where a log goes on from an earlier state, by an officer's request
    metadata,
    Column("restore_id", Uuid, primary_key=True),
    Column("tenant_id", Text, nullable=False),
    Column("request", Text, nullable=False),  # the signed note: the row proves nothing
    Column("accepted_by", Text, nullable=False),
    Column("accepted_at", INSTANT, nullable=False, server_default=NOW),
    schema="audit",
)

AUDIT_RETIREMENTS: Final = Table(
    # Asked for through the retention role, by an officer's request; sealed by the relay.
    "retirements",
    metadata,
    Column("retirement_id", BigInteger, Identity(always=True), primary_key=True),
    Column("before", INSTANT, nullable=False),
    Column("reason", Text, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("asked_at", INSTANT, nullable=False, server_default=NOW),
    Column("signed_at", INSTANT, nullable=True),
    Column("request", Text, nullable=True),  # the officer's signed note: the row proves nothing
    Column("refused_at", INSTANT, nullable=True),
    Column("refusal", Text, nullable=True),
    Index(
        "ix_retirements_open",
        "retirement_id",
        postgresql_where=text("signed_at IS NULL AND refused_at IS NULL"),
    ),
    schema="audit",
)
