"""The v1.0 wire contract: the call as clients send it, and the names that all parts share."""

import re
from datetime import UTC, datetime
from enum import IntEnum
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from app.asserted import Labels
from app.json_values import KeptObject, PlainText

VERSION: Final = "1.0"

COMMANDS: Final = "mcp.commands"
WORKER_COMMANDS: Final = "mcp.commands.worker"
"""Of tools whose adapter runs in the worker."""
RESULTS: Final = "mcp.results"
CONTROL: Final = "mcp.control"
DEADLETTER: Final = "mcp.deadletter"
AUDIT: Final = "mcp.audit"
TOPICS: Final = (COMMANDS, WORKER_COMMANDS, RESULTS, CONTROL, DEADLETTER, AUDIT)

META_PREFIX: Final = "dev.mcpbroker/"
KEY_META: Final = f"{META_PREFIX}idempotency_key"
"""Where an MCP client puts its idempotency key in `_meta`."""

UUID_V7: Final = 7

Key = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[\x20-\x7e]+$")]
Name = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9_.-]+$")]
Method = Annotated[str, StringConstraints(max_length=128, pattern=r"^[A-Za-z0-9_.-]*$")]
Tenant = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Text = Annotated[PlainText, StringConstraints(min_length=1, max_length=255)]

_INSTANT: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
INSTANT_CHARS_MAX: Final = 40


def _read_instant(value: object) -> datetime:
    if isinstance(value, str) and len(value) <= INSTANT_CHARS_MAX and _INSTANT.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper()).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"there is no such time: {error}") from error
    raise ValueError("a time is written as RFC 3339 has it: 2027-01-31T09:00:00Z")


Instant = Annotated[datetime, BeforeValidator(_read_instant)]
"""A time on the wire: RFC 3339 (section 5.6), with its offset."""

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
    args: KeptObject = Field(default_factory=dict)


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
    labels: Labels | None = None
    not_before: Instant | None = None


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
    not_before: Instant | None = Field(default=None, description="The deadline counts from it.")
    priority: Literal["low", "normal", "high", "critical"] | None = None
    accept_partials: bool = False
    accept_async: bool = False
    labels: Labels | None = None
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
        if self.not_before is not None and self.saga_id is not None:
            raise ValueError("a saga's step starts when it can: it has no not_before")
        if self.compensation is not None and self.saga_id is None:
            raise ValueError("compensation needs saga_id and saga_step")
        return self


def traceparent(value: object) -> str | None:
    """A W3C trace context parent, or None where it is not one."""
    return value if isinstance(value, str) and _TRACEPARENT.match(value) else None


def instant(at: datetime) -> str:
    """RFC 3339, UTC."""
    return at.isoformat().replace("+00:00", "Z")
