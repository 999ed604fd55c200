"""What operators do over HTTP with holds: see which there are, place one, release one."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from app.commands import holds
from app.commands.store import holds as hold_rows
from app.commands.store.holds import Hold
from app.contract import Instant, Key, Method, Name, instant
from app.edges.http.operator import operator_of
from app.edges.http.replies import ReasonBody, reply
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.errors import BadRequestError, UnknownToolError
from app.json_values import KeptValue, PlainText, integral
from app.postgres.engine import tenant_transaction

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


class WhichBody(ReasonBody):
    """Which calls an operator holds: those that fit all that is given."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: Annotated[PlainText, StringConstraints(min_length=1, max_length=500)]
    tool: Name | None = None
    method: Method | None = None
    ordering_key: Key | None = None
    argument: Argument | None = None
    all_calls: bool = Field(default=False, description="Every call of the tenant.")
    effect: Literal["wait", "refuse"] = "wait"
    until: Instant | None = Field(default=None, description="It ends then by itself.")
    dry_run: bool = Field(default=False, description="Only say how many calls it would be of.")

    @model_validator(mode="after")
    def named(self) -> "WhichBody":
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


def router(broker: Parts) -> APIRouter:
    """The routes of holds; each works on the token's own tenant."""
    made = APIRouter(prefix="/operator/holds", route_class=StrictRoute)
    engine = broker.database.engine

    @made.get("")
    async def listed(
        request: Request,
        ended: bool = False,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        """The holds in force, the oldest first; with `ended` all there were, the newest first."""
        who = operator_of(request)
        if not ended:
            found = await holds.in_force(engine, who.tenant_id)
            return reply(200, {"holds": [shown(one) for one in found], "before": None})
        async with tenant_transaction(engine, who.tenant_id) as conn:
            found = await hold_rows.newest(
                conn, tenant_id=who.tenant_id, before=before, limit=limit
            )
        more = str(found[-1].id) if len(found) == limit else None
        return reply(200, {"holds": [shown(one) for one in found], "before": more})

    @made.post("")
    async def place(request: Request, body: WhichBody) -> Response:
        """Hold calls: they are accepted and wait, or are refused. In force when this answers."""
        who = operator_of(request)
        await _known(broker, body)
        if body.dry_run:
            queued, in_flight = await holds.preview(engine, who.tenant_id, body.which)
            told = {"dry_run": True, "queued": queued, "in_flight": in_flight}
            return reply(200, told | {"counted_up_to": hold_rows.COUNT_MAX})
        placed = await holds.place(
            engine,
            who.tenant_id,
            body.which,
            effect=body.effect,
            reason=body.reason,
            until=body.until,
            actor=f"operator:{who.user_id}",
        )
        broker.holds.forget(who.tenant_id)
        told = {"queued": placed.queued, "in_flight": placed.in_flight, "leaving": placed.leaving}
        return reply(201, shown(placed.hold) | told | {"counted_up_to": hold_rows.COUNT_MAX})

    @made.post("/{hold_id}/release")
    async def release(request: Request, hold_id: UUID, body: ReasonBody) -> Response:
        """End a hold: what waits for it goes on."""
        who = operator_of(request)
        actor = f"operator:{who.user_id}"
        found = await holds.release(engine, who.tenant_id, hold_id, actor=actor, reason=body.reason)
        broker.holds.forget(who.tenant_id)
        broker.notifier.outbox()
        return reply(200, shown(found))

    return made


async def _known(broker: Parts, body: WhichBody) -> None:
    """What was mistyped holds nothing.

    Raises:
        UnknownToolError: there is no such tool or method.
        BadRequestError: it would end before it begins.
    """
    if body.until is not None and body.until <= datetime.now(body.until.tzinfo):
        raise BadRequestError("until has passed.")
    if body.tool is None:
        return
    paths = await broker.catalog.tools()
    named = {method for tool, method in paths if tool == body.tool}
    if not named or body.method not in {None, *named}:
        path = body.tool if body.method is None else f"{body.tool}/{body.method}"
        raise UnknownToolError(f"There is no tool {path!r} in service.")
