"""Every kind of event, through the app and the relay's own loops."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from app.edges.parts import Parts
from app.intake.prepare import CallRequest
from app.postgres.engine import Database, open_database
from app.postgres.wakeups import Notifier
from app.webhooks.kind import Kind
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from relay.sagas import Conductor
from tests.conftest import settings_of
from tests.edges.mcp import conftest
from tests.edges.mcp.conftest import offer
from tests.edges.mcp.test_saga_tools import TOOLS, plan, step
from tests.support.approving import SHIP, aged, waiting
from tests.support.approving import clock as expire_approvals
from tests.support.calls import accept, fetch, state_of
from tests.support.offers import put
from tests.support.stack import wait_for
from tests.webhooks.conftest import Hooks
from tests.webhooks.receivers import Receiver

WAITING = """
    SELECT id::text FROM commands
     WHERE saga_id = CAST($1::text AS uuid) AND saga_step = $2 AND saga_role = $3
       AND state = 'queued' AND NOT held
"""
FAILED: dict[str, Any] = {
    "status": "error",
    "error": {"code": "x", "message": "It broke.", "retryable": False},
}


# One that an operator approves, and managers where that takes long; one that asks its caller.
WAITS = SHIP | {
    "policy": {"approval": {"by": "operator", "escalate_s": 60, "escalate_to": ["managers"]}}
}
ASKS = SHIP | {"method": "ask", "policy": {"approval": "ask"}}


@pytest.fixture
async def conductor(
    database: Dsns, issuer: DevIssuer, broker: Parts, home: Path
) -> AsyncIterator[Database]:
    await put(database, home, {"tools": [WAITS, ASKS]}, broker=broker)
    await offer(database.owner, TOOLS)
    await offer(database.owner, Path(conftest.__file__).with_name("tools.yml"))
    settings = settings_of(database.relay, issuer, poll_s=0.02)
    async with AsyncExitStack() as opened:
        made = await opened.enter_async_context(open_database(settings, name="conductor"))
        notifier = Notifier(made.pool, coalesce_ms=5)
        stop = asyncio.Event()
        moving = asyncio.create_task(Conductor(made.engine, notifier, settings).run(stop))
        telling = asyncio.create_task(notifier.run())
        yield made
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
    hooks: Hooks, receiver: Receiver, conductor: Database, broker: Parts
) -> None:
    secret = (await hooks.add(receiver.url, *Kind))["secret"]
    async with hooks.relay(), hooks.app.client("ada") as http:
        done = await begin(hooks, plan(step("a")))
        await do(hooks, done, "a")
        stuck = await begin(hooks, plan(step("a"), step("b", "a")))
        await do(hooks, stuck, "a")
        await do(hooks, stuck, "b", **FAILED)
        await do(hooks, stuck, "a", "undo", **FAILED)
        asked = await waiting(broker)
        await aged(hooks.dsns, asked, s=61)
        assert await expire_approvals(broker, conductor)
        yes = CallRequest(tool="grave", method="ask", args={}, approved=True)
        assert await state_of(hooks.dsns.owner, (await accept(broker, yes)).written.id) == "queued"
        headers = {"Prefer": "respond-async"}
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
            assert approval["data"]["command_id"] == str(asked), "and no call of a caller's own yes"
        ends = {one["data"]["command_id"]: one["data"]["state"] for one in told("command.ended")}
        assert ends[dead["command_id"]] == "dead_lettered"
        links = {one.json["data"]["link"] for one in receiver.got}
        assert all(link.startswith("http://testserver/") for link in links)
