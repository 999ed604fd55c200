"""Sagas as an MCP client meets them: progress, a task, a person's approvals, a tenant's wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx2
import pytest

from app import assets
from app.postgres.engine import open_database
from app.postgres.wakeups import Notifier
from devstack.tokens import DevIssuer
from relay.sagas import Conductor
from tests.conftest import settings_of
from tests.edges.mcp.conftest import ERAS, Front, offer
from tests.edges.mcp.wire import TASKS, call, message, send, task
from tests.support.calls import fetch
from tests.support.stack import wait_for

TOOLS = assets.root() / "tests" / "sagas" / "tools.yml"
WAITING = """
    SELECT id::text
      FROM commands
     WHERE saga_id = CAST($1::text AS uuid) AND saga_step = $2 AND saga_role = $3
       AND state = 'queued' AND NOT held AND approval IS DISTINCT FROM 'pending'
"""
ASKED = "SELECT id::text FROM commands WHERE user_id = $1 AND approval = 'pending'"
AUDITED = """
    SELECT type, actor FROM audit.events
     WHERE saga_id = CAST($1::text AS uuid) AND type IN ('command.approved', 'command.denied')
     ORDER BY occurred_at
"""
YES = {"action": "accept", "content": {"confirm": True}}
NO = {"action": "decline"}
TAUGHT = {
    "saga_run": (
        "undone in reverse order",
        "for a single call use the tool itself",
        "Try `dry_run: true` first",
        "ask saga_status; do not run it again",
    ),
    "saga_status": ("`compensated` means", "tell the user and do not run it again"),
    "saga_cancel": ("undone in reverse order", "a saga is not undone but goes on"),
}


@pytest.fixture(scope="module", autouse=True)
async def relay(front: Front, issuer: DevIssuer) -> AsyncIterator[None]:
    """What moves sagas: a relay's conductor."""
    await offer(front.dsns.owner, TOOLS)
    settings = settings_of(front.dsns.relay, issuer, poll_s=0.02)
    async with AsyncExitStack() as opened:
        database = await opened.enter_async_context(open_database(settings, name="relay"))
        notifier = Notifier(database.pool, coalesce_ms=5)
        stop = asyncio.Event()
        moving = asyncio.create_task(Conductor(database.engine, notifier, settings).run(stop))
        telling = asyncio.create_task(notifier.run())
        yield
        stop.set()
        await moving
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)


def step(name: str, *needs: str, **more: Any) -> dict[str, Any]:
    undo = {"tool": "lab_undo", "args": {"text": name}}
    made = {"id": name, "tool": "lab_do", "args": {"text": name}, "needs": list(needs)}
    return made | {"compensate": undo} | more


def plan(*steps: dict[str, Any]) -> dict[str, Any]:
    return {"plan": {"steps": list(steps)}}


async def do(front: Front, saga_id: str, name: str, role: str = "step", **said: Any) -> None:
    """Play the adapter of a step, once it may be taken; by default it succeeds."""

    async def found() -> str | None:
        rows = await fetch(front.dsns.owner, WAITING, saga_id, name, role)
        return rows[0]["id"] if rows else None

    one = await wait_for(found)
    assert one is not None
    assert (await front.say(one, "/claim", attempt=1, adapter="run"))["proceed"]
    await front.say(one, "", **(said or {"status": "ok", "result": {"made": name}}))


FAILED: dict[str, Any] = {
    "status": "error",
    "error": {"code": "x", "message": "It broke.", "retryable": False},
}


async def begin(http: httpx2.AsyncClient, args: dict[str, Any], *, asks: bool = False) -> str:
    made = (await call(http, "saga_run", args, extensions=(TASKS,), asks=asks))["result"]
    assert made["resultType"] == "task", made
    return made["taskId"]


async def shows(http: httpx2.AsyncClient, one: str, wanted: str, *, asks: bool = False) -> Any:
    """The task once its status or its line is the wanted one."""

    async def there() -> Any:
        told = (await task(http, "get", one, asks=asks))["result"]
        found = wanted == told["status"] or told.get("statusMessage", "").startswith(wanted)
        return told if found else None

    return await wait_for(there)


@pytest.mark.guarantee("saga:mcp")
async def test_a_saga_is_a_task_that_shows_each_step_and_ends_in_their_results(
    front: Front,
) -> None:
    async with front.http("ada") as http:
        one = await begin(http, plan(step("a"), step("b", "a")))
        assert (await shows(http, one, "running: step a"))["status"] == "working"
        await do(front, one, "a")
        await shows(http, one, "running: step b")
        await do(front, one, "b")
        done = await shows(http, one, "completed")
    assert done["result"]["structuredContent"]["steps"] == {"a": {"made": "a"}, "b": {"made": "b"}}


