"""The sagas, saga_steps and saga_turns tables.

A saga's row is locked before any head and any command; who ends a step's command locks no saga, but
leaves a tick (a row of saga_turns), which the relay takes up. So no two transactions wait for each
other in a circle.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Final, Self
from uuid import UUID

from sqlalchemy import RowMapping, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.ticks import enqueue_tick
from app.postgres.engine import dump
from app.sagas.state import FINAL, State, StepState


@dataclass(frozen=True, slots=True, kw_only=True)
class SagaRow:
    """A saga's row."""

    id: UUID
    tenant_id: str
    user_id: str
    kind: str
    name: str | None
    version: int | None
    plan: dict[str, Any] | None
    input: dict[str, Any] | None
    state: State
    reason: dict[str, Any] | None
    stop: dict[str, Any] | None
    closed: bool
    on_idle: str
    idle_timeout_s: float | None
    idle_at: datetime | None
    steps_done: int
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """From a row that has at least these columns."""
        values: dict[str, Any] = {name: row[name] for name in NAMES}
        values["state"] = State(row["state"])
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRow:
    """A step's row."""

    saga_id: UUID
    step: str
    tenant_id: str
    position: int
    state: StepState
    command_id: UUID | None
    reconcile_id: UUID | None
    reconcile_unmade: bool  # what would have asked for its outcome could not be made
    undo_id: UUID | None
    compensation: dict[str, Any] | None
    done_seq: int | None
    issues: int
    reason: str | None

    @classmethod
    def of(cls, row: RowMapping) -> Self:
        """From a row that has at least these columns."""
        values: dict[str, Any] = {name: row[name] for name in STEP_NAMES}
        values["state"] = StepState(row["state"])
        return cls(**values)


NAMES: Final = tuple(field.name for field in fields(SagaRow))
STEP_NAMES: Final = tuple(field.name for field in fields(StepRow))
COLUMNS: Final = ", ".join(f"s.{name}" for name in NAMES)
STEP_COLUMNS: Final = ", ".join(STEP_NAMES)
LIST_MAX: Final = 1000

FIND: Final = text(f"SELECT {COLUMNS} FROM sagas s WHERE s.id = :id")
LOCK: Final = text(f"SELECT {COLUMNS} FROM sagas s WHERE s.id = :id FOR UPDATE")
TRY_LOCK: Final = text(f"SELECT {COLUMNS} FROM sagas s WHERE s.id = :id FOR UPDATE SKIP LOCKED")
STEPS: Final = text(f"SELECT {STEP_COLUMNS} FROM saga_steps WHERE saga_id = :id ORDER BY position")

LIST: Final = text(f"""
    SELECT {COLUMNS}
      FROM sagas s
     WHERE s.tenant_id = :tenant_id
       AND (CAST(:user_id AS text) IS NULL OR s.user_id = :user_id)
       AND (CAST(:states AS text[]) IS NULL OR s.state = ANY (:states))
       AND (CAST(:before AS uuid) IS NULL OR s.id < :before)
     ORDER BY s.id DESC
     LIMIT :limit
""")

LIST_WAITING: Final = text(f"""
    SELECT {COLUMNS}
      FROM sagas s
     WHERE s.tenant_id = :tenant_id AND s.state IN ('stuck', 'compensation_failed')
       AND (CAST(:before AS uuid) IS NULL OR s.id < :before)
     ORDER BY s.id DESC
     LIMIT :limit
""")

COUNT_WAITING: Final = text("""
    SELECT count(*)
      FROM (SELECT FROM sagas s
             WHERE s.tenant_id = :tenant_id AND s.state IN ('stuck', 'compensation_failed')
             ORDER BY s.id DESC
             LIMIT :most) few
""")

SAVE: Final = text("""
    UPDATE sagas
       SET state = :state, reason = CAST(:reason AS jsonb), steps_done = :steps_done,
           idle_at = CASE WHEN :final THEN NULL ELSE idle_at END,
           finished_at = CASE WHEN :final THEN coalesce(finished_at, now()) END
     WHERE id = :id
""")

SAVE_STEP: Final = text("""
    UPDATE saga_steps
       SET state = :state, command_id = :command_id, reconcile_id = :reconcile_id,
           reconcile_unmade = :reconcile_unmade, undo_id = :undo_id, done_seq = :done_seq,
           issues = :issues, reason = :reason
     WHERE saga_id = :saga_id AND step = :step
""")

ASK: Final = text("""
    UPDATE sagas
       SET stop = coalesce(stop, CAST(:stop AS jsonb)), closed = closed OR :closed,
           idle_at = NULL
     WHERE id = :id
""")

