"""Arguments that the person behind the client gives, asked before the call is accepted."""

from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx2
import pytest
import yaml
from mcp import types

from app.catalog import file as catalog_file
from app.errors import BadRequestError
from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import TASKS, call
from tests.support.calls import fetch

TOOL = "policy_ticketed"
ANSWERS: dict[str, dict[str, Any]] = {
    "ticket": {"ticket": "CHG-1"},
    "when": {"time": "night"},
    "approve": {"confirm": True},
}


def accept(content: dict[str, Any]) -> dict[str, Any]:
    return {"action": "accept", "content": content}


async def ask(http: httpx2.AsyncClient, args: Any, answer: Any = None, **more: Any) -> Any:
    """A call, or the same call again with the answer to its last question."""
    if answer is not None:
        asked, said = answer
        params = {"inputResponses": said, "requestState": asked["requestState"]}
        more["params"] = params
    return await call(http, TOOL, args, asks=True, **more)


async def made(front: Front, what: str) -> list[Any]:
    query = "SELECT args, approval FROM commands WHERE args ->> 'what' = $1"
    return await fetch(front.dsns.owner, query, what)


@pytest.mark.guarantee("approval:asks")
async def test_each_question_is_asked_in_turn_by_any_replica_and_one_command_is_made(
    front: Front, twin: Front
) -> None:
    args = {"what": f"turns {uuid4()}"}
    states: list[str] = []
    asked: Any = None
    answer: Any = None
    async with front.http("ada") as one, twin.http("ada") as two:
        for http, key in zip((one, two, one), ANSWERS, strict=True):
            asked = (await ask(http, args, answer))["result"]
            assert (asked["resultType"], list(asked["inputRequests"])) == ("input_required", [key])
            form = asked["inputRequests"][key]["params"]["requestedSchema"]
            assert form["required"] == list(ANSWERS[key])
            states.append(asked["requestState"])
            answer = (asked, {key: accept(ANSWERS[key])})
            assert await made(front, args["what"]) == []
        assert "CHG-1" in asked["inputRequests"]["approve"]["params"]["message"]
        assert len(set(states)) == 3
        ids = {
            (await ask(http, args, answer))["result"]["structuredContent"]["command_id"]
            for http in (one, two, one)
        }
        assert len(ids) == 1
        # The same dialogue with another answer is another request, and refused.
        other = ({"requestState": states[1]}, {"when": accept({"time": "day"})})
        again = (await ask(one, args, other))["result"]
        last = (again, {"approve": accept(ANSWERS["approve"])})
        refused = (await ask(one, args, last))["result"]
        assert refused["structuredContent"]["error"]["code"] == "idempotency_conflict"
    [row] = await made(front, args["what"])
    assert yaml.safe_load(row["args"]) == {**args, "ticket": "CHG-1", "time": "night"}
    assert row["approval"] == "approved"


@pytest.mark.guarantee("approval:asks")
async def test_a_no_ends_it_and_what_is_no_good_answer_is_asked_again(front: Front) -> None:
    args = {"what": f"no {uuid4()}"}
    async with front.http("ada") as http:
        asked = (await ask(http, args))["result"]
        for bad in (
            {},
            {"other": accept({"ticket": "CHG-1"})},
            {"ticket": accept({})},
            {"ticket": accept({"ticket": "x"})},
            {"ticket": accept({"ticket": 5})},
            {"when": accept({"time": "day"})},  # not asked yet
        ):
            again = (await ask(http, args, (asked, bad)))["result"]
            assert list(again["inputRequests"]) == ["ticket"], bad
        unasked = {"inputResponses": {"ticket": accept(ANSWERS["ticket"])}}
        again = (await ask(http, args, params=unasked))["result"]
        assert list(again["inputRequests"]) == ["ticket"], "an answer to no question of ours"
        broken = await ask(http, args, (asked, {"ticket": {"action": "dance"}}))
        assert broken["error"]["code"] == -32602
        bob = await ask(http, {"what": "other"}, (asked, {"ticket": accept(ANSWERS["ticket"])}))
        assert bob["error"]["code"] == -32602, "the state is of one call"
        told = (await ask(http, args, (asked, {"ticket": {"action": "decline"}})))["result"]
        assert told["isError"]
        assert "Nothing was started" in told["content"][0]["text"]
        assert told["structuredContent"]["error"]["code"] == "declined"
        told = (await ask(http, args, (asked, {"ticket": {"action": "cancel"}})))["result"]
        assert told["structuredContent"]["error"]["code"] == "unanswered"
        assert "asks for ticket" in told["content"][0]["text"]
    assert await made(front, args["what"]) == []
    query = "SELECT type FROM audit.events WHERE type LIKE 'call.d%' AND method = 'ticketed'"
    rows = await fetch(front.dsns.owner, query)
    assert sorted(row["type"] for row in rows) == ["call.declined", "call.dismissed"]


