"""What a process counts, for Prometheus to read.

No label names a tenant, a user, an ordering key or an id: whoever reads the figures learns how much
there is of something, and nothing of whose it is; schema `ops` has what is by tenant. Tools and
methods are named as the catalog has them, and so many of them at most. The figures are served on a
port of their own, which callers' tokens never reach; to who accepts OpenMetrics, with exemplars.
"""

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Gauge

from app import exposition
from app.histograms import Histogram

EXEMPLAR_EVERY_S: Final = 0.2
TOOLS_MAX: Final = 200
"""Methods that have series of their own in a process; what comes later is `_other`'s."""

SAMPLED: Final = frozenset("13579bdf")
"""The last digit of a traceparent's flags where their lowest bit is set."""


class ByTool:
    """A histogram by tool and method, of which no number of tools makes too many series."""

    def __init__(self, histogram: Histogram, *, tools_max: int = TOOLS_MAX) -> None:
        self._histogram = histogram
        self._tools_max = tools_max
        self._tools = set[tuple[str, str]]()
        self._series: dict[tuple[str, ...], Histogram] = {}
        self._exemplars: dict[tuple[str, ...], tuple[float, float]] = {}

    def observe(
        self, seconds: float, tool: str, method: str, *outcome: str, trace: str | None = None
    ) -> None:
        """Count one; the trace id of a sampled traceparent (W3C) is an exemplar now and then."""
        named = (tool, method, *outcome)
        series = self._series.get(named)
        if series is None:
            series = self._series_of(tool, method, *outcome)
        shown: dict[str, str] | None = None
        if trace is not None and trace[54:55] in SAMPLED and self._is_due(named, seconds):
            shown = {"trace_id": trace[3:35]}
        # Clocks of two machines differ: what took less than nothing took nothing.
        series.observe(max(0.0, seconds), shown)

    def _is_due(self, named: tuple[str, ...], seconds: float) -> bool:
        """Whether it is for an exemplar, which costs more than all the rest of its counting.

        A few a second are, and whatever took longer than the last of them.
        """
        if named not in self._series:
            named = ("_other",)
        now = time.monotonic()
        until, longest = self._exemplars.get(named, (0.0, 0.0))
        if now < until and seconds <= longest:
            return False
        self._exemplars[named] = (now + EXEMPLAR_EVERY_S, seconds)
        return True

    def _series_of(self, tool: str, method: str, *outcome: str) -> Histogram:
        if (tool, method) not in self._tools and len(self._tools) >= self._tools_max:
            return self._histogram.labels("_other", "_other", *outcome)
        self._tools.add((tool, method))
        series = self._histogram.labels(tool, method, *outcome)
        self._series[tool, method, *outcome] = series
        return series


BUILD: Final = Gauge(
    "mcpbroker_build_info",
    "1; its labels are this release and the schema it needs.",
    ["schema", "version"],
)

ACCEPTED: Final = Counter(
    "mcpbroker_accepted_calls", "Calls accepted: new, or repeated with a known key.", ["how"]
)
# A label is looked up under a lock, and these are asked for by every call.
ACCEPTED_NEW: Final = ACCEPTED.labels("new")
ACCEPTED_AGAIN: Final = ACCEPTED.labels("repeated")
ACCEPT_S: Final = ByTool(
    Histogram(
        "mcpbroker_accept_seconds",
        "From a checked call to its durable command, found again ones included.",
        ["tool", "method", "outcome"],
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
    )
)
REFUSED: Final = Counter(
    "mcpbroker_refused_requests", "Requests refused, by problem code.", ["code"]
)
for watched in ("internal", "unavailable", "issuer_unavailable"):
    REFUSED.labels(watched)  # at 0 from the start: Prometheus sees no rise to a first value
ADAPTER_REPORTS: Final = Counter(
    "mcpbroker_adapter_reports",
    "Reports of adapters: claims granted and refused, progress, results, runs.",
    ["report"],
)
LOOP_RESTARTS: Final = Counter(
    "mcpbroker_loop_restarts", "Background loops that ended and were started again."
)
LISTENING: Final = Gauge(
    "mcpbroker_listening", "1 while this process hears PostgreSQL's notifications, else it polls."
)

PUBLISHED: Final = Counter("mcpbroker_published_rows", "Outbox rows that are in Kafka.", ["kind"])
PUBLISH_FAILURES: Final = Counter("mcpbroker_publish_failures", "Batches given back to the outbox.")
REFUSED_ROWS: Final = Counter(
    "mcpbroker_refused_rows",
    "Outbox rows that Kafka refused: parked for good, or to be tried again.",
    ["how"],
)
for how in ("parked", "again"):
    REFUSED_ROWS.labels(how)
QUEUE_WAIT_S: Final = ByTool(
    Histogram(
        "mcpbroker_queue_wait_seconds",
        "From the time at which a command is due to a relay's lease, windows and keys included.",
        ["tool", "method"],
        buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
    )
)
DISPATCH_S: Final = ByTool(
    Histogram(
        "mcpbroker_dispatch_seconds",
        "From the time at which a command is due to Kafka's acknowledgement, queue wait included.",
        ["tool", "method"],
        buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
    )
)