@pytest.mark.guarantee("saga:mcp")
@pytest.mark.parametrize("how", ["cancelled", "completed"])
async def test_a_saga_as_a_task_is_undone_by_a_cancel_or_a_failure_before_it_ends(
    front: Front, how: str
) -> None:
    async with front.http("ada") as http:
        one = await begin(http, plan(step("a"), step("b", "a")))
        await do(front, one, "a")
        await shows(http, one, "running: step b")
        if how == "cancelled":
            await task(http, "cancel", one)
        else:
            await do(front, one, "b", **FAILED)
        undoing = await shows(http, one, "compensating: undoing a")
        assert undoing["status"] == "working"
        await do(front, one, "a", "undo", status="ok", result={})
        ended = await shows(http, one, how)
    if how == "completed":
        assert ended["result"]["isError"]
        error = ended["result"]["structuredContent"]["error"]
        assert (error["code"], error["steps"]) == (
            "compensated",
            {"a": "compensated", "b": "failed"},
        )


class Heard:
    """A progress callback that keeps what it hears."""

    def __init__(self) -> None:
        self.said: list[tuple[float, str | None]] = []

    async def __call__(self, progress: float, total: float | None, message: str | None) -> None:
        assert total == 100
        self.said.append((progress, message))

    async def until(self, wanted: str) -> None:
        async def there() -> bool:
            return any(message == wanted for _, message in self.said)

        await wait_for(there)


@pytest.mark.guarantee("mcp:wait")
@pytest.mark.guarantee("saga:mcp")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_tenants_own_wait_is_waited_and_the_whole_sagas_progress_is_heard_in_it(
    front: Front, mode: str
) -> None:
    """The app's own wait is a second; the silence alone that joins progress is half of one."""
    tenant = f"patient-{len(mode)}"
    await front.allow(tenant, "lab/*", inline_wait_s=60)
    heard = Heard()
    async with front.client("pat", mode=mode, tenant=tenant) as client:
        steps = plan(step("a"), step("b", "a"), step("c", "b"))
        calling = asyncio.create_task(client.call_tool("saga_run", steps, progress_callback=heard))
        await heard.until("running: step a")
        async with front.http("pat", tenant=tenant) as http:
            [saga] = (await http.get("/sagas")).json()["sagas"]
        for name, then in (("a", "b"), ("b", "c")):
            await do(front, saga["saga_id"], name)
            await heard.until(f"running: step {then}")
        await do(front, saga["saga_id"], "c")
        done = await calling
    assert set((done.structured_content or {})["steps"]) == {"a", "b", "c"}
    values = [progress for progress, _ in heard.said]
    assert values == sorted(set(values)), "strictly increasing"
    percent = {message: int(progress) for progress, message in heard.said}
    assert percent["running: step b"] >= 33
    assert percent["running: step c"] >= 66


@pytest.mark.guarantee("saga:approval")
@pytest.mark.parametrize(("approve", "state"), [(True, "succeeded"), (False, "failed")])
async def test_a_step_waits_for_an_operator_who_lets_it_go_or_has_the_saga_undone(
    front: Front, approve: bool, state: str
) -> None:
    user = f"asks {approve}"
    definition = {"name": f"asks-{state}", "steps": [step("a"), step("b", "a", approval="ask")]}
    async with (
        front.http("olga", "tools", "operator") as operator,
        front.http(user) as http,
        front.http("eve", tenant="other") as eve,
    ):
        made = await operator.post("/sagas/definitions", json=definition)
        assert made.status_code == 201, made.text
        told = (await call(http, "saga_run", {"name": definition["name"]}))["result"]
        one = told["structuredContent"]["command_id"]
        await do(front, one, "a")

        async def waits() -> str | None:
            rows = await fetch(front.dsns.owner, ASKED, user)
            return rows[0]["id"] if rows else None

        b = await wait_for(waits)
        asked = {"saga_id": one, "wait_s": 0}
        shown = (await call(http, "saga_status", asked))["result"]["structuredContent"]
        assert shown["message"] == "step b; an approval of b is waited for"
        word = f"/operator/commands/{b}/{'approve' if approve else 'deny'}"
        assert (await eve.post(word, json={"reason": "x"})).status_code in {403, 404}
        assert (await operator.post(word, json={"reason": "not today"})).status_code == 200
        if approve:
            await do(front, one, "b")
        else:
            await do(front, one, "a", "undo", status="ok", result={})

        async def ended() -> Any:
            found = (await http.get(f"/commands/{one}")).json()
            return found if found["final"] else None

        found = await wait_for(ended)
    assert found is not None
    assert found["state"] == state
    if not approve:
        assert "not today" in found["error"]["message"]
        assert found["error"]["cause"]["step"] == "b"
    kind = "command.approved" if approve else "command.denied"
    rows = await fetch(front.dsns.owner, AUDITED, one)
    assert [tuple(row) for row in rows] == [(kind, "operator:olga")]


