"""Spans on their way out: recorded where something ends, encoded and sent by a thread.

Nothing waits for it. What cannot be sent in time is dropped, and the log says how much.
"""

import asyncio
import logging
import os
import random
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from prometheus_client import Counter

from app import assets
from app.config.otel import OtelSettings
from app.logs import Sparse
from app.traces import file
from app.traces.context import HERE, Context
from app.traces.otlp import Attributes, Span, request

logger = logging.getLogger(__name__)

SCOPE: Final = "mcp-broker"
STOP_S: Final = 10.0
DROPPED_PERIOD_S: Final = 30.0

DROPPED: Final = Counter(
    "mcpbroker_dropped_spans",
    "Spans that nobody has got: too many waited (full), or they could not be sent (unsent).",
    ["why"],
)
for why in ("full", "unsent"):
    DROPPED.labels(why)

Sink = Callable[[bytes], bool]
"""Takes an `ExportTraceServiceRequest` and says whether it has; may block, and logs by itself."""


class Traced(Protocol):
    """The settings that say what becomes of spans."""

    @property
    def trace_path(self) -> Path | None:
        """A file that they are appended to."""
        ...

    @property
    def trace_attributes(self) -> Collection[str]:
        """What they may say of whom they are."""
        ...


class ExtraMissingError(Exception):
    """Spans are asked for, and the libraries that send them are not installed."""

    title = "Traces are asked for, and the extra `otel` is not installed"


class Place(NamedTuple):
    """Where a span is that begins here: its own context, its parent, whom it follows from."""

    at: Context
    parent: bytes | None = None
    links: tuple[Context, ...] = ()


class Tracing:
    """The spans of one process."""

    def __init__(
        self,
        sinks: Sequence[Sink],
        *,
        resource: Attributes,
        otel: OtelSettings,
        sampler: Any = None,
        shown: Collection[str] = (),
        links_clients: bool = False,
    ) -> None:
        self._sinks = sinks
        self._resource = resource
        self._otel = otel
        self._sampler = sampler
        self._shown = frozenset(shown)
        self._links_clients = links_clients
        self._random = random.Random()  # noqa: S311 ids, which nobody need not guess
        self._queue: deque[Span] = deque()
        self._due = threading.Event()
        self._stopped = False
        self._sparse = Sparse(logger, period_s=DROPPED_PERIOD_S)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._log_ids = LogIds()
        self._scope = (SCOPE, assets.version())

    def start(self) -> None:
        """Begin to send; log lines name the span that they are written in."""
        for handler in logging.getLogger().handlers:
            handler.addFilter(self._log_ids)
        self._thread.start()

    def close(self) -> None:
        """Send what was recorded; takes up to ten seconds where it cannot be sent."""
        self._stopped = True
        self._due.set()
        self._thread.join(STOP_S)
        for handler in logging.getLogger().handlers:
            handler.removeFilter(self._log_ids)

    def serve(self, traceparent: str | None, *, ours: bool = False) -> Place:
        """The place of a span for what a client asks, who may have named a parent.

        `ours` is one of this process, or of an adapter: it is a parent whatever the setting says.
        """
        client = None if traceparent is None else Context.read(traceparent)
        if client is not None and (ours or not self._links_clients):
            at = Context(client.trace_id, self._bytes(8), client.sampled)
            place, above = Place(at, client.span_id), client
        else:
            drawn, above = self._bytes(24), None
            place = Place(Context(drawn[:16], drawn[16:]), None, (client,) if client else ())
        return place if self._sampler is None else self._sampled(place, above)

    def below(self, parent: Context) -> Context:
        """A new span's context, as a child of one of this process's."""
        return Context(parent.trace_id, self._bytes(8), parent.sampled)

    def who(self, *, correlation_id: object = None, tenant_id: str | None = None) -> Attributes:
        """Of whom a span is, as far as the setting lets it say so."""
        said: list[tuple[str, str]] = []
        if correlation_id is not None and "correlation_id" in self._shown:
            said.append(("mcp_broker.correlation_id", str(correlation_id)))
        if tenant_id is not None and "tenant_id" in self._shown:
            said.append(("mcp_broker.tenant_id", tenant_id))
        return tuple(said)

    def record(self, span: Span) -> None:
        """Have a span sent that has ended, if its trace is recorded; from any thread."""
        if not span.at.sampled:
            return
        waiting = len(self._queue)
        if waiting >= self._otel.bsp_max_queue_size:
            DROPPED.labels("full").inc()
            self._sparse.info("spans are dropped: they cannot be sent as fast as they come")
            return
        self._queue.append(span)
        if waiting + 1 == self._otel.bsp_max_export_batch_size:
            self._due.set()

    def _bytes(self, count: int) -> bytes:
        return self._random.getrandbits(8 * count).to_bytes(count)

    def _sampled(self, place: Place, parent: Context | None) -> Place:
        """As the sampler says; the default, all or what the parent says, needs no asking."""
        at = place.at._replace(sampled=sampled(self._sampler, place, parent))
        return place._replace(at=at)

    def _run(self) -> None:
        while not self._stopped:
            self._due.wait(self._otel.bsp_schedule_delay / 1000)
            self._due.clear()
            try:
                self.send()
            except Exception:  # one batch is lost, not those after it
                logger.exception("spans could not be encoded")

    def send(self) -> None:
        """Send what waits; blocks. Of its own thread, unless that was never begun."""
        batch_max = self._otel.bsp_max_export_batch_size
        while self._queue:
            count = min(batch_max, len(self._queue))
            batch = [self._queue.popleft() for _ in range(count)]
            written = request(self._resource, self._scope, batch)
            taken = [_has(sink, written) for sink in self._sinks]
            if not all(taken):
                DROPPED.labels("unsent").inc(count)


