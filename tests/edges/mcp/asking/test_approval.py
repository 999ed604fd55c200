"""A grave tool asks first: the person behind the client where it can, else an operator."""

from typing import Any

import httpx2
import pytest
from mcp import types

from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import TASKS, call, task
from tests.support.calls import fetch

GRAVE = {"what": "drop it", "secret": "hunter2"}
YES = {"approve": {"action": "accept", "content": {"confirm": True}}}
NO = {"approve": {"action": "decline"}}


async def ask(http: httpx2.AsyncClient, args: Any = GRAVE, **more: Any) -> Any:
    return await call(http, "policy_asked", args, asks=True, **more)


def answering(question: Any, responses: Any) -> dict[str, Any]:
    return {"inputResponses": responses, "requestState": question["requestState"]}


async def commands(front: Front) -> int:
    rows = await fetch(front.dsns.owner, "SELECT count(*) AS n FROM commands")
    return rows[0]["n"]


@pytest.mark.guarantee("approval:person")
async def test_nothing_is_written_before_the_person_agrees_and_then_once(front: Front) -> None:
    before = await commands(front)
    async with front.http("ada") as http:
        asked = (await ask(http))["result"]
        assert asked["resultType"] == "input_required"
        shown = asked["inputRequests"]["approve"]
        assert shown["method"] == "elicitation/create"
        assert "drop it" in shown["params"]["message"]
        assert "hunter2" not in shown["params"]["message"]
        assert await commands(front) == before
        ids = set[str]()
        for _ in range(2):  # the same answer again makes no other command
            done = (await ask(http, params=answering(asked, YES)))["result"]
            ids.add(done["structuredContent"]["command_id"])
        [one] = ids
        assert await commands(front) == before + 1
        assert (await front.say(one, "/claim", attempt=1, adapter="run"))["proceed"]
    [row] = await fetch(
        front.dsns.owner,
        "SELECT body ->> 'approval' AS approval FROM audit.events"
        " WHERE type = 'command.accepted' AND command_id = CAST($1::text AS uuid)",
        one,
    )
    assert row["approval"] == "approved"


@pytest.mark.guarantee("approval:person")
async def test_a_person_who_says_no_leaves_an_audit_event_and_no_command(front: Front) -> None:
    before = await commands(front)
    async with front.http("ada") as http:
        for no in (NO, {"approve": {"action": "accept", "content": {"confirm": False}}}):
            asked = (await ask(http))["result"]
            told = (await ask(http, params=answering(asked, no)))["result"]
            assert told["isError"]
            assert "The user said no" in told["content"][0]["text"]
            assert "Nothing was started" in told["content"][0]["text"]
            assert told["structuredContent"]["error"]["code"] == "declined"
    assert await commands(front) == before
    rows = await fetch(
        front.dsns.owner, "SELECT actor FROM audit.events WHERE type = 'call.declined'"
    )
    assert [row["actor"] for row in rows[-2:]] == ["user:ada"] * 2


@pytest.mark.guarantee("approval:dismissed")
@pytest.mark.parametrize("answer", [{"action": "cancel"}, {"action": "accept"}])
async def test_a_question_that_nobody_answers_is_an_operators_and_no_persons_no(
    front: Front, answer: Any
) -> None:
    """A client that nobody sits at says `cancel`."""
    async with front.http("headless") as http, front.http("olga", "operator") as operator:
        args = {"what": f"headless {answer}"}
        asked = (await ask(http, args))["result"]
        told = (await ask(http, args, params=answering(asked, {"approve": answer})))["result"]
        assert not told.get("isError")
        for words in (told["content"][0]["text"], told["structuredContent"]["next_step"]):
            assert "waits for an operator's approval" in words
            assert "still running" not in words
        one = told["structuredContent"]["command_id"]
        status = await call(http, "command_status", {"command_id": one, "wait_s": 0})
        shown = status["result"]["structuredContent"]
        assert shown["waiting_for"] == "approval by an operator"
        assert "operator's approval" in shown["next_step"]
        said = await operator.post(f"/operator/commands/{one}/approve", json={"reason": "fine"})
        assert said.status_code == 200
    assert (await front.say(one, "/claim", attempt=1, adapter="run"))["proceed"]
    assert await audited(front, "headless") == {"call.dismissed"}


async def audited(front: Front, user: str) -> set[str]:
    """What is audited of a user's answers."""
    rows = await fetch(
        front.dsns.owner,
        "SELECT type FROM audit.events WHERE actor = $1"
        " AND type IN ('call.declined', 'call.dismissed', 'command.denied', 'command.approved')",
        f"user:{user}",
    )
    return {row["type"] for row in rows}


