"""How each agent is installed, told where the broker and the model are, and run.

Each has a home of its own in the test's folder, a key that is none, and no way out of loopback.
"""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import uv

from devstack import paths
from tests.support import npm
from tests.support.npm import UnreachableError

HERE: Final = Path(__file__).parent
INSTALL_S: Final = 300
Form = Literal["text", "structured"]
RUN_S: Final = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an agent works: its folder, the broker's address and token, the model's address."""

    home: Path
    broker: str
    token: str
    model: str

    @property
    def work(self) -> Path:
        """The folder that it is started in."""
        return self.home / "work"

    def env(self, **more: str) -> dict[str, str]:
        """Its environment: none of ours but the path, and a proxy that does not answer."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "BROKER_TOKEN": self.token,
            "HTTPS_PROXY": "http://127.0.0.1:9",
            "NO_PROXY": "127.0.0.1,localhost",
        } | more


@dataclass(frozen=True, slots=True)
class Command:
    """What to start."""

    argv: Sequence[str | Path]
    env: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """One agent, of one version."""

    name: str
    version: str
    install: Callable[[], Path]
    command: Callable[[Path, Place, str, bool], Command]
    """Installed where, working where, asked what, and whether to go on with the last talk."""

    results: Form = "text"
    failures: Form = "text"
    """Which form of an answer it passes on to the model."""

    interrupted: str | None = None
    """What it tells of a call in which it was killed; None where it cannot go on with a talk."""

    broken: str | None = None
    """What it tells of a call whose broker was killed; None where it tells nothing and ends."""

    log: str | None = None
    """The files of its home that it keeps a talk in, where it writes them with a delay."""


class Running:
    """An agent at work."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Command, place: Place) -> "Running":
        """Start it in a process group of its own."""
        place.work.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            *command.argv,
            env=command.env,
            cwd=place.work,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(process)

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._process.returncode is not None

    async def ended(self) -> str:
        """What it said, once it has ended well."""
        try:
            async with asyncio.timeout(RUN_S):
                said, _ = await self._process.communicate()
        finally:
            await self.kill()
        assert self._process.returncode == 0, (self._process.returncode, said.decode()[-4000:])
        return said.decode()

    async def kill(self) -> None:
        """kill -9, with all that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.communicate()


def from_npm(package: str, version: str, program: str) -> Callable[[], Path]:
    """A package's program for this machine."""

    def install() -> Path:
        found = npm.install(package, version).parents[len(Path(package).parts) - 1]
        programs = sorted(found.glob(program))
        if not programs:
            raise UnreachableError(f"{package} has no program for this machine")
        return programs[0]

    return install


