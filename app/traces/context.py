"""Where in a trace something happens: W3C trace context, and spans that every process can name.

A span's id is drawn from what it is of, so whoever speaks of a command names the same parent, also
after a process was killed that would have told it.
"""

import re
from contextvars import ContextVar
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple, Self

_TRACEPARENT: Final = re.compile(
    "(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)
_SAMPLED: Final = 1


class Context(NamedTuple):  # each call makes some, and a frozen dataclass takes thrice the time
    """A span's place: its trace, itself, and whether the trace is recorded."""

    trace_id: bytes
    span_id: bytes
    sampled: bool = True

    @classmethod
    def read(cls, traceparent: str | None) -> Self | None:
        """Of a `traceparent` (W3C Trace Context); None where it is none."""
        found = None if traceparent is None else _TRACEPARENT.fullmatch(traceparent)
        if found is None:
            return None
        trace_id, span_id, flags = found.groups()
        sampled = bool(int(flags, 16) & _SAMPLED)
        return cls(bytes.fromhex(trace_id), bytes.fromhex(span_id), sampled)

    @property
    def traceparent(self) -> str:
        """As it goes along with a request."""
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-0{int(self.sampled)}"

    def of(self, *what: object) -> "Context":
        """The span of something, in this trace: the same wherever it is asked for."""
        named = b"\0".join([self.trace_id, *(str(one).encode() for one in what)])
        return Context(self.trace_id, blake2b(named, digest_size=8).digest(), self.sampled)

    def command(self, command_id: object) -> "Context":
        """The span of a command's whole life."""
        return self.of("command", command_id)

    def sent(self, command_id: object, attempt: int, delivery: int) -> "Context":
        """The span of an attempt's publication; deliveries of an attempt count from 0."""
        return self.of("send", command_id, attempt, delivery)

    def attempt(self, command_id: object, attempt: int) -> "Context":
        """The span of the work on an attempt, from its claim to its end."""
        return self.of("process", command_id, attempt)


@dataclass(slots=True)
class Here:
    """The span that this task works for, and those that it turned out to be about."""

    at: Context
    links: tuple[Context, ...] = ()


HERE: Final[ContextVar[Here | None]] = ContextVar("span", default=None)


def traceparent_here(given: str | None) -> str | None:
    """What a call is told to be a child of: the span that serves it, else what its client said."""
    here = HERE.get()
    return given if here is None else here.at.traceparent


def link_command(traceparent: str | None, command_id: object) -> None:
    """Say that the span that is served here is about a command of another trace."""
    here = HERE.get()
    found = None if here is None else Context.read(traceparent)
    if here is not None and found is not None:
        here.links += (found.command(command_id),)


def claimed(traceparent: str | None, command_id: object, attempt: int) -> str | None:
    """What an adapter's work is a child of: the span of its attempt."""
    found = Context.read(traceparent)
    return traceparent if found is None else found.attempt(command_id, attempt).traceparent


def log_ids(traceparent: str | None) -> dict[str, str]:
    """What a log line about a command says of its trace, where it has one."""
    found = Context.read(traceparent)
    if found is None:
        return {}
    return {"trace_id": found.trace_id.hex(), "span_id": found.span_id.hex()}