@pytest.mark.guarantee("saga:approval")
async def test_the_task_of_a_saga_asks_for_all_its_steps_and_takes_the_answers_one_by_one(
    front: Front,
) -> None:
    steps = [step("a"), *(step(name, "a", approval="ask") for name in "bc")]
    async with front.http("ada") as http:
        one = await begin(http, plan(*steps, step("d", "b", "c")), asks=True)
        await do(front, one, "a")
        asked = await shows(http, one, "input_required", asks=True)
        questions = asked["inputRequests"]
        assert set(questions) == {"approve b", "approve c"}
        assert "(step 'b' of the saga)" in questions["approve b"]["params"]["message"]
        blind = (await task(http, "get", one))["result"]
        assert blind["status"] == "working", (
            "a client that shows no questions waits for an operator"
        )
        line = "running: step b, c; an approval of b, c is waited for"
        assert blind["statusMessage"].startswith(line)
        await task(http, "update", one, asks=True, inputResponses={"approve b": YES})
        left = (await task(http, "get", one, asks=True))["result"]
        assert (left["status"], set(left["inputRequests"])) == ("input_required", {"approve c"})
        await shows(http, one, "running: step b, c; an approval of c is waited for")
        await do(front, one, "b")
        await task(http, "update", one, asks=True, inputResponses={"approve c": NO})
        for undone in "ba":
            await do(front, one, undone, "undo", status="ok", result={})
        ended = await shows(http, one, "completed", asks=True)
    assert ended["result"]["isError"]
    assert (
        "the person behind the client said no"
        in ended["result"]["structuredContent"]["error"]["message"]
    )
    rows = await fetch(front.dsns.owner, AUDITED, one)
    assert [tuple(row) for row in rows] == [
        ("command.approved", "user:ada"),
        ("command.denied", "user:ada"),
    ]


@pytest.mark.guarantee("saga:approval")
async def test_what_only_an_operator_may_allow_is_asked_of_nobody_else(front: Front) -> None:
    async with front.http("oscar") as http:
        grave = step("a", tool="policy_asked", args={"what": "x"}, approval="operator")
        one = await begin(http, plan(grave), asks=True)
        await shows(http, one, "running: step a; an approval of a is waited for", asks=True)
        [row] = await fetch(front.dsns.owner, ASKED, "oscar")
        for named in (one, row["id"]):
            for key in ("approve", "approve a"):
                await task(http, "update", named, asks=True, inputResponses={key: YES})
            told = (await task(http, "get", named, asks=True))["result"]
            assert (told["status"], "inputRequests" in told) == ("working", False)
        assert await fetch(front.dsns.owner, ASKED, "oscar")
        await task(http, "cancel", one)
        await shows(http, one, "cancelled")


@pytest.mark.guarantee("saga:mcp")
async def test_a_model_that_reads_the_tools_tries_a_plan_runs_it_asks_and_cancels(
    front: Front,
) -> None:
    """What the descriptions say is what happens."""
    async with front.http("mo") as http:
        listed = message(await send(http, "tools/list", {}))["result"]["tools"]
        taught = {one["name"]: one for one in listed if one["name"].startswith("saga_")}
        for name, words in TAUGHT.items():
            for said in words:
                assert said in taught[name]["description"], name
        schema = taught["saga_run"]["inputSchema"]["properties"]["plan"]
        assert (
            "undoes this step"
            in schema["properties"]["steps"]["items"]["properties"]["compensate"]["description"]
        )
        dry = plan(step("a"), step("b", "a")) | {"dry_run": True}
        shown = (await call(http, "saga_run", dry))["result"]["structuredContent"]
        assert [one["undoes"] for one in shown["undo_plan"]] == ["b", "a"]
        wrong = plan(step("a", args={"text": 5}), step("b", "a", tool="lab_nothing"))
        refused = (await call(http, "saga_run", wrong))["result"]
        assert refused["isError"]
        places = [one["at"] for one in refused["structuredContent"]["error"]["problems"]]
        assert {place.partition(".")[0] for place in places} == {"steps[0]", "steps[1]"}
        assert (await http.get("/sagas")).json()["sagas"] == [], "nothing was started"
        told = (await call(http, "saga_run", plan(step("a"), step("b", "a"))))["result"]
        assert "command_status" in told["content"][0]["text"]
        one = {"saga_id": told["structuredContent"]["command_id"]}
        await do(front, one["saga_id"], "a")
        await call(http, "saga_cancel", one | {"reason": "never mind"})
        asking = asyncio.create_task(call(http, "saga_status", one | {"wait_s": 20}))
        await do(front, one["saga_id"], "a", "undo", status="ok", result={})
        ended = (await asking)["result"]["structuredContent"]
    assert (ended["state"], ended["final"]) == ("compensated", True)
    assert "never mind" in ended["error"]["message"]
    assert (ended["steps"][0]["step"], ended["steps"][0]["state"]) == ("a", "compensated")
