"""A durable call of an MCP server through us, beside two gateways that keep nothing of a call.

IBM ContextForge, with its default embedded database, and a FastMCP proxy; each is installed by uv
into an environment of its own, as neither is in the lock file. One that cannot be installed or
started is left out, and said.
"""

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import uuid4

import httpx
import orjson

from app.catalog import file as catalog_file
from app.catalog.adapter import ToolAdapter
from app.postgres import migrate
from benchmarks import http
from benchmarks.intake import echo_server
from benchmarks.life import Client, resident
from benchmarks.measure import Figure, Stopwatch, at_least, at_most, in_turns, percentile
from benchmarks.servers import UNBOUNDED, Servers
from devstack.postgres import free_port
from devstack.process import Process
from relay.kafka import create_topics

logger = logging.getLogger(__name__)

CONTEXTFORGE: Final = "mcp-contextforge-gateway==1.0.7.post20260921"
FASTMCP: Final = "fastmcp==4.2.3"
INSTALL_S: Final = 300
START_S: Final = 180.0
RATE: Final = 20
CALLERS: Final = 32
ANSWER_S: Final = 10.0
QUIET_S: Final = 120.0
QUIET_IDLE: Final = 0.7
"""Of each second of a processor, before a turn begins."""
TEXT: Final = "x" * 200
SECRETS: Final = {
    "JWT_SECRET_KEY": "a-secret-of-a-benchmark-0123456789abcdef",
    "AUTH_ENCRYPTION_SECRET": "a-salt-of-a-benchmark-0123456789abcdef",
    "PLATFORM_ADMIN_EMAIL": "admin@example.com",
    "PLATFORM_ADMIN_PASSWORD": "Of-a-Benchmark-2026!",
    "DEFAULT_USER_PASSWORD": "Of-a-Benchmark-2026!",
    "BASIC_AUTH_PASSWORD": "Of-a-Benchmark-2026!",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to the echo server, as a client of MCP sees it."""

    port: int
    tool: str
    era: str
    path: str = "/mcp"
    token: str = ""

    def request(self) -> bytes:
        """A whole request of a call, with a key of its own."""
        call = http.mcp_call(self.era)
        params = call["params"] | {"name": self.tool, "arguments": {"text": TEXT}}
        if self.era == http.MODERN:
            del params["_meta"]["dev.mcpbroker/wait_s"]
        else:
            del params["_meta"]
        body = orjson.dumps(call | {"params": params})
        sent = http.mcp_headers(self.era) | {"Content-Type": "application/json"}
        if self.era == http.MODERN:
            sent["Mcp-Name"] = self.tool
        if self.token:
            sent["Authorization"] = f"Bearer {self.token}"
        lines = "".join(f"{name}: {value}\r\n" for name, value in sent.items())
        head = f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{lines}"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connections:
    """Kept connections of one way; a call takes one that is free."""

    def __init__(self, way: Way) -> None:
        self._way = way
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def call(self) -> bool:
        """Whether the server's own answer came."""
        pipe = self._free.pop() if self._free else await self._open()
        reader, writer = pipe
        try:
            writer.write(self._way.request())
            async with asyncio.timeout(ANSWER_S):
                status, answer = await http.response(reader)
        except (OSError, EOFError, TimeoutError, ValueError):
            writer.close()
            return False
        self._free.append(pipe)
        return status.startswith(b"2") and b"accepted xxx" in answer and IS_ERROR not in answer

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self._way.port, limit=1 << 20)


IS_ERROR: Final = b'"isError":true'


class Measured:
    """What ways took, and their calls that failed."""

    def __init__(self, ways: Mapping[str, Way]) -> None:
        self._ways = ways
        self.failed = dict.fromkeys(ways, 0)
        self.made = dict.fromkeys(ways, 0)

    async def p50(self, name: str, seconds: float) -> float:
        """The ms of a call at 20 a second, from when it was due."""
        await quiet()
        connections, spent = Connections(self._ways[name]), list[float]()
        watch = Stopwatch()

        async def one(due: float) -> None:
            if await self._counted(name, connections):
                spent.append((watch.s - due) * 1000)

        async with asyncio.TaskGroup() as group:
            for n in range(int(seconds * RATE)):
                await asyncio.sleep(max(0.0, n / RATE - watch.s))
                group.create_task(one(n / RATE))
        connections.close()
        return percentile(spent, 0.5) if spent else float("inf")

    async def rate(self, name: str, seconds: float) -> float:
        """Calls a second of callers that each call again once answered; failures do not count."""
        await quiet()
        connections, done = Connections(self._ways[name]), 0
        watch = Stopwatch()

        async def caller() -> None:
            nonlocal done
            while watch.s < seconds:
                fine = await self._counted(name, connections)
                done += fine  # not `+= await`: callers would count over each other

        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        connections.close()
        return done / watch.s

    async def _counted(self, name: str, connections: Connections) -> bool:
        fine = await connections.call()
        self.made[name] += 1
        self.failed[name] += not fine
        return fine


