"""What became of commands, for the metrics; counted once its transaction is committed."""

from datetime import datetime
from typing import Final

from app import metrics
from app.commands.attempts import Change
from app.commands.state import State

OF_AN_END: Final = (
    "tool",
    "method",
    "state",
    "created_at",
    "not_before",
    "started_at",
    "finished_at",
    "traceparent",
)
"""What `ended` asks of a command's row."""


def count(change: Change) -> None:
    """Count the attempts that a change ended; any other change is no figure."""
    for one in change.ended:
        ended(
            tool=one.tool,
            method=one.method,
            state=one.state,
            created_at=one.created_at,
            not_before=one.not_before,
            started_at=one.started_at,
            finished_at=one.finished_at,
            traceparent=one.traceparent,
        )
    if change.retried:
        metrics.RETRIES.inc()


def ended(
    *,
    tool: str,
    method: str,
    state: State,
    created_at: datetime,
    not_before: datetime | None,
    started_at: datetime | None,
    finished_at: datetime | None,
    traceparent: str | None,
) -> None:
    """Count a command's end, how long it took since it might start, and how long it ran."""
    assert finished_at is not None, "it has ended"
    metrics.ENDED.labels(state).inc()
    starts_at = created_at if not_before is None else max(created_at, not_before)
    # One that was cancelled before its start took no time.
    whole_s = max(0.0, (finished_at - starts_at).total_seconds())
    metrics.CALL_S.observe(whole_s, tool, method, state, trace=traceparent)
    if started_at is not None:
        ran_s = (finished_at - started_at).total_seconds()
        metrics.RUN_S.observe(ran_s, tool, method, state, trace=traceparent)
