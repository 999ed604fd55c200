"""Workflows and jobs in slices: what their nodes' jobs say is what they say."""

import pytest

from adapters.contract import Failure, Result
from adapters.kinds import Adapters
from tests.adapters.aap.conftest import Calling
from tests.system.eda.controller import Controller, Job, Template

WORKFLOW = {"template": 13, "workflow": True}


def node_of(controller: Controller, flow: Job, name: str, kind: str = "job") -> Job:
    """The next of a workflow's nodes."""
    node = controller.start(Template(name), {})
    node.type = kind
    flow.nodes.append(node)
    return node


@pytest.mark.guarantee("adapter:aap")
async def test_a_workflows_failure_is_its_failed_nodes(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller, mapping=WORKFLOW)
    flow = await calling.job()
    inner = node_of(controller, flow, "inner", "workflow_job")
    node = node_of(controller, inner, "part")
    node.event("runner_on_failed", task="Try", host="h", res={"msg": "tried"}, ignore_errors=True)
    node.event("runner_on_failed", "fatal", task="Test", host="localhost", res={"msg": "red"})
    node.end("failed", explanation="It was red.")
    for job in (inner, flow):
        job.end("failed")
    outcome = await calling.outcome()
    assert isinstance(outcome, Failure)
    assert outcome.message.startswith("Workflow job 1 (flow) has ended 'failed'.")
    words = "Job 3 (part): failed. It was red. Task 'Test' on localhost: red"
    assert words in outcome.message
    output = "Workflow job 2 (inner): failed\nJob 3 (part): failed\nfatal"
    assert outcome.details["output"] == output


@pytest.mark.guarantee("adapter:aap")
async def test_a_workflows_result_is_what_its_nodes_have_kept(
    adapters: Adapters, controller: Controller
) -> None:
    calling = Calling(adapters, controller, mapping=WORKFLOW)
    flow = await calling.job()
    first = node_of(controller, flow, "build")
    flow.waiting_nodes = 2
    first.artifacts = {"version": "1", "built": True}
    first.end("successful")
    await calling.heard.until_said(3)
    assert (1, 3, "1 of its nodes have ended") in calling.heard.said, "of all that there may be"
    hidden, last = [node_of(controller, flow, name) for name in ("secret", "deploy")]
    hidden.artifacts = "$hidden due to Ansible no_log flag$"
    last.artifacts = {"version": "2"}
    last.event("verbose", "\x1b[0;32mok: [web1]\x1b[0m\x00")
    for job in (hidden, last, flow):
        job.end("successful")
    controller.away = 1
    outcome = await calling.outcome()
    assert isinstance(outcome, Result), outcome
    assert outcome.value["artifacts"] == {"version": "2", "built": True}
    assert outcome.value["output"].splitlines() == [
        "Job 2 (build): successful",
        "Job 3 (secret): successful",
        "Job 4 (deploy): successful",
        "ok: [web1]",
    ]


async def test_a_job_in_slices_is_followed_as_the_workflow_that_it_is(
    adapters: Adapters, controller: Controller
) -> None:
    controller.templates["deploy"].slices = 2
    calling = Calling(adapters, controller)
    flow = await calling.job()
    for n in range(2):
        part = node_of(controller, flow, "deploy")
        part.artifacts = {f"slice_{n}": True}
        part.end("successful")
    flow.end("successful")
    outcome = await calling.outcome()
    assert isinstance(outcome, Result), outcome
    assert outcome.value["artifacts"] == {"slice_0": True, "slice_1": True}
    assert outcome.value["job"]["link"].endswith("/jobs/workflow/1")