# A saga is not idle while a step is under way: its time begins anew then.
IDLE: Final = text("""
    WITH late AS (
        SELECT s.id,
               EXISTS (SELECT FROM saga_steps t
                        WHERE t.saga_id = s.id AND t.state = 'dispatched') AS busy
          FROM sagas s
         WHERE s.idle_at <= now()
         ORDER BY s.idle_at
         LIMIT :limit
           FOR UPDATE OF s SKIP LOCKED
    ), asked AS (
        UPDATE sagas s
           SET idle_at = CASE WHEN busy THEN now() + make_interval(secs => idle_timeout_s) END,
               closed = closed OR NOT busy,
               stop = CASE WHEN on_idle = 'compensate' AND NOT busy
                           THEN coalesce(stop, CAST(:stop AS jsonb)) ELSE stop END
          FROM late
         WHERE s.id = late.id
        RETURNING s.id, s.tenant_id, busy
    )
    INSERT INTO saga_turns (tenant_id, saga_id)
    SELECT tenant_id, id FROM asked WHERE NOT busy
    RETURNING saga_id
""")
IDLE_STOP: Final = dump({"code": "idle", "message": "No call and no commit came in time."})


async def find(conn: AsyncConnection, saga_id: UUID) -> SagaRow | None:
    """The saga, if the transaction's tenants have it."""
    row = (await conn.execute(FIND, {"id": saga_id})).mappings().one_or_none()
    return None if row is None else SagaRow.of(row)


async def lock(
    conn: AsyncConnection, saga_id: UUID, *, skip_locked: bool = False
) -> SagaRow | None:
    """The saga, locked until the transaction ends. Take it before any head or command."""
    statement = TRY_LOCK if skip_locked else LOCK
    row = (await conn.execute(statement, {"id": saga_id})).mappings().one_or_none()
    return None if row is None else SagaRow.of(row)


async def steps(conn: AsyncConnection, saga_id: UUID) -> list[StepRow]:
    """Its steps, in their order."""
    rows = await conn.execute(STEPS, {"id": saga_id})
    return [StepRow.of(row) for row in rows.mappings()]


async def listing(
    conn: AsyncConnection,
    *,
    tenant_id: str,
    user_id: str | None,
    states: Sequence[State] | None,
    before: UUID | None,
    limit: int,
) -> list[SagaRow]:
    """A tenant's sagas, newest first: one user's, or everybody's where `user_id` is None."""
    assert 0 < limit <= LIST_MAX
    values = {
        "tenant_id": tenant_id,
        "user_id": user_id,
        "states": None if states is None else [str(state) for state in states],
        "before": before,
        "limit": limit,
    }
    return [SagaRow.of(row) for row in (await conn.execute(LIST, values)).mappings()]


async def list_waiting(
    conn: AsyncConnection, *, tenant_id: str, before: UUID | None, limit: int
) -> list[SagaRow]:
    """A tenant's sagas that wait for an operator, newest first, before one of them."""
    assert 0 < limit <= LIST_MAX
    values = {"tenant_id": tenant_id, "before": before, "limit": limit}
    return [SagaRow.of(row) for row in (await conn.execute(LIST_WAITING, values)).mappings()]


async def count_waiting(conn: AsyncConnection, *, tenant_id: str, most: int) -> int:
    """How many sagas of a tenant wait for an operator, up to `most`."""
    values = {"tenant_id": tenant_id, "most": most}
    return int(await conn.scalar(COUNT_WAITING, values) or 0)


async def save(conn: AsyncConnection, saga: SagaRow) -> None:
    """Write what may change of a locked saga."""
    await conn.execute(
        SAVE,
        {
            "id": saga.id,
            "state": saga.state,
            "reason": None if saga.reason is None else dump(saga.reason),
            "steps_done": saga.steps_done,
            "final": saga.state in FINAL,
        },
    )


async def save_step(conn: AsyncConnection, step: StepRow) -> None:
    """Write what may change of a step whose saga is locked."""
    await conn.execute(
        SAVE_STEP,
        {
            "saga_id": step.saga_id,
            "step": step.step,
            "state": step.state,
            "command_id": step.command_id,
            "reconcile_id": step.reconcile_id,
            "reconcile_unmade": step.reconcile_unmade,
            "undo_id": step.undo_id,
            "done_seq": step.done_seq,
            "issues": step.issues,
            "reason": step.reason,
        },
    )


async def ask(
    conn: AsyncConnection, saga: SagaRow, *, stop: Mapping[str, Any] | None, closed: bool
) -> None:
    """Ask a locked saga to stop, or say that no more steps come; the first reason stays."""
    values = {"id": saga.id, "stop": None if stop is None else dump(stop), "closed": closed}
    await conn.execute(ASK, values)
    await enqueue_tick(conn, tenant_id=saga.tenant_id, saga_id=saga.id)


async def stop_idle(conn: AsyncConnection, *, limit: int) -> list[UUID]:
    """Close the ad hoc sagas to which nothing was added in time, as each of them says."""
    return list((await conn.execute(IDLE, {"limit": limit, "stop": IDLE_STOP})).scalars())
