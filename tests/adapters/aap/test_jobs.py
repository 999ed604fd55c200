"""Templates that know nothing of the broker, as tools: on a server that answers as AWX does."""

from typing import Any

import pytest

from adapters.aap import api, client
from adapters.contract import CANCELLED, MISCONFIGURED, TARGET_FAILED, Failure, Result
from adapters.kinds import Adapters, check
from adapters.targets import Target
from tests.adapters.aap.conftest import Calling
from tests.support.stack import wait_for
from tests.system.eda.controller import Controller, Template

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.guarantee("adapter:aap")
async def test_a_template_is_launched_and_its_artifacts_and_last_lines_are_the_result(
    adapters: Adapters, controller: Controller
) -> None:
    args = {"version": "1.2", "limit": "web1"}
    calling = Calling(adapters, controller, args=args, mapping={"prompts": {"limit": "limit"}})
    job = await calling.job()
    assert job.extra_vars == {"version": "1.2"}
    assert job.launched_with["limit"] == "web1"
    job.event("playbook_on_task_start", "TASK [Install]", task="Install")
    job.event("runner_on_ok", "ok: [web1]")
    await calling.heard.until_said(3)
    job.artifacts = {"url": "https://app.test"}
    job.end("successful")
    outcome = await calling.outcome()
    assert isinstance(outcome, Result), outcome
    link = f"{controller.url}/#/jobs/playbook/1"
    assert outcome.value == {
        "job": {"id": 1, "status": "successful", "link": link},
        "artifacts": {"url": "https://app.test"},
        "output": "TASK [Install]\nok: [web1]",
    }
    assert calling.heard.runs[0] == ("job:1", "running", link)
    assert calling.heard.runs[-1] == ("job:1", "successful", link)
    said = [message for _, _, message in calling.heard.said]
    assert f"Job 1 (deploy): {link}" in said
    assert (1, None, "Install") in calling.heard.said


@pytest.mark.guarantee("traces:jobs")
async def test_a_job_is_told_whose_trace_it_is_of(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller, args={"version": "1"}, traceparent=TRACEPARENT)
    job = await calling.job()
    assert job.extra_vars == {"version": "1", "TRACEPARENT": TRACEPARENT}
    job.end("successful")
    assert isinstance(await calling.outcome(), Result)


async def test_a_template_that_takes_no_variables_runs_without_its_trace(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller, mapping={"template": 14}, traceparent=TRACEPARENT)
    job = await calling.job()
    assert not job.extra_vars
    job.end("successful")
    assert isinstance(await calling.outcome(), Result)


async def test_an_argument_of_the_traces_name_is_the_callers(
    adapters: Adapters, controller: Controller
) -> None:
    args = {"TRACEPARENT": "mine"}
    calling = Calling(adapters, controller, args=args, traceparent=TRACEPARENT)
    job = await calling.job()
    assert job.extra_vars == args
    job.end("successful")
    assert isinstance(await calling.outcome(), Result)


@pytest.mark.guarantee("adapter:aap")
async def test_a_failed_job_tells_its_failed_task(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller)
    job = await calling.job()
    job.event("runner_on_failed", "fatal", task="Install", host="web1", res={"msg": "no disk"})
    job.event("playbook_on_stats", "PLAY RECAP")
    job.unkept = 3  # as on a controller, whose events come after the end
    job.end("failed")
    outcome = await calling.outcome()
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.retryable) == (TARGET_FAILED, False)
    assert "Task 'Install' on web1: no disk" in outcome.message
    assert outcome.details["output"] == "fatal\nPLAY RECAP"


async def test_a_job_that_the_controller_ends_tells_its_explanation(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller)
    (await calling.job()).end("error", explanation="The node is gone.")
    outcome = await calling.outcome()
    assert isinstance(outcome, Failure)
    assert "ended 'error'. The node is gone." in outcome.message


async def test_a_controller_that_falls_silent_is_asked_again(
    adapters: Adapters, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "ANSWER_S", 0.3)
    calling = Calling(adapters, controller)
    job = await calling.job()
    controller.silent = 1
    job.end("successful")
    assert isinstance(await calling.outcome(), Result)
    assert controller.silent == 0


async def test_artifacts_that_the_controller_hides_are_none(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller)
    job = await calling.job()
    job.artifacts = "$hidden due to Ansible no_log flag$"
    job.end("successful")
    outcome = await calling.outcome()
    assert isinstance(outcome, Result), outcome
    assert outcome.value["artifacts"] == {}


async def test_a_job_that_never_started_tells_what_its_node_raised(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller)
    (await calling.job()).end("error", traceback="Traceback\n  x\nError: no image")
    outcome = await calling.outcome()
    assert isinstance(outcome, Failure)
    assert "Error: no image" in outcome.message


