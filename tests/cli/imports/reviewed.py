"""A command line as somebody types it, and a reviewed file in force and at work."""

import asyncio
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner, Result

from adapters.contract import Outcome
from adapters.kinds import Adapters
from app.catalog import file as catalog_file
from app.cli import app
from tests.adapters.executor import Heard, call_of


async def broker(*argv: str | Path, code: int = 0, **env: str) -> Result:
    """Run a command, in a thread as it has an event loop of its own."""
    told = [str(one) for one in argv]
    done = await asyncio.to_thread(CliRunner().invoke, app, told, env=env)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == code, done.output
    return done


def entries(text: str) -> dict[str, dict[str, Any]]:
    """The tools of a file by their names at the source."""
    return {one["method"]: one for one in yaml.safe_load(text)["tools"]}


async def applied(path: Path, owner: str) -> None:
    """Check the file, and put it in force."""
    await broker("catalog", "check", path)
    done = await broker("catalog", "apply", path, "--database-url", owner)
    assert "applied:" in done.output


async def called(path: Path, method: str, args: dict[str, Any]) -> Outcome:
    """A tool of the file, called by its adapter."""
    [read] = [one for one in catalog_file.parse(path).tools if one.method == method]
    [target] = [one.made() for one in catalog_file.parse(path).targets]
    assert read.adapter is not None
    adapters = Adapters()
    try:
        call = call_of(target, args=args, mapping=read.adapter.mapping, deadline_s=30)
        return await adapters.run(call, Heard())
    finally:
        await adapters.close()
