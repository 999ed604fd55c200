"""The control source in this process, and what drives it."""

import asyncio
import runpy
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from ansible_rulebook.job_template_runner import job_template_runner

from tests.system.eda.conftest import COLLECTIONS

PLUGIN = (
    COLLECTIONS / "ansible_collections/mcpbroker/eda/extensions/eda/plugins/event_source/control.py"
)


@asynccontextmanager
async def source(
    kafka_bootstrap: str, topic: str, options: Mapping[str, str] | None = None
) -> AsyncGenerator[dict[str, Any]]:
    """The source's functions, while it runs."""
    functions = runpy.run_path(str(PLUGIN))
    args = {"brokers": [kafka_bootstrap], "topic": f"{topic}-control", **(options or {})}
    task = asyncio.create_task(functions["main"](asyncio.Queue(1), args))
    await asyncio.sleep(0)  # it stands in front of the launches before its first wait
    yield functions
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def launch(command: Mapping[str, Any], template: str = "probe") -> None:
    """As run_job_template does."""
    params = {"extra_vars": {"mcp_command": dict(command)}}
    await job_template_runner.launch_job_template(template, "Default", params)


async def launch_workflow(command: Mapping[str, Any], template: str) -> None:
    """As run_workflow_template does."""
    params = {"extra_vars": {"mcp_command": dict(command)}}
    await job_template_runner.launch_workflow_job_template(template, "Default", params)


def message(command: Mapping[str, Any], run: str) -> dict[str, Any]:
    """As control.stop writes it."""
    fields = {name: command[name] for name in ("correlation_id", "tool", "method", "attempt")}
    return fields | {"action": "cancel", "adapter": run, "reason": "not wanted"}
