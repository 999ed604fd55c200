"""What EDA leaves when it is killed, and who sees to it: arguments, and a controller's jobs."""

import os
import signal
from pathlib import Path
from uuid import uuid4

import pytest

from devstack.eda import EmbeddedEda
from tests.support.rulebooks import PLAYBOOKS, rulebook_with
from tests.support.stack import wait_for
from tests.system.eda.conftest import Publish, controllers_process, make_topic, rulebook_process
from tests.system.eda.controller import Controller, Template
from tests.system.eda.results_api import ResultsApi

pytestmark = [pytest.mark.eda, pytest.mark.timeout(240)]


@pytest.mark.guarantee("eda:nothing-left")
async def test_the_arguments_that_a_killed_process_left_go_when_the_next_one_runs(
    kafka_bootstrap: str, api: ResultsApi, publish: Publish, tmp_path: Path
) -> None:
    topic = await make_topic(kafka_bootstrap)
    temporary = tmp_path / "tmp"
    temporary.mkdir()

    def eda() -> EmbeddedEda:
        return rulebook_process(
            tmp_path,
            kafka_bootstrap,
            api,
            topic,
            workspace=tmp_path,
            variables={"leftovers_s": 0.5},
            rulebook=rulebook_with({"slow": PLAYBOOKS / "slow.yml"}, tmp_path / "book.yml"),
            env={"TMPDIR": str(temporary)},
        )

    async def claimed(command: dict[str, object]) -> None:
        async def done() -> bool:
            return "claim" in api.words(command)

        await wait_for(done, 60)

    def folders() -> set[str]:
        return {path.name for path in temporary.glob("eda????????")}

    first = eda()
    first.start()
    try:
        command = api.command("slow", "x", {"secret": "hunter2"})
        await publish(topic, command)
        await claimed(command)
    finally:
        first.kill()
    [left] = folders()
    assert "hunter2" in (temporary / left / "env" / "extravars").read_text()
    api.said.clear()
    second = eda()
    second.start()
    try:
        # The group is new, so the same event comes again, and its playbook runs.
        await claimed(command)

        async def working() -> list[Path]:
            return list(tmp_path.glob("slow.*/pids"))

        async def swept() -> bool:
            return left not in folders() and len(folders()) == 1

        await wait_for(swept, 60)
        [pids] = await wait_for(working, 40)
        for pid in pids.read_text().split():
            os.kill(int(pid), signal.SIGTERM)
    finally:
        second.stop()


@pytest.mark.guarantee("run:ended")
async def test_the_end_of_a_job_is_told_though_the_process_that_launched_it_was_killed(
    kafka_bootstrap: str,
    api: ResultsApi,
    publish: Publish,
    controller: Controller,
    tmp_path: Path,
) -> None:
    topic = await make_topic(kafka_bootstrap)
    controller.templates["mcp_echo_adapter"] = Template("mcp_echo_adapter", asks=["limit"])
    group = f"killed-{uuid4()}"

    def eda() -> EmbeddedEda:
        return controllers_process(
            tmp_path, kafka_bootstrap, api, topic, controller, group=group, actions_max=4
        )

    under_way, meanwhile = [api.command("probe", "echo", {}) for _ in range(2)]

    async def both_run() -> bool:
        runs = [api.runs(one) for one in (under_way, meanwhile)]
        return all(any(run["status"] == "running" for run in some) for some in runs)

    first = eda()
    first.start()
    try:
        await publish(topic, under_way, meanwhile)
        await wait_for(both_run, 60)
    finally:
        first.kill()
    ids = {job.extra_vars["mcp_command"]["correlation_id"]: job for job in controller.jobs}
    ids[meanwhile["correlation_id"]].end("error", explanation="The node is gone.")
    second = eda()
    second.start()
    try:
        job = ids[under_way["correlation_id"]]
        job.event("runner_on_failed", task="Install", host="web1", res={"msg": "no disk"})
        job.end("failed")

        async def told() -> bool:
            return all(api.told(one) for one in (under_way, meanwhile))

        await wait_for(told, 30)
    finally:
        second.stop()
    assert "The node is gone." in (api.told(meanwhile) or {})["message"]
    assert "'Install' on web1 failed: no disk" in (api.told(under_way) or {})["message"]
