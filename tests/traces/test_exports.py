"""Log lines and metrics by OTLP, as opentelemetry's own classes have them."""

import json
import logging
import subprocess
import sys

import pytest
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics.export import (
    ExponentialHistogram,
    Gauge,
    Histogram,
    Metric,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client import Gauge as Level
from prometheus_client import Histogram as Times

from app.config.otel import OtelSettings
from app.histograms import Histogram as Native
from app.traces.figures import told_of

OFF = """
import json, os, sys
import app.edges.server, relay.__main__, worker.__main__
from app.traces.exports import exported

before = set(sys.modules)
for variables in json.loads(sys.argv[1]):
    os.environ.clear()
    os.environ.update(variables)
    with exported("app"):
        assert set(sys.modules) == before, variables
"""
UNASKED = [
    {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    {"OTEL_SDK_DISABLED": "true", "OTEL_LOGS_EXPORTER": "otlp"},
    {"OTEL_LOGS_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none"},
]


@pytest.mark.guarantee("traces:off")
def test_where_no_variable_names_otlp_nothing_is_exported() -> None:
    argv = [sys.executable, "-c", OFF, json.dumps(UNASKED)]
    done = subprocess.run(argv, env=UNASKED[0], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_metrics_and_logs_are_asked_for_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "prometheus,otlp")
    otel = OtelSettings()
    assert otel.exports(otel.metrics_exporter)
    assert not otel.exports(otel.logs_exporter)


@pytest.mark.guarantee("metrics:otlp")
def test_each_kind_of_figure_has_the_name_and_the_value_that_a_scrape_has() -> None:
    registry = CollectorRegistry()
    counter = Counter("calls", "Calls.", ["how"], registry=registry)
    counter.labels("new").inc(3)
    Level("depth", "Depth.", registry=registry).set(-2.5)
    times = Times("call_seconds", "Times.", ["tool"], buckets=(1, 5), registry=registry)
    for seconds in (0.5, 0.7, 3, 9, 90):
        times.labels("git").observe(seconds)
    told = {name: data for family in registry.collect() for name, data in told_of(family, 1, 2)}
    scraped = generate_latest(registry).decode()
    assert set(told) == {"calls_total", "depth", "call_seconds"}
    calls, depth, seconds = told["calls_total"], told["depth"], told["call_seconds"]
    assert isinstance(calls, Sum)
    assert isinstance(depth, Gauge)
    assert isinstance(seconds, Histogram)
    assert 'calls_total{how="new"} 3.0' in scraped
    [point] = calls.data_points
    assert (point.attributes, point.value, calls.is_monotonic) == ({"how": "new"}, 3, True)
    assert [one.value for one in depth.data_points] == [-2.5]
    [point] = seconds.data_points
    assert 'call_seconds_bucket{le="5.0",tool="git"} 3.0' in scraped
    assert (point.explicit_bounds, point.bucket_counts) == ([1.0, 5.0], [2, 1, 2])
    assert (point.count, point.sum, point.attributes) == (5, 103.2, {"tool": "git"})
    assert (point.start_time_unix_nano, point.time_unix_nano) == (1, 2)


@pytest.mark.guarantee("metrics:native")
def test_histograms_are_exponential_where_opentelemetrys_variable_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not OtelSettings().exponential
    name = "OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION"
    monkeypatch.setenv(name, "base2_exponential_bucket_histogram")
    assert OtelSettings().exponential
    registry = CollectorRegistry()
    times = Native("call_seconds", "Times.", ["tool"], buckets=(1, 5), registry=registry)
    for seconds in (0, 0.3, 1, 1.01, 1000):
        times.labels("git").observe(seconds)
    [family] = registry.collect()
    [(_, told)] = told_of(family, 1, 2, exponential=True)
    assert isinstance(told, ExponentialHistogram)
    [point] = told.data_points
    assert (point.count, point.sum, point.zero_count) == (5, pytest.approx(1002.31), 1)
    assert (point.scale, point.attributes) == (3, {"tool": "git"})
    counts = {point.positive.offset + n: one for n, one in enumerate(point.positive.bucket_counts)}
    # As the specification has it: bucket n is for what is above base**n, up to base**(n + 1).
    base = 2 ** (2**-3)
    for seconds in (0.3, 1, 1.01, 1000):
        [number] = [n for n in counts if base**n < seconds <= base ** (n + 1)]
        assert counts.pop(number) == 1
    assert not any(counts.values())
    scope = ScopeMetrics(InstrumentationScope("x"), [Metric("call_seconds", "", "", told)], "")
    sent = encode_metrics(MetricsData([ResourceMetrics(Resource({}), [scope], "")]))
    [metric] = sent.resource_metrics[0].scope_metrics[0].metrics
    assert metric.exponential_histogram.data_points[0].scale == 3


def test_a_line_that_cannot_be_told_costs_nobody_its_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from app.traces.log_lines import Exported
    from app.traces.resource import resource

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    handler = Exported(resource("test"))
    record = logging.makeLogRecord({"name": "x", "msg": "%d", "args": ("no number",)})
    handler.handle(record)
    handler.close()
    assert "Logging error" in capsys.readouterr().err
