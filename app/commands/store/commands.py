"""The commands table: reading it. The guarded moves of a command's state are in `moves.py`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.asserted import LABELS_MAX
from app.commands.state import FINAL, State
from app.commands.store.hold_match import SHOWN
from app.json_values import showable


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command's row, without its bookkeeping columns."""

    id: UUID
    tenant_id: str
    user_id: str
    tool: str
    method: str
    args: dict[str, Any] | None
    idempotency_key: str | None
    key_source: str
    fingerprint: bytes
    ordering_key: str | None
    ordering: str | None
    held: bool
    approval: str | None
    not_before: datetime | None
    labels: list[str] | None
    asserted: dict[str, Any] | None
    approval_rule: dict[str, Any] | None
    approvals: list[dict[str, Any]] | None
    approval_until: datetime | None
    approval_due: datetime | None
    escalated_at: datetime | None
    priority: int
    accept_async: bool
    accept_partials: bool
    deadline_at: datetime
    deadline_missed_at: datetime | None
    hard_stop_at: datetime | None
    saga_id: UUID | None
    saga_step: str | None
    saga_role: str | None
    compensation: dict[str, Any] | None
    state: State
    attempt: int
    attempts_max: int
    attempts_lost: int
    adapter: str | None
    run: dict[str, Any] | None
    lease_until: datetime | None
    cancel_requested_at: datetime | None
    cancel_reason: str | None
    cancel_target: str | None
    outcome_unknown: bool
    progress_seq: int
    stage: str | None
    percent: float | None
    message: str | None
    result: Any
    error: dict[str, Any] | None
    traceparent: str | None
    created_at: datetime
    dispatched_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    discarded_at: datetime | None
    purged_at: datetime | None
    hold: dict[str, Any] | None = None
    """By which it waits: hold_id, reason, until; an operator has placed it."""

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """From a row that has at least these columns."""
        values: dict[str, Any] = {name: row[name] for name in NAMES}
        values["state"] = State(row["state"])
        values["hold"] = row["hold"]
        values |= {name: showable(row[name]) for name in ("result", "error") if row[name]}
        return cls(**values)

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL

    @property
    def awaits_approval(self) -> bool:
        """Whether it waits for somebody's approval."""
        return self.approval == "pending" and not self.final

    @property
    def saga_retries(self) -> bool:
        """Whether a saga may have it done again, whatever its tool says: it must bear that."""
        return self.saga_role in {"retriable", "reconcile", "undo"}

    @property
    def ignores_deadline(self) -> bool:
        """Whether its deadline does not end it: a saga's is its own, its undo has none."""
        return self.accept_async or self.saga_role in {"saga", "retriable", "undo"}


LIST_MAX: Final = 1000
NAMES: Final = tuple(field.name for field in fields(Command) if field.name != "hold")
COLUMNS: Final = ", ".join(f"c.{name}" for name in NAMES) + f", {SHOWN} AS hold"

FIND: Final = text(f"SELECT {COLUMNS} FROM commands c WHERE c.id = :id")
LOCK: Final = text(f"SELECT {COLUMNS} FROM commands c WHERE c.id = :id FOR UPDATE")
FIND_MANY: Final = text(f"""
    SELECT {COLUMNS}
      FROM commands c
     WHERE c.id = ANY (:ids)
       AND (c.state = ANY (:final) OR c.id <> ALL (:ends))
""")
TENANT_OF: Final = text("SELECT broker_tenant_of(:id)")

LIST: Final = text(f"""
    SELECT {COLUMNS}
      FROM commands c
     WHERE c.tenant_id = :tenant_id
       AND (CAST(:user_id AS text) IS NULL OR c.user_id = :user_id)
       AND (CAST(:before AS uuid) IS NULL OR c.id < :before)
       AND (CAST(:states AS text[]) IS NULL OR c.state = ANY (:states))
       AND (CAST(:tool AS text) IS NULL OR c.tool = :tool)
       AND (CAST(:method AS text) IS NULL OR c.method = :method)
     ORDER BY c.id DESC
     LIMIT :limit
""")

# By the first label, in the order of its index: newest first, however many have it.
LIST_LABELLED: Final = text(f"""
    SELECT {COLUMNS}
      FROM command_labels l
      JOIN commands c ON c.id = l.command_id AND c.tenant_id = l.tenant_id
     WHERE l.tenant_id = :tenant_id AND l.label = :label
       AND l.command_id < coalesce(CAST(:before AS uuid), CAST(:newest AS uuid))
       AND NOT EXISTS (
           SELECT FROM unnest(CAST(:others AS text[])) AS other (label)
            WHERE NOT EXISTS (
                SELECT FROM command_labels m
                 WHERE m.tenant_id = l.tenant_id AND m.label = other.label
                   AND m.command_id = l.command_id))
       AND (CAST(:user_id AS text) IS NULL OR c.user_id = :user_id)
       AND (CAST(:states AS text[]) IS NULL OR c.state = ANY (:states))
       AND (CAST(:tool AS text) IS NULL OR c.tool = :tool)
       AND (CAST(:method AS text) IS NULL OR c.method = :method)
     ORDER BY l.command_id DESC
     LIMIT :limit
""")
NEWEST: Final = UUID(int=2**128 - 1)


async def tenant_of(conn: AsyncConnection, command_id: UUID) -> str | None:
    """Whose a correlation id is; the one read that crosses tenants."""
    return await conn.scalar(TENANT_OF, {"id": command_id})


async def find(conn: AsyncConnection, command_id: UUID) -> Command | None:
    """The command, if the transaction's tenants have it."""
    row = (await conn.execute(FIND, {"id": command_id})).mappings().one_or_none()
    return None if row is None else Command.of(row)


async def lock(conn: AsyncConnection, command_id: UUID) -> Command | None:
    """The command, locked until the transaction ends. Take its ordering head's lock first."""
    row = (await conn.execute(LOCK, {"id": command_id})).mappings().one_or_none()
    return None if row is None else Command.of(row)


async def find_many(
    conn: AsyncConnection, ids: Sequence[UUID], *, ends: Sequence[UUID] = ()
) -> list[Command]:
    """Those of the commands that the transaction's tenants have, in no order.

    Of those in `ends` only those that have ended.
    """
    values = {"ids": list(ids), "ends": list(ends), "final": list(FINAL)}
    rows = await conn.execute(FIND_MANY, values)
    return [Command.of(row) for row in rows.mappings()]


async def list_newest(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    user_id: str | None,
    states: Sequence[State] | None,
    tool: str | None,
    before: UUID | None,
    limit: int,
    method: str | None = None,
    labels: Sequence[str] | None = None,
) -> list[Command]:
    """A tenant's commands, newest first: one user's, or everybody's where `user_id` is None.

    With `labels` those that have each of them.
    """
    assert 0 < limit <= LIST_MAX
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "user_id": user_id,
        "states": None if states is None else [str(state) for state in states],
        "tool": tool,
        "method": method,
        "before": before,
        "limit": limit,
    }
    statement = LIST
    if labels:
        label, *others = dict.fromkeys(labels)
        if len(others) >= LABELS_MAX:
            return []  # no command has so many
        statement = LIST_LABELLED
        values |= {"label": label, "others": others, "newest": NEWEST}
    rows = await conn.execute(statement, values)
    return [Command.of(row) for row in rows.mappings()]
