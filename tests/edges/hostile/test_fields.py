"""Every field of the callers' entrances, with what a hostile or a careless caller writes there.

Answered in bound, never with a 5xx, by a problem or a JSON-RPC error; what is accepted arrives as
it was sent.
"""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
import pytest

from app.edges.parts import Parts
from tests.edges.mcp.wire import VERSION, framed

BOUND_S: Final = 10
JSON: Final = {"Content-Type": "application/json"}
LATER: Final = {"Prefer": "respond-async"}
BITS: Final = (
    "a",
    "🎉",
    "𠮷",
    "\u2028",
    "\x85",
    "\0",
    "\ud800",
    '"',
    "\\",
    "{{ x }}",
    "\n",
    "é",
    "²",
    "٣",
)
SEED: Final = 20261130


def hostile() -> list[Any]:
    """Values of any kind, the same each time."""
    rng = random.Random(SEED)
    texts = ["".join(rng.choices(BITS, k=rng.randint(1, 12))) for _ in range(12)]
    deep: Any = 1
    for _ in range(66):
        deep = [deep]
    numbers = [2**63, 2**64, -(2**63) - 1, 10**400, 1e308, -0.0, float("nan"), float("inf")]
    return [
        *(
            *texts,
            *BITS,
            "",
            " ",
            "x" * 300,
            "x" * 100_000,
            "[erased]",
            "../..",
            "%00",
            "' OR 1=1--",
        ),
        *(
            *numbers,
            True,
            None,
            [],
            {},
            {"": {}},
            {"": {"": []}},
            {"\0": 1},
            {"__proto__": 1},
            deep,
        ),
    ]


