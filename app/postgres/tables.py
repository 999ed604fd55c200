"""The schema as Alembic sees it; every statement lives in the module named after its table."""

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
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import JSON, JSONB, TIMESTAMP
from sqlalchemy.types import UserDefinedType

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

INSTANT: Final = TIMESTAMP(timezone=True)
NOW: Final = text("now()")
FALSE: Final = text("false")
EMPTY: Final = text("'{}'::jsonb")
SALT: Final = text("uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())")


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id, which never wraps."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """Name the type in DDL."""
        return "xid8"


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
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    PrimaryKeyConstraint("tenant_id", "subject_kind", "subject", "pattern", "effect"),
    ForeignKeyConstraint(["tenant_id"], ["tenants.tenant_id"], ondelete="CASCADE"),
    CheckConstraint("subject_kind IN ('tenant', 'user', 'group')", name="subject_known"),
    CheckConstraint("effect IN ('allow', 'deny')", name="effect_known"),
)

COMMANDS: Final = Table(
    "commands",
    metadata,
    Column("id", Uuid, primary_key=True),  # the correlation id, uuid v7
    Column("tenant_id", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("method", Text, nullable=False),
    Column("args", JSONB, nullable=True),  # null once purged by retention
    # What makes it one command.
    Column("idempotency_key", Text, nullable=True),  # null once expired by retention
    Column("key_source", Text, nullable=False),
    Column("fingerprint", LargeBinary, nullable=False),
    Column("dedupe_key", LargeBinary, nullable=True),
    Column("dedupe_until", INSTANT, nullable=True),  # null while it is unfinished
    # What it may wait for.
    Column("ordering_key", Text, nullable=True),
    Column("ordering", Text, nullable=True),
    Column("key_seq", BigInteger, nullable=True),
    Column("held", Boolean, nullable=False, server_default=FALSE),
    Column("approval", Text, nullable=True),
    Column("priority", SmallInteger, nullable=False, server_default="1"),
    Column("accept_async", Boolean, nullable=False, server_default=FALSE),
    Column("accept_partials", Boolean, nullable=False, server_default=FALSE),
    Column("deadline_at", INSTANT, nullable=False),
    Column("deadline_missed_at", INSTANT, nullable=True),
    Column("hard_stop_at", INSTANT, nullable=True),
    # The saga it belongs to.
    Column("saga_id", Uuid, nullable=True),
    Column("saga_step", Text, nullable=True),
    Column("saga_role", Text, nullable=True),
    Column("compensation", JSONB, nullable=True),
    # Where it stands.
    Column("state", Text, nullable=False, server_default="queued"),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("attempts_max", Integer, nullable=False, server_default="1"),
    Column("deliveries", Integer, nullable=False, server_default="0"),  # of this attempt
    Column("attempts_lost", Integer, nullable=False, server_default="0"),  # outcome never told
    Column("adapter", Text, nullable=True),
    Column("lease_until", INSTANT, nullable=True),
    Column("cancel_requested_at", INSTANT, nullable=True),
    Column("cancel_reason", Text, nullable=True),
    Column("cancel_target", Text, nullable=True),
    Column("outcome_unknown", Boolean, nullable=False, server_default=FALSE),
    Column("progress_seq", Integer, nullable=False, server_default="0"),
    Column("stage", Text, nullable=True),
    Column("percent", Double, nullable=True),
    Column("message", Text, nullable=True),
    Column("result", JSONB, nullable=True),
    Column("error", JSONB, nullable=True),
    Column("traceparent", Text, nullable=True),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    Column("dispatched_at", INSTANT, nullable=True),
    Column("started_at", INSTANT, nullable=True),
    Column("finished_at", INSTANT, nullable=True),
    Column("discarded_at", INSTANT, nullable=True),
    Column("purged_at", INSTANT, nullable=True),
    # Claims refused and late results: how many of them are events is bounded (commands.note).
    Column("words_refused", Integer, nullable=False, server_default="0"),
    CheckConstraint(
        "state IN ('queued', 'dispatched', 'running', 'succeeded', 'failed', 'cancelled',"
        " 'timed_out', 'dead_lettered')",
        name="state_known",
    ),
    CheckConstraint("priority BETWEEN 0 AND 3", name="priority_range"),
    CheckConstraint("attempt >= 1 AND attempts_max >= 1", name="attempt_range"),
    CheckConstraint("octet_length(fingerprint) = 32", name="fingerprint_size"),
    CheckConstraint("ordering IN ('completion', 'delivery')", name="ordering_known"),
    CheckConstraint("(ordering_key IS NULL) = (ordering IS NULL)", name="ordering_whole"),
    CheckConstraint("approval IN ('pending', 'approved', 'denied')", name="approval_known"),
    CheckConstraint(
        "saga_role IN ('saga', 'step', 'retriable', 'reconcile', 'undo')", name="saga_role_known"
    ),
    CheckConstraint("cancel_target IN ('cancelled', 'timed_out')", name="cancel_target_known"),
    CheckConstraint("NOT held OR (ordering_key IS NOT NULL AND state = 'queued')", name="held"),
    CheckConstraint(
        "(finished_at IS NOT NULL) = (state NOT IN ('queued', 'dispatched', 'running'))",
        name="finished_when_final",
    ),
    CheckConstraint("state <> 'running' OR lease_until IS NOT NULL", name="running_has_lease"),
    UniqueConstraint("tenant_id", "idempotency_key", name="uq_commands_idempotency"),
    Index(
        "uq_commands_dedupe",
        "tenant_id",
        "dedupe_key",
        unique=True,
        postgresql_where=text("dedupe_key IS NOT NULL"),
    ),
    Index(
        "ix_commands_waiting",
        "tenant_id",
        "ordering_key",
        "key_seq",
        postgresql_where=text("held"),
    ),
    Index("ix_commands_queued", "tenant_id", postgresql_where=text("state = 'queued'")),
    Index(
        "ix_commands_in_flight",
        "tenant_id",
        "tool",
        "method",
        postgresql_where=text(
            "state IN ('dispatched', 'running') AND saga_role IS DISTINCT FROM 'saga'"
        ),
    ),
    Index(
        "ix_commands_waiting_saga",
        "saga_id",
        "ordering_key",
        "key_seq",
        postgresql_where=text("held AND saga_id IS NOT NULL"),
    ),
    Index(
        "ix_commands_deadline",
        "deadline_at",
        postgresql_where=text(
            "state IN ('queued', 'dispatched', 'running') AND deadline_missed_at IS NULL"
        ),
    ),
    Index(
        "ix_commands_lease",
        "lease_until",
        postgresql_where=text("state IN ('dispatched', 'running')"),
    ),
    Index("ix_commands_owner", "tenant_id", "user_id", "id"),
    Index("ix_commands_saga", "saga_id", postgresql_where=text("saga_id IS NOT NULL")),
    Index(
        "ix_commands_dead",
        "tenant_id",
        "finished_at",
        postgresql_where=text("state = 'dead_lettered' AND discarded_at IS NULL"),
    ),
    Index(
        "ix_commands_purge",
        "finished_at",
        "id",
        postgresql_where=text("finished_at IS NOT NULL AND purged_at IS NULL"),
    ),
    Index(
        "ix_commands_keys",
        "finished_at",
        "id",
        postgresql_where=text("finished_at IS NOT NULL AND idempotency_key IS NOT NULL"),
    ),
    postgresql_with={"fillfactor": 80},
)

ORDERING_HEADS: Final = Table(
    "ordering_heads",  # the lock of a key: always taken before a command row of that key
    metadata,
    Column("tenant_id", Text, nullable=False),
    Column("ordering_key", Text, nullable=False),
    Column("next_seq", BigInteger, nullable=False, server_default="1"),
    Column("active_id", Uuid, nullable=True),
    Column("blocked_reason", Text, nullable=True),
    Column("saga_id", Uuid, nullable=True),  # a saga's semantic lock
    Column("moved_at", INSTANT, nullable=False, server_default=NOW),
    PrimaryKeyConstraint("tenant_id", "ordering_key"),
    Index("ix_ordering_heads_saga", "saga_id", postgresql_where=text("saga_id IS NOT NULL")),
    Index(
        "ix_ordering_heads_blocked",
        "tenant_id",
        "ordering_key",
        postgresql_where=text("blocked_reason IS NOT NULL"),
    ),
    postgresql_with={"fillfactor": 50},
)

OUTBOX: Final = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("event_id", Uuid, nullable=False, server_default=text("gen_random_uuid()")),
    Column("tenant_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("topic", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("command_id", Uuid, nullable=True),
    Column("attempt", Integer, nullable=True),
    # The dispatch lane: rows of one lane are claimed oldest first.
    Column("tool", Text, nullable=False, server_default=""),
    Column("method", Text, nullable=False, server_default=""),
    Column("priority", SmallInteger, nullable=False, server_default="1"),
    Column("exempt", Boolean, nullable=False, server_default=FALSE),  # from throttles: undo work
    Column("status", Text, nullable=False, server_default="ready"),
    Column("available_at", INSTANT, nullable=False, server_default=NOW),
    Column("claimed_by", Text, nullable=True),
    Column("claimed_until", INSTANT, nullable=True),
    # Null for a command: its envelope is composed from the command's own row when it is published.
    Column("payload", JSON, nullable=True),
    Column("created_at", INSTANT, nullable=False, server_default=NOW),
    CheckConstraint(
        "kind IN ('command', 'result', 'control', 'deadletter', 'audit')", name="kind_known"
    ),
    CheckConstraint("status IN ('held', 'delayed', 'ready', 'claimed')", name="status_known"),
    CheckConstraint(
        "kind <> 'command' OR (command_id IS NOT NULL AND attempt IS NOT NULL)",
        name="command_named",
    ),
    CheckConstraint("kind = 'command' OR payload IS NOT NULL", name="payload_present"),
    CheckConstraint("(status = 'claimed') = (claimed_until IS NOT NULL)", name="claimed_has_lease"),
    Index(
        "uq_outbox_command",
        "command_id",
        "attempt",
        unique=True,
        postgresql_where=text("kind = 'command'"),
    ),
    Index(
        "ix_outbox_lane",
        "priority",
        "tenant_id",
        "tool",
        "method",
        "id",
        postgresql_where=text("status = 'ready' AND kind = 'command' AND NOT exempt"),
    ),
    Index(
        "ix_outbox_undo",
        text("priority DESC"),
        "id",
        postgresql_where=text("status = 'ready' AND kind = 'command' AND exempt"),
    ),
    Index(
        "ix_outbox_events",
        "id",
        postgresql_where=text("status = 'ready' AND kind <> 'command'"),
    ),
    Index("ix_outbox_delayed", "available_at", postgresql_where=text("status = 'delayed'")),
    Index("ix_outbox_claimed", "claimed_until", postgresql_where=text("status = 'claimed'")),
    postgresql_with={
        "fillfactor": 70,
        "autovacuum_vacuum_scale_factor": 0.01,
        "autovacuum_vacuum_cost_delay": 0,
    },
)

PROGRESS: Final = Table(
    "progress",
    metadata,
    Column("command_id", Uuid, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("tenant_id", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("stage", Text, nullable=False),
    Column("percent", Double, nullable=True),
    Column("message", Text, nullable=True),
    Column("at", INSTANT, nullable=False, server_default=text("clock_timestamp()")),
    PrimaryKeyConstraint("command_id", "seq"),
    ForeignKeyConstraint(["command_id"], ["commands.id"], ondelete="CASCADE"),
)

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

LEASES: Final = Table(
    "leases",  # work that one relay does at a time; the epoch fences a predecessor
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False, server_default="1"),
    Column("until", INSTANT, nullable=False),
)

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
    Column("digest", LargeBinary, nullable=False),  # audit.seal_v1 of the columns above
    Column("attestation", Text, nullable=False),  # a signed note over the digest
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
    Column("added_at", INSTANT, nullable=False, server_default=NOW),
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

AUDIT_RETIREMENTS: Final = Table(
    "retirements",  # asked for by the retention role, which cannot sign; signed by the relay
    metadata,
    Column("retirement_id", BigInteger, Identity(always=True), primary_key=True),
    Column("before", INSTANT, nullable=False),
    Column("reason", Text, nullable=False),
    Column("asked_by", Text, nullable=False),
    Column("asked_at", INSTANT, nullable=False, server_default=NOW),
    Column("signed_at", INSTANT, nullable=True),
    Index("ix_retirements_open", "before", postgresql_where=text("signed_at IS NULL")),
    schema="audit",
)

TENANT_TABLES: Final = (
    "tenants",
    "tenant_budgets",
    "grants",
    "commands",
    "ordering_heads",
    "outbox",
    "progress",
    "saga_definitions",
    "sagas",
    "saga_steps",
    "saga_turns",
    "audit.events",
    "audit.seals",
    "audit.members",
)
"""Every table with a tenant_id: each has row-level security, forced."""
