"""What spans are called and what they say, by OpenTelemetry's conventions (semconv 1.45).

MCP's are `semantic-conventions-genai` 0.1.0, docs/gen-ai/mcp.md. Arguments, results, paths and
texts of errors are in none; a command's and a tenant's name only where a setting asks for them.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from app.traces.otlp import Attributes, Value

METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY"}
)
CODE: Final = re.compile("[A-Za-z0-9_.-]{1,64}")
CLIENT_ERROR: Final = 400
SERVER_ERROR: Final = 500
PORTS: Final[Mapping[str, int]] = {"http": 80, "https": 443}
_KEPT: Final = 512

Named = tuple[str, Attributes]


@lru_cache(maxsize=_KEPT)
def http_server(method: str, route: str, scheme: str, status: int, version: str) -> Named:
    """A request as the edge has served it; status 0: no answer was sent."""
    known = method in METHODS
    said: list[tuple[str, Value]] = [
        ("http.request.method", method if known else "_OTHER"),
        ("http.route", route),
        ("url.scheme", scheme),
        ("network.protocol.version", version),
    ]
    if status:
        said.append(("http.response.status_code", status))
    if status == 0 or status >= SERVER_ERROR:
        said.append(("error.type", str(status) if status else "unanswered"))
    return f"{method if known else 'HTTP'} {route}", tuple(said)


@lru_cache(maxsize=_KEPT)
def http_client(method: str, template: str, url: str, status: int | None, tries: int) -> Named:
    """A request to a server that was made, again where that was worth it; None: no answer."""
    said: list[tuple[str, Value]] = [("http.request.method", method), ("url.template", template)]
    if status is not None:
        said.append(("http.response.status_code", status))
    if tries > 1:
        said.append(("http.request.resend_count", tries - 1))
    if status is None or status >= CLIENT_ERROR:
        said.append(("error.type", "unanswered" if status is None else str(status)))
    return f"{method} {template}", (*said, *_server(url))


@lru_cache(maxsize=_KEPT)
def mcp_server(method: str, tool: str | None, protocol: str, error: str | None) -> Named:
    """A message of MCP; `tool` is one of the catalog's, or of the broker's own."""
    said: list[tuple[str, Value]] = [
        ("mcp.method.name", method),
        ("mcp.protocol.version", protocol),
        ("network.transport", "tcp"),
        ("network.protocol.name", "http"),
    ]
    if method == "tools/call":
        said.append(("gen_ai.operation.name", "execute_tool"))
    if tool is not None:
        said.append(("gen_ai.tool.name", tool))
    if error is not None:
        said.append(("error.type", error))
        if error.lstrip("-").isdecimal():
            said.append(("rpc.response.status_code", error))
    return method if tool is None else f"{method} {tool}", tuple(said)


@lru_cache(maxsize=_KEPT)
def messaging(operation: str, topic: str, kind: str = "") -> Named:
    """An operation, `send` or `process`, on a topic of Kafka."""
    said: tuple[tuple[str, Value], ...] = (
        ("messaging.system", "kafka"),
        ("messaging.operation.name", operation),
        ("messaging.operation.type", kind or operation),
        ("messaging.destination.name", topic),
    )
    return f"{operation} {topic}", said


@lru_cache(maxsize=_KEPT)
def batch(topic: str | None) -> Named:
    """Messages that are sent together; None: to several topics."""
    if topic is not None:
        return messaging("send", topic)
    name, said = messaging("send", "")
    return name.strip(), said[:-1]


@lru_cache(maxsize=_KEPT)
def tool_of(tool: str, method: str) -> Attributes:
    """Which tool a span is about."""
    return (("mcp_broker.tool", tool), ("mcp_broker.method", method))


def adapter(kind: str, address: str, mapping: Mapping[str, Any]) -> Named:
    """What an adapter asks of its target: as the catalog describes it, less the call's own."""
    name, said = _ASKED.get(kind, _other)(kind, mapping)
    return name, (*said, *_server(address))


def code(error: Mapping[str, Any] | None) -> str | None:
    """An error's code, where it is one; an adapter may have put a text there."""
    found = str((error or {}).get("code", ""))
    return found if CODE.fullmatch(found) else None


def _http(_: str, mapping: Mapping[str, Any]) -> Named:
    method, path = str(mapping.get("method", "_OTHER")).upper(), str(mapping.get("path", ""))
    return f"{method} {path}", (("http.request.method", method), ("url.template", path))


def _mcp(_: str, mapping: Mapping[str, Any]) -> Named:
    tool = str(mapping.get("tool", ""))
    return f"tools/call {tool}", (
        ("mcp.method.name", "tools/call"),
        ("gen_ai.operation.name", "execute_tool"),
        ("gen_ai.tool.name", tool),
    )


def _grpc(_: str, mapping: Mapping[str, Any]) -> Named:
    method = str(mapping.get("method", "_OTHER"))
    return method, (("rpc.system.name", "grpc"), ("rpc.method", method))


def _aap(_: str, mapping: Mapping[str, Any]) -> Named:
    return "launch template", (("mcp_broker.template", str(mapping.get("template", ""))),)


def _other(kind: str, _: Mapping[str, Any]) -> Named:
    return f"run {kind}", (("mcp_broker.adapter", kind),)


_ASKED: Final = {"http": _http, "mcp": _mcp, "grpc": _grpc, "aap": _aap}


def _server(address: str) -> Attributes:
    """The host and port of a URL, or of gRPC's `host:port`; nothing of a program's path."""
    try:
        at = urlsplit(address if "://" in address else f"//{address}")
        host, port = at.hostname, at.port or PORTS.get(at.scheme)
    except ValueError:
        return ()
    if host is None or address.startswith(("/", "stdio:")):
        return ()
    return (("server.address", host), *((("server.port", port),) if port else ()))
