"""OTLP over HTTP, as OpenTelemetry's exporter does it; imported where spans are sent."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter


class Exporter(OTLPSpanExporter):
    """Its way out, with all that its variables say, for spans that come encoded."""

    def __call__(self, request: bytes) -> bool:
        """Send an `ExportTraceServiceRequest`, again where that is worth it; logs a failure."""
        return self._client.export(request).success
