"""Launches that fail, and jobs that end without a word: who is told, and how soon."""

import time
from collections.abc import AsyncGenerator, Mapping
from typing import Any
from uuid import uuid4

import pytest
from ansible_rulebook.exception import ControllerApiException, JobTemplateNotFoundException

from tests.support.stack import wait_for
from tests.system.eda.controller import Controller, Job, Template
from tests.system.eda.results_api import TOKEN, ResultsApi
from tests.system.eda.sources import launch, launch_workflow, source

SECONDS = 10.0
Asked = Mapping[str, Any]

pytestmark = pytest.mark.guarantee("run:ended")


@pytest.fixture(autouse=True)
async def following(
    kafka_bootstrap: str,
    topic: str,
    api: ResultsApi,
    controller: Controller,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[None]:
    """The control source, which looks often."""
    assert controller.url
    monkeypatch.setenv("MCP_BROKER_URL", api.url)
    monkeypatch.setenv("MCP_BROKER_TOKEN", TOKEN)
    async with source(kafka_bootstrap, topic, {"follow_s": "0.2", "sweep_s": "1"}):
        yield


async def told(api: ResultsApi, command: Asked) -> dict[str, Any]:
    """The error that the broker was told, within seconds."""

    async def said() -> bool:
        return api.told(command) is not None

    await wait_for(said, SECONDS)
    error = api.told(command)
    assert error is not None
    return error


async def seen(api: ResultsApi, command: Asked, status: str) -> None:
    """The broker knows how its job fares."""

    async def said() -> bool:
        return any(run["status"] == status for run in api.runs(command))

    await wait_for(said, SECONDS)


async def ends_as(job: Job, status: str) -> None:
    """The controller has ended it so: a cancelled job's process takes its time to stop."""

    async def ended() -> bool:
        return job.status == status

    await wait_for(ended, SECONDS)


async def test_a_template_that_is_missing_is_told(api: ResultsApi, controller: Controller) -> None:
    command = api.command("probe", "echo", {})
    controller.missing.add("nowhere")
    with pytest.raises(JobTemplateNotFoundException):
        await launch(command, "nowhere")
    error = await told(api, command)
    assert error["code"] == "launch_failed"
    assert "nowhere" in error["message"]
    assert error["retryable"] is False


async def test_what_a_template_lacks_is_told_in_the_controllers_words(
    api: ResultsApi, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    lacks = {"inventory": ["Job Template inventory is missing or undefined."]}
    controller.templates["bare"] = Template("bare", lacks=lacks)
    with pytest.raises(ControllerApiException):
        await launch(command, "bare")
    error = await told(api, command)
    assert "inventory is missing or undefined" in error["message"]


async def test_a_revoked_token_is_told_and_a_controller_that_is_away_is_asked_again(
    api: ResultsApi, controller: Controller
) -> None:
    revoked, later = [api.command("probe", "echo", {}) for _ in range(2)]
    controller.token = "another"
    with pytest.raises(ControllerApiException):
        await launch(revoked)
    assert "401" in (await told(api, revoked))["message"]
    controller.token = "the-controllers-token"
    await launch(later)
    assert api.told(later) is None
    await seen(api, later, "running")


async def test_variables_that_the_template_drops_are_told_at_launch(
    api: ResultsApi, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    controller.templates["closed"] = Template("closed", ask_variables=False)
    await launch(command, "closed")
    error = await told(api, command)
    assert "Prompt on launch" in error["message"]
    await ends_as(controller.jobs[-1], "canceled")  # it would only fail


ENDS: list[tuple[str, dict[str, str], str, bool]] = [
    ("error", {"explanation": "The node is gone."}, "The node is gone.", True),
    ("error", {"traceback": "Traceback\n  x\nError: no image"}, "Error: no image", True),
    ("failed", {}, "couldn't resolve module/action", False),
    ("successful", {}, "no hosts matched", False),
    ("canceled", {}, "before its claim", False),
    ("deleted", {}, "'deleted'", False),
]


@pytest.mark.parametrize(("status", "how", "words", "again"), ENDS)
async def test_a_job_that_ends_before_its_claim_is_told_with_its_reason(
    status: str,
    how: dict[str, str],
    words: str,
    again: bool,
    api: ResultsApi,
    controller: Controller,
) -> None:
    command = api.command("probe", "echo", {})
    await launch(command)
    [job] = controller.jobs
    await seen(api, command, "running")
    job.event("verbose", f"ERROR! {words}")
    if status == "deleted":
        controller.jobs.clear()
        assert job.process is not None
        job.process.kill()
        job.process.communicate()
    else:
        job.end(status, **how)
    error = await told(api, command)
    assert words in error["message"]
    assert error["retryable"] is again
    assert error["code"] == ("job_cancelled" if status == "canceled" else "job_failed")


def claimed(api: ResultsApi, command: Asked, job: Job) -> None:
    body = {"attempt": 1, "adapter": f"job:{job.id}:{uuid4()}"}
    api.answer("POST", f"/results/{command['correlation_id']}/claim", body, f"Bearer {TOKEN}")


async def test_a_job_that_fails_after_its_claim_tells_its_failed_task(
    api: ResultsApi, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    await launch(command)
    [job] = controller.jobs
    claimed(api, command, job)
    result = {"unreachable": True, "msg": "Failed to connect to the host via ssh"}
    job.event("runner_on_unreachable", "fatal: …", task="Gather", host="web1", res=result)
    job.event("playbook_on_stats", "PLAY RECAP")
    job.end("failed")
    error = await told(api, command)
    assert "'Gather' on web1 UNREACHABLE: Failed to connect" in error["message"]
    assert "after its claim" in error["message"]
    assert error["details"] == {"output": "fatal: …\nPLAY RECAP"}


@pytest.mark.guarantee("run:log")
async def test_of_a_job_that_told_its_result_the_last_lines_are_told_and_no_reason(
    api: ResultsApi, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    await launch(command)
    [job] = controller.jobs
    claimed(api, command, job)
    body = {"status": "ok", "result": 1, "attempt": 1}
    api.answer("POST", f"/results/{command['correlation_id']}", body, f"Bearer {TOKEN}")
    job.event("verbose", "\n".join(f"line {n}" for n in range(60)))
    job.event("playbook_on_stats", "\x1b[0;32mPLAY RECAP\x1b[0m \x00🎉\n")
    job.end("successful")
    await seen(api, command, "successful")
    assert api.told(command) is None
    lines = api.runs(command)[-1]["log"].splitlines()
    assert (len(lines), lines[-2:]) == (20, ["line 59", "PLAY RECAP 🎉"])
    assert sum("job_events" in target for target in controller.gets) == 1


@pytest.mark.guarantee("run:log")
async def test_of_a_job_that_failed_and_told_so_itself_the_last_lines_are_told(
    api: ResultsApi, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    await launch(command)
    [job] = controller.jobs
    claimed(api, command, job)
    body = {"status": "error", "error": {"code": "no_disk"}, "attempt": 1}
    api.answer("POST", f"/results/{command['correlation_id']}", body, f"Bearer {TOKEN}")
    job.event("runner_on_failed", "fatal: no disk", task="Report", host="h", res={"msg": "x"})
    job.unkept = 2  # as on a controller, whose events come after the end
    job.end("failed")
    await seen(api, command, "failed")
    assert api.told(command) is None
    assert api.runs(command)[-1]["log"] == "fatal: no disk"


async def flow_of(controller: Controller, command: Asked) -> Job:
    """A workflow's job that is under way."""
    controller.templates["flow"] = Template("flow", workflow=True)
    await launch_workflow(command, "flow")
    return controller.jobs[0]


def node_of(controller: Controller, flow: Job, name: str, kind: str = "job") -> Job:
    """The next of its nodes."""
    node = controller.start(Template(name), {})
    node.workflow, node.type = flow.id, kind
    flow.nodes.append(node)
    return node


@pytest.mark.guarantee("run:log")
async def test_of_a_workflow_the_failed_nodes_task_is_told(
    api: ResultsApi, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    flow = await flow_of(controller, command)
    first, node = [node_of(controller, flow, name) for name in ("ready", "part")]
    first.event("verbose", "all is well")
    first.end("successful")
    claimed(api, command, node)
    node.event("runner_on_failed", "", task="Try", res={"msg": "tried"}, ignore_errors=True)
    node.event("runner_on_failed", "", task="Install", host="localhost", res={"msg": "no \x00disk"})
    node.event("playbook_on_stats", "PLAY RECAP")
    node.end("failed", explanation="Its disk is full.")
    flow.end("failed", explanation="No error handling path.")
    error = await told(api, command)
    assert error["message"].startswith(f"Workflow job {flow.id}")
    words = "No error handling path. Job 3 (part): failed. Its disk is full. Task 'Install' on "
    assert f"{words}localhost failed: no disk" in error["message"]
    output = "Job 2 (ready): successful\nJob 3 (part): failed\nPLAY RECAP"
    assert error["details"] == {"output": output}
    assert f"job:{node.id}" in api.runs(command)[-1]["parts"]


@pytest.mark.guarantee("run:log")
async def test_of_a_workflow_that_is_done_its_jobs_and_the_newest_ones_last_lines_are_told(
    api: ResultsApi, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    flow = await flow_of(controller, command)
    project = node_of(controller, flow, "sync", "project_update")
    project.end("successful")
    inner = node_of(controller, flow, "inner", "workflow_job")
    part = node_of(controller, inner, "part")
    for job in (part, inner):
        job.end("successful")
    flow.waiting_nodes = 1
    claimed(api, command, part)
    body = {"status": "ok", "result": 1, "attempt": 1}
    api.answer("POST", f"/results/{command['correlation_id']}", body, f"Bearer {TOKEN}")
    part.event("verbose", "\x1b[0;32mdone \x00🎉\x1b[0m")
    flow.end("successful")
    await seen(api, command, "successful")
    assert api.told(command) is None
    assert api.runs(command)[-1]["log"].splitlines() == [
        "Project update 2 (sync): successful",
        "Workflow job 3 (inner): successful",
        "Job 4 (part): successful",
        "done 🎉",
    ]


async def test_of_a_workflow_whose_project_could_not_be_updated_that_is_told(
    api: ResultsApi, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    flow = await flow_of(controller, command)
    sync = node_of(controller, flow, "sync", "project_update")
    sync.event("runner_on_failed", "fatal", task="Clone", host="h", res={"msg": "no such branch"})
    sync.end("failed")
    flow.end("failed")
    assert "Task 'Clone' on h failed: no such branch" in (await told(api, command))["message"]


async def test_of_a_workflow_that_a_person_did_not_approve_that_is_told(
    api: ResultsApi, controller: Controller
) -> None:
    command = api.command("probe", "echo", {})
    flow = await flow_of(controller, command)
    node_of(controller, flow, "Go?", "workflow_approval").end("failed")
    flow.end("failed")
    error = await told(api, command)
    assert "Approval 2 (Go?): denied." in error["message"]
    assert error["details"]["output"] == "Approval 2 (Go?): denied"


@pytest.mark.guarantee("run:waits")
async def test_a_job_that_waits_is_told_and_not_launched_twice(
    api: ResultsApi, controller: Controller
) -> None:
    controller.templates["single"] = Template("single", concurrent=False)
    first, second = [api.command("probe", "echo", {}) for _ in range(2)]
    await launch(first, "single")
    await launch(second, "single")
    await seen(api, second, "pending")
    [*_, word] = api.runs(second)
    assert word["link"] == f"{controller.url}/#/jobs/playbook/2"
    await launch(second, "single")
    assert len(controller.jobs) == 2, "sent again, it has its job already"
    api.states[second["correlation_id"]] = "cancelled"
    controller.jobs[1].told = "waiting"

    async def unwanted() -> bool:
        return controller.jobs[1].status == "canceled"

    await wait_for(unwanted, SECONDS)


async def test_jobs_that_a_killed_process_has_launched_are_followed_by_the_next(
    api: ResultsApi, controller: Controller
) -> None:
    """What is to be followed stands at the controller, not in the process that launched it."""
    command = api.command("probe", "echo", {})
    controller.start(Template("other"), {"x": 1})
    job = controller.start(Template("probe"), {"mcp_command": command})
    await seen(api, command, "running")
    job.end("canceled")
    assert (await told(api, command))["code"] == "job_cancelled"


async def test_following_costs_a_request_at_each_look_however_many_jobs_there_are(
    api: ResultsApi, controller: Controller
) -> None:
    commands = [api.command("probe", "echo", {}) for _ in range(5)]
    for command in commands:
        await launch(command)
    for command in commands:
        await seen(api, command, "running")
    controller.gets.clear()
    began = time.monotonic()

    async def looked() -> bool:
        return len(controller.gets) >= 8

    await wait_for(looked, SECONDS)
    assert time.monotonic() - began > 8 / (1 / 0.2 + 2), "a look each 0.2 s, a sweep each second"
    assert all("unified_jobs" in target for target in controller.gets)
