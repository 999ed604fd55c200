"""Log lines by OTLP: as they are on standard error, with the fields that they have there."""

import logging
from typing import Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from app.logs import PLAIN, Discreet

SEVERITIES: Final = {
    logging.DEBUG: SeverityNumber.DEBUG,
    logging.INFO: SeverityNumber.INFO,
    logging.WARNING: SeverityNumber.WARN,
    logging.ERROR: SeverityNumber.ERROR,
    logging.CRITICAL: SeverityNumber.FATAL,
}
IDS: Final = ("trace_id", "span_id")


class Exported(logging.Handler):
    """Hands each line to OpenTelemetry's batches, which wait for nobody and are bounded."""

    def __init__(self, resource: Resource) -> None:
        super().__init__()
        self._provider = LoggerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_log_record_processor(BatchLogRecordProcessor(OTLPLogExporter()))
        self._discreet = Discreet()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a line; what the exporter itself says stays on standard error."""
        if record.name.startswith("opentelemetry"):
            return
        try:
            self._provider.get_logger(record.name).emit(self._told(record))
        except Exception:  # noqa: BLE001 as logging's own handlers do it, which say it
            self.handleError(record)

    def close(self) -> None:
        """Send what waits."""
        self._provider.shutdown()
        super().close()

    def _told(self, record: logging.LogRecord) -> LogRecord:
        fields = {
            name: value if isinstance(value, str | bool | int | float) else str(value)
            for name, value in vars(record).items()
            if name not in PLAIN and name not in IDS and value is not None
        }
        if record.exc_info:
            fields["exception.stacktrace"] = self._discreet.formatException(record.exc_info)
        at = int(record.created * 1e9)
        return LogRecord(
            timestamp=at,
            observed_timestamp=at,
            severity_number=SEVERITIES.get(record.levelno, SeverityNumber.UNSPECIFIED),
            severity_text=record.levelname,
            body=record.getMessage(),
            attributes=fields,
            context=_context(record),
        )


def _context(record: logging.LogRecord) -> Context:
    """The span that a line names, as it is there for whoever reads lines on standard error."""
    trace_id, span_id = (int(getattr(record, name, "0"), 16) for name in IDS)
    flags = TraceFlags(TraceFlags.SAMPLED if trace_id else TraceFlags.DEFAULT)
    span = SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(span), Context())
