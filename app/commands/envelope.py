"""The v1.0 wire contract: the call as clients send it, the command as adapters get it."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.catalog.policy import Ordering
from app.errors import InvalidArgumentsError

VERSION: Final = "1.0"

COMMANDS: Final = "mcp.commands"
RESULTS: Final = "mcp.results"
CONTROL: Final = "mcp.control"
DEADLETTER: Final = "mcp.deadletter"
AUDIT: Final = "mcp.audit"
TOPICS: Final = (COMMANDS, RESULTS, CONTROL, DEADLETTER, AUDIT)

META_PREFIX: Final = "dev.mcpbroker/"
KEY_META: Final = f"{META_PREFIX}idempotency_key"
"""Where an MCP client puts its idempotency key in `_meta`."""

UUID_V7: Final = 7

Key = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.-]+$")]
Method = Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9_.-]*$")]
Tenant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Text = Annotated[str, StringConstraints(min_length=1, max_length=255)]

_TRACEPARENT: Final = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")


class Priority(IntEnum):
    """Tiers; a waiting command climbs one every `aging_s`."""

    LOW = 0
    NORMAL = 1
    HIGH = 2
    CRITICAL = 3

    @classmethod
    def named(cls, name: str) -> Self:
        """The tier of a name on the wire."""
        return cls[name.upper()]

    @property
    def wire(self) -> str:
        """The name on the wire."""
        return self.name.lower()


class Compensation(BaseModel):
    """The call that undoes a saga's step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: Name
    method: Method
    args: dict[str, Any] = Field(default_factory=dict)


class CallMeta(BaseModel):
    """What an MCP client may say of a call in `_meta`, each name under `dev.mcpbroker/`.

    As the fields of `CallBody`; `wait_s` bounds how long the answer waits for the outcome.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    idempotency_key: Any = None  # read with its other places (edges.mcp.calls.idempotency_key)
    ordering_key: Key | None = None
    deadline_ms: int | None = Field(default=None, gt=0)
    priority: Literal["low", "normal", "high", "critical"] | None = None
    wait_s: float | None = Field(default=None, ge=0)


class CallBody(BaseModel):
    """The body of `POST /mcp/tools/call`: the envelope v1.0; unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    envelope_version: Literal["1.0"] = VERSION
    correlation_id: UUID | None = None
    idempotency_key: Key | None = None
    tenant_id: Tenant | None = Field(default=None, description="If given, it must be the token's.")
    user_id: Text | None = Field(default=None, description="If given, it must be the token's.")
    tool: Name
    method: Method
    args: dict[str, Any] = Field(default_factory=dict)
    ordering_key: Key | None = None
    deadline_ms: int | None = Field(default=None, gt=0)
    priority: Literal["low", "normal", "high", "critical"] | None = None
    accept_partials: bool = False
    accept_async: bool = False
    saga_id: UUID | None = None
    saga_step: Text | None = None
    compensation: Compensation | None = None

    @model_validator(mode="after")
    def relations(self) -> Self:
        """Check what one field asks of another."""
        for name in ("correlation_id", "saga_id"):
            value: UUID | None = getattr(self, name)
            if value is not None and value.version != UUID_V7:
                raise ValueError(f"{name} must be a UUID of version 7 (RFC 9562)")
        if (self.saga_id is None) != (self.saga_step is None):
            raise ValueError("saga_id and saga_step come together")
        if self.compensation is not None and self.saga_id is None:
            raise ValueError("compensation needs saga_id and saga_step")
        return self


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
    saga_id: UUID | None = None
    saga_step: str | None = None
    saga_role: Literal["saga", "step", "retriable", "reconcile", "undo"] | None = None
    compensation: Mapping[str, Any] | None = None
    traceparent: str | None = None


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
) -> bytes:
    """SHA-256 of the canonical request: what has an effect, and not how long to wait for it.

    Canonical is JSON with sorted keys and no spaces (orjson), behind a version tag.

    Raises:
        InvalidArgumentsError: a number that JSON peers would not read alike (over 64 bits).
    """
    request = {
        "user": user_id,
        "tool": tool,
        "method": method,
        "args": args,
        "ordering_key": ordering_key,
        "saga": None if saga_id is None else [str(saga_id), saga_step],
        "compensation": compensation,
    }
    try:
        canonical = orjson.dumps(request, option=orjson.OPT_SORT_KEYS)
    except TypeError as error:
        raise InvalidArgumentsError(f"The arguments are not plain JSON: {error}") from error
    return hashlib.sha256(b"mcpbroker.request.v1\n" + canonical).digest()


def traceparent(value: object) -> str | None:
    """A W3C trace context parent, or None where it is not one."""
    return value if isinstance(value, str) and _TRACEPARENT.match(value) else None


def partition_key(tenant_id: str, ordering_key: str | None, correlation_id: UUID) -> str:
    """The Kafka key: commands of one ordering key share a partition, others spread."""
    return f"{tenant_id}:{ordering_key if ordering_key is not None else correlation_id}"


def instant(at: datetime) -> str:
    """RFC 3339, UTC."""
    return at.isoformat().replace("+00:00", "Z")


def envelope(row: Mapping[str, Any], *, by_reference: bool) -> dict[str, Any]:
    """The command as Kafka carries it: the seed's fields, and which attempt this is.

    `row` is a row of `commands`. Without args where policy says by_reference. The fence is
    the attempt's number: public, not a secret; the claim checks it.
    """
    return {
        "envelope_version": VERSION,
        "correlation_id": str(row["id"]),
        "idempotency_key": row["idempotency_key"],
        "tenant_id": row["tenant_id"],
        "user_id": row["user_id"],
        "tool": row["tool"],
        "method": row["method"],
        "args": {} if by_reference else row["args"],
        "ordering_key": row["ordering_key"],
        "deadline_ms": round((row["deadline_at"] - row["created_at"]).total_seconds() * 1000),
        "priority": Priority(row["priority"]).wire,
        "accept_partials": row["accept_partials"],
        "accept_async": row["accept_async"],
        "saga_id": None if row["saga_id"] is None else str(row["saga_id"]),
        "saga_step": row["saga_step"],
        "compensation": row["compensation"],
        "attempt": row["attempt"],
        "fence": row["attempt"],
        "deadline_at": instant(row["deadline_at"]),
        "created_at": instant(row["created_at"]),
    }


def headers(
    *,
    event_id: UUID,
    tenant_id: str,
    command_id: UUID | None,
    ordering_key: str | None,
    attempt: int | None,
    trace: str | None,
) -> list[tuple[str, bytes]]:
    """Kafka headers; EDA turns `message_uuid` into event.meta.uuid."""
    named = {
        "message_uuid": str(event_id),
        "content-type": "application/json",
        "tenant_id": tenant_id,
        "correlation_id": None if command_id is None else str(command_id),
        "ordering_key": ordering_key,
        "attempt": None if attempt is None else str(attempt),
        "traceparent": trace,
    }
    return [(name, value.encode()) for name, value in named.items() if value is not None]
