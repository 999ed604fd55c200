"""Logs: JSON lines for machines, or text for people; `extra` fields become keys."""

import logging
import re
import sys
import time
from datetime import UTC, datetime
from typing import Any, Final

import orjson

QUOTES: Final = re.compile(
    r"^(DETAIL:|HINT:|CONTEXT:|.*invalid input for query argument).*?"
    r"(?=^Traceback|^The above exception|^During handling|\Z)",
    re.MULTILINE | re.DOTALL,
)
PLAIN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class Discreet(logging.Formatter):
    """Traces without what PostgreSQL quotes of the row or the value that it refuses."""

    def formatException(self, ei: Any) -> str:  # noqa: N802 logging's name
        """The trace; a server's DETAIL can hold arguments and results."""
        return QUOTES.sub(r"\1 [not logged]\n", super().formatException(ei))


class Sparse:
    """Says how often something came that strangers can cause: at once, then once a period."""

    def __init__(self, logger: logging.Logger, *, period_s: float) -> None:
        self._logger = logger
        self._period_s = period_s
        self._said: dict[str, tuple[float, int]] = {}  # when, and how often since

    def info(self, kind: str, detail: object = "", **extra: object) -> None:
        """One of a kind; there must be few kinds. The detail is of the one that is said."""
        now = time.monotonic()
        at, more = self._said.get(kind, (float("-inf"), 0))
        if now - at < self._period_s:
            self._said[kind] = (at, more + 1)
            return
        self._said[kind] = (now, 0)
        extra["more_before"] = more
        self._logger.info("%s %s", kind, detail, extra=extra)


class JsonFormatter(Discreet):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level, logger, message, and whatever the call named."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def configure(*, level: str, json: bool) -> None:
    """Set up logging for a process, on standard error."""
    handler = logging.StreamHandler(sys.stderr)
    plain = Discreet("%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if json else plain)
    # A record costs a tenth of a call; nothing here prints these of it.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # aiokafka logs each reconnect attempt; ours says what it means.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("mcp").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
