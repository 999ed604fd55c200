"""The demo: one MCP call through every part, then a crash, then the proof."""

import asyncio
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx2
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from rich.console import Console
from rich.table import Table

from app.audit.keys import load_public
from app.audit.note import key_id_of, signers_of
from devstack import demo_import
from devstack.stack import TENANT, Stack

PROTOCOL: Final = "2026-07-28"
CALL_S: Final = 120.0
SEALED_S: Final = 10.0

UNSEALED: Final = """
    SELECT EXISTS (SELECT FROM audit.events e
                    WHERE NOT EXISTS (SELECT FROM audit.members m WHERE m.event_id = e.event_id))
"""

TRAIL: Final = """
    SELECT occurred_at, type, actor, attempt, state_from, state_to, body::text AS body
      FROM audit.events
     WHERE command_id = $1
     ORDER BY occurred_at
"""


class Demo:
    """Runs against a started stack; `run` says whether everything held."""

    def __init__(self, stack: Stack, repo: str, console: Console) -> None:
        self._stack = stack
        self._repo = repo
        self._console = console
        self._path = ""
        """Where the clone is."""

    async def run(self) -> bool:
        """The whole show."""
        wanted = head_of(self._repo)
        clone_ok = await self._clone(wanted)
        import_ok = clone_ok and await self._import(wanted)
        crash_ok = await self._crash()
        audit_ok = await self._audit()
        held = {"clone": clone_ok, "import": import_ok, "crash": crash_ok, "audit": audit_ok}
        if failed := [name for name, ok in held.items() if not ok]:
            self._console.print(f"[red]did not hold: {', '.join(failed)}[/red]")
        return not failed

    async def _clone(self, wanted: str) -> bool:
        self._title(f"An MCP client calls git_clone on {self._repo}")
        arguments = {"repo": self._repo, "dest": "demo-clone"}
        async with client(self._stack) as mcp:
            self._console.print(f"protocol {mcp.protocol_version}, tools:", end=" ")
            self._console.print(", ".join(tool.name for tool in (await mcp.list_tools()).tools))
            started = time.monotonic()
            result = await mcp.call_tool("git_clone", arguments, progress_callback=self._progress)
            took_s = time.monotonic() - started
        found: dict[str, Any] = result.structured_content or {}
        if result.is_error:
            self._console.print(f"[red]{result.content}[/red]")
            return False
        ok = found.get("head") == wanted
        self._path = str(found.get("path"))
        self._console.print(f"result after {took_s:.1f} s: {found}")
        mark = "[green]=[/green]" if ok else "[red]≠[/red]"
        self._console.print(f"HEAD of the clone {found.get('head')} {mark} {wanted} of the source")
        command_id: str = ((result.meta or {})["dev.mcpbroker/command"])["command_id"]
        await self._trail(command_id)
        return ok

    async def _progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._console.print(f"  [cyan]{progress:6.2f}[/cyan] / {total:.0f}  {message}")

    async def _trail(self, command_id: str) -> None:
        assert self._stack.dsns is not None
        conn = await asyncpg.connect(self._stack.dsns.owner)
        try:
            row = await conn.fetchrow("SELECT * FROM commands WHERE id = $1", command_id)
            left = await conn.fetchval(
                "SELECT count(*) FROM outbox WHERE command_id = $1 AND kind = 'command'", command_id
            )
            events = await conn.fetch(TRAIL, command_id)
        finally:
            await conn.close()
        assert row is not None
        self._title("What Postgres keeps of it")
        self._console.print(
            f"commands: {row['id']} {row['tool']}.{row['method']} state={row['state']}"
            f" attempt={row['attempt']} key={row['idempotency_key']}"
        )
        self._console.print(f"outbox:   {left} of its rows left to publish")
        table = Table("audit event", "by", "state", "what", title="audit.events", expand=True)
        for event in events:
            states = f"{event['state_from'] or '·'} → {event['state_to'] or '·'}"
            table.add_row(event["type"], event["actor"], states, event["body"][:100])
        self._console.print(table)

    async def _import(self, wanted: str) -> bool:
        self._title(f"Another MCP server, {demo_import.SERVER}, becomes durable")
        if not await demo_import.imported(self._stack, self._console):
            return False
        return await demo_import.found_again(self._stack, self._path, wanted, self._console)

    async def _crash(self) -> bool:
        self._title("kill -9 the app right after 'accepted', and the relay with it")
        stack = self._stack
        assert stack.app is not None
        assert stack.relay is not None
        call = {"tool": "probe", "method": "echo", "args": {"text": "still here"}}
        headers = {"Authorization": f"Bearer {stack.user_token()}", "Prefer": "respond-async"}
        async with httpx2.AsyncClient(base_url=stack.url, headers=headers, timeout=20) as http:
            accepted = (await http.post("/mcp/tools/call", json=call)).json()
            stack.app.process.kill()
            stack.relay.kill()
            self._console.print(f"accepted: {accepted['command_id']}; app and relay are dead")
            await asyncio.to_thread(stack.relay.start)
            await asyncio.to_thread(stack.app.start)
            self._console.print("both started again")
            found: dict[str, Any] = {"final": False, "state": "unknown"}
            until = time.monotonic() + CALL_S
            while not found["final"] and time.monotonic() < until:
                await asyncio.sleep(0.2)
                found = (await http.get(f"/commands/{accepted['command_id']}")).json()
        ok = found["state"] == "succeeded" and found["result"] == {"text": "still here"}
        self._console.print(f"state: {found['state']}, result: {found.get('result')}")
        return ok

    async def _audit(self) -> bool:
        """Verify the audit trail as an auditor would: with the key's public half, in SQL."""
        self._title("The audit trail proves itself")
        assert self._stack.dsns is not None
        public = load_public(self._stack.seal_public)
        conn = await asyncpg.connect(self._stack.dsns.owner)
        try:
            until = time.monotonic() + SEALED_S
            while await conn.fetchval(UNSEALED) and time.monotonic() < until:  # noqa: ASYNC110 another process seals
                await asyncio.sleep(0.2)
            found = await conn.fetchrow("SELECT * FROM audit.verify($1)", TENANT)
            seal = await conn.fetchrow("SELECT * FROM audit.sealing WHERE tenant_id = $1", TENANT)
        finally:
            await conn.close()
        assert found is not None
        if seal is None:
            self._console.print("[red]nothing was sealed[/red]")
            return False
        signed = bool(signers_of(seal["checkpoint"], {key_id_of(key): key for key in public}))
        self._console.print(
            f"audit.verify: ok={found['ok']}, {found['events']} events in {found['seals']} seals,"
            f" signature {'good' if signed else 'BAD'}"
        )
        self._console.print(f"[dim]{seal['checkpoint'].strip()}[/dim]")
        return bool(found["ok"]) and signed

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{text}", align="left")


