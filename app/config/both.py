"""Settings that the app and the relay share; give both the same values."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from app.config.field import REQUIRED, Count, Seconds, setting


class BothSettings(BaseSettings):
    """What both deployments read."""

    database_url: SecretStr = setting(
        REQUIRED,
        "The PostgreSQL database (15 to 18), as postgresql://user:password@host:port/name.",
        change="Always; the app connects as a member of broker_app, the relay of broker_relay.",
    )
    database_pool_max: Count = setting(
        10,
        "The most connections of a process for everyday queries.",
        unit="connections",
        change="Raise it when requests wait for a connection; count it into max_connections.",
    )
    result_bytes_max: Count = setting(
        4 << 20,
        "The largest result that an adapter may report; a larger one is refused with 413.",
        unit="bytes",
        change="Raise it for tools with large results; PostgreSQL keeps each one.",
    )
    deadline_s: Seconds = setting(
        3600,
        "The deadline of a call that names none, and whose tool and saga step set none.",
        unit="seconds",
        change="When most of your tools are done much sooner, or later.",
    )
    cancel_grace_s: Seconds = setting(
        30,
        "How long a running adapter has to acknowledge a cancellation; then its attempt is lost.",
        unit="seconds",
        change="Raise it where adapters look for a cancellation more seldom.",
    )
    bodies_kept_s: Seconds = setting(
        30 * 86400,
        "How long an ended command keeps its arguments, result, error text and progress.",
        unit="seconds",
        change="To what your rules on personal data, or your callers, ask for.",
    )
    catalog_kept_s: Seconds = setting(
        5,
        "How long tools, tenants and grants are kept in memory where no notification comes.",
        unit="seconds",
        change="Rarely: a change is announced, and this bounds a lost announcement.",
    )
    poll_s: Seconds = setting(
        1,
        "How often work is looked for without a notification.",
        unit="seconds",
        change="Rarely: a higher value saves queries and costs latency where LISTEN fails.",
    )
    notify_coalesce_ms: float = setting(
        5,
        "How long wakeups are gathered before one NOTIFY is sent.",
        unit="milliseconds",
        change="Rarely: a NOTIFY serializes commits, so less than this costs throughput.",
        gt=0,
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