@pytest.mark.guarantee("approval:dismissed")
async def test_a_tasks_question_that_is_dismissed_stays_open_for_an_operator(front: Front) -> None:
    async with front.http("away") as http, front.http("olga", "operator") as operator:
        made = (await ask(http, {"what": "away"}, extensions=(TASKS,)))["result"]
        one = made["taskId"]
        await task(http, "update", one, asks=True, inputResponses={"approve": {"action": "cancel"}})
        waits = (await task(http, "get", one, asks=True))["result"]
        assert waits["status"] == "input_required"
        assert waits["statusMessage"] == "waits for the user's approval, or an operator's"
        said = await operator.post(f"/operator/commands/{one}/approve", json={"reason": "fine"})
        assert said.status_code == 200
        assert (await task(http, "get", one, asks=True))["result"]["status"] == "working"
    assert await audited(front, "away") == {"call.dismissed"}


@pytest.mark.guarantee("approval:bound")
async def test_an_approval_counts_for_its_call_and_its_caller_only(front: Front) -> None:
    before = await commands(front)
    async with front.http("ada") as ada, front.http("bob") as bob:
        asked = (await ask(ada))["result"]
        good = answering(asked, YES)
        refused = [
            await ask(bob, params=good),
            await ask(ada, {**GRAVE, "what": "drop everything"}, params=good),
            await ask(ada, params={**good, "requestState": good["requestState"][:-2] + "xx"}),
            await ask(ada, params={**good, "requestState": "approval:made-up"}),
        ]
        assert [one["error"]["code"] for one in refused] == [-32602] * 4
        # An answer to no question of ours is none: it asks.
        unasked = (await ask(ada, params={"inputResponses": YES}))["result"]
        assert unasked["resultType"] == "input_required"
    assert await commands(front) == before


async def test_a_call_that_was_approved_is_found_again_by_its_key_without_a_question(
    front: Front,
) -> None:
    async with front.http("ada") as http:
        keyed = {"headers": {"Idempotency-Key": "grave-1"}}
        asked = (await ask(http, **keyed))["result"]
        first = (await ask(http, params=answering(asked, YES), **keyed))["result"]
        again = (await ask(http, **keyed))["result"]
    assert again["structuredContent"]["command_id"] == first["structuredContent"]["command_id"]


async def test_bad_arguments_are_refused_before_anybody_is_asked(front: Front) -> None:
    async with front.http("ada") as http:
        told = (await ask(http, {"what": 5}))["result"]
    assert told["isError"]


@pytest.mark.guarantee("approval:asked")
@pytest.mark.parametrize(("tool", "asks"), [("policy_asked", False), ("policy_operated", True)])
async def test_where_the_person_cannot_or_may_not_be_asked_an_operator_is(
    front: Front, tool: str, asks: bool
) -> None:
    args = GRAVE if tool == "policy_asked" else {}
    async with front.http("ada") as http, front.http("olga", "operator") as operator:
        made = (await call(http, tool, args, asks=asks, headers={"Idempotency-Key": tool}))[
            "result"
        ]
        one = made["structuredContent"]["command_id"]
        waits = (await http.get(f"/commands/{one}")).json()
        assert waits["waiting_for"] == "approval by an operator"
        said = await operator.post(f"/operator/commands/{one}/approve", json={"reason": "fine"})
        assert said.status_code == 200
    assert (await front.say(one, "/claim", attempt=1, adapter="run"))["proceed"]


@pytest.mark.guarantee("approval:task")
@pytest.mark.parametrize(("answer", "status"), [(YES, "working"), (NO, "cancelled")])
async def test_a_task_that_waits_asks_and_takes_the_answer(
    front: Front, answer: Any, status: str
) -> None:
    async with front.http("ada") as http:
        args = {"what": status}
        made = (await ask(http, args, extensions=(TASKS,)))["result"]
        assert (made["resultType"], made["status"]) == ("task", "input_required")
        one = made["taskId"]
        waits = (await task(http, "get", one, asks=True))["result"]
        assert waits["inputRequests"]["approve"]["method"] == "elicitation/create"
        blind = (await task(http, "get", one))["result"]
        assert (blind["status"], "inputRequests" in blind) == ("working", False)
        assert "operator" in blind["statusMessage"]
        unknown = {"other": YES["approve"]}
        await task(http, "update", one, asks=True, inputResponses=unknown)
        assert (await task(http, "get", one, asks=True))["result"]["status"] == "input_required"
        for _ in range(2):  # the second answer comes too late and is ignored
            told = await task(http, "update", one, asks=True, inputResponses=answer)
            assert told["result"]["resultType"] == "complete"
        assert (await task(http, "get", one, asks=True))["result"]["status"] == status


async def test_an_sdk_client_answers_by_its_callback(front: Front) -> None:
    asked: list[str] = []

    async def agree(_ctx: Any, params: Any) -> types.ElicitResult:
        asked.append(params.message)
        return types.ElicitResult(action="accept", content={"confirm": True})

    async with front.client(elicitation_callback=agree) as client:
        done = await client.call_tool("policy_asked", {"what": "by the sdk"})
    assert len(asked) == 1
    assert done.structured_content is not None
    assert done.structured_content["status"] == "accepted"
