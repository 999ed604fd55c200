"""The commands table: reading it, and each guarded move of its state with its audit event."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy import RowMapping, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.state import FINAL, Event, State, sources, target
from app.postgres.engine import dump


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

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """From a row that has at least these columns."""
        values: dict[str, Any] = {name: row[name] for name in NAMES}
        values["state"] = State(row["state"])
        return cls(**values)

    @property
    def final(self) -> bool:
        """Whether it has ended."""
        return self.state in FINAL

    @property
    def asks(self) -> bool:
        """Whether it waits for somebody's approval."""
        return self.approval == "pending" and not self.final

    @property
    def repeatable(self) -> bool:
        """Whether a saga may have it done again, whatever its tool says: it must bear that."""
        return self.saga_role in {"retriable", "reconcile", "undo"}

    @property
    def untimed(self) -> bool:
        """Whether its deadline does not end it: a saga's is its own, its undo has none."""
        return self.accept_async or self.saga_role in {"saga", "retriable", "undo"}


LIST_MAX: Final = 1000
WORDS_IN_FULL: Final = 20
"""Refused words of a command that are audited one by one."""
NAMES: Final = tuple(field.name for field in fields(Command))
COLUMNS: Final = ", ".join(f"c.{name}" for name in NAMES)

FIND: Final = text(f"SELECT {COLUMNS} FROM commands c WHERE c.id = :id")
LOCK: Final = text(f"SELECT {COLUMNS} FROM commands c WHERE c.id = :id FOR UPDATE")
FIND_MANY: Final = text(f"SELECT {COLUMNS} FROM commands c WHERE c.id = ANY (:ids)")
TENANT_OF: Final = text("SELECT broker_tenant_of(:id)")

LIST: Final = text(f"""
    SELECT {COLUMNS}
      FROM commands c
     WHERE c.tenant_id = :tenant_id
       AND (CAST(:user_id AS text) IS NULL OR c.user_id = :user_id)
       AND (CAST(:before AS uuid) IS NULL OR c.id < :before)
       AND (CAST(:states AS text[]) IS NULL OR c.state = ANY (:states))
       AND (CAST(:tool AS text) IS NULL OR c.tool = :tool)
     ORDER BY c.id DESC
     LIMIT :limit
""")

AUDIT: Final = """
    INSERT INTO audit.events
           (tenant_id, type, actor, user_id, command_id, saga_id, tool, method, attempt,
            state_from, state_to, fingerprint, body)
    SELECT tenant_id, CAST(:type AS text), CAST(:actor AS text), user_id, id, saga_id, tool,
           method, attempt, CAST(:state_from AS text), state, fingerprint, CAST(:body AS json)
      FROM moved
"""

# What ends a step gives its saga a turn; an insert waits for nobody who has the saga locked.
TURN: Final = """
    INSERT INTO saga_turns (tenant_id, saga_id)
    SELECT tenant_id, saga_id
      FROM moved
     WHERE saga_id IS NOT NULL AND saga_role <> 'saga'
"""


def _guard(event: Event) -> str:
    return ", ".join(f"'{state}'" for state in sources(event))


# The claim is the fence: one adapter run takes one attempt, once, while it is still wanted.
CLAIM: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET state = '{target(Event.CLAIMED)}', adapter = :adapter,
               started_at = coalesce(c.started_at, now()),
               lease_until = now() + make_interval(secs => least(CAST(:lease_s AS float8), CAST(:max_runtime_s AS float8))),
               hard_stop_at = now() + make_interval(secs => :max_runtime_s)
         WHERE c.id = :id AND c.attempt = :attempt AND NOT c.held
           AND c.state IN ({_guard(Event.CLAIMED)})
           AND c.cancel_requested_at IS NULL
           AND (c.approval IS NULL OR c.approval = 'approved')
           AND (c.accept_async OR c.saga_role IN ('undo', 'retriable') OR c.deadline_at > now())
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM moved
""")

PROGRESS: Final = text("""
    WITH moved AS (
        UPDATE commands c
           SET progress_seq = c.progress_seq + 1, stage = :stage, percent = :percent,
               message = :message,
               lease_until = least(now() + make_interval(secs => :lease_s), c.hard_stop_at)
         WHERE c.id = :id AND c.state = 'running' AND c.attempt = :attempt
        RETURNING c.id, c.tenant_id, c.attempt, c.progress_seq
    )
    INSERT INTO progress (command_id, seq, tenant_id, attempt, stage, percent, message)
    SELECT id, progress_seq, tenant_id, attempt, CAST(:stage AS text), :percent, :message
      FROM moved
    RETURNING seq