def _has(sink: Sink, written: bytes) -> bool:
    """Whether a sink has them now; what is wrong with one keeps them from no other."""
    try:
        return sink(written)
    except Exception:
        logger.exception("spans could not be sent")
        return False


class LogIds(logging.Filter):
    """Gives each log line the ids of the span that it is written in."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add them, where there is one."""
        here = HERE.get()
        if here is not None:
            record.trace_id = here.at.trace_id.hex()
            record.span_id = here.at.span_id.hex()
        return True


def sampled(sampler: Any, place: Place, parent: Context | None) -> bool:
    """What OpenTelemetry's sampler says of a span."""
    from opentelemetry import trace  # noqa: PLC0415 only where a sampler is set

    context = None
    if parent is not None:
        flags = trace.TraceFlags(int(parent.sampled))
        ids = int.from_bytes(parent.trace_id), int.from_bytes(parent.span_id)
        told = trace.SpanContext(*ids, is_remote=True, trace_flags=flags)
        context = trace.set_span_in_context(trace.NonRecordingSpan(told))
    trace_id = int.from_bytes(place.at.trace_id)
    return sampler.should_sample(context, trace_id, SCOPE).decision.is_sampled()


@asynccontextmanager
async def running(
    settings: Traced, *, service: str, links_clients: bool = False
) -> AsyncGenerator[Tracing | None]:
    """What `opened` gives; all of it is sent before the block is left.

    Raises:
        ExtraMissingError: as `opened` does.
    """
    tracing = opened(settings, service=service, links_clients=links_clients)
    try:
        yield tracing
    finally:
        if tracing is not None:
            await asyncio.to_thread(tracing.close)


def opened(settings: Traced, *, service: str, links_clients: bool = False) -> Tracing | None:
    """What `made` gives, begun.

    Raises:
        ExtraMissingError: as `made` does.
    """
    tracing = made(settings, service=service, links_clients=links_clients)
    if tracing is not None:
        tracing.start()
    return tracing


def made(settings: Traced, *, service: str, links_clients: bool = False) -> Tracing | None:
    """The tracing that the environment asks for; None, and nothing is imported, if none.

    `service` is the deployment's part of the name, where OTEL_SERVICE_NAME gives no other.

    Raises:
        ExtraMissingError: the libraries are missing.
    """
    otel = OtelSettings()
    path = None if otel.sdk_disabled else settings.trace_path
    if not otel.sends and path is None:
        return None
    try:
        from opentelemetry.sdk.trace import TracerProvider, sampling  # noqa: PLC0415

        from app.traces.resource import resource  # noqa: PLC0415
        from app.traces.sending import Exporter  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissingError(str(error)) from error
    sinks: list[Sink] = []
    if otel.sends:
        sinks.append(Exporter())
    if path is not None:
        sinks.append(_Appended(path))
    of_process = resource(service).attributes
    sampler = TracerProvider(shutdown_on_exit=False).sampler
    logger.info("traces are recorded", extra={"otlp": otel.sends, "path": path and str(path)})
    return Tracing(
        sinks,
        resource=tuple((name, str(value)) for name, value in of_process.items()),
        otel=otel,
        sampler=None if sampler is sampling.DEFAULT_ON else sampler,
        shown=settings.trace_attributes,
        links_clients=links_clients,
    )


class _Appended:
    """Appends to a file; each line whole, as processes share it."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, written: bytes) -> bool:
        line = file.lines(written)
        return os.write(self._file, line) == len(line)
