"""Prometheus's metrics by OTLP: the same figures, by the same names, pushed."""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from time import time_ns
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Buckets,
    ExponentialHistogram,
    ExponentialHistogramDataPoint,
    Gauge,
    Histogram,
    HistogramDataPoint,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Metric as Told
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import REGISTRY, Metric
from prometheus_client.samples import Sample

from app import assets
from app.histograms import SCHEMA, Family, Labels

logger = logging.getLogger(__name__)

SCOPE: Final = "mcp-broker"
STOP_S: Final = 10.0
UNKNOWN: Final[Any] = None
"""Prometheus keeps no extremes of a histogram: the encoder leaves such a field out."""
Data = Sum | Gauge | Histogram | ExponentialHistogram


class Pushed:
    """A thread that pushes what a scrape would read, each time after a pause."""

    def __init__(self, resource: Resource, *, every_s: float, exponential: bool = False) -> None:
        self._resource = resource
        self._every_s = every_s
        self._exponential = exponential
        self._exporter = OTLPMetricExporter()
        self._began_ns = time_ns()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def close(self) -> None:
        """Push what there is now, and end; takes ten seconds at most."""
        self._stop.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        over = False
        while not over:
            over = self._stop.wait(self._every_s)
            try:
                self._exporter.export(self._read())
            except Exception:  # the next push has it all
                logger.exception("metrics could not be pushed")

    def _read(self) -> MetricsData:
        now_ns = time_ns()
        told = [
            Told(name, family.documentation, "", data)
            for family in REGISTRY.collect()
            for name, data in told_of(family, self._began_ns, now_ns, exponential=self._exponential)
            if data.data_points
        ]
        scope = InstrumentationScope(SCOPE, assets.version())
        return MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(scope, told, "")], "")])


def told_of(
    family: Metric, began_ns: int, now_ns: int, *, exponential: bool = False
) -> Iterable[tuple[str, Data]]:
    """A family's figures under the name that a scrape has them by; times since 1970.

    `exponential` tells histograms in their native buckets, not in the classic ones.
    """
    times = (began_ns, now_ns)
    match family:
        case Family() if exponential:
            told = _exponential(family, *times)
            yield family.name, ExponentialHistogram(told, AggregationTemporality.CUMULATIVE)
        case Metric(type="counter"):
            name = f"{family.name}_total"
            points = _numbers(family.samples, name, *times)
            yield name, Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        case Metric(type="histogram"):
            points = _histograms(family, *times)
            yield family.name, Histogram(points, AggregationTemporality.CUMULATIVE)
        case _:
            names = {one.name for one in family.samples}
            for name in sorted(names):
                yield name, Gauge(_numbers(family.samples, name, *times))


def _numbers(
    samples: Sequence[Sample], name: str, began_ns: int, now_ns: int
) -> list[NumberDataPoint]:
    return [
        NumberDataPoint(dict(one.labels), began_ns, now_ns, float(one.value))
        for one in samples
        if one.name == name
    ]


def _exponential(family: Family, began_ns: int, now_ns: int) -> list[ExponentialHistogramDataPoint]:
    sums = {
        tuple(sorted(one.labels.items())): float(one.value)
        for one in family.samples
        if one.name.endswith("_sum")
    }
    return [
        ExponentialHistogramDataPoint(
            attributes=dict(labels),
            start_time_unix_nano=began_ns,
            time_unix_nano=now_ns,
            count=counts.total,
            sum=sums[labels],
            scale=SCHEMA,
            zero_count=counts.zero,
            positive=_buckets(counts.by_bucket),
            negative=Buckets(0, []),
            flags=0,
            min=UNKNOWN,
            max=UNKNOWN,
        )
        for labels, counts in family.native.items()
        if labels in sums  # else it began in between
    ]


def _buckets(counts: Mapping[int, int]) -> Buckets:
    """Prometheus's buckets are numbered by their upper bounds, OTLP's by their lower ones."""
    if not counts:
        return Buckets(0, [])
    first, last = min(counts), max(counts)
    return Buckets(first - 1, [counts.get(one, 0) for one in range(first, last + 1)])


def _histograms(family: Metric, began_ns: int, now_ns: int) -> list[HistogramDataPoint]:
    """Prometheus's buckets count all below their bound, OTLP's what no smaller one has."""
    found: dict[Labels, dict[float, int]] = defaultdict(dict)
    sums: dict[Labels, float] = {}
    for one in family.samples:
        labels = tuple(sorted((name, value) for name, value in one.labels.items() if name != "le"))
        if one.name.endswith("_bucket"):
            found[labels][float(one.labels["le"])] = int(one.value)
        elif one.name.endswith("_sum"):
            sums[labels] = float(one.value)
    points: list[HistogramDataPoint] = []
    for labels, buckets in found.items():
        bounds = sorted(buckets)
        totals = [buckets[bound] for bound in bounds]
        counts = [now - before for before, now in pairwise([0, *totals])]
        points.append(
            HistogramDataPoint(
                attributes=dict(labels),
                start_time_unix_nano=began_ns,
                time_unix_nano=now_ns,
                count=totals[-1],
                sum=sums[labels],
                bucket_counts=counts,
                explicit_bounds=bounds[:-1],
                min=UNKNOWN,
                max=UNKNOWN,
            )
        )
    return points
