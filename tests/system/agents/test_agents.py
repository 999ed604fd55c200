"""Real agents against a model of ours: what the model is told of a durable call, word for word.

Opt-in, by `make interop-agents`: they are a gigabyte from npm and PyPI.
"""

import asyncio
import json
import os
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.edges.mcp.conftest import Front
from tests.support.npm import UnreachableError
from tests.support.stack import wait_for
from tests.system.agents.agents import AGENTS, Agent, Place, Running
from tests.system.agents.model import Act, Model, Say, Use
from tests.system.interop.jobs import Jobs

ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
START_S = 60.0
GIVES_UP_S = 80.0
"""Until an agent notices that its broker is gone; opencode takes a minute."""
DONE = "All is done."
WORDS = ("status", "waiting_for", "error", "done", "final", "result", "next_step")
"""What a model acts on; state, stage, percent and times depend on how fast an adapter is."""

AGAIN = "Do not call this tool again for the same work: call command_status with command_id ID"
ENDED = "It has ended so: call again only after what caused this is corrected."
HOW = 'interop_ends: /how: 7 is not of type "string". Nothing was started.'
WAITS = (
    "Tell the user that it waits for an operator's approval. Do not call this tool again:"
    " command_status with command_id ID tells what became of it."
)
SUCCEEDED = "It has succeeded: use its result; do not call the tool again."

TEXT: dict[str, Any] = {
    "failed": f"The tool failed: no such host (command ID). {ENDED}",
    "refused": (
        f"The arguments do not fit the tool's schema. {HOW} Correct the arguments and call again."
    ),
    "accepted": f"Accepted, still running. {AGAIN} to get the result.",
    "waits": f"Accepted; it waits for an operator's approval. {WAITS}",
}
STRUCTURED: dict[str, Any] = {
    "failed": {
        "status": "failed",
        "error": {"code": "fails", "message": "no such host", "retryable": False},
        "next_step": ENDED,
    },
    "refused": {
        "status": "refused",
        "error": {
            "code": "invalid_arguments",
            "detail": HOW,
            "problems": [{"at": "/how", "problem": '7 is not of type "string"'}],
        },
        "next_step": "Correct the arguments and call again.",
    },
    "accepted": {"status": "accepted", "next_step": f"{AGAIN} to get the result."},
    "waits": {
        "status": "accepted",
        "waiting_for": "approval by an operator",
        "next_step": WAITS,
    },
}

pytestmark = pytest.mark.skipif(
    "MCP_BROKER_AGENTS" not in os.environ, reason="opt-in: make interop-agents"
)


class Stand:
    """One agent at its place, and what it takes to have it do a script."""

    def __init__(self, agent: Agent, front: Front, model: Model, home: Path) -> None:
        self.agent, self.model = agent, model
        self.user = f"{agent.name} {home.name}"
        token = front.issuer.token(tenant="demo", user=self.user, scopes=("tools",))
        self.place = Place(home=home, broker=f"{front.app.url}/mcp", token=token, model=model.url)
        self.program = agent.install()

    def job(self, name: str) -> dict[str, Any]:
        return {"job": f"{self.user} {name}"}

    async def start(self, *acts: Act, again: bool = False) -> Running:
        self.model.script(*acts)
        command = self.agent.command(self.program, self.place, "Do your work.", again)
        return await Running.start(command, self.place)

    async def run(self, *acts: Act, again: bool = False) -> list[str]:
        """What the model was told, once the agent has ended."""
        running = await self.start(*acts, Say(DONE), again=again)
        assert DONE in await running.ended()
        return self.model.told

    def kept(self, word: str) -> bool:
        """Whether the agent has written its talk down so far: some do it a moment later."""
        if self.agent.log is None:
            return True
        return any(word in one.read_text() for one in self.place.home.glob(self.agent.log))

    def expected(self, kind: str) -> Any:
        """What the model is to be told, in the form that this agent passes on."""
        failure = kind in {"failed", "refused"}
        form = self.agent.failures if failure else self.agent.results
        return TEXT[kind] if form == "text" else STRUCTURED[kind]


@pytest.fixture(params=AGENTS, ids=lambda one: one.name)
def stand(request: pytest.FixtureRequest, front: Front, model: Model, tmp_path: Path) -> Stand:
    try:
        return Stand(request.param, front, model, tmp_path)
    except UnreachableError as error:
        pytest.skip(f"{request.param.name} is not cached and cannot be had: {error}")


def words(told: str) -> Any:
    """What was told, without what differs from run to run: ids, and an agent's own stopwatch."""
    plain = ID.sub("ID", re.sub(r"\AWall time: [0-9.]+ seconds\nOutput:\n", "", told))
    if not plain.startswith("{"):
        return plain
    found = json.loads(plain)
    if isinstance(found.get("error"), str):  # Pydantic AI's wrap
        if not found["error"].startswith("{"):
            return found["error"]
        found = json.loads(found["error"])
    return {name: value for name, value in found.items() if name in WORDS}


