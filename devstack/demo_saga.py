"""The saga demo: a service is provisioned, configured, enabled; then one that fails is undone."""

import asyncio
import tempfile
from pathlib import Path
from typing import Any, Final

import asyncpg
import yaml
from rich.console import Console
from rich.table import Table

from app import assets
from devstack.demo import client
from devstack.stack import TENANT, Stack

EXAMPLE: Final = assets.root() / "examples" / "service_saga.yml"

STORY: Final = """
    SELECT type, body ->> 'step' AS step, body ->> 'from' AS state_from, body ->> 'to' AS state_to,
           body ->> 'reason' AS reason
      FROM audit.events
     WHERE saga_id = $1 AND type LIKE 'saga.%'
     ORDER BY occurred_at
"""


class SagaDemo:
    """Runs against a started stack; `run` says whether everything held."""

    def __init__(self, stack: Stack, console: Console) -> None:
        self._stack = stack
        self._console = console

    async def run(self) -> bool:
        """The whole show."""
        services = self._stack.workspace / "_services" / TENANT / "services"
        self._title("A saga provisions, configures and enables the service 'web'")
        done = await self._saga("web", "nothing")
        ok = not done.is_error and (services / "web").exists()
        self._console.print(f"services: {names(services)}")
        self._title("The same for 'shop', and its last step fails")
        undone = await self._saga("shop", "enable")
        self._console.print(f"[yellow]{undone.content[0].text}[/yellow]")
        saga_id: str = ((undone.meta or {})["dev.mcpbroker/command"])["command_id"]
        await self._story(saga_id)
        left = names(services)
        self._console.print(f"services: {left}")
        return ok and undone.is_error and left == ["web"]

    async def _saga(self, name: str, fail_at: str) -> Any:
        plan = yaml.safe_load(EXAMPLE.read_text())
        arguments = {"plan": plan, "input": {"name": name, "fail_at": fail_at}}
        async with client(self._stack) as mcp:
            return await mcp.call_tool("saga_run", arguments, progress_callback=self._progress)

    async def _progress(self, progress: float, total: float | None, message: str | None) -> None:
        self._console.print(f"  [cyan]{progress:6.2f}[/cyan] / {total:.0f}  {message}")

    async def _story(self, saga_id: str) -> None:
        assert self._stack.dsns is not None
        conn = await asyncpg.connect(self._stack.dsns.owner)
        try:
            events = await conn.fetch(STORY, saga_id)
        finally:
            await conn.close()
        table = Table("audit event", "step", "state", "why", title="audit.events", expand=True)
        for event in events:
            states = f"{event['state_from'] or '·'} → {event['state_to'] or '·'}"
            table.add_row(event["type"], event["step"], states, (event["reason"] or "")[:80])
        self._console.print(table)

    def _title(self, text: str) -> None:
        self._console.print()
        self._console.rule(f"[bold]{text}", align="left")


def names(folder: Path) -> list[str]:
    """What is in a folder."""
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def demo_saga(*, say: Console) -> bool:
    """Start a stack in a folder of its own, run the demo, stop everything."""
    with tempfile.TemporaryDirectory(prefix="mcp-broker-demo-") as home:
        stack = Stack(Path(home), say=lambda text: say.print(f"[dim]starting {text}[/dim]"))
        stack.start()
        try:
            ok = asyncio.run(SagaDemo(stack, say).run())
            if not ok:
                say.print(stack.tails(), markup=False)
            return ok
        finally:
            say.print("\n[dim]stopping …[/dim]")
            stack.stop()
