"""What operators do with holds, whichever way they ask: preview one, place it, release it."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.commands import holds
from app.commands.store.holds import Hold
from app.contract import Instant, Key, Method, Name, instant
from app.edges.parts import Parts
from app.errors import BadRequestError
from app.identity import Identity
from app.json_values import KeptValue, PlainText, integral

VALUE_BYTES_MAX: Final = 1024
STEPS_MAX: Final = 10

Pointer = Annotated[
    PlainText,
    StringConstraints(strict=True, max_length=255, pattern=r"^(/([^/~]|~[01])+)+$"),
]


class Argument(BaseModel):
    """An argument that has this value: `{"path": "/host", "value": "web-1"}`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Pointer = Field(description="A JSON Pointer (RFC 6901) into `args`; no name is empty.")
    value: KeptValue

    @model_validator(mode="after")
    def bounded(self) -> "Argument":
        """What is asked of each call that may wait is small."""
        if self.path.count("/") > STEPS_MAX:
            raise ValueError(f"path has at most {STEPS_MAX} steps")
        if len(orjson.dumps(self.value)) > VALUE_BYTES_MAX:
            raise ValueError(f"value has at most {VALUE_BYTES_MAX} bytes")
        if any(step.startswith("-") and step[1:].isdecimal() for step in self.steps):
            raise ValueError("path counts no list from its end")
        return self

    @property
    def steps(self) -> tuple[str, ...]:
        """The pointer's names, as they are."""
        named = self.path.split("/")[1:]
        return tuple(one.replace("~1", "/").replace("~0", "~") for one in named)

    @property
    def kept(self) -> Any:
        """The value as arguments are kept: each whole number as an integer."""
        return integral(self.value, orjson.dumps(self.value))


class Wanted(BaseModel):
    """Which calls an operator holds: those that fit all that is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tool: Name | None = None
    method: Method | None = None
    ordering_key: Key | None = None
    argument: Argument | None = None
    all_calls: bool = Field(default=False, description="Every call of the tenant.")
    effect: Literal["wait", "refuse"] = "wait"
    until: Instant | None = Field(default=None, description="It ends then by itself.")

    @model_validator(mode="after")
    def named(self) -> "Wanted":
        """What holds everything says so."""
        if self.method is not None and self.tool is None:
            raise ValueError("method needs its tool")
        narrowed = any(one is not None for one in (self.tool, self.ordering_key, self.argument))
        if narrowed == self.all_calls:
            raise ValueError("name a tool, ordering_key or argument, or all_calls alone")
        return self

    @property
    def which(self) -> holds.Which:
        """As the use case takes it."""
        one = self.argument
        return holds.Which(
            tool=self.tool,
            method=self.method,
            ordering_key=self.ordering_key,
            args_path=None if one is None else one.steps,
            args_value=None if one is None else one.kept,
        )


def shown(hold: Hold) -> dict[str, Any]:
    """A hold as operators are shown it."""
    path = hold.args_path
    argument = path and {
        "path": "".join(f"/{one.replace('~', '~0').replace('/', '~1')}" for one in path),
        "value": hold.args_value,
    }
    told: dict[str, Any] = {
        "hold_id": str(hold.id),
        "tool": hold.tool,
        "method": hold.method,
        "ordering_key": hold.ordering_key,
        "argument": argument,
        "effect": hold.effect,
        "reason": hold.reason,
        "until": _at(hold.until),
        "placed_by": hold.placed_by,
        "placed_at": _at(hold.placed_at),
        "released_at": _at(hold.released_at),
        "released_by": hold.released_by,
    }
    return {name: value for name, value in told.items() if value is not None}


def _at(at: datetime | None) -> str | None:
    return None if at is None else instant(at)


async def preview(broker: Parts, who: Identity, wanted: Wanted) -> tuple[int, int]:
    """How many calls would wait for it, and how many are past it; each up to a bound.

    Raises as `place`, but for what only placing finds.
    """
    await _known(broker, wanted)
    return await holds.preview(broker.database.engine, who.tenant_id, wanted.which)


async def place(broker: Parts, who: Identity, wanted: Wanted, *, reason: str) -> holds.Placed:
    """Hold calls of the operator's tenant. In force when this returns.

    Raises:
        UnknownToolError: there is no such tool or method.
        BadRequestError: it would end before it begins, or there are as many as there may be.
    """
    await _known(broker, wanted)
    placed = await holds.place(
        broker.database.engine,
        who.tenant_id,
        wanted.which,
        effect=wanted.effect,
        reason=reason,
        until=wanted.until,
        actor=f"operator:{who.user_id}",
    )
    broker.holds.forget()
    return placed


async def release(broker: Parts, who: Identity, hold_id: UUID, *, reason: str) -> Hold:
    """End a hold of the operator's tenant: what waits for it goes on.

    Raises:
        NotFoundError: the tenant has no such hold in force.
    """
    found = await holds.release(
        broker.database.engine,
        who.tenant_id,
        hold_id,
        actor=f"operator:{who.user_id}",
        reason=reason,
    )
    broker.holds.forget()
    broker.notifier.outbox()
    return found


async def _known(broker: Parts, wanted: Wanted) -> None:
    if wanted.until is not None and wanted.until <= datetime.now(wanted.until.tzinfo):
        raise BadRequestError("until has passed.")
    if wanted.tool is not None:
        wanted.which.check(await broker.catalog.tools())
