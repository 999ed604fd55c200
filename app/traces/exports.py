"""Log lines and metrics by OTLP, where OpenTelemetry's variables ask for them.

Beside standard error and `/metrics`, which are as they are without.
"""

import logging
from collections.abc import Generator
from contextlib import ExitStack, closing, contextmanager

from app.config.otel import OtelSettings
from app.traces.tracing import ExtraMissingError

logger = logging.getLogger(__name__)


@contextmanager
def exported(service: str) -> Generator[None]:
    """Export inside the block what the environment asks for; nothing is imported, if nothing.

    `service` is the deployment's part of the name, where OTEL_SERVICE_NAME gives no other.

    Raises:
        ExtraMissingError: the libraries are missing.
    """
    otel = OtelSettings()
    with ExitStack() as stack:
        if otel.exports(otel.metrics_exporter):
            stack.enter_context(_metrics(service, otel))
        if otel.exports(otel.logs_exporter):
            stack.enter_context(_log_lines(service))
        yield


@contextmanager
def _log_lines(service: str) -> Generator[None]:
    try:
        from app.traces.log_lines import Exported  # noqa: PLC0415
        from app.traces.resource import resource  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissingError(str(error)) from error
    root = logging.getLogger()
    with closing(Exported(resource(service))) as handler:
        root.addHandler(handler)
        try:
            logger.info("log lines are exported")
            yield
        finally:
            root.removeHandler(handler)


@contextmanager
def _metrics(service: str, otel: OtelSettings) -> Generator[None]:
    try:
        from app.traces.figures import Pushed  # noqa: PLC0415
        from app.traces.resource import resource  # noqa: PLC0415
    except ImportError as error:
        raise ExtraMissingError(str(error)) from error
    every_s = otel.metric_export_interval / 1000
    made = Pushed(resource(service), every_s=every_s, exponential=otel.exponential)
    with closing(made) as pushed:
        pushed.start()
        logger.info("metrics are pushed")
        yield
