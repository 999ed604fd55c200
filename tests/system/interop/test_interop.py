"""One story, told alike by clients that share no code: each front's word is understood by all."""

import asyncio
import itertools
from pathlib import Path

import pytest

from tests.edges.mcp.conftest import ERAS, Front
from tests.support.calls import fetch
from tests.support.npm import UnreachableError
from tests.system.interop import plain_http, python_sdk, typescript_sdk
from tests.system.interop.jobs import PERCENT, Jobs
from tests.system.interop.story import Story

ENDS = {
    "progress": "succeeded",
    "slow": "succeeded",
    "time-out": "succeeded",
    "cancel": "cancelled",
    "drop": "cancelled",
    "task": "succeeded",
    "task-cancel": "cancelled",
}


def check(story: Story, user: str) -> None:
    """The client has seen what docs/CLIENTS.md says."""
    assert story.tools == sorted(story.tools)
    assert {"command_list", "command_status", "interop_work"} <= set(story.tools)
    assert all(a < b for a, b in itertools.pairwise(story.heard))
    assert story.heard[-1] >= PERCENT
    assert story.result == {"done": f"{user} progress"}
    assert story.accepted["status"] == "accepted"
    assert story.recovered["command_id"] == story.accepted["command_id"]
    assert story.recovered["result"] == {"done": f"{user} slow"}
    assert story.gave_up
    assert (story.found["state"], story.found["result"]) == (
        "succeeded",
        {"done": f"{user} time-out"},
    )
    assert (story.cancelled["state"], story.cancelled["final"]) == ("cancelled", True)
    assert (story.dropped["state"], story.dropped["final"]) == ("cancelled", True)
    if story.task is not None:
        assert story.task.statuses == ["working", "completed"]
        assert story.task.result == {"done": f"{user} task"}
        assert story.task.cancelled == "cancelled"


async def check_effects(front: Front, jobs: Jobs, user: str, *, tasks: bool) -> None:
    """Each call of the story is one command, ran once and ended as it should."""
    rows = await fetch(
        front.dsns.owner,
        "SELECT args ->> 'job' AS job, state FROM commands"
        " WHERE user_id = $1 AND tool = 'interop' AND method <> 'release'",
        user,
    )
    wanted = {f"{user} {name}": end for name, end in ENDS.items() if tasks or "task" not in name}
    assert sorted((row["job"], row["state"]) for row in rows) == sorted(wanted.items())
    ran = {job: count for job, count in jobs.runs.items() if job.startswith(f"{user} ")}
    assert set(ran.values()) == {1}
    assert wanted.keys() - {f"{user} task-cancel"} <= ran.keys()  # it may not have begun


@pytest.mark.guarantee("mcp:interop")
@pytest.mark.guarantee("mcp:cancelled")
@pytest.mark.parametrize("mode", ERAS)
async def test_the_python_sdk_lists_calls_recovers_cancels_and_follows_tasks(
    front: Front, jobs: Jobs, mode: str
) -> None:
    user = f"python-{mode}"
    story = await python_sdk.play(front, user=user, mode=mode)
    check(story, user)
    assert (story.task is None) == (mode == "legacy")
    await check_effects(front, jobs, user, tasks=story.task is not None)


async def tools_change(front: Front) -> None:
    """Take a tool from the tenant and give it back, again and again."""
    while True:
        for denied in ([], ["policy/quick"]):
            await front.deny("demo", *denied)
            await asyncio.sleep(0.2)


@pytest.fixture(scope="module")
def packages() -> Path:
    try:
        return typescript_sdk.install()
    except UnreachableError as error:
        pytest.skip(f"the TypeScript SDK is not cached and npm is unreachable: {error}")


@pytest.mark.guarantee("mcp:interop")
@pytest.mark.guarantee("mcp:cancelled")
@pytest.mark.guarantee("mcp:list-changed")
@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25"])
async def test_the_typescript_sdk_lists_calls_recovers_cancels_and_follows_tasks(
    front: Front, jobs: Jobs, packages: Path, version: str
) -> None:
    user = f"typescript-{version}"
    changing = asyncio.create_task(tools_change(front))
    story = await typescript_sdk.play(front, home=packages, user=user, version=version)
    assert not changing.done(), "it has changed them all the time"
    changing.cancel()
    await asyncio.gather(changing, return_exceptions=True)
    assert story.version == version
    assert story.told == (None if version == "2026-07-28" else True)
    check(story, user)
    assert (story.task is None) == (version == "2026-07-28")
    if version == "2026-07-28":
        assert story.asked is not None
        assert story.asked["status"] == "accepted"
    await check_effects(front, jobs, user, tasks=story.task is not None)


@pytest.mark.guarantee("mcp:interop")
@pytest.mark.guarantee("mcp:cancelled")
@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25"])
async def test_plain_http_lists_calls_recovers_cancels_and_follows_tasks(
    front: Front, jobs: Jobs, version: str
) -> None:
    user = f"curl-{version}"
    token = front.issuer.token(tenant="demo", user=user, scopes=("tools",))
    story, types = await asyncio.to_thread(
        plain_http.play, port=front.app.port, token=token, user=user, version=version
    )
    check(story, user)
    assert story.task is not None
    await check_effects(front, jobs, user, tasks=True)
    stream = "text/event-stream"  # the older era has nothing else
    assert types == ({stream, "application/json"} if version == "2026-07-28" else {stream})
