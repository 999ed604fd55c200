"""Spans that a real receiver of OTLP has got (`oteltap`), and what a test asks of a trace."""

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from devstack.postgres import free_port
from devstack.process import Process
from tests.support.stack import wait_for

KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """A span as the receiver wrote it down."""

    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    start_ns: int
    end_ns: int
    failed: bool
    attributes: dict[str, Any]
    links: list[str]
    """Ids of spans."""

    @classmethod
    def read(cls, said: dict[str, Any]) -> Self:
        values = {one["key"]: one["value"] for one in said["attributes"]}
        return cls(
            trace_id=said["traceId"],
            span_id=said["spanId"],
            parent_id=said["parentSpanId"],
            name=said["name"],
            kind=KINDS[said["kind"]],
            start_ns=int(said["startTimeUnixNano"]),
            end_ns=int(said["endTimeUnixNano"]),
            failed=(said.get("status") or {}).get("code") == 2,
            attributes={name: next(iter(value.values())) for name, value in values.items()},
            links=[one["spanId"] for one in said["links"]],
        )


@dataclass(slots=True)
class Receiver:
    """OTLP over HTTP, received by a program of somebody else's."""

    home: Path
    port: int = field(default_factory=free_port)
    _process: Process | None = None

    @property
    def env(self) -> dict[str, str]:
        """What has a process send its spans here, soon."""
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def start(self) -> None:
        argv = [Path(sys.executable).parent / "oteltap", "--port", str(self.port)]
        self._process = Process("oteltap", argv, log=self._log)
        self._process.start()
        self._process.wait_ready(lambda: b"Listening" in self._log.read_bytes(), timeout_s=30)

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop(timeout_s=10)

    @property
    def _log(self) -> Path:
        return self.home / "oteltap.log"

    def spans(self, trace_id: str) -> list[Received]:
        return [one for one in self._all() if one.trace_id == trace_id]

    def lines(self, beginning: str) -> list[dict[str, Any]]:
        """Log lines or metrics that were received: as JSON objects that begin so."""
        lines = self._log.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith(beginning)]

    def linked(self, span_id: str) -> list[Received]:
        """The spans, of whatever trace, that have a link to this one."""
        return [one for one in self._all() if span_id in one.links]

    def _all(self) -> list[Received]:
        lines = self._log.read_text().splitlines()
        return [Received.read(json.loads(line)) for line in lines if line.startswith('{"traceId"')]

    async def until(self, trace_id: str, *names: str, timeout_s: float = 60) -> list[Received]:
        """The spans of a trace, once it has some of these names."""

        async def there() -> list[Received]:
            found = self.spans(trace_id)
            return found if set(names) <= {one.name for one in found} else []

        try:
            return await wait_for(there, timeout_s)
        except TimeoutError:
            found = sorted(one.name for one in self.spans(trace_id))
            raise AssertionError(f"of {names} there are {found}") from None


def named(spans: Iterable[Received], name: str) -> Received:
    """The one span of a name."""
    [found] = [one for one in spans if one.name == name]
    return found


def parents(spans: Sequence[Received]) -> dict[str, str]:
    """Each span's name, with its parent's; "" for one whose parent is not among them."""
    names = {one.span_id: one.name for one in spans}
    assert len(names) == len(spans), "two spans have one id"
    return {one.name: names.get(one.parent_id, "") for one in spans}


def covered(spans: Iterable[Received], whole: Received) -> float:
    """Which part of a span's time is within the others."""
    total, until = 0, whole.start_ns
    for one in sorted(spans, key=lambda one: one.start_ns):
        start, end = max(one.start_ns, until), min(one.end_ns, whole.end_ns)
        if end > start:
            total += end - start
            until = end
    return total / (whole.end_ns - whole.start_ns)
