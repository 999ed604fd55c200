"""A file of spans, a line of OTLP JSON for each batch: what `broker trace` reads."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

IDS: Final = ("traceId", "spanId", "parentSpanId")


def lines(request: bytes) -> bytes:
    """An `ExportTraceServiceRequest` as a line: ids in hexadecimal, enumerations as numbers."""
    from base64 import b64decode  # noqa: PLC0415 with the extra's libraries

    from google.protobuf.json_format import MessageToDict  # noqa: PLC0415
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (  # noqa: PLC0415
        ExportTraceServiceRequest,
    )

    read = MessageToDict(ExportTraceServiceRequest.FromString(request), use_integers_for_enums=True)
    for span in _spans(read):
        for one in (span, *span.get("links", ())):
            one |= {name: b64decode(one[name]).hex() for name in IDS if name in one}
    return orjson.dumps(read) + b"\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSpan:
    """A span as the file has it."""

    trace_id: str
    span_id: str
    parent_id: str | None
    name: str
    start_ns: int
    end_ns: int
    service: str
    failed: bool
    attributes: dict[str, Any] = field(default_factory=dict[str, Any])


def read(path: Path) -> Iterator[ReadSpan]:
    """The spans of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is no OTLP JSON; the last one may be cut short.
    """
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return  # it is being written
            said = orjson.loads(line)
            for resource in said.get("resourceSpans", ()):
                of = _values(resource.get("resource", {}).get("attributes", ()))
                for scope in resource.get("scopeSpans", ()):
                    yield from (_read(one, str(of.get("service.name"))) for one in scope["spans"])


def _read(span: dict[str, Any], service: str) -> ReadSpan:
    return ReadSpan(
        trace_id=span["traceId"],
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId") or None,
        name=span["name"],
        start_ns=int(span.get("startTimeUnixNano", 0)),
        end_ns=int(span.get("endTimeUnixNano", 0)),
        service=service,
        failed=span.get("status", {}).get("code") == 2,  # noqa: PLR2004 OTLP's ERROR
        attributes=_values(span.get("attributes", ())),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values()), None) for one in attributes}


def _spans(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for resource in request.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            yield from scope.get("spans", ())
