"""Tracing whose requests a test reads as opentelemetry-proto reads them."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.config.otel import OtelSettings
from app.traces.tracing import Tracing


@dataclass(slots=True)
class Sent:
    """What was sent; `tracing` is closed to have it all."""

    requests: list[bytes] = field(default_factory=list[bytes])
    tracing: Tracing | None = None

    def take(self, request: bytes) -> bool:
        self.requests.append(request)
        return True

    def spans(self) -> list[Any]:
        assert self.tracing is not None
        self.tracing.close()
        read = [ExportTraceServiceRequest.FromString(one) for one in self.requests]
        return [
            span
            for request in read
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


Opened = Callable[..., Sent]


@contextmanager
def opening() -> Generator[Opened]:
    """Opens tracing, as often as a test wants to; closed after it."""
    made: list[Sent] = []

    def open_(**more: Any) -> Sent:
        sent = Sent()
        otel = more.pop("otel", OtelSettings())
        sinks = more.pop("sinks", [sent.take])
        sent.tracing = Tracing(sinks, resource=(), otel=otel, **more)
        sent.tracing.start()
        made.append(sent)
        return sent

    yield open_
    for one in made:
        assert one.tracing is not None
        one.tracing.close()
