"""Prometheus's metrics by OTLP: the same figures, by the same names, pushed."""

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from time import time_ns
from typing import Any, Final

from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
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

logger = logging.getLogger(__name__)

SCOPE: Final = "mcp-broker"
STOP_S: Final = 10.0
UNKNOWN: Final[Any] = None
"""Prometheus keeps no extremes of a histogram: the encoder leaves such a field out."""
Labels = tuple[tuple[str, str], ...]


class Pushed:
    """A thread that pushes what a scrape would read, each time after a pause."""

    def __init__(self, resource: Resource, *, every_s: float) -> None:
        self._resource = resource
        self._every_s = every_s
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
            for name, data in told_of(family, self._began_ns, now_ns)
            if data.data_points
        ]
        scope = InstrumentationScope(SCOPE, assets.version())
        return MetricsData([ResourceMetrics(self._resource, [ScopeMetrics(scope, told, "")], "")])


def told_of(
    family: Metric, began_ns: int, now_ns: int
) -> Iterable[tuple[str, Sum | Gauge | Histogram]]:
    """A family's figures under the name that a scrape has them by; times since 1970."""
    times = (began_ns, now_ns)
    match family.type:
        case "counter":
            name = f"{family.name}_total"
            points = _numbers(family.samples, name, *times)
            yield name, Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
        case "histogram":
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