def from_pypi(name: str, *packages: str) -> Callable[[], Path]:
    """An environment's Python with these packages."""

    def install() -> Path:
        home = paths.cache() / f"agent-{name}"
        python = home / "bin" / "python"
        if (home / "done").exists():
            return python
        shutil.rmtree(home, ignore_errors=True)
        for argv in (
            ["venv", "--quiet", "--python", sys.executable, str(home)],
            ["pip", "install", "--quiet", "--python", str(python), *packages],
        ):
            try:
                done = subprocess.run(
                    [uv.find_uv_bin(), *argv],
                    capture_output=True,
                    text=True,
                    timeout=INSTALL_S,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise UnreachableError(f"uv took over {INSTALL_S} s") from error
            if done.returncode != 0:
                raise UnreachableError(done.stderr.strip()[-500:])
        (home / "done").touch()
        return python

    return install


def claude(program: Path, place: Place, prompt: str, again: bool) -> Command:
    """Claude Code, headless."""
    settings = place.home / "mcp.json"
    headers = {"Authorization": "Bearer ${BROKER_TOKEN}"}
    server = {"type": "http", "url": place.broker, "headers": headers}
    settings.write_text(json.dumps({"mcpServers": {"broker": server}}))
    argv = [program, *(["--continue"] if again else []), "-p", prompt, "--mcp-config", settings]
    argv += ["--strict-mcp-config", "--allowedTools", "mcp__broker", "--model", "scripted-1"]
    env = place.env(
        ANTHROPIC_BASE_URL=place.model,
        ANTHROPIC_API_KEY="none",
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
        DISABLE_TELEMETRY="1",
        DISABLE_ERROR_REPORTING="1",
        DISABLE_AUTOUPDATER="1",
        ENABLE_TOOL_SEARCH="false",
    )
    return Command(argv, env)


def codex(program: Path, place: Place, prompt: str, again: bool) -> Command:
    """Codex, headless."""
    home = place.home / ".codex"
    home.mkdir(exist_ok=True)
    (home / "config.toml").write_text(
        f"""
model = "scripted-1"
model_provider = "scripted"
check_for_update_on_startup = false
[analytics]
enabled = false
[model_providers.scripted]
name = "scripted"
base_url = "{place.model}/v1"
env_key = "MODEL_KEY"
wire_api = "responses"
[mcp_servers.broker]
url = "{place.broker}"
bearer_token_env_var = "BROKER_TOKEN"
"""
    )
    argv = [program, "exec", *(["resume", "--last"] if again else []), "--skip-git-repo-check"]
    argv += ["--dangerously-bypass-approvals-and-sandbox", prompt]
    return Command(argv, place.env(CODEX_HOME=str(home), MODEL_KEY="none"))


def opencode(program: Path, place: Place, prompt: str, again: bool) -> Command:
    """opencode, headless."""
    headers = {"Authorization": "Bearer {env:BROKER_TOKEN}"}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{place.model}/v1", "apiKey": "none"},
        "models": {"scripted-1": {"tool_call": True, "limit": {"context": 200000, "output": 9000}}},
    }
    place.work.mkdir(parents=True, exist_ok=True)
    (place.work / "opencode.json").write_text(
        json.dumps(
            {
                "model": "scripted/scripted-1",
                "autoupdate": False,
                "share": "disabled",
                "permission": "allow",
                "provider": {"scripted": provider},
                "mcp": {"broker": {"type": "remote", "url": place.broker, "headers": headers}},
            }
        )
    )
    argv = [program, "run", *(["--continue"] if again else []), prompt]
    return Command(
        argv, place.env(OPENCODE_DISABLE_MODELS_FETCH="1", OPENCODE_DISABLE_LSP_DOWNLOAD="1")
    )


def python(name: str) -> Callable[[Path, Place, str, bool], Command]:
    """One of the scripts beside this file; it begins anew each time."""

    def command(program: Path, place: Place, prompt: str, again: bool) -> Command:
        del again
        env = place.env(BROKER=place.broker, MODEL=f"{place.model}/v1")
        return Command([program, HERE / "python" / f"{name}_agent.py", prompt], env)

    return command


AGENTS: Final = (
    Agent(
        name="claude-code",
        version="2.1.332",
        install=from_npm(
            "@anthropic-ai/claude-code", "2.1.332", "@anthropic-ai/claude-code-linux-*/claude"
        ),
        command=claude,
        results="structured",
        broken=(
            'MCP server "broker" connection closed before the tool call was answered. The tool may'
            " have run: check whether it did before running it again."
        ),
        log=".claude/projects/*/*.jsonl",
        interrupted=(
            "[Tool call interrupted: the session ended before this call's result was recorded, so"
            " its outcome is unknown. Check whether it took effect before relying on it or running"
            " it again.]"
        ),
    ),
    Agent(
        name="codex",
        version="0.171.0",
        install=from_npm("@openai/codex", "0.171.0", "@openai/codex-linux-*/vendor/*/bin/codex"),
        command=codex,
        results="structured",
        failures="structured",
        interrupted="aborted",
        broken=(
            "tool call error: tool call failed for `broker/interop_work`\n\nCaused by:\n"
            "    Transport closed"
        ),
    ),
    Agent(
        name="opencode",
        version="1.18.33",
        install=from_npm("opencode-ai", "1.18.33", "opencode-linux-*/bin/opencode"),
        command=opencode,
        interrupted="[Tool execution was interrupted]",
        broken="MCP error -32001: Request timed out",
    ),
    Agent(
        name="langchain",
        version="1.5.2",
        install=from_pypi(
            "langchain-1.5.2",
            "langchain==1.5.2",
            "langchain-mcp-adapters==0.3.2",
            "langchain-openai==1.7.4",
        ),
        command=python("langchain"),
    ),
    Agent(
        name="fastmcp",
        version="4.2.3",
        install=from_pypi("fastmcp-4.2.3", "fastmcp==4.2.3", "httpx"),
        command=python("fastmcp"),
    ),
    Agent(
        name="pydantic-ai",
        version="2.68.0",
        install=from_pypi("pydantic-ai-2.68.0", "pydantic-ai-slim[mcp,openai]==2.68.0"),
        command=python("pydantic"),
        broken="SSE stream ended without a response",
        results="structured",
        failures="structured",
    ),
)
