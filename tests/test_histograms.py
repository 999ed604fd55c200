"""Native histograms: their buckets, and what google's protobuf reads of what is scraped."""

import math
from typing import Any, Final

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge

from app import families
from app.histograms import LONGEST_S, ZERO_S, Histogram, bucket_of

TYPES: Final = {"string": 9, "double": 1, "uint64": 4, "sint32": 17, "sint64": 18, "uint32": 13}
TYPES_MORE: Final = {"int64": 3, "int32": 5}
SPECIFIED: Final = """
    LabelPair: name 1 string, value 2 string
    Timestamp: seconds 1 int64, nanos 2 int32
    Exemplar: label 1 *LabelPair, value 2 double, timestamp 3 Timestamp
    Gauge: value 1 double
    Counter: value 1 double, exemplar 2 Exemplar
    Bucket: cumulative_count 1 uint64, upper_bound 2 double, exemplar 3 Exemplar
    BucketSpan: offset 1 sint32, length 2 uint32
    Histogram: sample_count 1 uint64, sample_sum 2 double, bucket 3 *Bucket, schema 5 sint32,
      zero_threshold 6 double, zero_count 7 uint64, positive_span 12 *BucketSpan,
      positive_delta 13 *sint64
    Metric: label 1 *LabelPair, gauge 2 Gauge, counter 3 Counter, histogram 7 Histogram
    MetricFamily: name 1 string, help 2 string, type 3 int32, metric 4 *Metric
"""
"""Of client_model's metrics.proto, what is used."""


def family_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="metrics.proto", package="p", syntax="proto2")
    for line in SPECIFIED.replace(",\n", ",").strip().splitlines():
        name, _, fields = line.strip().partition(": ")
        message = file.message_type.add(name=name)
        for one in fields.split(","):
            called, number, kind = one.split()
            field: Any = message.field.add(name=called, number=int(number))
            field.label = 3 if kind.startswith("*") else 1
            plain = (TYPES | TYPES_MORE).get(kind.removeprefix("*"))
            field.type = plain or 11
            if plain is None:
                field.type_name = f".p.{kind.removeprefix('*')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.MetricFamily"))


def read(written: bytes) -> dict[str, Any]:
    """Families by name."""
    made, found, at = family_class(), dict[str, Any](), 0
    while at < len(written):
        size = shift = 0
        while True:
            byte = written[at]
            at += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        one = made.FromString(written[at : at + size])
        assert one.name not in found
        found[one.name], at = one, at + size
    return found


def buckets(histogram: Any) -> dict[int, int]:
    """Counts by number, as the specification of spans and deltas has it."""
    found, at, count, deltas = dict[int, int](), 0, 0, iter(histogram.positive_delta)
    for span in histogram.positive_span:
        at += span.offset
        for _ in range(span.length):
            count += next(deltas)
            found[at] = count
            at += 1
    assert not list(deltas)
    return found


@pytest.mark.guarantee("metrics:native")
@given(st.floats(ZERO_S, LONGEST_S, exclude_min=True))
def test_a_value_is_in_the_bucket_of_the_formula(value: float) -> None:
    number = bucket_of(value)
    assert number is not None
    lower, upper = 2 ** ((number - 1) / 8), 2 ** (number / 8)
    assert lower * (1 - 1e-15) < value <= upper * (1 + 1e-15)


@pytest.mark.parametrize("value", [0.0, -1.0, -math.inf, math.nan, ZERO_S, 5e-324])
def test_what_is_no_time_is_in_the_bucket_of_zero(value: float) -> None:
    assert bucket_of(value) is None


def test_what_takes_for_ever_is_in_the_last_bucket() -> None:
    assert bucket_of(math.inf) == bucket_of(LONGEST_S) == bucket_of(1e300) == 240


TIMES = st.lists(st.sampled_from([0.0, 1.0, 2.0]) | st.floats(0, 1e6), max_size=50)


@pytest.mark.guarantee("metrics:native")
@given(TIMES, TIMES)
def test_what_prometheus_is_given_says_what_was_counted(one: list[float], two: list[float]) -> None:
    registry = CollectorRegistry()
    times = Histogram("x_seconds", "Times.", ["tool"], buckets=(1, 5), registry=registry)
    for tool, values in (("a", one), ("b", two)):
        for value in values:
            times.labels(tool).observe(value)
    told = read(families.encoded(registry))
    assert set(told) <= {"x_seconds"}
    by_tool = {metric.label[0].value: metric.histogram for metric in told["x_seconds"].metric}
    for tool, values in (("a", one), ("b", two)):
        if not values:
            assert tool not in by_tool
            continue
        found = by_tool[tool]
        assert found.sample_count == len(values)
        assert found.sample_sum == pytest.approx(sum(values))
        assert (found.schema, found.zero_threshold) == (3, ZERO_S)
        assert found.zero_count == sum(bucket_of(value) is None for value in values)
        numbers = [number for value in values if (number := bucket_of(value)) is not None]
        assert buckets(found) == {number: numbers.count(number) for number in numbers}
        classic = [(bucket.upper_bound, bucket.cumulative_count) for bucket in found.bucket]
        assert classic == [(bound, sum(value <= bound for value in values)) for bound in (1, 5)]


def test_every_other_figure_is_there_with_labels_and_exemplars() -> None:
    registry = CollectorRegistry()
    Counter("calls", "Calls.", ["how"], registry=registry).labels('n"🎉\n').inc(3)
    Gauge("depth", "Depth.", registry=registry).set(-2.5)
    times = Histogram("x_seconds", "Times.", buckets=(1,), registry=registry)
    times.observe(9, {"trace_id": "abc"})
    told = read(families.encoded(registry))
    assert {name: one.type for name, one in told.items()} == {
        "calls_total": 0,
        "depth": 1,
        "x_seconds": 4,
    }
    [counted] = told["calls_total"].metric
    assert [(one.name, one.value) for one in counted.label] == [("how", 'n"🎉\n')]
    assert counted.counter.value == 3
    assert told["depth"].metric[0].gauge.value == -2.5
    exemplar = told["x_seconds"].metric[0].histogram.bucket[-1].exemplar
    assert (exemplar.label[0].value, exemplar.value) == ("abc", 9)
    assert exemplar.timestamp.seconds > 1_700_000_000