async def test_who_cannot_be_asked_says_it_all_and_who_says_it_is_not_asked(front: Front) -> None:
    args = {"what": f"says {uuid4()}", "ticket": "CHG-2", "time": "day"}
    async with front.http("ada") as http:
        lacking = (await call(http, TOOL, {"what": args["what"]}))["result"]
        assert lacking["structuredContent"]["error"]["code"] == "invalid_arguments"
        asked = (await ask(http, args))["result"]
        assert list(asked["inputRequests"]) == ["approve"]
        waits = (await call(http, TOOL, args))["result"]["structuredContent"]
    assert waits["status"] == "accepted"
    [row] = await made(front, args["what"])
    assert row["approval"] == "pending"


async def test_a_task_is_made_of_what_was_answered(front: Front) -> None:
    args = {"what": f"task {uuid4()}", "ticket": "CHG-3"}
    async with front.http("ada") as http:
        asked = (await ask(http, args, extensions=(TASKS,)))["result"]
        assert (asked["resultType"], "taskId" in asked) == ("input_required", False)
        answer = (asked, {"when": accept({"time": "day"})})
        task = (await ask(http, args, answer, extensions=(TASKS,)))["result"]
    assert (task["resultType"], task["status"]) == ("task", "input_required"), "for its approval"
    [row] = await made(front, args["what"])
    assert yaml.safe_load(row["args"])["time"] == "day"


async def test_an_sdk_client_answers_each_question_by_its_callback(front: Front) -> None:
    async def answer(_ctx: Any, params: Any) -> types.ElicitResult:
        [name] = params.requested_schema["properties"]
        said = {"ticket": "CHG-4", "time": "night", "confirm": True}
        return types.ElicitResult(action="accept", content={name: said[name]})

    what = f"sdk {uuid4()}"
    async with front.client(elicitation_callback=answer) as client:
        done = await client.call_tool(TOOL, {"what": what})
    assert done.structured_content is not None
    assert done.structured_content["status"] == "accepted"
    assert len(await made(front, what)) == 1


@pytest.mark.parametrize(
    ("asks", "properties"),
    [
        ([{"key": "approve", "message": "?", "arguments": ["a"]}], {"a": {"type": "string"}}),
        ([{"key": "one", "message": "?", "arguments": ["a", "a"]}], {"a": {"type": "string"}}),
        (
            [{"key": "one", "message": "?", "arguments": [name]} for name in ("a", "b")],
            {"a": {"type": "string"}, "b": {"type": "string"}},
        ),
        ([{"key": "one", "message": "?", "arguments": ["b"]}], {"a": {"type": "string"}}),
        ([{"key": "one", "message": "?", "arguments": ["a"]}], {"a": {"type": "object"}}),
        (
            [{"key": "one", "message": "?", "arguments": ["a"]}],
            {"a": {"type": "string", "x-sensitive": True}},
        ),
    ],
)
def test_a_question_that_no_form_can_ask_is_refused_with_the_catalog(
    asks: Any, properties: Any, tmp_path: Path
) -> None:
    entry = {
        "tool": "t",
        "method": "m",
        "description": "d",
        "input_schema": {"type": "object", "properties": properties},
        "policy": {"asks": asks},
    }
    file = tmp_path / "tools.yml"
    file.write_text(yaml.safe_dump({"tools": [entry]}))
    with pytest.raises(BadRequestError, match="asks:"):
        catalog_file.parse(file)