VALUES: Final = hostile()


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Ids of what is there, so that more than 404 is reached."""

    command: str


Send = Callable[[httpx.AsyncClient, Known, Any], Any]


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


def call(**changes: Any) -> dict[str, Any]:
    return {"tool": "probe", "method": "echo", "args": {"text": "x"}, **changes}


def in_call(field: str) -> Send:
    async def send(http: httpx.AsyncClient, _: Known, value: Any) -> httpx.Response:
        body = written(call(**{field: value}))
        return await http.post("/mcp/tools/call", content=body, headers=JSON | LATER)

    return send


def in_body(path: str, make: Callable[[Any], Any]) -> Send:
    async def send(http: httpx.AsyncClient, known: Known, value: Any) -> httpx.Response:
        at = path.format(command=known.command)
        return await http.post(at, content=written(make(value)), headers=JSON | LATER)

    return send


def in_query(path: str, name: str) -> Send:
    async def send(http: httpx.AsyncClient, known: Known, value: Any) -> httpx.Response:
        said = str(value).encode(errors="replace")[:2000]
        return await http.get(path.format(command=known.command), params={name: said})

    return send


def in_header(path: str, name: str) -> Send:
    async def send(http: httpx.AsyncClient, _: Known, value: Any) -> httpx.Response:
        said = str(value).encode(errors="replace")[:8000]
        bad = bytes(
            one for one in said if one >= 32
        ).strip()  # the server itself refuses the others
        if name == "prefer":
            bad = (
                b"respond-async, " + bad if bad else b"respond-async"
            )  # else each call is waited for
        headers = [(name.encode(), bad), (b"content-type", b"application/json")]
        headers += [(b"prefer", b"respond-async")]
        return await http.post(path, content=written(call()), headers=headers)

    return send


def in_path(path: str) -> Send:
    async def send(http: httpx.AsyncClient, _: Known, value: Any) -> httpx.Response:
        said = str(value).encode(errors="replace")[:2000]
        quoted = "".join(f"%{one:02X}" for one in said) or "x"
        return await http.get(path.format(value=quoted))

    return send


def in_message(version: str, tool: str, make: Callable[[Known, Any], Any], **meta: Any) -> Send:
    async def send(http: httpx.AsyncClient, known: Known, value: Any) -> httpx.Response:
        params = {"name": tool, "arguments": make(known, value)}
        headers, body = framed("tools/call", params, tool, meta={"dev.mcpbroker/wait_s": 0})
        body["params"]["_meta"] |= {
            name: value if one is ... else one for name, one in meta.items()
        }
        headers |= {**JSON, "MCP-Protocol-Version": version}
        return await http.post("/mcp", content=written(body), headers=headers)

    return send


def over_mcp(version: str) -> dict[str, Send]:
    def of(tool: str, make: Callable[[Known, Any], Any], **meta: Any) -> Send:
        return in_message(version, tool, make, **meta)

    text: Callable[[Known, Any], Any] = lambda _, __: {"text": "x"}  # noqa: E731
    return {
        f"{version} arguments": of("probe_echo", lambda _, value: value),
        f"{version} text": of("probe_echo", lambda _, value: {"text": value}),
        f"{version} key": of("probe_echo", text, **{"dev.mcpbroker/idempotency_key": ...}),
        f"{version} ordering": of("probe_echo", text, **{"dev.mcpbroker/ordering_key": ...}),
        f"{version} deadline": of("probe_echo", text, **{"dev.mcpbroker/deadline_ms": ...}),
        f"{version} trace": of("probe_echo", text, traceparent=...),
        f"{version} status": of("command_status", lambda _, v: {"command_id": v, "wait_s": 0}),
        f"{version} wait": of(
            "command_status", lambda known, v: {"command_id": known.command, "wait_s": v}
        ),
        f"{version} list": of("command_list", lambda _, v: {"tool": v}),
        f"{version} before": of("command_list", lambda _, v: {"before": v}),
        f"{version} saga": of("saga_run", lambda _, v: {"name": v, "dry_run": True}),
        f"{version} saga input": of("saga_run", lambda _, v: {"name": "x", "input": v}),
        f"{version} plan": of("saga_run", lambda _, v: {"plan": v, "dry_run": True}),
    }


FIELDS: Final = [
    "tool",
    "method",
    "args",
    "idempotency_key",
    "ordering_key",
    "user_id",
    "tenant_id",
    "saga_step",
    "saga_id",
    "priority",
    "deadline_ms",
    "correlation_id",
    "compensation",
    "accept_async",
]
ENTRANCES: Final[dict[str, Send]] = {
    **{f"call {field}": in_call(field) for field in FIELDS},
    "call text": in_body("/mcp/tools/call", lambda value: call(args={"text": value})),
    "call whole": in_body("/mcp/tools/call", lambda value: value),
    "header key": in_header("/mcp/tools/call", "idempotency-key"),
    "header prefer": in_header("/mcp/tools/call", "prefer"),
    "header trace": in_header("/mcp/tools/call", "traceparent"),
    "header host": in_header("/mcp/tools/call", "origin"),
    "list tool": in_query("/commands", "tool"),
    "list before": in_query("/commands", "before"),
    "list limit": in_query("/commands", "limit"),
    "list state": in_query("/commands", "state"),
    "command": in_path("/commands/{value}"),
    "saga": in_path("/sagas/{value}"),
    "cancel reason": in_body("/commands/{command}/cancel", lambda value: {"reason": value}),
    "saga name": in_body("/sagas", lambda value: {"name": value}),
    "saga input": in_body("/sagas", lambda value: {"name": "x", "input": value}),
    "saga plan": in_body("/sagas/dry-run", lambda value: {"plan": value}),
    **over_mcp(VERSION),
    **over_mcp("2025-11-25"),
}


@pytest.mark.guarantee("hostile:answered")
@pytest.mark.parametrize("entrance", ENTRANCES)
async def test_each_field_is_answered_in_bound_and_arrives_as_sent(
    mcp_http: httpx.AsyncClient, broker: Parts, entrance: str
) -> None:
    made = await mcp_http.post("/mcp/tools/call", json=call(), headers=LATER)
    known = Known(command=made.json()["correlation_id"])
    for value in VALUES:
        async with asyncio.timeout(BOUND_S):
            answer = await ENTRANCES[entrance](mcp_http, known, value)
        shown = ascii(value)[:80]
        assert answer.status_code < 500, (shown, answer.text)
        if answer.status_code >= 400:
            kind = answer.headers["content-type"]
            assert kind in {"application/problem+json", "application/json"}, (shown, kind)
            assert len(answer.content) < 5000, shown
            body = answer.json()
            assert body.get("code") or body["error"]["code"], (shown, body)
        if entrance == "call text" and answer.status_code == 202:
            kept = await args_of(broker, answer.json()["correlation_id"])
            assert kept == {"text": value}, shown


async def args_of(broker: Parts, command_id: str) -> Any:
    async with broker.database.pool.acquire() as conn, conn.transaction():
        await conn.execute("SELECT set_config('app.tenants', '{demo}', true)")
        return json.loads(
            await conn.fetchval("SELECT args::text FROM commands WHERE id = $1::uuid", command_id)
        )
