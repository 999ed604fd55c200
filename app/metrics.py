"""What a process counts, for Prometheus to read.

No label names a tenant, a user, a tool, an ordering key or an id: whoever reads the figures learns
how much there is of something, and nothing of whose it is. They are served on a port of their own,
which callers' tokens never reach.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, start_http_server

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
REFUSED: Final = Counter(
    "mcpbroker_refused_requests", "Requests refused, by problem code.", ["code"]
)
for watched in ("internal", "unavailable", "issuer_unavailable"):
    REFUSED.labels(watched)  # at 0 from the start: Prometheus sees no rise to a first value
ADAPTER_REPORTS: Final = Counter(
    "mcpbroker_adapter_reports",
    "Reports of adapters: claims granted and refused, progress, results.",
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
DISPATCH_S: Final = Histogram(
    "mcpbroker_dispatch_seconds",
    "From a command's outbox row to Kafka's acknowledgement,"
    " its wait for windows and keys included.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
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
WAITING_SAGAS: Final = Gauge("mcpbroker_waiting_sagas", "Sagas that wait for a person's decision.")
SEAL_LAG_S: Final = Gauge(
    "mcpbroker_seal_lag_seconds", "Age of the oldest event that is not sealed."
)
UNSEALED_MAX: Final = 100_000
UNSEALED: Final = Gauge(
    "mcpbroker_unsealed_events",
    f"Audit events that wait for a seal, counted up to {UNSEALED_MAX:,}: there may be more.",
)
READ_AT_S: Final = Gauge(
    "mcpbroker_gauges_read_timestamp_seconds",
    "When the gauges above were last read from PostgreSQL.",
)
SEALER: Final = Gauge(
    "mcpbroker_sealer", "1 while this relay is the one that seals the audit trail."
)


@contextmanager
def served(host: str, port: int | None, *, version: str, schema: str) -> Generator[None]:
    """Serve `GET /metrics` inside the block, if there is a port.

    Raises:
        OSError: the port is taken.
    """
    if port is None:
        yield
        return
    BUILD.labels(schema=schema, version=version).set(1)
    server, thread = start_http_server(port, host)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
