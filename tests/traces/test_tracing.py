"""Whether spans are recorded, of which traces, and what their way out costs where there is none."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import sampling
from prometheus_client import REGISTRY

from app.config.otel import OtelSettings
from app.logs import JsonFormatter
from app.traces import file
from app.traces.context import HERE, Context, Here
from app.traces.otlp import INTERNAL, Span
from app.traces.playbooks import PlaySettings
from app.traces.tracing import made
from tests.support.traced import Opened

CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = CLIENT[:-1] + "0"

OFF = """
import json, os, sys
import app.edges.server, relay.__main__, worker.__main__
from app.traces import tracing

class Settings:
    trace_path = None
    trace_attributes = ()

before = set(sys.modules)
for variables in json.loads(sys.argv[1]):
    os.environ.clear()
    os.environ.update(variables)
    assert tracing.opened(Settings(), service="app") is None, variables
    assert set(sys.modules) == before, variables
loaded = [name for name in before if name.startswith(("opentelemetry.sdk", "opentelemetry.exp"))]
assert not loaded, loaded
"""
UNASKED = [
    {"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"},
    {},
]


def span(at: Context, name: str = "a span") -> Span:
    return Span(at=at, parent=None, name=name, kind=INTERNAL, start_ns=1, end_ns=2)


@pytest.mark.guarantee("traces:off")
def test_where_no_variable_asks_for_it_nothing_is_imported() -> None:
    argv = [sys.executable, "-c", OFF, json.dumps(UNASKED)]
    done = subprocess.run(argv, env=UNASKED[0], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "00-zz",
        CLIENT.upper(),
        f"ff{CLIENT[2:]}",
        f"00-{'0' * 32}-b7ad6b7169203331-01",
        f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01",
    ],
)
def test_what_is_no_traceparent_is_no_parent(opened: Opened, text: str | None) -> None:
    tracing = opened().tracing
    assert tracing is not None
    place = tracing.serve(text)
    assert (place.parent, place.links, place.at.sampled) == (None, (), True)
    assert Context.read(place.at.traceparent) == place.at


def test_a_client_is_a_parent_or_only_a_link_as_the_setting_says(opened: Opened) -> None:
    client = Context.read(CLIENT)
    assert client is not None
    parent, link = opened().tracing, opened(links_clients=True).tracing
    assert parent is not None
    assert link is not None
    place = parent.serve(CLIENT)
    assert (place.at.trace_id, place.parent, place.links) == (client.trace_id, client.span_id, ())
    place = link.serve(UNSAMPLED)
    assert place.at.trace_id != client.trace_id
    assert place.at.sampled, "a stranger does not say what is recorded"
    assert (place.parent, [one.span_id for one in place.links]) == (None, [client.span_id])
    ours = link.serve(CLIENT, ours=True)
    assert ours.parent == client.span_id


def test_what_its_parent_does_not_sample_is_not_sent(opened: Opened) -> None:
    sent = opened()
    assert sent.tracing is not None
    sent.tracing.record(span(sent.tracing.serve(UNSAMPLED).at, "no"))
    sent.tracing.record(span(sent.tracing.serve(CLIENT).at, "yes"))
    assert [one.name for one in sent.spans()] == ["yes"]


def test_a_sampler_of_opentelemetrys_decides(opened: Opened) -> None:
    for sampler, expected in ((sampling.ALWAYS_OFF, 0), (sampling.DEFAULT_OFF, 1)):
        sent = opened(sampler=sampler)
        assert sent.tracing is not None
        sent.tracing.record(span(sent.tracing.serve(None).at))
        sent.tracing.record(span(sent.tracing.serve(CLIENT).at))
        assert len(sent.spans()) == expected


def test_what_comes_faster_than_it_can_be_sent_is_dropped_and_told(
    opened: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    otel = OtelSettings(bsp_max_queue_size=10, bsp_schedule_delay=60_000)
    sent = opened(otel=otel)
    assert sent.tracing is not None
    before = dropped("full")
    with caplog.at_level(logging.INFO):
        for _ in range(25):
            sent.tracing.record(span(sent.tracing.serve(None).at))
    assert len(sent.spans()) == 10
    assert [line.message for line in caplog.records if "dropped" in line.message]
    assert dropped("full") - before == 15


def dropped(why: str) -> float:
    value = REGISTRY.get_sample_value("mcpbroker_dropped_spans_total", {"why": why})
    assert value is not None, "it is counted from the start"
    return value


@pytest.mark.guarantee("traces:dropped")
def test_what_no_collector_takes_is_counted_and_keeps_the_file_from_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    settings = PlaySettings(trace_path=tmp_path / "spans")
    tracing = made(settings, service="test")
    assert tracing is not None
    before = dropped("unsent")
    for name in ("one", "two"):
        tracing.record(span(tracing.serve(None).at, name))
    tracing.send()
    assert dropped("unsent") - before == 2
    assert [one.name for one in file.read(tmp_path / "spans")] == ["one", "two"]


@pytest.mark.guarantee("traces:dropped")
def test_a_sink_that_breaks_loses_its_own_spans_alone(opened: Opened) -> None:
    def full(_: bytes) -> bool:
        raise OSError(28, "No space left on device")

    kept: list[bytes] = []

    def keeps(request: bytes) -> bool:
        kept.append(request)
        return True

    sent = opened(sinks=[full, keeps])
    assert sent.tracing is not None
    before = dropped("unsent")
    sent.tracing.record(span(sent.tracing.serve(None).at))
    sent.tracing.close()
    assert len(kept) == 1
    assert dropped("unsent") - before == 1


def test_a_log_line_names_the_span_that_it_is_written_in(opened: Opened) -> None:
    handler = logging.StreamHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        sent = opened()
        assert sent.tracing is not None
        at = sent.tracing.serve(None).at
        record = logging.makeLogRecord({"msg": "accepted"})
        token = HERE.set(Here(at))
        handler.filter(record)
        HERE.reset(token)
        line = JsonFormatter().format(record)
        assert f'"trace_id":"{at.trace_id.hex()}","span_id":"{at.span_id.hex()}"' in line
        outside = logging.makeLogRecord({"msg": "accepted"})
        handler.filter(outside)
        assert "trace_id" not in JsonFormatter().format(outside)
        sent.tracing.close()
        assert not handler.filters
    finally:
        root.removeHandler(handler)
