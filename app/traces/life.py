"""A command's life as spans, made of its audit events once it has ended.

They are in the database before anything is told of them, so nobody's death loses one. A relay makes
them as it publishes the end (`relay.traces`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final
from uuid import UUID

from app.traces import names
from app.traces.context import Context
from app.traces.otlp import CONSUMER, INTERNAL, Attributes, Span, Value

ACCEPTED: Final = "command.accepted"
DISPATCHED: Final = "command.dispatched"
CLAIMED: Final = "command.claimed"
AGAIN: Final = frozenset({"command.retry", "command.redeliver"})
REDRIVEN: Final = "command.redrive"
ENDS: Final = frozenset(
    f"command.{state}"
    for state in ("succeeded", "failed", "cancelled", "timed_out", "dead_lettered")
)
TOLD: Final = frozenset({ACCEPTED, DISPATCHED, CLAIMED, REDRIVEN, *AGAIN, *ENDS})
"""Types of audit events that say when something of a life began or ended."""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """An audit event of a command, as far as its spans need it."""

    type: str
    at: datetime
    attempt: int
    topic: str | None = None
    """Where it was published."""
    run: str | None = None
    """Who claimed it."""
    code: str | None = None
    """Why it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """A command that has ended, and what happened to it, oldest first."""

    command_id: UUID
    tenant_id: str
    tool: str
    method: str
    traceparent: str | None
    saga_id: UUID | None
    """Of a step of a saga that has a command of its own, in the same trace."""
    step: str | None
    role: str | None
    undoes_id: UUID | None
    """The command whose work it undid."""
    moments: Sequence[Moment]


def spans_of(life: Life, who: Attributes = ()) -> list[Span]:
    """The spans of the part of a life that has ended last: of all of it, or since its redrive."""
    front = Context.read(life.traceparent)
    if front is None or not life.moments:
        return []
    part = _last_part(life.moments)
    if not part or part[-1].type not in ENDS:
        return []
    told = _Telling(life, part, front, who)
    return [told.whole(), *told.attempts()]


def _last_part(moments: Sequence[Moment]) -> Sequence[Moment]:
    """Since it was accepted, or driven again, to the end that came last."""
    begins = [n for n, one in enumerate(moments) if one.type in {ACCEPTED, REDRIVEN}]
    ends = [n for n, one in enumerate(moments) if one.type in ENDS]
    if not begins or not ends:
        return []
    begin = max((n for n in begins if n < ends[-1]), default=begins[0])
    return moments[begin : ends[-1] + 1]


@dataclass(frozen=True, slots=True)
class _Telling:
    """A part of a life, being told."""

    life: Life
    part: Sequence[Moment]
    front: Context
    who: Attributes

    @property
    def command(self) -> Context:
        """The span of the whole, which all others are below."""
        return self.front.command(self.life.command_id)

    def whole(self) -> Span:
        """The command; or, where it was driven again, what came of that."""
        first, last = self.part[0], self.part[-1]
        at, parent, named = self.command, self._parent(), "command"
        if first.type == REDRIVEN:
            at, parent = at.of("redrive", first.attempt), at.span_id
            named = "redrive"
        undone = self.life.undoes_id
        said: list[tuple[str, Value]] = [
            *names.tool_of(self.life.tool, self.life.method),
            ("mcp_broker.state", last.type.partition(".")[2]),
            ("mcp_broker.attempts", last.attempt - first.attempt + 1),
            *([("mcp_broker.saga.step", self.life.step)] if self.life.step else []),
            *([("mcp_broker.saga.role", self.life.role)] if self.life.role else []),
            *_failed(last),
        ]
        return Span(
            at=at,
            parent=parent,
            name=f"{named} {self.life.tool}.{self.life.method}",
            kind=INTERNAL,
            start_ns=nanoseconds(first.at),
            end_ns=nanoseconds(last.at),
            attributes=tuple(said),
            own=self.who,
            failed=last.type != "command.succeeded",
            links=() if undone is None else (self.front.command(undone),),
        )

    def _parent(self) -> bytes:
        if self.life.saga_id is None:
            return self.front.span_id
        return self.front.command(self.life.saga_id).span_id

    def attempts(self) -> Iterator[Span]:
        """Each wait, and each attempt that was worked on."""
        if self.life.role == "saga":
            return  # no adapter has it: its steps are its children
        deliveries: dict[int, int] = {}
        claimed: set[int] = set()
        before: Moment | None = None
        for one, following in pairwise(self.part):
            if one.type == DISPATCHED:
                deliveries[one.attempt] = deliveries.get(one.attempt, 0) + 1
            if one.type == CLAIMED:
                yield self._work(one, deliveries.get(one.attempt, 1) - 1, before)
                before = one
                claimed.add(one.attempt)
            elif one.type == DISPATCHED and one.attempt not in claimed:
                yield self._wait("wait for an executor", one, following)
            elif one.type != DISPATCHED:
                yield self._wait("wait in the outbox", one, following)

    def _wait(self, name: str, since: Moment, until: Moment) -> Span:
        attempt = until.attempt
        return Span(
            at=self.command.of(name, attempt, since.at.isoformat()),
            parent=self.command.span_id,
            name=name,
            kind=INTERNAL,
            start_ns=nanoseconds(since.at),
            end_ns=nanoseconds(until.at),
            attributes=(("mcp_broker.attempt", attempt),),
        )

    def _work(self, claim: Moment, delivery: int, before: Moment | None) -> Span:
        """An attempt from its claim to what ended it."""
        attempt, known = claim.attempt, self.life.command_id
        ended = next(
            one
            for one in self.part
            if one.at >= claim.at and one.type in {*AGAIN, *ENDS} and one is not claim
        )
        published = [one for one in self.part if one.topic and one.attempt == attempt]
        topic = (published[-1].topic if published else None) or "mcp.commands"
        name, attributes = names.messaging("process", topic)
        parent = self.front.sent(known, attempt, delivery) if published else self.command
        said: list[tuple[str, Value]] = [("mcp_broker.attempt", attempt)]
        said += [*names.tool_of(self.life.tool, self.life.method)]
        said += [("mcp_broker.outcome", ended.type.partition(".")[2]), *_failed(ended)]
        return Span(
            at=self.front.attempt(known, attempt),
            parent=parent.span_id,
            name=name,
            kind=CONSUMER,
            start_ns=nanoseconds(claim.at),
            end_ns=nanoseconds(ended.at),
            attributes=(*attributes, *said),
            own=(("mcp_broker.run", claim.run or "unclaimed"), *self.who),
            failed=ended.type != "command.succeeded",
            links=() if before is None else (self.front.attempt(known, before.attempt),),
        )


def _failed(moment: Moment) -> list[tuple[str, Value]]:
    if moment.type == "command.succeeded":
        return []
    return [
        ("error.type", names.code({"code": moment.code or ""}) or moment.type.partition(".")[2])
    ]


def nanoseconds(at: datetime) -> int:
    """Since 1970; exact, which a float of that size is not."""
    since = at - EPOCH
    return (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
