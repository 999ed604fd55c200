"""EDA as the second executor of adapters' kinds: one playbook does what the worker does."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from adapters.grpc.describing import digest_of
from tests.adapters.command.programs import script
from tests.adapters.grpc.service import Service, descriptors, serving
from tests.adapters.mcp import servant
from tests.support.calls import fetch
from tests.support.offers import put
from tests.support.stack import alive, listening, wait_for
from tests.system.e2e.conftest import World
from tests.system.e2e.test_path import ended

pytestmark = [pytest.mark.eda, pytest.mark.timeout(180)]

DESCRIPTORS = descriptors()
SECRET = "s3cret-of-demo"
PLAY_S = 40.0
UPPER = """
import json, os, sys
given = json.load(sys.stdin)
os.write(3, b'{"done": 1, "total": 4, "message": "a quarter"}\\n')
print(json.dumps({"text": given["text"].upper(), "key": os.environ["MCP_IDEMPOTENCY_KEY"]}))
"""
# Says who it is, and tidies up for a moment when it is told to end.
SLOW = """
import os, pathlib, signal, sys, time
me = pathlib.Path(sys.argv[1], os.environ["MCP_COMMAND_ID"])
signal.signal(signal.SIGTERM, lambda *_: (me.with_suffix(".tidy").touch(), sys.exit(1)))
me.write_text(str(os.getpid()))
time.sleep(600)
"""


class Shown:
    """An HTTP server that shows what it was sent, a credential among it."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def show(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.seen.append({"headers": dict(request.headers), "body": body})
        return JSONResponse(self.seen[-1])

    async def busy(self, _: Request) -> JSONResponse:
        return JSONResponse({}, 429, {"retry-after": "0"})


def catalog(at: str, service: str, home: Path) -> dict[str, Any]:
    """A tool of each kind, all on EDA."""

    def tool(name: str, target: str, policy: dict[str, Any], **mapping: Any) -> dict[str, Any]:
        adapter = {"kind": mapping.pop("kind", name), "target": target, "runs_on": "eda"}
        about = {"tool": "kind", "method": name, "description": name}
        schema = {"input_schema": {"type": "object"}, "policy": policy}
        return about | schema | {"adapter": adapter | mapping}

    once: dict[str, Any] = {"lease_s": 60}
    again = {"idempotent": True, "retry": {"attempts_max": 2, "backoff_s": 0.1}}
    slow = script(SLOW, str(home), kind="command", stdin="none")
    request = {"method": "POST", "body": {"text": "{text}", "at": "{{n}}"}}
    stdio = {"args": ["-I", servant.__file__]}
    rpc: dict[str, Any] = {"method": "test.v1.Work/Do", "descriptors": DESCRIPTORS}
    rpc["message"] = {"name": "{text}"}
    return {
        "tools": [
            tool("command", "python", once, **script(UPPER)),
            tool("http", "web", once, path="/show", **request),
            tool("busy", "web", again, kind="http", path="/busy", **request),
            tool("mcp", "servant", once, tool="blocks"),
            tool("slow", "python", again, **slow),
            tool("grpc", "service", once, **rpc, digest=digest_of(DESCRIPTORS, rpc["method"])),
            tool("changed", "service", once, kind="grpc", **rpc, digest="sha256:other"),
        ],
        "targets": [
            {"name": "python", "kind": "command", "address": sys.executable},
            {
                "name": "web",
                "kind": "http",
                "address": at,
                "credential": {"type": "bearer", "token": f"file:{home}/{{tenant}}"},
            },
            {
                "name": "servant",
                "kind": "mcp",
                "address": f"stdio:{sys.executable}",
                "options": stdio,
            },
            {
                "name": "service",
                "kind": "grpc",
                "address": service,
                "options": {"plaintext": True, "reflection": True},
                "credential": {"type": "bearer", "token": f"file:{home}/{{tenant}}"},
            },
        ],
    }


@pytest.fixture(scope="module")
async def web() -> AsyncIterator[tuple[Shown, str]]:
    shown = Shown()
    routes = [
        Route("/show", shown.show, methods=["POST"]),
        Route("/busy", shown.busy, methods=["POST"]),
    ]
    async with listening(Starlette(routes=routes)) as port:
        yield shown, f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    async with serving() as made:
        yield made


