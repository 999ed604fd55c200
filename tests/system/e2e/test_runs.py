"""What becomes of running playbooks: ended by a cancel or a deadline, or killed with EDA."""

import asyncio
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from tests.support.calls import fetch
from tests.support.stack import alive, wait_for
from tests.system.e2e.conftest import World
from tests.system.e2e.test_path import ended

CALLS = 12
PLAY_S = 40.0

pytestmark = [pytest.mark.eda, pytest.mark.timeout(180)]


async def start(http: httpx2.AsyncClient, method: str, key: str) -> str:
    body = {"tool": "probe", "method": method, "args": {}}
    headers = {"Prefer": "respond-async", "Idempotency-Key": key}
    answer = await http.post("/mcp/tools/call", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    return answer.json()["correlation_id"]


async def working(folder: Path) -> list[int]:
    """The processes of a run that is at work in its folder."""

    async def pids() -> list[int]:
        path = folder / "pids"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    return await wait_for(pids, PLAY_S)


@pytest.mark.guarantee("cancel:local")
async def test_a_cancel_and_a_deadline_end_playbooks_that_say_no_progress(world: World) -> None:
    async with world.http() as http:
        cancelled, late = [await start(http, "slow", key) for key in ("cancelled", "late")]
        folders = [world.workspace / f"slow.{command}" for command in (cancelled, late)]
        first, second = [await working(folder) for folder in folders]
        assert all(alive(pid) for pid in [*first, *second])
        answer = await http.post(f"/commands/{cancelled}/cancel", json={"reason": "not wanted"})
        assert answer.status_code < 300, answer.text
        found = await ended(http, cancelled, 15)
        assert found["state"] == "cancelled"
        assert found["error"]["code"] == "stopped", "by the end of the run, not of the grace"
        assert not any(alive(pid) for pid in first)
        assert not folders[0].exists(), "its temporary files are gone"
        assert all(alive(pid) for pid in second), "the other one goes on"
        await fetch(world.dsns.owner, "UPDATE commands SET deadline_at = now() WHERE id = $1", late)
        found = await ended(http, late, 15)
        assert (found["state"], found["error"]["code"]) == ("timed_out", "stopped")
        assert not any(alive(pid) for pid in second)
        assert not folders[1].exists()

    async def tidy() -> bool:
        return not list((world.eda.home / "ansible" / "tmp").glob("ansible-*"))

    await wait_for(tidy)


@pytest.mark.guarantee("eda:killed")
async def test_each_command_ends_once_with_one_effect_when_eda_is_killed(world: World) -> None:
    async with world.http() as http:
        calls = [await start(http, "effect", f"effect-{n}") for n in range(CALLS)]

        def effects() -> Counter[str]:
            return Counter(line for line in world.effects.read_text().split() if line in calls)

        async def in_the_middle() -> bool:
            return 2 <= len(effects()) < CALLS

        await wait_for(in_the_middle, PLAY_S)
        world.eda.kill()
        [running] = await fetch(
            world.dsns.owner,
            "SELECT count(*) AS n FROM commands WHERE method = 'effect' AND state = 'running'",
        )
        assert running["n"] > 0, "it was killed in the middle of playbooks"
        # As if the time to claim, and the leases of those that have claimed, were over.
        await fetch(
            world.dsns.owner,
            "UPDATE commands SET lease_until = now()"
            " WHERE method = 'effect' AND state IN ('dispatched', 'running')",
        )
        await asyncio.to_thread(world.eda.start)
        states = [(await ended(http, call, 60))["state"] for call in calls]
    assert states == ["succeeded"] * CALLS
    assert effects() == Counter(calls), "one effect a command"
    ends = await fetch(
        world.dsns.owner,
        "SELECT count(*) AS n FROM audit.events WHERE type = 'command.succeeded'"
        " AND command_id = ANY ($1::uuid[]) GROUP BY command_id",
        calls,
    )
    assert [row["n"] for row in ends] == [1] * CALLS
