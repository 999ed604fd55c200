"""The saga example's adapters through EDA: what they make, and that each undo leaves nothing."""

import asyncio
from typing import Any

import httpx2
import pytest

from tests.e2e.conftest import World
from tests.e2e.test_path import ended

pytestmark = [pytest.mark.eda, pytest.mark.timeout(300)]

STEPS = ("provision", "configure", "enable")
UNDOS = ("disable", "restore", "deprovision")


async def start(http: httpx2.AsyncClient, method: str, name: str, **more: Any) -> str:
    """Calls of one service run in the order in which they are made."""
    args: dict[str, Any] = {"name": name, "owner": f"saga-of-{name}", **more}
    if method == "configure":
        args["settings"] = {"port": "{{ lookup('pipe', 'id') }}"}
    answer = await http.post(
        "/mcp/tools/call",
        json={
            "tool": "service",
            "method": method,
            "args": args,
            "ordering_key": f"service:{name}",
        },
        headers={"Prefer": "respond-async"},
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["correlation_id"]


async def test_a_service_is_made_and_each_undo_takes_back_its_step(world: World) -> None:
    services, enabled = world.workspace / "demo" / "services", world.workspace / "demo" / "enabled"
    async with world.http() as http:
        made = [await start(http, method, "web") for method in STEPS]
        states = [(await ended(http, one))["state"] for one in made]
        assert states == ["succeeded"] * 3
        written = (services / "web" / "config.json").read_text()
        assert "lookup('pipe'" in written, "a caller's text is data"
        assert (enabled / "web").exists()

        async def fail_at(step: int) -> None:
            """The steps before it succeed, it fails, and all undos after it are harmless."""
            name, fail = f"failing-{step}", STEPS[step]
            tried = [await start(http, one, name, fail_at=fail) for one in STEPS[: step + 1]]
            undone = [await start(http, one, name) for one in UNDOS]
            found = [await ended(http, one) for one in tried]
            assert [one["state"] for one in found] == ["succeeded"] * step + ["failed"]
            assert f"{fail} fails" in found[-1]["error"]["message"]
            assert {(await ended(http, one))["state"] for one in undone} == {"succeeded"}
            assert not (services / name).exists()
            assert not (enabled / name).exists()

        await asyncio.gather(*(fail_at(step) for step in range(len(STEPS))))
    assert (services / "web").exists(), "and nobody else's was touched"
    assert {path.name for path in enabled.iterdir()} == {"web"}
