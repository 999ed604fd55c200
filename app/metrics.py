"""What a process counts, for Prometheus to read.

No label names a tenant, a user, a tool, an ordering key or an id: whoever reads the figures learns
how much there is of something, and nothing of whose it is. They are served on a port of their own,
which callers' tokens never reach.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Gauge, Histogram, start_http_server

ACCEPTED: Final = Counter(
    "broker_accepted_calls", "Calls accepted: new, or found again by their key.", ["how"]
)
# A label is looked up under a lock, and these are asked for by every call.
ACCEPTED_NEW: Final = ACCEPTED.labels("new")
ACCEPTED_AGAIN: Final = ACCEPTED.labels("found again")
REFUSED: Final = Counter("broker_refused_requests", "Requests refused, by problem code.", ["code"])
for watched in ("internal", "unavailable", "issuer_unavailable"):
    REFUSED.labels(watched)  # at 0 from the start: Prometheus sees no rise to a first value
ADAPTER_WORDS: Final = Counter(
    "broker_adapter_words",
    "Words of adapters: claims granted and refused, progress, ends.",
    ["word"],
)
LISTENING: Final = Gauge(
    "broker_listening", "1 while this process hears PostgreSQL's notifications, else it polls."
)

PUBLISHED: Final = Counter("broker_published_rows", "Outbox rows that are in Kafka.", ["kind"])
PUBLISH_FAILURES: Final = Counter("broker_publish_failures", "Batches given back to the outbox.")
REFUSED_ROWS: Final = Counter(
    "broker_refused_rows",
    "Outbox rows that Kafka refused: parked for good, or to be tried again.",
    ["how"],
)
for how in ("parked", "again"):
    REFUSED_ROWS.labels(how)
DISPATCH_S: Final = Histogram(
    "broker_dispatch_seconds",
    "From a command's outbox row to Kafka's acknowledgement, its wait for windows and keys included.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800),
)

OUTBOX_ROWS: Final = Gauge("broker_outbox_rows", "Outbox rows, by status.", ["status"])
OUTBOX_AGE_S: Final = Gauge("broker_outbox_oldest_ready_seconds", "How long the oldest waits.")
COMMANDS: Final = Gauge("broker_open_commands", "Commands that have not ended.", ["state"])
DEAD_LETTERS: Final = Gauge("broker_dead_letters", "Dead letters neither redriven nor discarded.")
BLOCKED_KEYS: Final = Gauge("broker_blocked_keys", "Ordering keys that wait for a person's word.")
WAITING_SAGAS: Final = Gauge("broker_waiting_sagas", "Sagas that wait for a person's word.")
SEAL_LAG_S: Final = Gauge("broker_seal_lag_seconds", "Age of the oldest event that is not sealed.")
UNSEALED_MAX: Final = 100_000
UNSEALED: Final = Gauge(
    "broker_unsealed_events",
    f"Audit events that wait for a seal, counted up to {UNSEALED_MAX:,}: there may be more.",
)
READ_AT_S: Final = Gauge(
    "broker_gauges_read_timestamp_seconds", "When the gauges above were last read from PostgreSQL."
)
SEALER: Final = Gauge("broker_sealer", "1 while this relay is the one that seals the audit trail.")


@contextmanager
def served(host: str, port: int | None) -> Generator[None]:
    """Serve `GET /metrics` inside the block, if there is a port.

    Raises:
        OSError: the port is taken.
    """
    if port is None:
        yield
        return
    server, thread = start_http_server(port, host)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
