"""The caller's own yes, where others have to approve too: asked for, counted or not, and told."""

from typing import Any

import httpx2
import pytest

from tests.edges.mcp.asking.test_approval import NO, YES, answering
from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import TASKS, call, task

FINANCE: dict[str, Any] = {"groups": ("finance",)}
COSTLY = {"what": "a ship", "amount": 5000}


async def ask(http: httpx2.AsyncClient, tool: str, args: Any, **more: Any) -> Any:
    return (await call(http, f"policy_{tool}", args, asks=True, **more))["result"]


async def approve(http: httpx2.AsyncClient, one: str) -> tuple[int, Any]:
    said = await http.post(f"/commands/{one}/approve", json={"reason": "fine"})
    return said.status_code, said.json()


@pytest.mark.guarantee("approval:own-yes")
async def test_a_yes_that_does_not_count_has_the_call_wait_for_others_and_says_for_whom(
    front: Front,
) -> None:
    async with (
        front.http("fran", **FINANCE) as http,
        front.http("fay", **FINANCE) as fay,
        front.http("fox", **FINANCE) as fox,
        front.http("olga", "operator") as olga,
    ):
        asked = await ask(http, "four_eyes", COSTLY)
        message = asked["inputRequests"]["approve"]["params"]["message"]
        said = "2 of group finance, not the caller"
        assert message.endswith(f"After your yes it waits for {said}.")
        told = await ask(http, "four_eyes", COSTLY, params=answering(asked, YES))
        body = told["structuredContent"]
        for words in (told["content"][0]["text"], body["next_step"], body["waiting_for"]):
            assert f"waits for {said}, until 2" in words
        one = body["command_id"]
        assert (await approve(http, one))[0] == 403  # one's own, by another way
        code, refused = await approve(olga, one)
        assert (code, refused["code"]) == (403, "forbidden")
        assert said in refused["detail"]
        assert (await approve(fay, one))[0] == 200
        assert (await approve(fay, one))[0] == 200  # again: counted once
        shown = (await call(http, "command_status", {"command_id": one, "wait_s": 0}))["result"]
        status = shown["structuredContent"]
        assert status["waiting_for"].startswith("waits for 1 more of group finance")
        assert status["approval"]["missing"] == 1
        assert [yes["user"] for yes in status["approval"]["approved_by"]] == ["fay"]
        assert status["approval"]["until"].startswith("2")
        assert (await http.get(f"/commands/{one}")).json()["approval"] == status["approval"]
        code, done = await approve(fox, one)
        assert (code, done["approval"]["state"]) == (200, "approved")
        assert (await approve(fox, one))[0] == 409
    assert (await front.say(one, "/claim", attempt=1, adapter="run"))["proceed"]


@pytest.mark.guarantee("approval:own-yes")
async def test_a_no_of_the_caller_starts_nothing(front: Front) -> None:
    async with front.http("fran", **FINANCE) as http:
        asked = await ask(http, "four_eyes", COSTLY | {"what": "no"})
        told = await ask(http, "four_eyes", COSTLY | {"what": "no"}, params=answering(asked, NO))
        assert told["structuredContent"]["error"]["code"] == "declined"


@pytest.mark.guarantee("approval:when")
async def test_a_call_of_which_the_rule_is_not_true_asks_nobody(front: Front) -> None:
    async with front.http("fran") as http:
        told = await ask(http, "four_eyes", {"what": "a boat", "amount": 5})
        assert told["structuredContent"]["status"] == "accepted"
        assert "waiting_for" not in told["structuredContent"]


@pytest.mark.guarantee("approval:own-yes")
async def test_a_yes_that_counts_is_one_of_the_quorum(front: Front) -> None:
    async with front.http("fay", **FINANCE) as http, front.http("fox", **FINANCE) as fox:
        asked = await ask(http, "second", {"what": "s"})
        message = asked["inputRequests"]["approve"]["params"]["message"]
        assert message.endswith("After your yes it waits for 1 more of group finance.")
        told = await ask(http, "second", {"what": "s"}, params=answering(asked, YES))
        assert "waits for 1 more of group finance" in told["content"][0]["text"]
        one = told["structuredContent"]["command_id"]
        shown = (await http.get(f"/commands/{one}")).json()["approval"]
        assert [yes["user"] for yes in shown["approved_by"]] == ["fay"]
        assert (await approve(http, one))[0] == 200  # hers is counted, once
        assert (await http.get(f"/commands/{one}")).json()["approval"]["missing"] == 1
        assert (await approve(fox, one))[1]["approval"]["state"] == "approved"


@pytest.mark.guarantee("approval:own-yes")
async def test_a_task_asks_its_person_only_where_the_answer_counts_and_once(front: Front) -> None:
    async with front.http("fran", **FINANCE) as http:
        made = await ask(http, "four_eyes", COSTLY, extensions=(TASKS,))
        assert made["status"] == "working"
        assert "waits for 2 of group finance, not the caller" in made["statusMessage"]
    async with front.http("fay", **FINANCE) as http, front.http("fox", **FINANCE) as fox:
        made = await ask(http, "second", {"what": "t"}, extensions=(TASKS,))
        one = made["taskId"]
        assert made["status"] == "input_required"
        await task(http, "update", one, asks=True, inputResponses=YES)
        waits = (await task(http, "get", one, asks=True))["result"]
        assert waits["status"] == "working"
        assert "waits for 1 more of group finance" in waits["statusMessage"]
        assert (await approve(fox, one))[1]["approval"]["state"] == "approved"