def of(told: Sequence[str], place: int) -> dict[str, Any]:
    """The command that the answer at this place names, for command_status."""
    return {"command_id": ID.findall(told[place])[0], "wait_s": 20}


async def test_the_model_is_told_of_results_failures_refusals_and_long_calls(
    stand: Stand, jobs: Jobs
) -> None:
    job = stand.job("slow")
    told = await stand.run(
        Use("interop_ends", {"how": "fits"}),
        Use("interop_ends", {"how": "fails"}),
        Use("interop_ends", {"how": 7}),
        Use("interop_slow", job),
        Use("interop_release", job),
        Use("command_status", lambda told: of(told, 3)),
    )
    listed = set(stand.model.turns[0].tools)
    assert {"command_list", "command_status", "command_cancel", "interop_ends"} <= listed
    assert [words(one) for one in told] == [
        {"done": "all"},
        stand.expected("failed"),
        stand.expected("refused"),
        stand.expected("accepted"),
        {"done": job["job"]},
        {"final": True, "result": {"done": job["job"]}, "next_step": SUCCEEDED},
    ]
    assert jobs.runs[job["job"]] == 1


async def test_the_model_is_told_that_an_operator_is_to_approve_and_then_what_came_of_it(
    stand: Stand, jobs: Jobs, front: Front
) -> None:
    job = stand.job("asked")
    running = await stand.start(
        Use("interop_asked", job), Use("command_status", lambda told: of(told, 0)), Say(DONE)
    )

    async def told() -> bool:
        return len(stand.model.told) == 1

    await wait_for(told, START_S)
    one = ID.findall(stand.model.told[0])[0]
    async with front.http("olga", "operator") as http:
        answer = await http.post(f"/operator/commands/{one}/approve", json={"reason": "fine"})
        assert answer.status_code == 200, answer.text
    assert DONE in await running.ended()
    assert [words(one) for one in stand.model.told] == [
        stand.expected("waits"),
        {"final": True, "result": {"done": job["job"]}, "next_step": SUCCEEDED},
    ]


async def test_an_agent_that_was_killed_in_a_call_finds_the_call_and_its_one_result(
    stand: Stand, jobs: Jobs
) -> None:
    job = stand.job("work")
    killed = await stand.start(Use("interop_work", job))

    async def runs() -> bool:
        return jobs.runs[job["job"]] > 0 and stand.kept(job["job"])

    await wait_for(runs, START_S)
    await killed.kill()
    before = await recovered(stand, job)
    assert before == ([] if stand.agent.interrupted is None else [stand.agent.interrupted])
    assert jobs.runs[job["job"]] == 1


async def test_a_call_whose_broker_was_killed_is_found_once_the_broker_is_back(
    stand: Stand, jobs: Jobs, twin: Front
) -> None:
    """The adapter reports to another replica, so the work goes on; the agent is started again."""
    stand.place = replace(stand.place, broker=f"{twin.app.url}/mcp")
    job = stand.job("broker")
    running = await stand.start(Use("interop_work", job), Say(DONE))

    async def runs() -> bool:
        return jobs.runs[job["job"]] > 0

    async def told() -> bool:
        return bool(stand.model.told) or running.over

    await wait_for(runs, START_S)
    twin.app.process.kill()
    try:
        await wait_for(told, GIVES_UP_S)
        broken = [words(one) for one in stand.model.told]
    finally:
        await running.kill()
        await asyncio.to_thread(twin.app.start)
    assert broken == ([] if stand.agent.broken is None else [stand.agent.broken])
    await recovered(stand, job)
    assert jobs.runs[job["job"]] == 1


async def recovered(stand: Stand, job: dict[str, Any]) -> list[str]:
    """Have the agent find its call, the newest, and its result; gives what was told before."""
    told = await stand.run(
        Use("command_list", {"limit": 1}),
        Use("interop_release", job),
        Use("command_status", lambda told: of(told, -2)),
        again=stand.agent.interrupted is not None,
    )
    listed, released, status = told[-3:]
    [found] = json.loads(listed[listed.index("{") :])["commands"]
    assert (found["tool"], found["arguments"], found["final"]) == ("interop_work", job, False)
    assert words(released) == {"done": job["job"]}
    assert json.loads(status[status.index("{") :])["command_id"] == found["command_id"]
    assert words(status) == {
        "final": True,
        "result": {"done": job["job"]},
        "next_step": SUCCEEDED,
    }
    return told[:-3]
