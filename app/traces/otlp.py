"""A span as OTLP's protobuf: what spans of a kind have in common is encoded once.

The SDK's spans and its encoder took 100 us a span on a busy machine, where these take 12: accepting
a call over HTTP takes some 150 (docs/PERFORMANCE.md). The tests hold it to opentelemetry-proto's
reading.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

from app.protobuf import field, text, varint
from app.traces.context import Context

Value = str | int | bool
Attributes = tuple[tuple[str, Value], ...]

_TIMES: Final = Struct("<BQBQ")
_START, _END = 7 << 3 | 1, 8 << 3 | 1
_SHAPES_MAX: Final = 2048
_FAILED: Final = b"\x7a\x02\x18\x02"  # status: {code: ERROR}
_FLAGS: Final = b"\x85\x01\x01\x00\x00\x00"  # flags: sampled
_LINK_FLAGS: Final = b"\x35\x01\x00\x00\x00"


INTERNAL: Final = 1
SERVER: Final = 2
CLIENT: Final = 3
PRODUCER: Final = 4
CONSUMER: Final = 5
"""Kinds of spans. No enum: its hash would be a tenth of a span's cost."""


class Span(NamedTuple):
    """A span that has ended."""

    at: Context
    parent: bytes | None
    name: str
    kind: int
    start_ns: int
    """Since 1970."""
    end_ns: int
    attributes: Attributes = ()
    """Of few values each: they are encoded once."""
    own: Attributes = ()
    """Of values that hardly another span has."""
    failed: bool = False
    links: Sequence[Context] = ()


def encoded(span: Span) -> bytes:
    """A span as a field of `ScopeSpans`."""
    at, parent = span.at, span.parent
    parts = [
        b"\x0a\x10" + at.trace_id + b"\x12\x08" + at.span_id,
        b"" if parent is None else b"\x22\x08" + parent,
        _TIMES.pack(_START, span.start_ns, _END, max(span.end_ns, span.start_ns)),
        _shape(span.name, span.kind, span.attributes, span.failed),
    ]
    if span.own:
        parts += [_attribute(9, name, value) for name, value in span.own]
    if span.links:
        parts += [
            field(13, b"\x0a\x10" + one.trace_id + b"\x12\x08" + one.span_id + _LINK_FLAGS)
            for one in span.links
        ]
    return field(2, b"".join(parts))


def request(resource: Attributes, scope: tuple[str, str], spans: Iterable[Span]) -> bytes:
    """An `ExportTraceServiceRequest` of one resource and scope."""
    of_resource = b"".join(_attribute(1, name, value) for name, value in resource)
    of_scope = text(1, scope[0]) + text(2, scope[1])
    of_spans = field(1, of_scope) + b"".join(map(encoded, spans))
    return field(1, field(1, of_resource) + field(2, of_spans))


@lru_cache(maxsize=_SHAPES_MAX)
def _shape(name: str, kind: int, attributes: Attributes, failed: bool) -> bytes:
    parts = [text(5, name), b"\x30", varint(kind), _FLAGS, _FAILED if failed else b""]
    return b"".join([*parts, *(_attribute(9, *one) for one in attributes)])


def _attribute(number: int, name: str, value: Value) -> bytes:
    if isinstance(value, bool):
        of = b"\x10" + bytes([value])
    elif isinstance(value, int):
        of = b"\x18" + varint(value & (1 << 64) - 1)
    else:
        of = text(1, value)
    return field(number, text(1, name) + field(2, of))
