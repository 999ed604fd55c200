"""SDKs of other languages: what they list, hear, take and find again; opt-in, as they are built."""

import itertools
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.edges.mcp.conftest import Front
from tests.support.npm import UnreachableError
from tests.system.interop import test_answers
from tests.system.interop.jobs import PERCENT, Jobs
from tests.system.interop.story import BOUND_S, TIMEOUT_S
from tests.system.sdks.sdks import SDKS, Player, Sdk, connected

PAIRS = [(sdk, version) for sdk in SDKS for version in sdk.versions]

pytestmark = pytest.mark.skipif(
    "MCP_BROKER_SDKS" not in os.environ, reason="opt-in: make interop-sdks"
)


class Stand:
    """A client of one SDK, and whose it is."""

    player: Player

    def __init__(self, sdk: Sdk, version: str, front: Front, home: Path) -> None:
        self.sdk, self.version, self._front, self._home = sdk, version, front, home
        self.user = f"{sdk.name}-{version} {home.name}"

    @asynccontextmanager
    async def connected(self) -> AsyncGenerator[Player]:
        """Its player, until the block ends."""
        token = self._front.issuer.token(tenant="demo", user=self.user, scopes=("tools",))
        url = f"{self._front.app.url}/mcp"
        async with connected(
            self.sdk, url=url, token=token, version=self.version, home=self._home
        ) as self.player:
            assert self.player.version == self.version
            yield self.player

    def job(self, name: str) -> dict[str, Any]:
        return {"job": f"{self.user} {name}"}

    async def call(self, name: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
        """The structured content of an answer that is none of failure."""
        answer = await self.player.call(name, arguments, **more)
        assert "threw" not in answer, answer
        assert not answer.get("isError"), answer
        return answer["structuredContent"]

    async def newest(self) -> dict[str, Any]:
        [found] = (await self.call("command_list", {"limit": 1}))["commands"]
        return found

    async def outcome(self, command_id: str) -> dict[str, Any]:
        return await self.call("command_status", {"command_id": command_id, "wait_s": BOUND_S})


@pytest.fixture(params=PAIRS, ids=lambda one: f"{one[0].name}-{one[1]}")
def stand(request: pytest.FixtureRequest, front: Front, tmp_path: Path) -> Stand:
    sdk, version = request.param
    try:
        sdk.install()
    except UnreachableError as error:
        pytest.skip(f"{sdk.name} cannot be had: {error}")
    return Stand(sdk, version, front, tmp_path)


@pytest.mark.usefixtures("jobs")
async def test_an_sdk_lists_and_takes_every_kind_of_answer(stand: Stand, front: Front) -> None:
    async with stand.connected() as player:
        assert {"command_list", "command_status", "interop_work"} <= set(player.tools)
        async with front.http(stand.user) as http:
            await test_answers.purge(front, http)
        for one in test_answers.CALLS:
            if "meta" in one and not stand.sdk.keys:
                continue
            answer = await player.call(one["name"], one["arguments"], meta=one.get("meta"))
            test_answers.check(one["kind"], answer)


async def test_an_sdk_hears_progress_and_gets_the_result(stand: Stand, jobs: Jobs) -> None:
    if not stand.sdk.hears:
        pytest.skip("it asks for no progress")
    job, heard = stand.job("progress"), list[float]()

    async def hear(progress: float, message: str) -> None:
        heard.append(progress)
        if job["job"] in message:
            jobs.release(job["job"])

    async with stand.connected():
        assert await stand.call("interop_work", job, hear=hear) == {"done": job["job"]}
        assert all(a < b for a, b in itertools.pairwise(heard))
        assert heard[-1] >= PERCENT
        assert jobs.runs[job["job"]] == 1


async def test_a_call_that_outlives_the_wait_is_followed_by_its_id(
    stand: Stand, jobs: Jobs
) -> None:
    job = stand.job("slow")
    async with stand.connected():
        accepted = await stand.call("interop_slow", job)
        assert accepted["status"] == "accepted"
        jobs.release(job["job"])
        found = await stand.outcome(accepted["command_id"])
        assert (found["state"], found["result"]) == ("succeeded", {"done": job["job"]})


async def test_a_call_that_its_client_gave_up_is_found_again(stand: Stand, jobs: Jobs) -> None:
    job = stand.job("time-out")
    async with stand.connected():
        gave_up = await stand.player.call("interop_work", job, timeout_s=TIMEOUT_S)
        assert "threw" in gave_up, gave_up
        found = await stand.newest()
        assert (found["tool"], found["arguments"], found["final"]) == ("interop_work", job, False)
        jobs.release(job["job"])
        ended = await stand.outcome(found["command_id"])
        assert (ended["state"], ended["result"]) == ("succeeded", {"done": job["job"]})
        assert jobs.runs[job["job"]] == 1


async def test_giving_up_a_tied_call_cancels_it_where_the_client_lets_the_broker_know(
    stand: Stand, jobs: Jobs
) -> None:
    job = stand.job("tied")
    async with stand.connected():
        gave_up = await stand.player.call("interop_tied", job, timeout_s=TIMEOUT_S)
        assert "threw" in gave_up, gave_up
        found = await stand.newest()
        silent = stand.version in stand.sdk.silent
        if silent:
            jobs.release(job["job"])
        ended = await stand.outcome(found["command_id"])
    assert (ended["state"], ended["final"]) == ("succeeded" if silent else "cancelled", True)
