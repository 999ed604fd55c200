"""What is ours, on the releases of ansible-rulebook that we name, the oldest and the newest of 1.x.

The lock file's own (1.3.2) runs in all the other tests.
"""

import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support import packages
from tests.support.stack import wait_for
from tests.system.eda.conftest import COLLECTIONS
from tests.system.eda.controller import TOKEN as CONTROLLER_TOKEN
from tests.system.eda.controller import Controller, Template
from tests.system.eda.results_api import TOKEN, ResultsApi
from tests.system.eda.test_rulebooks import BOOKS, load

# 1.1 to 1.3.0 with the pyparsing that refuses `not (…)` of several conditions.
RELEASES = [("1.1.0", "3.3.2"), ("1.3.0", "3.3.2"), ("1.3.0", "3.1.4")]
PROGRAM = """
import json, sys
from ansible_rulebook.condition_parser import parse_condition
for condition in json.load(sys.stdin):
    parse_condition(condition)
"""
PLUGINS = COLLECTIONS / "ansible_collections/mcpbroker/eda/extensions/eda/plugins"
LAUNCHING = Path(__file__).parent / "fixtures" / "launching.py"


def conditions() -> list[str]:
    return [rule["condition"] for book in BOOKS for rule in load(book)[0]["rules"]]


def installed(release: str, pyparsing: str) -> Path:
    """A folder with ansible-rulebook and what reads its conditions."""
    wanted = [f"ansible-rulebook=={release}", f"pyparsing=={pyparsing}", "pyyaml"]
    try:
        return packages.folder(f"ansible-rulebook-{release}-pyparsing-{pyparsing}", *wanted)
    except packages.UnreachableError as error:
        pytest.skip(f"the package index does not answer: {error}")


@pytest.mark.parametrize(("release", "pyparsing"), RELEASES)
def test_every_condition_is_read(release: str, pyparsing: str) -> None:
    folder = installed(release, pyparsing)

    def reads(*conditions: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={"PYTHONPATH": str(folder)},
            input=json.dumps(conditions),
            capture_output=True,
            text=True,
            check=False,
        )

    done = reads(*conditions())
    assert done.returncode == 0, done.stderr[-500:]
    assert reads("event.body is").returncode != 0, "what is no condition is not read"


@contextmanager
def launching(
    release: str, api: ResultsApi, controller: Controller, launches: Mapping[str, Any]
) -> Generator[None]:
    """A release's process that launches these commands by these templates."""
    argv = [sys.executable, LAUNCHING, PLUGINS, controller.url, CONTROLLER_TOKEN]
    folder = installed(release, "3.3.2")
    broker = {"MCP_BROKER_URL": api.url, "MCP_BROKER_TOKEN": TOKEN}
    process = subprocess.Popen(
        [*argv, json.dumps(list(launches.items()))],
        env=os.environ | {"PYTHONPATH": str(folder)} | broker,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield
    finally:
        process.kill()
        said = process.communicate()[1]
    assert "in another way" not in said, "its launches are stood before"


@pytest.mark.guarantee("run:ended")
@pytest.mark.parametrize("release", ["1.1.0", "1.3.0"])
async def test_launches_that_fail_and_jobs_that_end_are_told_of(
    release: str, api: ResultsApi, controller: Controller
) -> None:
    commands = {name: api.command("probe", "echo", {}) for name in ("none", "bare", "shut", "ok")}
    controller.missing.add("none")
    controller.templates["bare"] = Template("bare", lacks={"inventory": ["is missing"]})
    controller.templates["shut"] = Template("shut", ask_variables=False)
    with launching(release, api, controller, commands):

        async def seen() -> bool:
            return any(run["status"] == "running" for run in api.runs(commands["ok"]))

        await wait_for(seen, 20)
        [job] = [job for job in controller.jobs if job.template == "ok"]
        job.event("verbose", "ERROR! no module")
        job.end("failed")

        async def told() -> bool:
            return all(api.told(command) for command in commands.values())

        await wait_for(told, 20)
    messages = {name: (api.told(one) or {})["message"] for name, one in commands.items()}
    assert "none in organization Default does not exist" in messages["none"]
    assert "is missing" in messages["bare"]
    assert "Prompt on launch" in messages["shut"]
    assert "no module" in messages["ok"]
