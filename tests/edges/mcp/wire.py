"""Requests as a client without any SDK sends them: one JSON-RPC message a POST."""

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx2
import orjson

VERSION = "2026-07-28"
TASKS = "io.modelcontextprotocol/tasks"


async def send(
    http: httpx2.AsyncClient,
    method: str,
    params: Mapping[str, Any],
    *,
    name: str | None = None,
    extensions: tuple[str, ...] = (),
    asks: bool | Mapping[str, Any] = False,
    meta: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> httpx2.Response:
    """One request of the modern era; `name` is the Mcp-Name header.

    `asks`: the client shows questions to its person (elicitation), in these modes.
    """
    sent, body = framed(method, params, name, extensions, asks, meta, headers)
    return await http.post("/mcp", json=body, headers=sent)


async def send_old(
    http: httpx2.AsyncClient, version: str, method: str, params: Mapping[str, Any]
) -> Any:
    """One request of an older version, to its JSON-RPC response."""
    headers = {"MCP-Protocol-Version": version, "Accept": "application/json, text/event-stream"}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": dict(params)}
    return message(await http.post("/mcp", json=body, headers=headers))


def framed(
    method: str,
    params: Mapping[str, Any],
    name: str | None,
    extensions: tuple[str, ...] = (),
    asks: bool | Mapping[str, Any] = False,
    meta: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], dict[str, Any]]:
    """The headers and the body of a request of the modern era."""
    capabilities: dict[str, Any] = {"extensions": {one: {} for one in extensions}}
    if asks is not False:
        capabilities["elicitation"] = {} if asks is True else dict(asks)
    whole = {
        "io.modelcontextprotocol/protocolVersion": VERSION,
        "io.modelcontextprotocol/clientCapabilities": capabilities,
        "io.modelcontextprotocol/clientInfo": {"name": "wire", "version": "1"},
        **(meta or {}),
    }
    sent = {
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": method,
        "Accept": "application/json, text/event-stream",
        **({} if name is None else {"Mcp-Name": name}),
        **(headers or {}),
    }
    body = {
        "jsonrpc": "2.0",
        "id": str(uuid4()),
        "method": method,
        "params": {**params, "_meta": whole},
    }
    return sent, body


def message(answer: httpx2.Response) -> Any:
    """The response itself, whether it came as JSON or as the end of an event stream."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
        return orjson.loads(lines[-1].removeprefix("data: "))
    return answer.json()


async def call(
    http: httpx2.AsyncClient, tool: str, arguments: Mapping[str, Any], **more: Any
) -> Any:
    """A tools/call, to its JSON-RPC response."""
    params = {"name": tool, "arguments": arguments, **more.pop("params", {})}
    return message(await send(http, "tools/call", params, name=tool, **more))


async def task(
    http: httpx2.AsyncClient,
    verb: str,
    task_id: str,
    *,
    name: str | None = None,
    asks: bool | Mapping[str, Any] = False,
    **more: Any,
) -> Any:
    """A task method of a client that declares the extension."""
    params = {"taskId": task_id, **more}
    return message(
        await send(
            http, f"tasks/{verb}", params, name=name or task_id, extensions=(TASKS,), asks=asks
        )
    )