RUN_S: Final = ByTool(
    Histogram(
        "mcpbroker_run_seconds",
        "From a claim to the end of its command, of commands that were claimed.",
        ["tool", "method", "outcome"],
        buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 14400),
    )
)
CALL_S: Final = ByTool(
    Histogram(
        "mcpbroker_call_seconds",
        "From acceptance, or not_before, to the end: waits, holds, approvals, retries included.",
        ["tool", "method", "outcome"],
        buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 14400),
    )
)
ENDED: Final = Counter(
    "mcpbroker_ended_calls", "Commands that have ended, by their state.", ["outcome"]
)
for outcome in ("succeeded", "failed", "cancelled", "timed_out", "dead_lettered"):
    ENDED.labels(outcome)
RETRIES: Final = Counter(
    "mcpbroker_retries", "Attempts that failed or were lost, and are made again."
)
DEADLINE_MISSES: Final = Counter(
    "mcpbroker_deadline_misses", "Commands that had not ended at their deadline."
)

TIMER_FAILURES: Final = Counter(
    "mcpbroker_timer_failures", "Timers of the relay that failed as a whole, and are tried again."
)
PARTITIONS_AHEAD_S: Final = Gauge(
    "mcpbroker_audit_partitions_ahead_seconds",
    "For how long from now on the audit log has a partition for every write.",
)
OUTBOX_ROWS: Final = Gauge("mcpbroker_outbox_rows", "Outbox rows, by status.", ["status"])
OUTBOX_AGE_S: Final = Gauge("mcpbroker_outbox_oldest_ready_seconds", "How long the oldest waits.")
COMMANDS: Final = Gauge("mcpbroker_open_commands", "Commands that have not ended.", ["state"])
UNCLAIMED: Final = Gauge(
    "mcpbroker_unclaimed_commands",
    "Dispatched commands that nobody has claimed for a minute, or that were sent again for it.",
)
DEAD_LETTERS: Final = Gauge(
    "mcpbroker_dead_letters", "Dead letters neither redriven nor discarded."
)
BLOCKED_KEYS: Final = Gauge(
    "mcpbroker_blocked_keys", "Ordering keys that wait for a person's decision."
)
HOLDS: Final = Gauge("mcpbroker_holds", "Holds of operators that are in force.")
WAITING_SAGAS: Final = Gauge("mcpbroker_waiting_sagas", "Sagas that wait for a person's decision.")
SEAL_LAG_S: Final = Gauge(
    "mcpbroker_seal_lag_seconds", "Age of the oldest event that is not sealed."
)
UNSEALED_MAX: Final = 100_000
UNSEALED: Final = Gauge(
    "mcpbroker_unsealed_events",
    f"Audit events that wait for a seal, counted up to {UNSEALED_MAX:,}: there may be more.",
)
WEBHOOK_ATTEMPTS: Final = Counter(
    "mcpbroker_webhook_attempts",
    "Attempts to deliver a webhook, by what became of it.",
    ["outcome"],
)
WEBHOOK_OUTCOMES: Final = (
    "delivered",
    "http_3xx",
    "http_4xx",
    "http_5xx",
    "timeout",
    "connection_refused",
    "tls_error",
    "address_refused",
    "bad_answer",
    "challenge_failed",
    "unsealed",
)
for outcome in WEBHOOK_OUTCOMES:
    WEBHOOK_ATTEMPTS.labels(outcome)
WEBHOOKS_ABANDONED: Final = Counter(
    "mcpbroker_webhooks_abandoned", "Deliveries given up after their last attempt."
)
WEBHOOKS_DISABLED: Final = Counter(
    "mcpbroker_webhooks_disabled", "Endpoints disabled by the relay: gone, or failing for days."
)
WEBHOOKS_WAITING: Final = Gauge(
    "mcpbroker_webhooks_waiting", "Deliveries that wait for an enabled endpoint."
)
WEBHOOKS_OLDEST_S: Final = Gauge(
    "mcpbroker_webhooks_oldest_seconds", "How long the oldest of those deliveries has waited."
)
WEBHOOKS_FAILING: Final = Gauge(
    "mcpbroker_webhooks_failing", "Enabled endpoints that did not take their latest delivery."
)
READ_AT_S: Final = Gauge(
    "mcpbroker_gauges_read_timestamp_seconds",
    "When the gauges above were last read from PostgreSQL.",
)
SEALER: Final = Gauge(
    "mcpbroker_sealer", "1 while this relay is the one that seals the audit trail."
)


@contextmanager
def served(
    host: str, port: int | None, *, natively: bool, version: str, schema: str
) -> Generator[None]:
    """Serve `GET /metrics` inside the block, if there is a port; it tells what is running.

    Raises:
        OSError: the port is taken.
    """
    BUILD.labels(schema=schema, version=version).set(1)
    with exposition.served(host, port, natively=natively):
        yield
