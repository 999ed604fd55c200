"""Every kind of event, through the app and the relay's own loops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.postgres.engine import open_database
from app.postgres.wakeups import Notifier
from app.webhooks.kind import Kind
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from relay.sagas import Conductor
from tests.conftest import settings_of
from tests.edges.mcp import conftest
from tests.edges.mcp.conftest import offer
from tests.edges.mcp.test_saga_tools import TOOLS, plan, step
from tests.support.calls import fetch
from tests.support.stack import wait_for
from tests.webhooks.conftest import Hooks
from tests.webhooks.receivers import Receiver

WAITING = """
    SELECT id::text FROM commands
     WHERE saga_id = CAST($1::text AS uuid) AND saga_step = $2 AND saga_role = $3
       AND state = 'queued' AND NOT held
"""
# As the relay's clock writes it.
ESCALATED = """
    INSERT INTO audit.events
           (tenant_id, type, actor, user_id, command_id, tool, method, state_from, state_to)
    SELECT tenant_id, 'command.approval_escalated', 'relay:clock', user_id, id, tool, method,
           state, state
      FROM commands
     WHERE id = CAST($1::text AS uuid)
"""
FAILED: dict[str, Any] = {
    "status": "error",
    "error": {"code": "x", "message": "It broke.", "retryable": False},
}


@pytest.fixture
async def conductor(database: Dsns, issuer: DevIssuer) -> AsyncIterator[None]:
    await offer(database.owner, TOOLS)
    await offer(database.owner, Path(conftest.__file__).with_name("tools.yml"))
    settings = settings_of(database.relay, issuer, poll_s=0.02)
    async with AsyncExitStack() as opened:
        made = await opened.enter_async_context(open_database(settings, name="conductor"))
        notifier = Notifier(made.pool, coalesce_ms=5)
        stop = asyncio.Event()
        moving = asyncio.create_task(Conductor(made.engine, notifier, settings).run(stop))
        telling = asyncio.create_task(notifier.run())
        yield
        stop.set()
        await moving
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


async def say(hooks: Hooks, command_id: str, path: str = "", **body: Any) -> None:
    async with hooks.app.client("eda", "results:write", tenant="adapters") as http:
        answer = await http.post(f"/results/{command_id}{path}", json=body)
    assert answer.status_code == 200, answer.text


async def do(hooks: Hooks, saga_id: str, name: str, role: str = "step", **said: Any) -> None:
    async def found() -> str | None:
        rows = await fetch(hooks.dsns.owner, WAITING, saga_id, name, role)
        return rows[0]["id"] if rows else None

    one = await wait_for(found)
    assert one is not None
    await say(hooks, one, "/claim", attempt=1, adapter="run")
    await say(hooks, one, **(said or {"status": "ok", "result": {"made": name}}))


async def begin(hooks: Hooks, steps: dict[str, Any]) -> str:
    async with hooks.app.client("ada") as http:
        headers = {"Prefer": "respond-async"}
        made = await http.post("/sagas", json=steps, headers=headers)
    assert made.status_code == 202, made.text
    return made.json()["command_id"]


@pytest.mark.guarantee("webhooks:kinds")
async def test_each_kind_is_told_of_what_it_says(
    hooks: Hooks, receiver: Receiver, conductor: None
) -> None:
    secret = (await hooks.add(receiver.url, *Kind))["secret"]
    async with hooks.relay(), hooks.app.client("ada") as http:
        done = await begin(hooks, plan(step("a")))
        await do(hooks, done, "a")
        stuck = await begin(hooks, plan(step("a"), step("b", "a")))
        await do(hooks, stuck, "a")
        await do(hooks, stuck, "b", **FAILED)
        await do(hooks, stuck, "a", "undo", **FAILED)
        call = {"tool": "policy", "method": "operated", "args": {}}
        headers = {"Prefer": "respond-async"}
        asked = await http.post("/mcp/tools/call", json=call, headers=headers)
        assert asked.status_code == 202, asked.text
        await fetch(hooks.dsns.owner, ESCALATED, asked.json()["command_id"])
        call = {"tool": "probe", "method": "echo", "args": {"text": "dies"}}
        dead = (await http.post("/mcp/tools/call", json=call, headers=headers)).json()
        retryable = {"code": "x", "message": "It broke.", "retryable": True}
        for attempt in (1, 2, 3):
            one = dead["command_id"]
            await say(hooks, one, attempt=attempt, status="error", error=retryable)

        def told(kind: str) -> list[Any]:
            return [one.verified(secret) for one in receiver.got if one.json["type"] == kind]

        async def all_there() -> bool:
            seen = {one.json["type"] for one in receiver.got}
            of_dead = {
                one.json["type"]
                for one in receiver.got
                if one.json["data"].get("command_id") == dead["command_id"]
            }
            return set(Kind) <= seen and of_dead == {"dead_letter", "command.ended"}

        await wait_for(all_there)
        [end] = [one for one in told("saga.ended") if one["data"]["saga_id"] == done]
        assert end["data"]["state"] == "completed"
        [wait] = told("saga.waiting")
        assert (wait["data"]["saga_id"], wait["data"]["state"]) == (stuck, "compensation_failed")
        for kind in ("approval.waiting", "approval.escalated"):
            [approval] = told(kind)
            assert approval["data"]["command_id"] == asked.json()["command_id"]
        ends = {one["data"]["command_id"]: one["data"]["state"] for one in told("command.ended")}
        assert ends[dead["command_id"]] == "dead_lettered"
        links = {one.json["data"]["link"] for one in receiver.got}
        assert all(link.startswith("http://testserver/") for link in links)
