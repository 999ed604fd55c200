"""What an action asks, as spans below its task's: taken down as it asks, sent as it ends.

The callback mcpbroker.eda.traces tells the task's own span, under the id that both draw alike.
"""

from __future__ import annotations

import contextlib
import os
import re
from time import time_ns

VARIABLES = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
    "MCP_BROKER_TRACE_PATH",
)
"""Where none is set, nobody traces."""
WORDS_MAX = 100
SAMPLED = re.compile("00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f][13579bdf]")


def traceparent_of(variables: dict) -> str | None:
    """Of the event, the variables, or the environment: of the first that has one."""
    found = variables.get("ansible_eda")
    for name in ("event", "meta", "headers", "traceparent"):
        found = found.get(name) if isinstance(found, dict) else None
    found = found or variables.get("TRACEPARENT") or os.environ.get("TRACEPARENT")
    return str(found) if isinstance(found, str) else None


class Asked:
    """What one task has asked the broker, and the place for what its adapter asks of a target."""

    def __init__(self, variables: dict, task: str) -> None:
        """`variables` are the task's, which say of what trace it is; `task` is its own id."""
        self._variables = variables
        self._task = task
        asks = any(os.environ.get(name) for name in VARIABLES)
        found = SAMPLED.fullmatch(traceparent_of(variables) or "") if asks else None
        self._trace_id = found and found[1]
        self._tracing = None
        self._fault: Exception | None = None
        self.words: list[dict] = []

    @contextlib.contextmanager
    def word(self, url: str, route: str):
        """A word of the results API: how it was answered is put into what this gives."""
        if self._trace_id is None:
            yield {"traceparent": None}
            return
        traceparent = f"00-{self._trace_id}-{os.urandom(8).hex()}-01"
        word = {"traceparent": traceparent, "url": url, "route": route, "began_ns": time_ns()}
        word |= {"status": None, "tries": 0}
        try:
            yield word
        finally:
            word["ended_ns"] = time_ns()
            if len(self.words) == WORDS_MAX:
                del self.words[1]  # the claim, which was the first, says more than old progress
            self.words.append(word)

    def tracing(self):
        """What records spans of what an adapter asks; None where nobody wants any, or none can be.

        A call is done whatever becomes of its spans.
        """
        if self._tracing is None and self._trace_id is not None and self._fault is None:
            try:
                from app.traces import playbooks

                self._tracing = playbooks.opened()
            except Exception as error:
                self._fault = error
        return self._tracing

    def send(self, warn) -> None:
        """Send it all; `warn` is told why, if that cannot be."""
        tracing = self.tracing()
        try:
            if tracing is not None:
                from app.traces import playbooks

                playbooks.send_words(tracing, self._variables, self._task, self.words)
        except Exception as error:
            self._fault = error
        if self._fault is not None:
            warn(f"Spans of what it asked are not sent: {self._fault!r}")