""")

END: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET state = :target, finished_at = now(), held = false, lease_until = NULL,
               dedupe_key = CASE WHEN CAST(:dedupe_s AS float8) IS NOT NULL THEN c.dedupe_key END,
               dedupe_until = now() + make_interval(secs => CAST(:dedupe_s AS float8)),
               outcome_unknown = :outcome_unknown,
               attempts_lost = c.attempts_lost + CAST(:lost AS integer),
               result = CAST(:result AS jsonb), error = CAST(:error AS jsonb)
         WHERE c.id = :id AND c.attempt = :attempt AND c.state = :state_from
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT}), turn AS ({TURN})
    SELECT * FROM moved
""")

REQUEUE: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET state = 'queued', attempt = c.attempt + CAST(:step AS integer), adapter = NULL, lease_until = NULL,
               attempts_lost = c.attempts_lost + CAST(:lost AS integer),
               deliveries = CASE WHEN CAST(:step AS integer) = 0 THEN c.deliveries ELSE 0 END,
               started_at = NULL, dispatched_at = NULL, hard_stop_at = NULL, finished_at = NULL,
               attempts_max = greatest(c.attempts_max, :attempts_max), outcome_unknown = false,
               cancel_requested_at = NULL, cancel_reason = NULL, cancel_target = NULL,
               deadline_at = greatest(c.deadline_at, now() + make_interval(secs => :deadline_s)),
               deadline_missed_at = CASE WHEN CAST(:deadline_s AS float8) = 0
                                         THEN c.deadline_missed_at END,
               result = NULL, error = NULL, held = :held
         WHERE c.id = :id AND c.attempt = :attempt AND c.state = :state_from
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM moved
""")

REQUEST_CANCEL: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET cancel_requested_at = now(), cancel_reason = :reason, cancel_target = :cancel_target,
               lease_until = now() + make_interval(secs => :grace_s),
               hard_stop_at = now() + make_interval(secs => :grace_s)
         WHERE c.id = :id AND c.state = 'running' AND c.cancel_requested_at IS NULL
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM moved
""")

DECIDE: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET approval = :decision
         WHERE c.id = :id AND c.approval = 'pending' AND c.state = 'queued'
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM moved
""")

COUNT_WORD: Final = text("""
    UPDATE commands
       SET words_refused = words_refused + 1
     WHERE id = :id
    RETURNING words_refused
""")

NOTE: Final = text(f"""
    WITH moved AS (SELECT {COLUMNS} FROM commands c WHERE c.id = :id), audited AS ({AUDIT})
    SELECT 1
""")


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


async def find_many(conn: AsyncConnection, ids: Sequence[UUID]) -> list[Command]:
    """Those of the commands that the transaction's tenants have, in no order."""
    rows = await conn.execute(FIND_MANY, {"ids": list(ids)})
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
) -> list[Command]:
    """A tenant's commands, newest first: one user's, or everybody's where `user_id` is None."""
    assert 0 < limit <= LIST_MAX
    rows = await conn.execute(
        LIST,
        {
            "tenant_id": tenant_id,
            "user_id": user_id,
            "states": None if states is None else [str(state) for state in states],
            "tool": tool,
            "before": before,
            "limit": limit,
        },
    )
    return [Command.of(row) for row in rows.mappings()]


async def moved(
    conn: AsyncConnection,
    statement: TextClause,
    command: Command,
    *,
    kind: str,
    actor: str,
    body: Mapping[str, Any],
    **values: Any,
) -> Command | None:
    """Run a guarded move and its audit event; None where its guard does not hold any more."""
    values |= audited(command, kind=kind, actor=actor, body=body)
    row = (await conn.execute(statement, values)).mappings().one_or_none()
    return None if row is None else Command.of(row)


