"""Metrics as Prometheus's protobuf: the one format of it that carries native histograms.

`MetricFamily` of client_model's io/prometheus/client/metrics.proto, each with its length before it.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Final

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.samples import Exemplar, Sample

from app.histograms import SCHEMA, ZERO_S, Counts, Family, Labels
from app.protobuf import double, field, integer, signed, text, varint

MEDIA_TYPE: Final = "application/vnd.google.protobuf"
CONTENT_TYPE: Final = f"{MEDIA_TYPE}; proto=io.prometheus.client.MetricFamily; encoding=delimited"

COUNTER, GAUGE, HISTOGRAM = 0, 1, 4
"""Of `MetricType`. What is of another type is told as a gauge."""
_COUNTER, _GAUGE, _HISTOGRAM = 3, 2, 7
"""Fields of `Metric`."""
NANOSECONDS: Final = 10**9


def encoded(registry: CollectorRegistry) -> bytes:
    """All that a registry has; native buckets beside the classic ones."""
    families = (one for family in registry.collect() for one in _families(family))
    return b"".join(varint(len(one)) + one for one in families)


def _families(family: Metric) -> Iterator[bytes]:
    match family:
        case Family():
            yield _family(family.name, family, HISTOGRAM, _histograms(family))
        case Metric(type="counter"):
            name = f"{family.name}_total"
            yield _family(name, family, COUNTER, _numbers(family.samples, name, _COUNTER))
        case _:
            for name in sorted({one.name for one in family.samples}):
                yield _family(name, family, GAUGE, _numbers(family.samples, name, _GAUGE))


def _family(name: str, family: Metric, kind: int, metrics: Iterable[bytes]) -> bytes:
    head = text(1, name) + text(2, family.documentation) + integer(3, kind)
    return head + b"".join(field(4, one) for one in metrics)


def _labels(labels: Iterable[tuple[str, str]]) -> bytes:
    return b"".join(field(1, text(1, name) + text(2, value)) for name, value in labels)


def _numbers(samples: Sequence[Sample], name: str, of: int) -> Iterator[bytes]:
    for one in samples:
        if one.name == name:
            yield _labels(one.labels.items()) + field(of, double(1, one.value))


def _histograms(family: Family) -> Iterator[bytes]:
    """Classic buckets were read before the native ones: so the count, of these, is none too low."""
    classic: dict[Labels, list[bytes]] = {labels: [] for labels in family.native}
    sums: dict[Labels, float] = {}
    for one in family.samples:
        labels = tuple(sorted((name, value) for name, value in one.labels.items() if name != "le"))
        if labels not in classic:  # a series that began in between
            continue
        if one.name.endswith("_bucket"):
            classic[labels].append(_bucket(one))
        elif one.name.endswith("_sum"):
            sums[labels] = one.value
    for labels, counts in family.native.items():
        if labels in sums:
            head = integer(1, counts.total) + double(2, sums[labels])
            of = head + b"".join(classic[labels]) + _native(counts)
            yield _labels(labels) + field(_HISTOGRAM, of)


def _bucket(sample: Sample) -> bytes:
    bound = float(sample.labels["le"])
    exemplar = b"" if sample.exemplar is None else field(3, _exemplar(sample.exemplar))
    if bound == inf and not exemplar:  # the count says it
        return b""
    return field(3, integer(1, int(sample.value)) + double(2, bound) + exemplar)


def _exemplar(exemplar: Exemplar) -> bytes:
    said = _labels(exemplar.labels.items()) + double(2, exemplar.value)
    at_ns = int(float(exemplar.timestamp or 0) * NANOSECONDS)
    seconds, rest = divmod(at_ns, NANOSECONDS)
    return said + field(3, integer(1, seconds) + integer(2, rest))


def _native(counts: Counts) -> bytes:
    """Runs of buckets that follow one another, and each bucket's count less that of the last."""
    buckets = sorted(counts.by_bucket)
    gaps = [here - before - 1 for before, here in pairwise(buckets)]
    spans: list[tuple[int, int]] = []
    for offset in [*buckets[:1], *gaps]:
        if spans and offset == 0:
            spans[-1] = (spans[-1][0], spans[-1][1] + 1)
        else:
            spans.append((offset, 1))
    totals = [counts.by_bucket[one] for one in buckets]
    deltas = [here - before for before, here in pairwise([0, *totals])]
    return b"".join(
        [
            signed(5, SCHEMA),
            double(6, ZERO_S),
            integer(7, counts.zero),
            *(field(12, signed(1, offset) + integer(2, length)) for offset, length in spans),
            *(signed(13, one) for one in deltas),
        ]
    )
