"""The control source by itself, in this process, on a real Kafka: whose run it ends, and how."""

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from ansible_rulebook.job_template_runner import job_template_runner

from tests.support.stack import wait_for
from tests.system.eda.conftest import Publish
from tests.system.eda.controller import Controller
from tests.system.eda.results_api import TOKEN, ResultsApi
from tests.system.eda.sources import launch, message, source

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

        await wait_for(lambda: ended(api, command), 20)
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

        await wait_for(lambda: ended(api, command), 20)


@pytest.mark.guarantee("cancel:job")
@pytest.mark.usefixtures("control")
async def test_the_job_of_the_command_is_cancelled_and_no_other(
    api: ResultsApi, publish: Publish, topic: str, controller: Controller
) -> None:
    commands = [api.command("probe", "echo", {}) for _ in range(2)]
    for command in commands:
        await launch(command)
    first, second = controller.jobs
    # Another command's job, as an adapter might name it in its claim, then its own.
    wrong, right = [message(commands[0], f"job:{job.id}:{uuid4()}") for job in (second, first)]
    await publish(f"{topic}-control", wrong, right)
    await wait_for(lambda: ended(api, commands[0]), 20)
    assert [first.status, second.status] == ["canceled", "running"]
    assert api.words(commands[1]) == []


@pytest.mark.guarantee("cancel:job")
@pytest.mark.usefixtures("control")
@pytest.mark.parametrize(("away", "then"), [(3, 0), (0, 2)], ids=["before", "once it is asked"])
async def test_a_cancel_is_said_again_while_the_controller_is_away(
    away: int, then: int, api: ResultsApi, publish: Publish, topic: str, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    await launch(command)
    [job] = controller.jobs
    controller.away, controller.away_after_cancel = away, then
    await publish(f"{topic}-control", message(command, f"job:{job.id}:{uuid4()}"))
    await wait_for(lambda: ended(api, command), 30)
    assert (job.status, controller.away) == ("canceled", 0)


@pytest.mark.guarantee("cancel:job")
@pytest.mark.usefixtures("control")
async def test_of_a_workflow_the_whole_is_cancelled(
    api: ResultsApi, publish: Publish, topic: str, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    await launch(command)
    [job] = controller.jobs
    job.workflow = 40
    await publish(f"{topic}-control", message(command, f"job:{job.id}:{uuid4()}"))
    await wait_for(lambda: ended(api, command), 20)
    assert controller.posts[-1] == "/api/v2/workflow_jobs/40/cancel/"


@pytest.mark.usefixtures("controller")
async def test_address_token_and_certificates_may_be_options_of_the_source(
    mutual: tuple[ResultsApi, dict[str, str]],
    publish: Publish,
    kafka_bootstrap: str,
    topic: str,
    tmp_path: Path,
) -> None:
    api, files = mutual
    (tmp_path / "token").write_text("an option's\n")
    api.token = "Bearer an option's"
    options = {
        "broker_url": api.url,
        "token_file": str(tmp_path / "token"),
        "ca_file": files["MCP_BROKER_CAFILE"],
        "client_cert": files["MCP_BROKER_CERTFILE"],
        "client_key": files["MCP_BROKER_KEYFILE"],
    }
    command = api.command("probe", "echo", {})
    await launch(command)
    async with source(kafka_bootstrap, topic, options):
        await publish(f"{topic}-control", message(command, f"job:1:{uuid4()}"))
        await wait_for(lambda: ended(api, command), 20)


async def test_what_refuses_a_connection_is_told_in_one_line_under_the_sources_name(
    controller: Controller, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as bound:
        nobody = f"127.0.0.1:{bound.getsockname()[1]}"
    monkeypatch.setattr(job_template_runner, "host", f"http://{nobody}/")

    def told() -> list[logging.LogRecord]:
        return [one for one in caplog.records if one.name.startswith("mcpbroker.eda.")]

    async def both() -> bool:
        said = [one.getMessage() for one in told()]
        return all(any(who in one for one in said) for who in ("Kafka is away", "jobs are not"))

    async with source(nobody, "none", {"broker_url": f"http://{nobody}"}):
        await wait_for(both)
    assert all(one.exc_info is None for one in told())
    assert not any("\n" in one.getMessage() for one in told())


async def ended(api: ResultsApi, command: Mapping[str, Any]) -> bool:
    return api.words(command) == ["error"]