@pytest.fixture(scope="module")
async def kinds(
    world: World,
    web: tuple[Shown, str],
    service: Service,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The catalog with them, in force; a folder where programs leave their marks."""
    home = tmp_path_factory.mktemp("kinds")
    (home / "demo").write_text(f"{SECRET}\n")
    await put(world.dsns, home, catalog(web[1], service.address, home))
    return home


async def begin(http: httpx2.AsyncClient, method: str) -> str:
    """Accepted, once the app has heard of the catalog's change."""
    body = {"tool": "kind", "method": method, "args": {"text": "hello"}}
    headers = {"Prefer": "respond-async", "Idempotency-Key": f"kind-{method}"}

    async def accepted() -> Any:
        answer = await http.post("/mcp/tools/call", json=body, headers=headers)
        return answer.json()["correlation_id"] if answer.status_code == 202 else None

    return await wait_for(accepted)


@pytest.mark.guarantee("eda:kinds")
async def test_each_kind_works_through_eda_as_it_does_on_the_worker(
    world: World, kinds: Path, web: tuple[Shown, str]
) -> None:
    async with world.http() as http:
        names = ("command", "http", "mcp", "busy")
        ids = [await begin(http, name) for name in names]
        ends = await asyncio.gather(*(ended(http, one) for one in ids))
    program, request, tool, busy = ends
    assert program["result"] == {"text": "HELLO", "key": ids[0]}
    said = await fetch(
        world.dsns.owner, "SELECT percent, message FROM progress WHERE command_id = $1", ids[0]
    )
    assert (25.0, "a quarter") in [tuple(row) for row in said]
    [seen] = web[0].seen
    assert seen["body"] == {"text": "hello", "at": "{n}"}
    assert seen["headers"]["authorization"] == f"Bearer {SECRET}"
    assert seen["headers"]["idempotency-key"] == ids[1]
    assert request["result"]["headers"]["authorization"] == "Bearer [redacted]"
    assert tool["result"]["mcp"]["content"] == servant.BLOCKS
    assert tool["result"]["mcp"]["structuredContent"] == {"n": 5}
    assert busy["error"]["code"] == "target_busy"
    [row] = await fetch(world.dsns.owner, "SELECT attempt FROM commands WHERE id = $1", ids[3])
    assert row["attempt"] == 2, "not done: tried again"
    log = world.eda.process.log.read_text()
    assert "TASK [Claim the attempt, do its work and report]" in log
    assert SECRET not in log
    assert "HELLO" not in log


@pytest.mark.guarantee("eda:kinds")
@pytest.mark.usefixtures("kinds")
async def test_grpc_works_through_eda_and_a_method_that_changed_is_not_called(
    world: World, service: Service
) -> None:
    async with world.http() as http:
        ids = [await begin(http, name) for name in ("grpc", "changed")]
        done, changed = await asyncio.gather(*(ended(http, one) for one in ids))
    assert done["state"] == "succeeded", done
    assert done["result"]["name"] == "hello"
    [asked] = service.metadata
    assert asked["authorization"] == f"Bearer {SECRET}"
    assert asked["idempotency-key"] == ids[0]
    assert changed["error"]["code"] == "target_changed"
    log = world.eda.process.log.read_text()
    assert SECRET not in log


@pytest.mark.guarantee("eda:kinds")
async def test_a_cancel_lets_the_adapter_end_its_work_and_say_so(world: World, kinds: Path) -> None:
    async with world.http() as http:
        command = await begin(http, "slow")
        mark = kinds / command

        async def at_work() -> int:
            return int(mark.read_text() or 0) if mark.exists() else 0

        pid = await wait_for(at_work, PLAY_S)
        answer = await http.post(f"/commands/{command}/cancel", json={"reason": "not wanted"})
        assert answer.status_code < 300, answer.text
        found = await ended(http, command, 8)  # sooner than it would say progress by itself
    assert found["state"] == "cancelled"
    assert found["error"]["code"] == "cancelled", "the adapter's own word, not the source's"
    assert mark.with_suffix(".tidy").exists()
    assert not alive(pid)