def audited(command: Command, *, kind: str, actor: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What AUDIT writes beside the moved row, and which row that is."""
    return {
        "id": command.id,
        "type": kind,
        "actor": actor,
        "state_from": command.state,
        "body": dump(body),
    }


async def claim(
    conn: AsyncConnection,
    command: Command,
    *,
    attempt: int,
    adapter: str,
    actor: str,
    lease_s: float,
    max_runtime_s: float,
) -> Command | None:
    """Take the attempt for one adapter run; None where it is stale, taken, ended or unwanted."""
    return await moved(
        conn,
        CLAIM,
        command,
        kind="command.claimed",
        actor=actor,
        body={"adapter": adapter},
        attempt=attempt,
        adapter=adapter,
        lease_s=lease_s,
        max_runtime_s=max_runtime_s,
    )


async def progress(
    conn: AsyncConnection,
    command: Command,
    *,
    stage: str,
    percent: float | None,
    message: str | None,
    lease_s: float,
) -> int | None:
    """Record progress and renew the lease; returns its number, None where it runs no more."""
    values = {
        "id": command.id,
        "attempt": command.attempt,
        "stage": stage,
        "percent": percent,
        "message": message,
        "lease_s": lease_s,
    }
    return await conn.scalar(PROGRESS, values)


async def end(
    conn: AsyncConnection,
    command: Command,
    *,
    event: Event,
    actor: str,
    result: Any = None,
    error: Mapping[str, Any] | None = None,
    body: Mapping[str, Any],
    outcome_unknown: bool = False,
    lost: bool = False,
    dedupe_s: float | None = None,
) -> Command | None:
    """Move to the event's final state and audit it; None where another writer was first.

    Its dedupe key is let go of, or kept for another `dedupe_s` seconds.
    """
    assert command.state in sources(event), f"{event} does not apply to {command.state}"
    return await moved(
        conn,
        END,
        command,
        kind=f"command.{target(event)}",
        actor=actor,
        body=body,
        attempt=command.attempt,
        target=target(event),
        result=None if result is None else dump(result),
        error=None if error is None else dump(error),
        outcome_unknown=outcome_unknown,
        lost=int(lost),
        dedupe_s=dedupe_s,
    )


async def requeue(
    conn: AsyncConnection,
    command: Command,
    *,
    event: Event,
    actor: str,
    body: Mapping[str, Any],
    attempts_max: int = 1,
    deadline_s: float = 0,
    held: bool = False,
    lost: bool = False,
) -> Command | None:
    """Queue an attempt again, or the next one; None where another writer was first."""
    assert event in {Event.REDELIVER, Event.RETRY, Event.REDRIVE}
    assert command.state in sources(event), f"{event} does not apply to {command.state}"
    return await moved(
        conn,
        REQUEUE,
        command,
        kind=f"command.{event}",
        actor=actor,
        body=body,
        attempt=command.attempt,
        step=0 if event is Event.REDELIVER else 1,
        attempts_max=attempts_max,
        deadline_s=deadline_s,
        held=held,
        lost=int(lost),
    )


async def request_cancel(
    conn: AsyncConnection,
    command: Command,
    *,
    cancel_target: State,
    reason: str,
    grace_s: float,
    actor: str,
) -> Command | None:
    """Ask a running command's adapter to stop; None where it was asked or runs no more."""
    assert cancel_target in {State.CANCELLED, State.TIMED_OUT}
    return await moved(
        conn,
        REQUEST_CANCEL,
        command,
        kind="command.cancel_requested",
        actor=actor,
        body={"reason": reason, "target": cancel_target},
        cancel_target=cancel_target,
        reason=reason,
        grace_s=grace_s,
    )


async def decide(
    conn: AsyncConnection, command: Command, *, decision: str, actor: str, reason: str
) -> Command | None:
    """Record an operator's word on a pending command; None where it is not pending."""
    assert decision in {"approved", "denied"}
    return await moved(
        conn,
        DECIDE,
        command,
        kind=f"command.{decision}",
        actor=actor,
        body={"reason": reason},
        decision=decision,
    )


async def note(
    conn: AsyncConnection, command: Command, *, kind: str, actor: str, body: Mapping[str, Any]
) -> None:
    """Audit what was said of a locked command and changed nothing: a claim or a result refused.

    An adapter may say it without end. The first words of a command are events one by one; then
    those whose number (`nth`) is a power of two, and `commands.words_refused` has the number.
    """
    nth = await conn.scalar(COUNT_WORD, {"id": command.id})
    assert nth is not None, "it is locked"
    if nth <= WORDS_IN_FULL or nth.bit_count() == 1:
        said = {**body, "nth": nth}
        await conn.execute(NOTE, audited(command, kind=kind, actor=actor, body=said))
