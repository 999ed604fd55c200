"""Spans as they are encoded, against OpenTelemetry's own reading of the protocol."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.traces.context import Context
from app.traces.otlp import Attributes, Span, request

IDS = st.builds(Context, st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8))
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=2000)
VALUES = TEXTS | st.booleans() | st.integers(-(2**63), 2**63 - 1)
ATTRIBUTES = st.lists(st.tuples(TEXTS, VALUES), max_size=20).map(tuple)
TIMES = st.integers(0, 2**62)
SPANS = st.builds(
    Span,
    at=IDS,
    parent=st.none() | st.binary(min_size=8, max_size=8),
    name=TEXTS,
    kind=st.integers(1, 5),
    start_ns=TIMES,
    end_ns=TIMES,
    attributes=ATTRIBUTES,
    own=ATTRIBUTES,
    failed=st.booleans(),
    links=st.lists(IDS, max_size=3),
)


@given(st.lists(SPANS, max_size=4), ATTRIBUTES)
def test_what_is_encoded_is_read_as_it_was_meant(spans: list[Span], resource: Attributes) -> None:
    read = ExportTraceServiceRequest.FromString(request(resource, ("scope", "1"), spans))
    [of] = read.resource_spans
    assert values(of.resource.attributes) == list(resource)
    [scope] = of.scope_spans
    assert (scope.scope.name, scope.scope.version) == ("scope", "1")
    for span, one in zip(spans, scope.spans, strict=True):
        assert (one.trace_id, one.span_id) == (span.at.trace_id, span.at.span_id)
        assert one.parent_span_id == (span.parent or b"")
        assert (one.name, one.kind, one.flags) == (span.name, span.kind, 1)
        assert one.start_time_unix_nano == span.start_ns
        assert one.end_time_unix_nano == max(span.start_ns, span.end_ns)
        assert values(one.attributes) == [*span.attributes, *span.own]
        assert (one.status.code == 2) == span.failed
        links = [(link.trace_id, link.span_id) for link in one.links]
        assert links == [(link.trace_id, link.span_id) for link in span.links]


def values(attributes: Any) -> list[tuple[str, object]]:
    return [(one.key, getattr(one.value, one.value.WhichOneof("value"))) for one in attributes]
