"""The tables of commands and their outbox."""

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
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB

from app.postgres.tables.base import FALSE, INSTANT, NOW, metadata

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
    Column("not_before", INSTANT, nullable=True),
    Column("approval_rule", JSONB, nullable=True),  # app.commands.approvals.Needed
    Column("approvals", JSONB, nullable=True),  # who has approved, and when
    Column("approval_until", INSTANT, nullable=True),  # then it is denied
    Column("approval_due", INSTANT, nullable=True),  # when the clock looks: escalation, or the end
    Column("escalated_at", INSTANT, nullable=True),
    Column("priority", SmallInteger, nullable=False, server_default="1"),
    Column("accept_async", Boolean, nullable=False, server_default=FALSE),
    Column("accept_partials", Boolean, nullable=False, server_default=FALSE),
    Column("deadline_at", INSTANT, nullable=False),
    Column("deadline_missed_at", INSTANT, nullable=True),
    Column("hard_stop_at", INSTANT, nullable=True),
    # What its caller said of it: not part of the request.
    Column("labels", ARRAY(Text), nullable=True),
    Column("asserted", JSONB, nullable=True),  # app.asserted
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
    Column("run", JSONB, nullable=True),  # what its executor started elsewhere, of which attempt
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
    Column("reports_rejected", Integer, nullable=False, server_default="0"),
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
        "approval <> 'approved' OR approval_rule IS NULL OR purged_at IS NOT NULL"
        " OR CAST(approval_rule ->> 'quorum' AS integer)"
        " <= greatest(1, coalesce(jsonb_array_length(approvals), 0))",
        name="approvals_enough",
    ),
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
    Index("uq_commands_key_of_user", "tenant_id", "user_id", "idempotency_key", unique=True),
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
        "ix_commands_approval_waiting",
        "tenant_id",
        "id",
        postgresql_where=text("approval = 'pending' AND state = 'queued'"),
    ),
    Index(
        "ix_commands_approval_due",
        "approval_due",
        postgresql_where=text(
            "approval = 'pending' AND state = 'queued' AND approval_due IS NOT NULL"
        ),
    ),
    Index(
        "ix_commands_lease",
        "lease_until",
        postgresql_where=text("state IN ('dispatched', 'running')"),
    ),
    Index("ix_commands_owner", "tenant_id", "user_id", "id"),
    Index("ix_commands_newest", "tenant_id", "id"),
    Index(
        "ix_commands_troubled",
        "tenant_id",
        "id",
        postgresql_where=text("state IN ('failed', 'cancelled', 'timed_out', 'dead_lettered')"),
    ),
    Index(
        "ix_commands_unapproved",
        "tenant_id",
        "deadline_at",
        "id",
        postgresql_where=text("approval = 'pending' AND finished_at IS NULL"),
    ),
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
    # What Kafka said when it last refused the row: parked until an operator's word, or
    # delayed and tried again.
    Column("refusal", Text, nullable=True),
    Column("refused_at", INSTANT, nullable=True),
    Column("hold_id", Uuid, nullable=True),  # by which it is on hold
    CheckConstraint(
        "kind IN ('command', 'result', 'control', 'deadletter', 'audit')", name="kind_known"
    ),
    CheckConstraint(
        "status IN ('held', 'delayed', 'ready', 'claimed', 'parked', 'on_hold')",
        name="status_known",
    ),
    CheckConstraint("(status = 'on_hold') = (hold_id IS NOT NULL)", name="on_hold_by_one"),
    CheckConstraint("status <> 'parked' OR refusal IS NOT NULL", name="parked_has_reason"),
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
    # Those of a time to come: the clock was set back.
    Index("ix_outbox_delayed_at", "created_at", postgresql_where=text("status = 'delayed'")),
    Index("ix_outbox_claimed", "claimed_until", postgresql_where=text("status = 'claimed'")),
    Index("ix_outbox_on_hold", "hold_id", postgresql_where=text("status = 'on_hold'")),
    Index("ix_outbox_refused", "id", postgresql_where=text("refusal IS NOT NULL")),
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

TURNS: Final = Table(
    "turns",  # rows to lock; an advisory lock could be held by any login
    metadata,
    Column("name", Text, primary_key=True),
    Column("held", Boolean, nullable=True),  # nothing: who may update it may lock the row
)

LEASES: Final = Table(
    "leases",  # work that one relay does at a time; the epoch fences a predecessor
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False, server_default="1"),
    Column("until", INSTANT, nullable=False),
)
