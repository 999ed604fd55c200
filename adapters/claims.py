"""The results API's words, as both executors speak it: a claim's answer, progress, an outcome."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from adapters.contract import (
    CANCELLED,
    MISCONFIGURED,
    AdapterCall,
    CallFailedError,
    Failure,
    Known,
    Outcome,
    Result,
    failure,
)
from adapters.targets import Target, TargetRefusedError

BARE: Final = {"stage": "running"}
"""The least that progress says."""
CLAIM_LATE: Final = "claim_late"
DRAINED: Final = "drained"
NOT_KEPT: Final = frozenset({400, 413, 422})
"""The broker's answers to what it cannot keep, however often it is said."""
OVER: Final = frozenset({404, 409, 410})
"""The broker's answers where an attempt is not, or no longer, this run's."""
DEADLINE_MARGIN_S: Final = 3.0
"""The broker ends a call at its deadline, and says so; only where that is not heard this does."""
MESSAGE_MAX: Final = 2000
OWN: Final = frozenset({"kind", "target", "runs_on"})
"""What a tool's adapter says beside its kind's mapping."""


def call_of(granted: Mapping[str, Any]) -> AdapterCall | Failure:
    """A granted claim as its adapter takes it, or why it cannot be worked on here."""
    adapter, target = granted.get("adapter"), granted.get("target")
    if adapter is None or target is None:
        what = "adapter" if adapter is None else "target"
        words = f"The catalog has no {what} for {granted['tool']}/{granted['method']}."
        return Failure(code=MISCONFIGURED, message=words, retryable=True, known=Known.NOT_DONE)
    try:
        at = Target.read(target)
    except TargetRefusedError as error:
        return Failure(code=MISCONFIGURED, message=f"The target cannot be read: {error}")
    return AdapterCall(
        command_id=granted["correlation_id"],
        tenant=granted["tenant_id"],
        tool=granted["tool"],
        method=granted["method"],
        args=granted["args"] or {},
        target=at,
        mapping={name: value for name, value in adapter.items() if name not in OWN},
        attempt=granted["attempt"],
        idempotency_key=granted["correlation_id"],
        idempotent=granted["idempotent"],
        deadline=asyncio.get_running_loop().time() + granted["left_s"] + DEADLINE_MARGIN_S,
        traceparent=granted["traceparent"],
        user=granted["user_id"],
    )


def too_late() -> Failure:
    """What a claim comes to whose answer is older than half its lease."""
    words = "The claim's answer took longer than half its lease; nothing was begun."
    return Failure(code=CLAIM_LATE, message=words, retryable=True, known=Known.NOT_DONE)


def progress(done: float | None, total: float | None, message: str | None) -> dict[str, Any]:
    """How far a call is."""
    fields: dict[str, Any] = dict(BARE)
    if done is not None and total is not None and total > 0:
        fields["percent"] = round(max(0.0, min(100.0, 100 * done / total)), 2)
    elif done is not None:
        fields["message"] = f"{done:g}"
    if message:
        fields["message"] = _plain(message)[:MESSAGE_MAX]
    return fields


def run_elsewhere(name: str, status: str, link: str, *, mine: str) -> dict[str, Any]:
    """How a run elsewhere fares that an attempt waits for; `mine` is the attempt's own claim."""
    return {"run": name, "parts": [mine], "status": status, "link": link}


def drained(call: AdapterCall, outcome: Outcome, executor: str = "worker") -> Outcome:
    """What a call came to that was ended because its executor stops.

    It is given back where it was not done, or where doing it again does no harm.
    """
    if isinstance(outcome, Result) or outcome.code != CANCELLED:
        return outcome
    message = f"The {executor} stopped. {outcome.message}"
    return failure(call, CallFailedError(outcome.known, DRAINED, message, details=outcome.details))


def spoken(outcome: Outcome) -> dict[str, Any]:
    """An outcome."""
    if isinstance(outcome, Result):
        if outcome.content is None:
            return {"status": "ok", "result": outcome.value}
        blocks: dict[str, Any] = {"content": list(outcome.content)}
        if outcome.value is not None:
            blocks["structuredContent"] = outcome.value
        return {"status": "ok", "result": {"mcp": blocks}}
    error: dict[str, Any] = {
        "code": outcome.code,
        "message": _plain(outcome.message),
        "retryable": outcome.retryable,
    }
    if outcome.outcome_unknown:
        error["outcome_unknown"] = True
    if outcome.retry_after_s is not None:
        error["retry_after_s"] = outcome.retry_after_s
    if outcome.details:
        error["details"] = dict(outcome.details)
    return {"status": "error", "error": error}


def without(outcome: Outcome, why: str) -> dict[str, Any]:
    """An outcome that the broker cannot keep, without what is at fault; what is known stays."""
    if isinstance(outcome, Failure):
        return spoken(replace(outcome, details={}, message=outcome.message[:MESSAGE_MAX]))
    words = _plain(f"The work was done, and its result cannot be kept: {why}")[:MESSAGE_MAX]
    error = {"code": "result_not_kept", "message": words, "retryable": False}
    return {"status": "error", "error": error}


def _plain(text: str) -> str:
    """Text that PostgreSQL keeps."""
    return text.replace("\x00", "\ufffd").encode(errors="replace").decode()
