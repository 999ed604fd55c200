"""A call that has passed every check, and the fingerprint of its request."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import orjson

from app.catalog.policy import Ordering
from app.contract import Priority
from app.errors import InvalidArgumentsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call that has passed every check and only has to be written."""

    correlation_id: UUID
    tenant_id: str
    user_id: str
    actor: str
    tool: str
    method: str
    args: Mapping[str, Any]
    args_audited: Mapping[str, Any]  # redacted by the tool's schema
    idempotency_key: str
    key_source: Literal["meta", "header", "body", "derived", "saga"]
    dedupe_key: bytes | None
    fingerprint: bytes
    ordering_key: str | None
    ordering: Ordering | None
    deadline_s: float
    priority: Priority
    accept_async: bool
    accept_partials: bool
    attempts_max: int
    approval: Literal["pending", "approved"] | None = None
    approval_rule: Mapping[str, Any] | None = None
    own_yes: bool | None = None
    """Whether its caller has approved it, and that counts."""
    approval_expires_s: float | None = None
    approval_escalate_s: float | None = None
    ruled: Mapping[str, str] | None = None
    """What grants with a condition said of it, and their digest."""
    saga_id: UUID | None = None
    saga_step: str | None = None
    saga_role: Literal["saga", "step", "retriable", "reconcile", "undo"] | None = None
    compensation: Mapping[str, Any] | None = None
    not_before: datetime | None = None
    """It waits until then, and its deadline counts from it."""
    labels: tuple[str, ...] = ()
    asserted: Mapping[str, str] | None = None
    traceparent: str | None = None
    topic: str | None = None
    """Where its executor reads commands; None: mcp.commands."""


def fingerprint(
    *,
    user_id: str,
    tool: str,
    method: str,
    args: Mapping[str, Any],
    ordering_key: str | None = None,
    saga_id: UUID | None = None,
    saga_step: str | None = None,
    compensation: Mapping[str, Any] | None = None,
    not_before: datetime | None = None,
) -> bytes:
    """SHA-256 of the canonical request: what has an effect, and not how long to wait for it.

    Canonical is JSON with sorted keys and no spaces (orjson), behind a version tag.

    Raises:
        InvalidArgumentsError: a number that JSON peers would not read alike (over 64 bits).
    """
    request: dict[str, Any] = {
        "user": user_id,
        "tool": tool,
        "method": method,
        "args": args,
        "ordering_key": ordering_key,
        "saga": None if saga_id is None else [str(saga_id), saga_step],
        "compensation": compensation,
    }
    if not_before is not None:  # a call for later is no twin of one for now
        request["not_before"] = not_before.astimezone(UTC).isoformat()
    try:
        canonical = orjson.dumps(request, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise InvalidArgumentsError(f"The arguments are not plain JSON: {error}") from error
    return hashlib.sha256(b"mcpbroker.request.v1\n" + canonical).digest()
