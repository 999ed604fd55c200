"""Each guarded move of a command's state, with its audit event, in one statement."""

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.state import Event, State, sources, target
from app.commands.store.commands import COLUMNS, Command
from app.postgres.engine import dump

REPORTS_AUDITED_MAX: Final = 20
"""Rejected reports of a command that are audited one by one."""

ERROR_AUDITED_MAX: Final = 8192
"""Bytes of an adapter's error that an event has whole."""
ERROR_CHARS_MAX: Final = 1000
"""Of its message, where it is larger."""

AUDIT: Final = """
    INSERT INTO audit.events
           (tenant_id, type, actor, user_id, command_id, saga_id, tool, method, attempt,
            state_from, state_to, fingerprint, body)
    SELECT tenant_id, CAST(:type AS text), CAST(:actor AS text), user_id, id, saga_id, tool,
           method, attempt, CAST(:state_from AS text), state, fingerprint, CAST(:body AS json)
      FROM moved
"""

# What ends a step leaves its saga a tick; an insert waits for nobody who has the saga locked.
SAGA_TICK: Final = """
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
               lease_until = now() + make_interval(secs => least(
                   CAST(:lease_s AS float8), CAST(:max_runtime_s AS float8))),
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
    ), audited AS ({AUDIT}), tick AS ({SAGA_TICK})
    SELECT * FROM moved
""")

REQUEUE: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET state = 'queued', attempt = c.attempt + CAST(:step AS integer),
               adapter = NULL, lease_until = NULL,
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

# An unclaimed attempt whose run waits elsewhere is not sent again meanwhile.
SEE_RUN: Final = text("""
    UPDATE commands c
       SET run = CAST(:run AS jsonb),
           lease_until = CASE WHEN c.state = 'dispatched'
                              THEN greatest(c.lease_until, now() + make_interval(secs => :lease_s))
                              ELSE c.lease_until END
     WHERE c.id = :id
""")

RETRIED: Final = text("""
    SELECT EXISTS (
        SELECT FROM audit.events
         WHERE command_id = :id AND type = 'command.retry'
           AND CAST(body AS jsonb) -> 'attempt_over' = to_jsonb(CAST(:attempt AS integer))
           AND CAST(body AS jsonb) -> 'error' = CAST(:error AS jsonb))
""")

COUNT_REJECTED: Final = text("""
    UPDATE commands
       SET reports_rejected = reports_rejected + 1
     WHERE id = :id
    RETURNING reports_rejected
""")

NOTE: Final = text(f"""
    WITH moved AS (SELECT {COLUMNS} FROM commands c WHERE c.id = :id), audited AS ({AUDIT})
    SELECT 1
""")


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


def brief(error: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """An adapter's error as an event has it: whole, or its code and the beginning of its message.

    It may be as large as a result, at each attempt and each late report; the command has all of it.
    """
    if error is None or (size := len(dump(error).encode())) <= ERROR_AUDITED_MAX:
        return error
    kept = {name: str(error[name]) for name in ("code", "message") if name in error}
    return {name: said[:ERROR_CHARS_MAX] for name, said in kept.items()} | {"bytes": size}


def audited(command: Command, *, kind: str, actor: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """What AUDIT writes beside the moved row, and which row that is."""
    return {
        "id": command.id,
        "type": kind,
        "actor": actor,
        "state_from": command.state,
        "body": dump({**body, "error": brief(body["error"])} if "error" in body else body),
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

    Its dedupe key is released, or kept for another `dedupe_s` seconds.
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


async def see_run(
    conn: AsyncConnection, command: Command, *, run: Mapping[str, Any], lease_s: float
) -> None:
    """Keep what is known of a locked command's run, and wait for its claim."""
    values = {"id": command.id, "run": dump(dict(run)), "lease_s": lease_s}
    await conn.execute(SEE_RUN, values)


async def was_retried(
    conn: AsyncConnection, command: Command, attempt: int | None, error: Mapping[str, Any]
) -> bool:
    """Whether this error ended this earlier attempt, after which the command was tried again."""
    if attempt is None or attempt >= command.attempt:
        return False
    values = {"id": command.id, "attempt": attempt, "error": dump(brief(error))}
    return bool(await conn.scalar(RETRIED, values))


async def record_rejected_report(
    conn: AsyncConnection, command: Command, *, kind: str, actor: str, body: Mapping[str, Any]
) -> None:
    """Audit what was said of a locked command and changed nothing: a claim or a result refused.

    An adapter may say it without end. The first rejected reports of a command are events one by
    one; then those whose number (`nth`) is a power of two, and `commands.reports_rejected` has the
    number.
    """
    nth = await conn.scalar(COUNT_REJECTED, {"id": command.id})
    assert nth is not None, "it is locked"
    if nth <= REPORTS_AUDITED_MAX or nth.bit_count() == 1:
        details = {**body, "nth": nth}
        await conn.execute(NOTE, audited(command, kind=kind, actor=actor, body=details))
