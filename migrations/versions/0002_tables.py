"""Every table of the broker and of its audit trail."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql


class Xid8(sa.types.UserDefinedType[int]):
    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "xid8"


revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "auditors",
        sa.Column("role_name", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("role_name", "tenant_id", name=op.f("pk_auditors")),
        schema="audit",
    )
    op.create_table(
        "events",
        sa.Column(
            "event_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False
        ),
        sa.Column(
            "occurred_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("xid", Xid8(), server_default=sa.text("pg_current_xact_id()"), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("command_id", sa.Uuid(), nullable=True),
        sa.Column("saga_id", sa.Uuid(), nullable=True),
        sa.Column("tool", sa.Text(), nullable=True),
        sa.Column("method", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("state_from", sa.Text(), nullable=True),
        sa.Column("state_to", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column(
            "body",
            postgresql.JSON(astext_type=sa.Text()),
            server_default=sa.text("'{}'::json"),
            nullable=False,
        ),
        sa.Column(
            "leaf",
            sa.LargeBinary(),
            sa.Computed(
                "audit.leaf_v1(event_id, occurred_at, tenant_id, type, actor, user_id, command_id, saga_id, tool, method, attempt, state_from, state_to, fingerprint, body)",
                persisted=True,
            ),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("tenant_id", "occurred_at", "event_id", name="pk_events"),
        schema="audit",
        postgresql_partition_by="RANGE (occurred_at)",
    )
    op.create_index(
        "ix_events_command",
        "events",
        ["command_id"],
        unique=False,
        schema="audit",
        postgresql_where=sa.text("command_id IS NOT NULL"),
    )
    op.create_index("ix_events_xid", "events", ["xid"], unique=False, schema="audit")
    op.create_index(
        "ix_events_saga",
        "events",
        ["saga_id"],
        unique=False,
        schema="audit",
        postgresql_where=sa.text("saga_id IS NOT NULL"),
    )
    op.create_table(
        "keys",
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("public_key", sa.LargeBinary(), nullable=False),
        sa.Column(
            "added_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("key_id", name=op.f("pk_keys")),
        schema="audit",
    )
    op.create_table(
        "members",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("occurred_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("leaf", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "seq", name=op.f("pk_members")),
        sa.UniqueConstraint("event_id", name=op.f("uq_members_event_id")),
        schema="audit",
    )
    op.create_table(
        "seals",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("seal_no", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), server_default="events", nullable=False),
        sa.Column("seq_from", sa.BigInteger(), nullable=False),
        sa.Column("seq_to", sa.BigInteger(), nullable=False),
        sa.Column("retired_before", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("frontier", sa.LargeBinary(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=False),
        sa.Column("sealed_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("attestation", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "CASE kind WHEN 'events' THEN seq_to >= seq_from AND retired_before IS NULL"
            " WHEN 'retirement' THEN seq_to = seq_from - 1 AND retired_before IS NOT NULL"
            " ELSE false END",
            name=op.f("ck_seals_kind_shape"),
        ),
        sa.PrimaryKeyConstraint("tenant_id", "seal_no", name=op.f("pk_seals")),
        schema="audit",
    )
    op.create_index("ix_seals_seq", "seals", ["tenant_id", "seq_to"], unique=False, schema="audit")
    op.create_table(
        "watermark",
        sa.Column("one_row", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("cluster", sa.BigInteger(), nullable=False),
        sa.Column("xid", Xid8(), nullable=False),
        sa.CheckConstraint("one_row", name=op.f("ck_watermark_one_row")),
        sa.PrimaryKeyConstraint("one_row", name=op.f("pk_watermark")),
        schema="audit",
    )
    op.create_table(
        "commands",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("args", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("key_source", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("dedupe_key", sa.LargeBinary(), nullable=True),
        sa.Column("ordering_key", sa.Text(), nullable=True),
        sa.Column("ordering", sa.Text(), nullable=True),
        sa.Column("key_seq", sa.BigInteger(), nullable=True),
        sa.Column("held", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("approval", sa.Text(), nullable=True),
        sa.Column("priority", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("accept_async", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("accept_partials", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("deadline_at", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("deadline_missed_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("hard_stop_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("saga_id", sa.Uuid(), nullable=True),
        sa.Column("saga_step", sa.Text(), nullable=True),
        sa.Column("saga_role", sa.Text(), nullable=True),
        sa.Column("compensation", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("state", sa.Text(), server_default="queued", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="1", nullable=False),
        sa.Column("attempts_max", sa.Integer(), server_default="1", nullable=False),
        sa.Column("deliveries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("adapter", sa.Text(), nullable=True),
        sa.Column("lease_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cancel_requested_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("cancel_reason", sa.Text(), nullable=True),
        sa.Column("cancel_target", sa.Text(), nullable=True),
        sa.Column("outcome_unknown", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("progress_seq", sa.Integer(), server_default="0", nullable=False),
        sa.Column("stage", sa.Text(), nullable=True),
        sa.Column("percent", sa.Double(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("error", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("dispatched_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("started_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("discarded_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("purged_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(finished_at IS NOT NULL) = (state NOT IN ('queued', 'dispatched', 'running'))",
            name=op.f("ck_commands_finished_when_final"),
        ),
        sa.CheckConstraint(
            "NOT held OR (ordering_key IS NOT NULL AND state = 'queued')",
            name=op.f("ck_commands_held"),
        ),
        sa.CheckConstraint(
            "approval IN ('pending', 'approved', 'denied')", name=op.f("ck_commands_approval_known")
        ),
        sa.CheckConstraint(
            "cancel_target IN ('cancelled', 'timed_out')",
            name=op.f("ck_commands_cancel_target_known"),
        ),
        sa.CheckConstraint(
            "ordering IN ('completion', 'delivery')", name=op.f("ck_commands_ordering_known")
        ),
        sa.CheckConstraint(
            "saga_role IN ('step', 'undo')", name=op.f("ck_commands_saga_role_known")
        ),
        sa.CheckConstraint(
            "state <> 'running' OR lease_until IS NOT NULL",
            name=op.f("ck_commands_running_has_lease"),
        ),
        sa.CheckConstraint(
            "state IN ('queued', 'dispatched', 'running', 'succeeded', 'failed', 'cancelled', 'timed_out', 'dead_lettered')",
            name=op.f("ck_commands_state_known"),
        ),
        sa.CheckConstraint(
            "(ordering_key IS NULL) = (ordering IS NULL)", name=op.f("ck_commands_ordering_whole")
        ),
        sa.CheckConstraint(
            "attempt >= 1 AND attempts_max >= 1", name=op.f("ck_commands_attempt_range")
        ),
        sa.CheckConstraint(
            "octet_length(fingerprint) = 32", name=op.f("ck_commands_fingerprint_size")
        ),
        sa.CheckConstraint("priority BETWEEN 0 AND 3", name=op.f("ck_commands_priority_range")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commands")),
        sa.UniqueConstraint("tenant_id", "idempotency_key", name="uq_commands_idempotency"),
        postgresql_with={"fillfactor": 80},
    )
    op.create_index(
        "ix_commands_dead",
        "commands",
        ["tenant_id", "finished_at"],
        unique=False,
        postgresql_where=sa.text("state = 'dead_lettered' AND discarded_at IS NULL"),
    )
    op.create_index(
        "ix_commands_deadline",
        "commands",
        ["deadline_at"],
        unique=False,
        postgresql_where=sa.text(
            "state IN ('queued', 'dispatched', 'running') AND deadline_missed_at IS NULL"
        ),
    )
    op.create_index(
        "ix_commands_in_flight",
        "commands",
        ["tenant_id", "tool", "method"],
        unique=False,
        postgresql_where=sa.text("state IN ('dispatched', 'running')"),
    )
    op.create_index(
        "ix_commands_lease",
        "commands",
        ["lease_until"],
        unique=False,
        postgresql_where=sa.text("state IN ('dispatched', 'running')"),
    )
    op.create_index("ix_commands_owner", "commands", ["tenant_id", "user_id", "id"], unique=False)
    op.create_index(
        "ix_commands_purge",
        "commands",
        ["finished_at"],
        unique=False,
        postgresql_where=sa.text("finished_at IS NOT NULL AND purged_at IS NULL"),
    )
    op.create_index(
        "ix_commands_queued",
        "commands",
        ["tenant_id"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
    )
    op.create_index(
        "ix_commands_saga",
        "commands",
        ["saga_id"],
        unique=False,
        postgresql_where=sa.text("saga_id IS NOT NULL"),
    )
    op.create_index(
        "ix_commands_waiting",
        "commands",
        ["tenant_id", "ordering_key", "key_seq"],
        unique=False,
        postgresql_where=sa.text("held"),
    )
    op.create_index(
        "uq_commands_dedupe",
        "commands",
        ["tenant_id", "dedupe_key"],
        unique=True,
        postgresql_where=sa.text("dedupe_key IS NOT NULL"),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("until", postgresql.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "ordering_heads",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("ordering_key", sa.Text(), nullable=False),
        sa.Column("next_seq", sa.BigInteger(), server_default="1", nullable=False),
        sa.Column("active_id", sa.Uuid(), nullable=True),
        sa.Column("blocked_reason", sa.Text(), nullable=True),
        sa.Column("saga_id", sa.Uuid(), nullable=True),
        sa.Column(
            "moved_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("tenant_id", "ordering_key", name=op.f("pk_ordering_heads")),
        postgresql_with={"fillfactor": 50},
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column(
            "event_id", sa.Uuid(), server_default=sa.text("gen_random_uuid()"), nullable=False
        ),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("command_id", sa.Uuid(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=True),
        sa.Column("tool", sa.Text(), server_default="", nullable=False),
        sa.Column("method", sa.Text(), server_default="", nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("exempt", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("status", sa.Text(), server_default="ready", nullable=False),
        sa.Column(
            "available_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("claimed_by", sa.Text(), nullable=True),
        sa.Column("claimed_until", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("payload", postgresql.JSON(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "(status = 'claimed') = (claimed_until IS NOT NULL)",
            name=op.f("ck_outbox_claimed_has_lease"),
        ),
        sa.CheckConstraint(
            "kind <> 'command' OR (command_id IS NOT NULL AND attempt IS NOT NULL)",
            name=op.f("ck_outbox_command_named"),
        ),
        sa.CheckConstraint(
            "kind = 'command' OR payload IS NOT NULL", name=op.f("ck_outbox_payload_present")
        ),
        sa.CheckConstraint(
            "kind IN ('command', 'result', 'control', 'deadletter', 'audit')",
            name=op.f("ck_outbox_kind_known"),
        ),
        sa.CheckConstraint(
            "status IN ('held', 'delayed', 'ready', 'claimed')", name=op.f("ck_outbox_status_known")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        postgresql_with={
            "fillfactor": 70,
            "autovacuum_vacuum_scale_factor": 0.01,
            "autovacuum_vacuum_cost_delay": 0,
        },
    )
    op.create_index(
        "ix_outbox_claimed",
        "outbox",
        ["claimed_until"],
        unique=False,
        postgresql_where=sa.text("status = 'claimed'"),
    )
    op.create_index(
        "ix_outbox_delayed",
        "outbox",
        ["available_at"],
        unique=False,
        postgresql_where=sa.text("status = 'delayed'"),
    )
    op.create_index(
        "ix_outbox_events",
        "outbox",
        ["id"],
        unique=False,
        postgresql_where=sa.text("status = 'ready' AND kind <> 'command'"),
    )
    op.create_index(
        "ix_outbox_lane",
        "outbox",
        ["tenant_id", "tool", "method", "priority", "id"],
        unique=False,
        postgresql_where=sa.text("status = 'ready' AND kind = 'command'"),
    )
    op.create_index(
        "uq_outbox_command",
        "outbox",
        ["command_id", "attempt"],
        unique=True,
        postgresql_where=sa.text("kind = 'command'"),
    )
    op.create_table(
        "saga_definitions",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("definition", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("registered_by", sa.Text(), nullable=False),
        sa.Column(
            "registered_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("retired_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "name", "version", name=op.f("pk_saga_definitions")),
    )
    op.create_table(
        "sagas",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("version", sa.Integer(), nullable=True),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("input", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("state", sa.Text(), server_default="running", nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("on_idle", sa.Text(), server_default="compensate", nullable=False),
        sa.Column("idle_timeout_s", sa.Double(), nullable=True),
        sa.Column("pivoted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("steps_done", sa.Integer(), server_default="0", nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.Column("deadline_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "touched_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("finished_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("kind IN ('adhoc', 'declared')", name=op.f("ck_sagas_kind_known")),
        sa.CheckConstraint(
            "on_idle IN ('compensate', 'complete')", name=op.f("ck_sagas_on_idle_known")
        ),
        sa.CheckConstraint(
            "state IN ('running', 'completed', 'compensating', 'compensated', 'compensation_failed')",
            name=op.f("ck_sagas_state_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sagas")),
        sa.UniqueConstraint("tenant_id", "idempotency_key", name="uq_sagas_idempotency"),
    )
    op.create_index(
        "ix_sagas_open",
        "sagas",
        ["touched_at"],
        unique=False,
        postgresql_where=sa.text("state IN ('running', 'compensating')"),
    )
    op.create_index("ix_sagas_owner", "sagas", ["tenant_id", "user_id", "id"], unique=False)
    op.create_table(
        "tenant_budgets",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("tokens", sa.Double(), nullable=False),
        sa.Column(
            "refilled_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenant_budgets")),
    )
    op.create_table(
        "tenants",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), server_default="active", nullable=False),
        sa.Column("weight", sa.Integer(), server_default="1", nullable=False),
        sa.Column("rate_per_s", sa.Double(), nullable=True),
        sa.Column("rate_burst", sa.Integer(), server_default="100", nullable=False),
        sa.Column("in_flight_max", sa.Integer(), server_default="100", nullable=False),
        sa.Column("queued_max", sa.Integer(), server_default="100000", nullable=False),
        sa.Column("inline_wait_s", sa.Double(), nullable=True),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("state IN ('active', 'suspended')", name=op.f("ck_tenants_state_known")),
        sa.CheckConstraint(
            "tenant_id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'", name=op.f("ck_tenants_id_shape")
        ),
        sa.CheckConstraint(
            "in_flight_max > 0 AND queued_max > 0 AND rate_burst > 0",
            name=op.f("ck_tenants_limits"),
        ),
        sa.CheckConstraint("rate_per_s > 0", name=op.f("ck_tenants_rate_positive")),
        sa.CheckConstraint("weight BETWEEN 1 AND 1000", name=op.f("ck_tenants_weight_range")),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_tenants")),
    )
    op.create_table(
        "tools",
        sa.Column("tool", sa.Text(), nullable=False),
        sa.Column("method", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), server_default="", nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("input_schema", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("output_schema", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column(
            "annotations",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column(
            "policy",
            postgresql.JSONB(astext_type=sa.Text()),
            server_default=sa.text("'{}'::jsonb"),
            nullable=False,
        ),
        sa.Column("in_flight_max", sa.Integer(), nullable=True),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column(
            "applied_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.Column("retired_at", postgresql.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("name ~ '^[A-Za-z0-9_-]{1,64}$'", name=op.f("ck_tools_name_shape")),
        sa.PrimaryKeyConstraint("tool", "method", name=op.f("pk_tools")),
        sa.UniqueConstraint("name", name=op.f("uq_tools_name")),
    )
    op.create_table(
        "grants",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("subject_kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("pattern", sa.Text(), nullable=False),
        sa.Column("effect", sa.Text(), nullable=False),
        sa.Column(
            "created_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint("effect IN ('allow', 'deny')", name=op.f("ck_grants_effect_known")),
        sa.CheckConstraint(
            "subject_kind IN ('tenant', 'user', 'group')", name=op.f("ck_grants_subject_known")
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id"],
            ["tenants.tenant_id"],
            name=op.f("fk_grants_tenant_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "tenant_id", "subject_kind", "subject", "pattern", "effect", name=op.f("pk_grants")
        ),
    )
    op.create_table(
        "progress",
        sa.Column("command_id", sa.Uuid(), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("stage", sa.Text(), nullable=False),
        sa.Column("percent", sa.Double(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column(
            "at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["command_id"], ["commands.id"], name=op.f("fk_progress_command_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("command_id", "seq", name=op.f("pk_progress")),
    )
    op.create_table(
        "saga_steps",
        sa.Column("saga_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), server_default="pending", nullable=False),
        sa.Column("command_id", sa.Uuid(), nullable=True),
        sa.Column("undo_id", sa.Uuid(), nullable=True),
        sa.Column("compensation", postgresql.JSONB(astext_type=sa.Text()), nullable=True),
        sa.Column("done_seq", sa.Integer(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column(
            "touched_at",
            postgresql.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'dispatched', 'succeeded', 'failed', 'unknown', 'compensating', 'compensated', 'compensation_failed', 'skipped')",
            name=op.f("ck_saga_steps_state_known"),
        ),
        sa.ForeignKeyConstraint(
            ["saga_id"], ["sagas.id"], name=op.f("fk_saga_steps_saga_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("saga_id", "step", name=op.f("pk_saga_steps")),
    )
    op.create_index(
        "ix_saga_steps_command",
        "saga_steps",
        ["command_id"],
        unique=False,
        postgresql_where=sa.text("command_id IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("saga_steps")
    op.drop_table("progress")
    op.drop_table("grants")
    op.drop_table("tools")
    op.drop_table("tenants")
    op.drop_table("tenant_budgets")
    op.drop_table("sagas")
    op.drop_table("saga_definitions")
    op.drop_table("outbox")
    op.drop_table("ordering_heads")
    op.drop_table("leases")
    op.drop_table("commands")
    op.drop_table("watermark", schema="audit")
    op.drop_table("seals", schema="audit")
    op.drop_table("members", schema="audit")
    op.drop_table("keys", schema="audit")
    op.drop_table("events", schema="audit")
    op.drop_table("auditors", schema="audit")
