"""The demo's own MCP server from a package: imported, called by a client that is killed, found."""

import asyncio
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from rich.console import Console

from devstack.stack import Stack

SERVER: Final = "mcp-server-git"
TOOL: Final = "repo_git_log"
KEY: Final = "demo-import"
PROTOCOL: Final = "2026-07-28"
WAIT_S: Final = 60.0
COMMIT: Final = re.compile(r"[0-9a-f]{40}")
BEFORE: Final = ("queued", "dispatched")
MADE: Final = "SELECT state, attempt FROM commands WHERE idempotency_key = $1"


async def imported(stack: Stack, say: Console) -> bool:
    """Import the server's tools with the commands that an administrator would type."""
    program = str(Path(sys.executable).with_name(SERVER))
    file = str(stack.home / "repo.yml")
    assert stack.dsns is not None
    asked = ["--stdio", program, "--name", "repo", "--only", "git_log"]
    for words, more in (
        (["import", "mcp", *asked, "--out", str(stack.home)], []),
        (["apply", file], ["--database-url", stack.dsns.owner]),
    ):
        shown = " ".join(words).replace(program, SERVER).replace(file, "repo.yml")
        say.print(f"$ broker catalog {shown.replace(str(stack.home), '.')}")
        argv = [sys.executable, "-m", "app", "catalog", *words, *more]
        process = await asyncio.create_subprocess_exec(
            *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        said, _ = await process.communicate()
        say.print(said.decode().strip().replace(file, "repo.yml"))
        if process.returncode != 0:
            return False
    return True


async def found_again(stack: Stack, repo: str, wanted: str, say: Console) -> bool:
    """Kill the client in the middle of its call; another finds the result by the key."""
    assert stack.dsns is not None
    argv = (sys.executable, "-m", "devstack.demo_import", f"{stack.url}/mcp", repo)
    env = {**os.environ, "DEMO_TOKEN": stack.user_token()}
    conn = await asyncpg.connect(stack.dsns.owner)
    killed = await asyncio.create_subprocess_exec(*argv, env=env)
    try:
        until = time.monotonic() + WAIT_S
        row = None
        while (row is None or row["state"] in BEFORE) and time.monotonic() < until:
            await asyncio.sleep(0.02)
            row = await conn.fetchrow(MADE, KEY)
        killed.kill()
        await killed.wait()
        if row is None:
            say.print("[red]the call was not accepted[/red]")
            return False
        say.print(f"the client was killed while its call was {row['state']}")
        result = await call(f"{stack.url}/mcp", stack.user_token(), repo)
        attempts = [one["attempt"] for one in await conn.fetch(MADE, KEY)]
    finally:
        await conn.close()
    commit = COMMIT.search(str(result.content))
    newest = commit[0] if commit else None
    say.print(f"another client found its result: '{newest}' is the newest commit")
    say.print(f"one command, attempts: {attempts}")
    return newest == wanted and len(attempts) == 1


async def call(url: str, token: str, repo: str) -> Any:
    """The tool's answer, of the call with this key, whoever made it first."""
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=WAIT_S) as http,
        Client(streamable_http_client(url, http_client=http), mode=PROTOCOL) as mcp,
    ):
        return await mcp.call_tool(
            TOOL,
            {"repo_path": repo, "max_count": 1},
            meta={"dev.mcpbroker/idempotency_key": KEY},
        )


if __name__ == "__main__":
    asyncio.run(call(sys.argv[1], os.environ["DEMO_TOKEN"], sys.argv[2]))
