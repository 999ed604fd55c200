"""What a worker counts, for Prometheus to read; no label names a tenant, a target or a tool."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from prometheus_client import Counter, Gauge

from app import exposition
from app.histograms import Histogram

BUILD: Final = Gauge("mcpbroker_worker_info", "1; its label is this release.", ["version"])
CLAIMS: Final = Counter(
    "mcpbroker_worker_claims", "Claims, by what they were answered: granted, refused.", ["answer"]
)
CALLS: Final = Counter(
    "mcpbroker_worker_calls",
    "Calls that ended here: done, failed, unknown (nobody knows), lost (to another run).",
    ["how"],
)
for answer in ("granted", "refused"):
    CLAIMS.labels(answer)
for how in ("done", "failed", "unknown", "lost"):
    CALLS.labels(how)
RUNNING: Final = Gauge("mcpbroker_worker_running_calls", "Calls that are worked on.")
WAITING: Final = Gauge(
    "mcpbroker_worker_waiting_commands", "Commands that came and wait for room, unclaimed."
)
CALL_S: Final = Histogram(
    "mcpbroker_worker_call_seconds",
    "From a granted claim to the outcome, which is then reported.",
    buckets=(0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800),
)
LATE_BEATS: Final = Counter(
    "mcpbroker_worker_late_beats", "Leases whose renewal the app has not taken in time."
)
LOOP_LAG_S: Final = Gauge(
    "mcpbroker_worker_loop_lag_seconds", "How long the event loop has been held up, when it is."
)


@contextmanager
def served(host: str, port: int | None, *, natively: bool, version: str) -> Generator[None]:
    """Serve `GET /metrics` inside the block, if there is a port; it tells what is running.

    Raises:
        OSError: the port is taken.
    """
    BUILD.labels(version).set(1)
    with exposition.served(host, port, natively=natively):
        yield