async def quiet() -> None:
    """Wait until who was measured before has done what it was asked, given up or not.

    Raises:
        TimeoutError: the machine has something else to do.
    """
    async with asyncio.timeout(QUIET_S):
        while True:
            before = idle_s()
            await asyncio.sleep(1)
            if idle_s() - before > QUIET_IDLE * (os.cpu_count() or 1):
                return


def idle_s() -> float:
    """The seconds in which processors had nothing to do, since the start of the machine."""
    line = Path("/proc/stat").read_text().partition("\n")[0]
    return int(line.split()[4]) / os.sysconf("SC_CLK_TCK")


async def echo_calls(servers: Servers) -> list[Figure]:
    """One echo server, through us and through each gateway that could be started."""
    slow_s, fast_s = servers.pick(8, 2), servers.pick(5, 1)
    async with AsyncExitStack() as stack:
        at = await stack.enter_async_context(echo_server())
        ways = {"ours": await stack.enter_async_context(ours(servers, at))}
        for name, opened in (("ContextForge", contextforge), ("FastMCP proxy", fastmcp)):
            try:
                ways[name] = await stack.enter_async_context(opened(servers.home, at))
            except (OSError, RuntimeError, httpx.HTTPError, KeyError) as error:
                logger.warning("%s is left out: %s", name, error)
        measured = Measured(ways)
        for name in ways:  # sessions, pools and caches are there before it counts
            await measured.rate(name, 1)
        measured.failed, measured.made = dict.fromkeys(ways, 0), dict.fromkeys(ways, 0)
        slow = await in_turns(
            servers.repeats, **{one: lambda n=one: measured.p50(n, slow_s) for one in ways}
        )
        fast = await in_turns(
            servers.repeats, **{one: lambda n=one: measured.rate(n, fast_s) for one in ways}
        )
    return figures_of(slow, fast, measured)


def figures_of(
    slow: Mapping[str, list[float]], fast: Mapping[str, list[float]], measured: Measured
) -> list[Figure]:
    """Each gateway's, with the failures of both."""
    figures: list[Figure] = []
    for name in slow:
        if name == "ours":
            continue
        told = [f"{one}: {measured.failed[one]} of {measured.made[one]}" for one in ("ours", name)]
        note = f"failed calls, {'; '.join(told)}"
        figures.append(
            at_most(
                1.5,
                name=f"a durable call of an echo MCP server, {RATE} calls/s, p50",
                unit="ms",
                subject=slow["ours"],
                baseline=slow[name],
                against=f"{name}, which keeps nothing",
                note=note,
            )
        )
        figures.append(
            at_least(
                1.0,
                name=f"durable calls of an echo MCP server, {CALLERS} callers",
                unit="calls/s",
                subject=fast["ours"],
                baseline=fast[name],
                against=f"{name}, which keeps nothing",
                note=note,
            )
        )
    return figures


@asynccontextmanager
async def ours(servers: Servers, at: int) -> AsyncGenerator[Way]:
    """App, relay, Kafka and a worker."""
    adapter = servers.issuer.token(tenant="adapters", user="bench", scopes=["results:write"])
    await servers.kafka()
    async with servers.database() as dsns:
        await offer(dsns.owner, at)
        await create_topics(servers.settings(dsns.relay))
        async with (
            servers.relay(dsns.relay, name="relay-gateways"),
            servers.app(dsns.app) as app,
            resident(servers, app.port, adapter),
        ):
            client = Client(app.port, servers.token())
            call = {"tool": "relayed", "method": "echo", "args": {"text": TEXT}}
            answer = await client.post("/mcp/tools/call", call | {"idempotency_key": str(uuid4())})
            assert answer["state"] == "succeeded", answer
            client.close()
            token = servers.token()
            yield Way(port=app.port, tool="relayed_echo", era=http.MODERN, token=token)


