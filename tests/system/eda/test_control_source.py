"""The control source by itself, in this process, on a real Kafka: whose run it ends, and how."""

import asyncio
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from ansible_rulebook.job_template_runner import job_template_runner

from tests.support.stack import wait_for
from tests.system.eda.conftest import ROOT, Publish
from tests.system.eda.controller import TOKEN as CONTROLLER_TOKEN
from tests.system.eda.controller import Controller
from tests.system.eda.results_api import TOKEN, ResultsApi

PLUGIN = (
    ROOT / "rulebooks/collections/ansible_collections/mcpbroker/eda"
    "/extensions/eda/plugins/event_source/control.py"
)
# A playbook and its worker, as ansible-core has them: the worker leads a session, and tells all of
# it of its own SIGTERM, here when the program has begun to tidy up. Another one has to be killed.
PROGRAM = """
mkdir "$0/part"; trap 'trap - TERM; touch "$0/tidying"; sleep 0.5; rm -r "$0/part"; exit 1' TERM
setsid sh -c 'trap "" TERM; while :; do sleep 0.1; done' &
echo $! > "$0/pid"; mv "$0/pid" "$0/child"; wait
"""
PLAY = """
import os, pathlib, signal, subprocess, sys, time

def tell(signum, frame):
    signal.signal(signum, signal.SIG_DFL)
    while not pathlib.Path(sys.argv[1], "tidying").exists():
        time.sleep(0.01)
    os.killpg(os.getpid(), signum)

worker = os.fork()
if worker == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, tell)
    subprocess.run(["sh", "-c", sys.argv[2], sys.argv[1]])
    os._exit(0)
os.waitpid(worker, 0)
"""


@contextmanager
def running(folder: Path) -> Generator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", PLAY, folder, PROGRAM], start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        with suppress(OSError, ValueError):
            os.kill(int((folder / "child").read_text()), signal.SIGKILL)


@pytest.fixture
async def control(
    kafka_bootstrap: str, topic: str, api: ResultsApi, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[dict[str, Any]]:
    """The source's functions, while it runs."""
    monkeypatch.setenv("MCP_BROKER_URL", api.url)
    monkeypatch.setenv("MCP_BROKER_TOKEN", TOKEN)
    async with source(kafka_bootstrap, topic) as functions:
        yield functions


@asynccontextmanager
async def source(kafka_bootstrap: str, topic: str) -> AsyncGenerator[dict[str, Any]]:
    functions = runpy.run_path(str(PLUGIN))
    args = {"brokers": [kafka_bootstrap], "topic": f"{topic}-control"}
    task = asyncio.create_task(functions["main"](asyncio.Queue(1), args))
    yield functions
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def message(command: Mapping[str, Any], run: str) -> dict[str, Any]:
    """As control.stop writes it."""
    fields = {name: command[name] for name in ("correlation_id", "tool", "method", "attempt")}
    return fields | {"action": "cancel", "adapter": run, "reason": "not wanted"}


@pytest.mark.guarantee("cancel:tree")
async def test_the_whole_tree_of_a_run_is_ended_and_no_other(
    api: ResultsApi, publish: Publish, topic: str, control: dict[str, Any], tmp_path: Path
) -> None:
    command, other = [api.command("probe", "echo", {}) for _ in range(2)]
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with running(folders[0]) as ours, running(folders[1]) as later:

        async def both() -> bool:
            return all((folder / "child").exists() for folder in folders)

        await wait_for(both)
        processes = control["processes"]()
        node = os.uname().nodename
        names = [
            f"{node}:{later.pid}:1:x",  # an earlier process of this number
            f"elsewhere:{later.pid}:{processes[later.pid][2]}:x",
            f"{node}:{os.getppid()}:{processes[os.getppid()][2]}:x",  # not below this process
            "a name of its own",
        ]
        ending = message(command, f"{node}:{ours.pid}:{processes[ours.pid][2]}:x")
        await publish(
            f"{topic}-control", b"no json", *(message(other, name) for name in names), ending
        )

        async def told() -> bool:
            return api.words(command) == ["error"]

        await wait_for(told, 20)
        assert ours.wait(1) == -signal.SIGKILL
        assert (folders[0] / "tidying").exists(), "the program's own handler of SIGTERM ran"
        assert not (folders[0] / "part").exists(), "to its end"
        child = int((folders[0] / "child").read_text())
        assert child not in control["processes"](), "killed, as it took no SIGTERM"
        assert later.poll() is None
        assert (folders[1] / "part").exists()
    assert api.words(other) == []
    error = api.of(command)[0].body["error"]
    assert error == {
        "code": "stopped",
        "message": "The run was ended: not wanted",
        "retryable": False,
    }


@pytest.mark.guarantee("cancel:clocks")
@pytest.mark.usefixtures("control")
async def test_a_cancel_counts_though_its_relays_clock_is_an_hour_behind(
    api: ResultsApi,
    kafka_bootstrap: str,
    topic: str,
    control: dict[str, Any],
    tmp_path: Path,
) -> None:
    command = api.command("probe", "echo", {})
    with running(tmp_path) as ours:

        async def started() -> bool:
            return (tmp_path / "child").exists()

        await wait_for(started)
        name = f"{os.uname().nodename}:{ours.pid}:{control['processes']()[ours.pid][2]}:x"
        behind = int((time.time() - 3600) * 1000)
        async with AIOKafkaProducer(bootstrap_servers=kafka_bootstrap) as producer:
            for body in ({}, message(command, name)):
                value = orjson.dumps(body)
                await producer.send_and_wait(f"{topic}-control", value, timestamp_ms=behind)

        async def told() -> bool:
            return api.words(command) == ["error"]

        await wait_for(told, 20)


@pytest.mark.guarantee("cancel:job")
@pytest.mark.usefixtures("control")
async def test_the_job_of_the_command_is_cancelled_and_no_other(
    api: ResultsApi, publish: Publish, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(template: str, variables: Mapping[str, Any]) -> subprocess.Popen[str]:
        assert variables["mcp_command"]["tool"] == template
        return subprocess.Popen(["sleep", "600"], text=True)

    commands = [api.command("probe", "echo", {}) for _ in range(2)]
    with Controller(run) as controller:
        monkeypatch.setattr(job_template_runner, "token", CONTROLLER_TOKEN)
        monkeypatch.setattr(job_template_runner, "host", controller.url)
        # Launched as by run_job_template.
        for command in commands:
            params = {"extra_vars": {"mcp_command": command}}
            await job_template_runner.launch_job_template("probe", "Default", params)
        await job_template_runner.close_session()
        first, second = controller.jobs
        # Another command's job, as an adapter might name it in its claim, then its own.
        wrong, right = [message(commands[0], f"job:{job.id}:{uuid4()}") for job in (second, first)]
        await publish(f"{topic}-control", wrong, right)

        async def told() -> bool:
            return api.words(commands[0]) == ["error"]

        await wait_for(told, 20)
        assert [first.status, second.status] == ["canceled", "running"]
    assert api.words(commands[1]) == []
