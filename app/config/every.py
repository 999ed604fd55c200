"""Settings of every deployment: its log, metrics and spans, and how large a result may be."""

from pathlib import Path
from typing import Literal

from pydantic_settings import BaseSettings

from app.config.field import Count, setting


class EverySettings(BaseSettings):
    """What app, relay and worker read; each has its own values, but for result_bytes_max."""

    result_bytes_max: Count = setting(
        4 << 20,
        "The largest result that an adapter may report; a larger one is refused with 413.",
        unit="bytes",
        change="Raise it for tools with large results; PostgreSQL keeps each one.",
    )
    metrics_host: str = setting(
        "127.0.0.1",
        "The address on which metrics are served.",
        change="Where Prometheus is on another machine; let nobody else in.",
    )
    metrics_port: int | None = setting(
        None,
        "The port of Prometheus metrics, at /metrics. None: they are not served.",
        change="Set it in production; deploy/alerts.yml needs the metrics.",
        gt=0,
        le=65535,
    )
    metrics_native: bool = setting(
        False,
        "Whether a Prometheus that asks for protobuf gets native histograms, too.",
        change="True where it takes native ones, and is told to keep the classic ones as well.",
    )
    log_level: str = setting(
        "INFO",
        "The least severe log level that is written: DEBUG, INFO, WARNING or ERROR.",
        change="WARNING saves a line for each call.",
    )
    log_json: bool = setting(
        True,
        "Whether log lines are JSON, for machines; false is text for people.",
        change="False on a developer's terminal.",
    )
    trace_path: Path | None = setting(
        None,
        "A file that spans are appended to, as lines of OTLP JSON; broker trace reads it.",
        change="Where no collector is: app, relay and worker of one machine may share one.",
    )
    trace_attributes: frozenset[Literal["correlation_id", "tenant_id"]] = setting(
        frozenset(),
        "JSON list of what spans say beside their tool: correlation_id, tenant_id.",
        change="Where whoever reads the traces may know it.",
    )