async def offer(dsn: str, at: int) -> None:
    """The echo server's tool, by the worker, and the one that says that a worker is there."""
    tools: list[catalog_file.ToolEntry] = []
    for tool, adapter in (
        (
            "relayed",
            ToolAdapter.model_validate({"kind": "mcp", "target": "e", "tool": "probe_echo"}),
        ),
        ("worked", ToolAdapter(kind="echo", target="mirror")),
    ):
        entry = catalog_file.ToolEntry(
            tool=tool,
            method="echo",
            description="Echo a text.",
            input_schema={"type": "object"},
            adapter=adapter,
            in_flight_max=UNBOUNDED,
        )
        tools.append(entry)
    limits = {"calls_max": 1024}
    address = f"http://127.0.0.1:{at}/mcp"
    targets = (
        catalog_file.TargetEntry(name="e", kind="mcp", address=address, limits=limits),
        catalog_file.TargetEntry(name="mirror", kind="echo", limits=limits),
    )
    async with migrate.connected(dsn) as engine:
        file = catalog_file.CatalogFile(tools=tuple(tools), targets=targets)
        await catalog_file.apply(engine, file, prune=False)


async def installed(home: Path, name: str, package: str) -> Path:
    """The programs of an environment that has this package.

    Raises:
        RuntimeError: it cannot be installed.
    """
    uv, folder = Path(sys.executable).parent / "uv", home / name
    for argv in (
        ["venv", "-q", "--python", sys.executable, folder],
        ["pip", "install", "-q", "--python", folder / "bin" / "python", package],
    ):
        done = await asyncio.create_subprocess_exec(
            uv, *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        async with asyncio.timeout(INSTALL_S):
            out, _ = await done.communicate()
        if done.returncode:
            raise RuntimeError(f"{package} cannot be installed: {out.decode()[-500:]}")
    return folder / "bin"


@asynccontextmanager
async def contextforge(home: Path, at: int) -> AsyncGenerator[Way]:
    """IBM ContextForge with SQLite, its caches and its checks of tokens as they are by default.

    Without its limit of a user's rate, as ours has none here either.
    """
    programs = await installed(home, "contextforge", CONTEXTFORGE)
    folder, port = home / "contextforge-run", free_port()
    folder.mkdir()
    env = SECRETS | {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "SSRF_ALLOW_LOCALHOST": "true",
        "LOG_LEVEL": "ERROR",
        # By default 100 calls a minute; who calls more is locked out, and all its calls fail.
        "RATE_LIMITING_ENABLED": "false",
    }
    argv = [programs / "mcpgateway", "--host", "127.0.0.1", "--port", str(port)]
    process = Process("contextforge", argv, log=folder / "log", env=env, cwd=folder)
    process.start()
    try:
        token = await contextforge_token(programs, env)
        head = {"Authorization": f"Bearer {token}"}
        base = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=base, headers=head, timeout=60) as client:
            await up(client, "/health", process)
            body = {"name": "echo", "url": f"http://127.0.0.1:{at}/mcp"}
            made = await client.post("/gateways", json=body | {"transport": "STREAMABLEHTTP"})
            made.raise_for_status()
            tools = (await client.get("/tools")).json()
        yield Way(port=port, tool=tools[0]["name"], era="2025-06-18", path="/mcp/", token=token)
    finally:
        await asyncio.to_thread(process.stop)


async def contextforge_token(programs: Path, env: Mapping[str, str]) -> str:
    argv = [
        "-m",
        "mcpgateway.utils.create_jwt_token",
        "--username",
        SECRETS["PLATFORM_ADMIN_EMAIL"],
    ]
    argv += ["--exp", "600", "--admin", "--secret", SECRETS["JWT_SECRET_KEY"]]
    done = await asyncio.create_subprocess_exec(
        programs / "python", *argv, env=dict(env), cwd=env["HOME"], stdout=asyncio.subprocess.PIPE
    )
    out, _ = await done.communicate()
    return out.decode().split()[-1]


@asynccontextmanager
async def fastmcp(home: Path, at: int) -> AsyncGenerator[Way]:
    """A FastMCP proxy."""
    programs, port = await installed(home, "fastmcp", FASTMCP), free_port()
    script = Path(__file__).with_name("fastmcp_proxy.py")
    argv = [programs / "python", "-I", script, f"http://127.0.0.1:{at}/mcp", str(port)]
    process = Process("fastmcp", argv, log=home / "fastmcp.log", env=dict(os.environ), cwd=home)
    process.start()
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as client:
            await up(client, "/mcp", process)
        yield Way(port=port, tool="probe_echo", era="2025-06-18")
    finally:
        await asyncio.to_thread(process.stop)


async def up(client: httpx.AsyncClient, path: str, process: Process) -> None:
    """Wait until something answers there.

    Raises:
        RuntimeError: nothing does.
    """
    watch = Stopwatch()
    while watch.s < START_S and process.running:
        try:
            await client.get(path)
        except httpx.TransportError:
            await asyncio.sleep(0.5)
        else:
            return
    raise RuntimeError(f"it does not start: {process.tail()[-800:]}")
