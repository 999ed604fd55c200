"""Sagas through the whole path: done, or nothing is left, whatever is killed on the way."""

import asyncio
from typing import Any

import httpx2
import pytest

from tests.support.calls import fetch
from tests.system.e2e.conftest import World
from tests.system.e2e.test_path import ended

FAILS_AT = ("nothing", "provision", "configure", "enable")

pytestmark = [pytest.mark.eda, pytest.mark.timeout(300)]


def plan(name: str, fail_at: str = "nothing") -> dict[str, Any]:
    """The example of docs/SAGAS.md, inline."""
    own = {"name": name, "owner": "{{ saga.id }}"}

    def step(method: str, undo: str, **more: Any) -> dict[str, Any]:
        return {
            "id": method,
            "tool": f"service_{method}",
            "args": own | {"fail_at": fail_at} | more,
            "ordering_key": f"service:{name}",
            "compensate": {"tool": f"service_{undo}", "args": own},
        }

    return {
        "steps": [
            step("provision", "deprovision"),
            step("configure", "restore", settings={"port": 80}),
            step("enable", "disable"),
        ]
    }


@pytest.mark.guarantee("saga:path")
async def test_a_saga_over_mcp_is_done_or_leaves_nothing(world: World) -> None:
    home = world.workspace / "_services" / "demo"
    services, enabled = home / "services", home / "enabled"
    said: list[str | None] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        assert total is None or progress <= total
        said.append(message)

    async with world.mcp() as client:
        good = await client.call_tool("saga_run", {"plan": plan("whole")}, progress_callback=heard)
        assert not good.is_error, good.content
        assert set((good.structured_content or {})["steps"]) == {"provision", "configure", "enable"}
        assert any("step" in (line or "") for line in said), said
        bad = await client.call_tool("saga_run", {"plan": plan("broken", fail_at="enable")})
        assert bad.is_error
        error = (bad.structured_content or {})["error"]
        assert (error["code"], error["cause"]["step"]) == ("compensated", "enable")
    assert (enabled / "whole").exists()
    assert not (services / "broken").exists()
    assert not (enabled / "broken").exists()


@pytest.mark.guarantee("saga:path")
async def test_app_and_relay_are_killed_and_each_saga_still_ends(world: World) -> None:
    headers = {"Prefer": "respond-async"}

    async def start(http: httpx2.AsyncClient, number: int) -> str:
        body = {"plan": plan(f"k{number}", FAILS_AT[number])}
        answer = await http.post("/sagas", json=body, headers=headers)
        assert answer.status_code == 202, answer.text
        return answer.json()["correlation_id"]

    async with world.http() as http:
        ids = [await start(http, number) for number in range(len(FAILS_AT))]
        for relay in world.relays:
            relay.kill()
        world.apps[0].process.kill()
        for relay in world.relays:
            await asyncio.to_thread(relay.start)
        await asyncio.to_thread(world.apps[0].start)
        states = [(await ended(http, one, 120))["state"] for one in ids]
    assert states == ["succeeded", "failed", "failed", "failed"]
    services = world.workspace / "_services" / "demo" / "services"
    left = [(services / f"k{number}").exists() for number in range(len(FAILS_AT))]
    assert left == [True, False, False, False]
    undone = await fetch(
        world.dsns.owner,
        "SELECT count(*) AS n FROM commands WHERE saga_role = 'undo' AND saga_id = ANY ($1)",
        ids,
    )
    assert undone[0]["n"] == 0 + 1 + 2, "each done step of the failed ones is undone once"