@pytest.mark.guarantee("adapter:aap")
async def test_a_cancel_ends_the_job(adapters: Adapters, controller: Controller) -> None:
    calling = Calling(adapters, controller)
    job = await calling.job()
    calling.heard.cancel()
    outcome = await calling.outcome()
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.outcome_unknown) == (CANCELLED, False)
    assert job.cancelled


@pytest.mark.guarantee("adapter:aap")
async def test_a_cancel_is_said_again_while_the_controller_is_away(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller)
    job = await calling.job()
    controller.away, controller.away_after_cancel = 3, 2
    calling.heard.cancel()
    outcome = await calling.outcome()
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.outcome_unknown) == (CANCELLED, False)
    assert job.status == "canceled"


async def test_a_cancel_that_the_controller_did_not_hear_in_time_leaves_the_outcome_unknown(
    adapters: Adapters, controller: Controller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "CANCEL_S", 0.2)
    calling = Calling(adapters, controller)
    job = await calling.job()
    controller.away = 4
    calling.heard.cancel()
    outcome = await calling.outcome()
    assert isinstance(outcome, Failure)
    assert (outcome.code, outcome.outcome_unknown) == (CANCELLED, True)
    assert f"{controller.url}/#/jobs/playbook/1" in outcome.message

    async def ended() -> bool:
        return job.status == "canceled"

    await wait_for(ended, 10)  # it goes on behind the call


async def test_a_job_that_may_not_be_cancelled_is_told_of_as_unknown(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller)
    await calling.job()
    controller.may_cancel = False
    calling.heard.cancel()
    outcome = await calling.outcome()
    assert isinstance(outcome, Failure)
    assert outcome.outcome_unknown
    assert "could not be cancelled" in outcome.message


async def test_a_job_that_was_done_as_the_cancel_came_is_done(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller)
    job = await calling.job()
    job.end("successful")
    calling.heard.cancel()
    assert isinstance(await calling.outcome(), Result)


async def test_what_a_template_drops_is_refused_and_its_job_cancelled(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller, mapping={"template": 14}, args={"version": "1"})
    outcome = await calling.outcome()
    assert isinstance(outcome, Failure)
    assert outcome.code == MISCONFIGURED
    assert "version" in outcome.message
    assert controller.jobs[0].cancelled


async def test_a_refused_launch_is_final_and_a_controller_that_is_away_later_is_no_end(
    adapters: Adapters, controller: Controller
) -> None:
    lacks = {"inventory": ["Job Template inventory is missing or undefined."]}
    controller.templates["bare"] = Template("bare", number=15, lacks=lacks)
    refused = await Calling(adapters, controller, mapping={"template": 15}).outcome()
    assert isinstance(refused, Failure)
    assert not refused.retryable
    assert "inventory is missing" in str(refused.details)
    calling = Calling(adapters, controller)
    job = await calling.job()
    controller.away = 2
    job.end("successful")
    assert isinstance(await calling.outcome(), Result)
    assert controller.away == 0


@pytest.mark.guarantee("adapter:aap")
async def test_a_jobs_labels_are_the_mappings_and_its_commands_id(
    adapters: Adapters, controller: Controller
) -> None:
    controller.templates["deploy"].asks = ["labels"]
    for n in range(2):
        calling = Calling(adapters, controller, mapping={"labels": ["mcp"]})
        await calling.heard.until_said()
        job = controller.jobs[n]
        labels = [controller.labels[n - 1] for n in job.launched_with["labels"]]
        assert labels == ["mcp", "0198f0a0-0000-7000-8000-000000000001"]
        job.end("successful")
        await calling.outcome()
    assert sum(target.endswith("/job_templates/12/") for target in controller.gets) == 1


async def test_a_job_that_cannot_be_labelled_is_launched_without_and_says_so(
    adapters: Adapters, controller: Controller
) -> None:
    controller.may_label = False
    calling = Calling(adapters, controller, mapping={"labels": ["mcp"]})
    await calling.heard.until_said(2)
    assert "no labels" in str(calling.heard.said[0][2])
    [job] = controller.jobs
    assert "labels" not in job.launched_with
    job.end("successful")
    assert isinstance(await calling.outcome(), Result)


@pytest.mark.parametrize(
    ("mapping", "wrong"),
    [
        ({}, "adapter.template"),
        ({"template": 1, "prompts": {"credentials": "c"}}, "has no credentials"),
        ({"template": 1, "inventory": 2}, "adapter has no inventory"),
        ({"template": 1, "labels": "mcp"}, "adapter.labels"),
        ({"template": 1, "stored": [1]}, "adapter.stored"),
    ],
)
def test_a_mapping_that_cannot_be_worked_with_is_told(mapping: dict[str, Any], wrong: str) -> None:
    target = Target(name="aap", kind="aap", address="https://controller.test")
    assert check(target, {"template": 1, "prompts": {"limit": "limit"}}) == []
    assert any(wrong in one for one in check(target, mapping))