@asynccontextmanager
async def client(stack: Stack) -> AsyncGenerator[Client]:
    """The MCP SDK's client, over streamable HTTP, as the demo's user."""
    headers = {"Authorization": f"Bearer {stack.user_token()}"}
    async with httpx2.AsyncClient(headers=headers, timeout=CALL_S) as http:
        transport = streamable_http_client(f"{stack.url}/mcp", http_client=http)
        async with Client(transport, mode=PROTOCOL) as made:
            yield made


def head_of(repo: str) -> str:
    """The commit that a clone's HEAD is to be at."""
    done = subprocess.run(  # noqa: S603 argv is ours, no shell
        ["git", "ls-remote", "--", repo, "HEAD"],  # noqa: S607 git is a prerequisite
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 or not done.stdout:
        raise OSError(f"git cannot read {repo}: {done.stderr.strip() or 'it has no commit'}")
    return done.stdout.split()[0]


def demo(repo: str, *, say: Console) -> bool:
    """Start a stack in a folder of its own, run the demo, stop everything."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mcp-broker-demo-") as home:
        stack = Stack(Path(home), say=lambda text: say.print(f"[dim]starting {text}[/dim]"))
        stack.start()
        try:
            up_s = time.monotonic() - started
            say.print(f"[dim]five processes are up after {up_s:.1f} s: {stack.pids()}[/dim]")
            ok = asyncio.run(Demo(stack, repo, say).run())
            if not ok:
                say.print(stack.tails(), markup=False)
            return ok
        finally:
            say.print("\n[dim]stopping …[/dim]")
            stack.stop()
