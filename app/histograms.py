"""Histograms that also count by buckets of no one's choosing: Prometheus's native ones.

Beside its classic buckets each keeps counts in those that a formula gives, eight to a factor of two
(schema 3 of Prometheus's native histograms, scale 3 of OpenTelemetry's exponential ones), so that a
percentile is off by 4.5 % at most. `app.families` shows them to Prometheus, `app.traces.figures` to
OTLP. prometheus_client has none of its own.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping
from math import frexp
from threading import Lock
from typing import Final, NamedTuple

import prometheus_client
from prometheus_client import Metric

SCHEMA: Final = 3
PER_OCTAVE: Final = 1 << SCHEMA
ZERO_S: Final = 2.0**-20
"""A microsecond; what took no longer took no time."""
LONGEST_S: Final = 2.0**30
"""Thirty-four years; with it the number of buckets is bounded."""
_BOUNDS: Final = tuple(2 ** (step / PER_OCTAVE - 1) for step in range(PER_OCTAVE))

Labels = tuple[tuple[str, str], ...]
"""Names and values, in the order of the names."""


class Counts(NamedTuple):
    """How many there were, by bucket: number k is for those above 2**((k-1)/8), up to 2**(k/8)."""

    zero: int
    by_bucket: Mapping[int, int]

    @property
    def total(self) -> int:
        """Of all."""
        return self.zero + sum(self.by_bucket.values())


def bucket_of(value: float) -> int | None:
    """The number of a value's bucket; None for that of zero."""
    if not value > ZERO_S:  # NaN too
        return None
    part, power = frexp(min(value, LONGEST_S))
    return bisect_left(_BOUNDS, part) + (power - 1) * PER_OCTAVE


class Family(Metric):
    """A histogram's samples, and what its native buckets hold then, or a little later."""

    native: Mapping[Labels, Counts]


class Histogram(prometheus_client.Histogram):
    """As prometheus_client has it, counted natively as well."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        """Count one."""
        super().observe(amount, exemplar)
        bucket = bucket_of(amount)
        with self._counting:
            if bucket is None:
                self._zero += 1
            else:
                self._by_bucket[bucket] = self._by_bucket.get(bucket, 0) + 1

    def collect(self) -> Iterable[Metric]:
        """Its family, with the native buckets of each series."""
        family = self._get_metric()
        for one in super().collect():
            family.samples = one.samples
        family.native = dict(self._series())
        return [family]

    def counts(self) -> Counts:
        """What a series holds now."""
        with self._counting:
            return Counts(self._zero, dict(self._by_bucket))

    def _metric_init(self) -> None:
        super()._metric_init()
        self._counting = Lock()
        self._zero = 0
        self._by_bucket = dict[int, int]()

    def _get_metric(self) -> Family:
        return Family(self._name, self._documentation, "histogram", self._unit)

    def _series(self) -> Iterable[tuple[Labels, Counts]]:
        if self._is_observable():
            yield (), self.counts()
            return
        with self._lock:
            series = dict(self._metrics)
        for values, one in series.items():
            yield tuple(sorted(zip(self._labelnames, values, strict=True))), one.counts()
