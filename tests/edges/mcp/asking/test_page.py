"""Elicitation in URL mode: the console's page of an approval, for clients of both eras."""

import asyncio
import html
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import orjson
import pytest
from mcp import types

from tests.console.conftest import csrf_of
from tests.edges.hostile.draws import draws
from tests.edges.hostile.places import spliced
from tests.edges.hostile.values import KINDS
from tests.edges.mcp.desk import Desk, desk, id_of, state_of
from tests.edges.mcp.wire import TASKS, call, message, task
from tests.support.calls import fetch
from tests.support.stack import wait_for

__all__ = ["desk"]

# Of the provider's own use of Authlib.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

BOTH = {"form": {}, "url": {}}
URL = {"url": {}}
ACCEPT = types.ElicitResult(action="accept")


@pytest.mark.guarantee("approval:url")
@pytest.mark.parametrize("mode", ["2026-07-28", "legacy"])
async def test_an_sdk_clients_person_signs_in_decides_and_the_call_goes_on(
    desk: Desk, mode: str
) -> None:
    offered: list[types.ElicitRequestURLParams] = []
    told: list[str] = []
    deciding: list[asyncio.Task[None]] = []

    async def person(page: str) -> None:
        said = await desk.decide("ada", page, "approve")
        assert "Approved." in said
        await desk.finish(id_of(page))

    async def consent(_ctx: Any, params: Any) -> types.ElicitResult:
        assert isinstance(params, types.ElicitRequestURLParams)
        offered.append(params)
        deciding.append(asyncio.create_task(person(params.url)))
        return ACCEPT

    async def hear(heard: Any) -> None:
        if isinstance(heard, types.ElicitCompleteNotification):
            told.append(heard.params.elicitation_id)

    async def heard_of() -> bool:
        return told == [one.elicitation_id for one in offered]

    options: dict[str, Any] = {"elicitation_callback": consent, "message_handler": hear}
    args = {"what": f"drop {mode}", "secret": "hunter2"}
    async with asyncio.timeout(30), desk.client("ada", mode=mode, **options) as client:
        done = await client.call_tool("policy_asked", args)
        await asyncio.gather(*deciding)
        [one] = offered
        if mode == "legacy":
            assert one.elicitation_id == id_of(one.url)
            await wait_for(heard_of, timeout_s=5)
    assert not done.is_error, done
    assert done.structured_content == {"done": "whole"}
    assert one.url == f"{desk.base}/console/approvals/{id_of(one.url)}"
    assert "hunter2" not in one.model_dump_json()
    assert await state_of(desk, id_of(one.url)) == ("succeeded", "approved")
    rows = await fetch(
        desk.front.dsns.owner,
        "SELECT actor, body ->> 'reason' AS reason FROM audit.events"
        " WHERE type = 'command.approved' AND command_id = CAST($1::text AS uuid)",
        id_of(one.url),
    )
    said = "said at the console by the person who made the call"
    assert [tuple(row.values()) for row in rows] == [("user:ada", said)]


async def offered_page(desk: Desk, http: Any, what: str, **more: Any) -> tuple[Any, str]:
    asked = (await call(http, "policy_asked", {"what": what}, asks=BOTH, **more))["result"]
    assert asked["resultType"] == "input_required", asked
    params = asked["inputRequests"]["approve"]["params"]
    assert (params["mode"], "elicitationId" in params) == ("url", False)
    return asked, params["url"]


async def again(http: Any, asked: Any, what: str, action: str) -> Any:
    params = {
        "requestState": asked["requestState"],
        "inputResponses": {"approve": {"action": action}},
    }
    return (await call(http, "policy_asked", {"what": what}, asks=BOTH, params=params))["result"]


@pytest.mark.guarantee("approval:url")
async def test_the_address_gives_nobody_what_is_not_theirs(desk: Desk) -> None:
    """Who was sent another's link decides nothing by it, and is shown nothing of it."""
    async with desk.http("ada") as http, desk.http("bob") as other:
        asked, page = await offered_page(desk, http, "drop it all")
        for stranger in ("bob", "eve"):
            async with desk.person(stranger, page) as (browser, shown):
                assert "drop it all" not in shown
                data = {"csrf": csrf_of(shown), "verb": "approve", "reason": "x"}
                refused = await browser.post(page, data=data, headers={"Origin": desk.base})
                assert refused.status_code == 404
        async with desk.person("ada", page) as (browser, shown):
            assert "drop it all" in html.unescape(shown)
            good = {"csrf": csrf_of(shown), "verb": "approve"}
            for fields, origin in (
                ({"verb": "approve"}, desk.base),
                (good, "http://evil.test"),
                (good | {"verb": "drop"}, desk.base),
                (good | {"reason": "r" * 501}, desk.base),
                (good | {"reason": "a\x00b"}, desk.base),
            ):
                refused = await browser.post(page, data=fields, headers={"Origin": origin})
                assert refused.status_code in {400, 403}, fields
        state = asked["requestState"]
        stolen = {"requestState": state, "inputResponses": {"approve": {"action": "accept"}}}
        told = await call(other, "policy_asked", {"what": "drop it all"}, asks=BOTH, params=stolen)
        assert told["error"]["code"] == -32602
        assert await state_of(desk, id_of(page)) == ("queued", "pending")
        said = await desk.decide("olga", page, "approve", reason='fine 🙂 <b>"{{x}}"')
        assert "Approved." in said
    assert await state_of(desk, id_of(page)) == ("queued", "approved")


@pytest.mark.guarantee("approval:url")
async def test_an_operator_who_may_not_decide_gives_up_nobody_elses_call(desk: Desk) -> None:
    """It asks its caller, and group finance: neither is the operator."""
    args = {"what": str(uuid4())}
    async with desk.http("ada") as http:
        asked = (await call(http, "policy_second", args, asks=BOTH))["result"]
    page = asked["inputRequests"]["approve"]["params"]["url"]
    async with desk.person("olga", page) as (browser, shown):
        assert "Your decision" not in shown
        for verb in ("approve", "deny"):
            data = {"csrf": csrf_of(shown), "verb": verb, "reason": "mine"}
            refused = await browser.post(page, data=data, headers={"Origin": desk.base})
            assert refused.status_code == 403, verb
    assert await state_of(desk, id_of(page)) == ("queued", "pending")
    said = await desk.decide("ada", page, "approve", reason="it is planned")
    assert "waits for 1 more of group finance" in said
    assert await state_of(desk, id_of(page)) == ("queued", "pending")


@pytest.mark.guarantee("approval:url")
async def test_consent_to_look_at_the_page_is_no_decision_and_a_no_there_ends_the_call(
    desk: Desk,
) -> None:
    what = str(uuid4())
    async with asyncio.timeout(20), desk.http("ada") as http:
        asked, page = await offered_page(desk, http, what)
        waits = asyncio.create_task(again(http, asked, what, "accept"))
        done, _ = await asyncio.wait({waits}, timeout=0.5)
        assert not done
        assert await state_of(desk, id_of(page)) == ("queued", "pending")
        assert "Denied." in await desk.decide("ada", page, "deny")
        told = await waits
    assert told["isError"]
    assert told["structuredContent"]["command_id"] == id_of(page)
    assert told["structuredContent"]["error"]["code"] == "denied"


@pytest.mark.guarantee("approval:url")
@pytest.mark.parametrize(
    ("action", "audited", "state"),
    [
        ("decline", "command.denied", ("cancelled", "denied")),
        ("cancel", "call.dismissed", ("queued", "pending")),
    ],
)
async def test_a_page_that_is_not_opened_is_a_no_or_an_operators(
    desk: Desk, action: str, audited: str, state: tuple[str, str]
) -> None:
    what = str(uuid4())
    async with desk.http("ada") as http:
        asked, page = await offered_page(desk, http, what)
        if action == "decline":
            told = await again(http, asked, what, action)
            assert told["structuredContent"]["error"]["code"] == "denied"
        else:
            told = await call(
                http,
                "policy_asked",
                {"what": what},
                asks=BOTH,
                meta={"dev.mcpbroker/wait_s": 0},
                params={
                    "requestState": asked["requestState"],
                    "inputResponses": {"approve": {"action": action}},
                },
            )
            shown = told["result"]["structuredContent"]
            assert shown["approval_url"] == page
            assert page in shown["next_step"]
    assert await state_of(desk, id_of(page)) == state
    rows = await fetch(
        desk.front.dsns.owner,
        "SELECT count(*) AS n FROM audit.events WHERE type = $1 AND actor = 'user:ada'"
        " AND coalesce(command_id, CAST($2::text AS uuid)) = CAST($2::text AS uuid)",
        audited,
        id_of(page),
    )
    assert rows[0]["n"] == 1


@pytest.mark.guarantee("approval:url")
async def test_a_call_that_is_made_again_without_its_state_has_the_same_page(desk: Desk) -> None:
    what = str(uuid4())
    async with desk.http("ada") as http:
        _, page = await offered_page(desk, http, what)
        _, other = await offered_page(desk, http, what)
    assert other == page


@pytest.mark.guarantee("approval:url")
async def test_a_person_whose_yes_would_not_count_is_offered_no_page(desk: Desk) -> None:
    """four_eyes: never the caller; operated: an operator, which this caller is not."""
    meta = {"dev.mcpbroker/wait_s": 0}
    async with desk.http("ada") as http:
        for tool, args in (("policy_four_eyes", {"amount": 2000}), ("policy_operated", {})):
            told = (await call(http, tool, args, asks=BOTH, meta=meta))["result"]
            assert told["structuredContent"]["status"] == "accepted", told
            assert "approval_url" not in told["structuredContent"]
            one = told["structuredContent"]["command_id"]
            async with desk.person("ada", f"{desk.base}/console/approvals/{one}") as (_, shown):
                assert "Your decision" not in shown
    async with desk.http("olga") as http:
        told = (await call(http, "policy_operated", {}, asks=URL, meta=meta))["result"]
        assert told["resultType"] == "input_required", "an operator may, and it is no form"


@pytest.mark.guarantee("approval:url")
async def test_a_task_that_waits_offers_the_page_until_it_is_decided(desk: Desk) -> None:
    async with desk.http("ada") as http:
        args = {"what": str(uuid4())}
        made = await call(http, "policy_asked", args, asks=URL, extensions=(TASKS,))
        one = made["result"]["taskId"]
        waits = (await task(http, "get", one, asks=URL))["result"]
        assert waits["status"] == "input_required"
        page = waits["inputRequests"]["approve"]["params"]["url"]
        assert page == f"{desk.base}/console/approvals/{one}"
        for answer in ({"action": "accept"}, {"action": "accept", "content": {"confirm": True}}):
            await task(http, "update", one, asks=URL, inputResponses={"approve": answer})
            assert (await task(http, "get", one, asks=URL))["result"]["status"] == "input_required"
        await desk.decide("ada", page, "approve")
        assert (await task(http, "get", one, asks=URL))["result"]["status"] == "working"


OLD = {
    "MCP-Protocol-Version": "2025-11-25",
    "Accept": "application/json, text/event-stream",
}


async def session_of(http: Any, capabilities: Any) -> dict[str, str]:
    params = {
        "protocolVersion": "2025-11-25",
        "capabilities": capabilities,
        "clientInfo": {"name": "wire", "version": "1"},
    }
    body = {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}
    begun = await http.post("/mcp", json=body, headers=OLD)
    return OLD | {"Mcp-Session-Id": begun.headers["mcp-session-id"]}


def old_call(what: str, tool: str = "policy_asked") -> dict[str, Any]:
    params: dict[str, Any] = {"name": tool, "arguments": {"what": what}}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}


@asynccontextmanager
async def old_offer(http: Any, session: dict[str, str], what: str) -> AsyncGenerator[Any]:
    """A call of the older era, up to its offer; gives that, and how to read on to the answer."""
    async with http.stream("POST", "/mcp", json=old_call(what), headers=session) as answer:
        lines = answer.aiter_lines()

        async def next_of(wanted: Callable[[Any], bool]) -> Any:
            async with asyncio.timeout(10):
                async for line in lines:
                    if line.startswith("data: ") and wanted(one := orjson.loads(line[6:])):
                        return one
            raise AssertionError("the stream ended")

        yield await next_of(lambda one: one.get("method") == "elicitation/create"), next_of


@pytest.mark.guarantee("approval:url")
async def test_an_older_clients_no_is_heard_by_whoever_it_is_posted_to_and_from_its_caller_only(
    desk: Desk,
) -> None:
    async with desk.http("ada") as http, desk.http("bob") as other:
        session = await session_of(http, {"elicitation": URL})
        async with old_offer(http, session, str(uuid4())) as (offered, next_of):
            one = id_of(offered["params"]["url"])
            assert offered["params"]["mode"] == "url"
            no = {"jsonrpc": "2.0", "id": offered["id"], "result": {"action": "decline"}}
            for who, said in (
                (other, no),
                (http, no | {"id": "approval:"}),
                (http, no | {"id": f"approval:{uuid4()}:0"}),
                (http, no | {"result": {"action": "accept"}}),
                (http, no | {"result": {"action": "drop"}}),
                (http, {"jsonrpc": "2.0", "id": offered["id"], "result": ["decline"]}),
                (http, {"jsonrpc": "2.0", "id": offered["id"], "error": {"code": -32601}}),
            ):
                answer = await who.post("/mcp", json=said, headers=session)
                assert answer.status_code in {202, 400}, said
            assert await state_of(desk, one) == ("queued", "pending")
            assert (await http.post("/mcp", json=no, headers=session)).status_code == 202
            done = await next_of(lambda one: "result" in one)
            assert done["result"]["structuredContent"]["error"]["code"] == "denied"
    assert await state_of(desk, one) == ("cancelled", "denied")


@pytest.mark.guarantee("approval:url")
async def test_no_hostile_answer_of_an_older_client_moves_a_call(desk: Desk) -> None:
    """Each kind of value that the hostile suite has, at each place of an answer."""
    asked: list[str] = []
    async with desk.http("ada") as http:
        session = await session_of(http, {"elicitation": URL})
        async with old_offer(http, session, str(uuid4())) as (offered, _):
            one = id_of(offered["params"]["url"])
            good = {"jsonrpc": "2.0", "id": offered["id"], "result": {"action": "decline"}}
            for place in (("id",), ("result",), ("result", "action")):
                for kind in KINDS:
                    [value, *_] = draws(kind, 1)
                    answer = await http.post(
                        "/mcp",
                        content=spliced(good, place, value.written),
                        headers=session | {"Content-Type": "application/json"},
                    )
                    assert answer.status_code in {200, 202, 400}, (place, kind, answer.text)
                    asked.append(kind)
            assert await state_of(desk, one) == ("queued", "pending")
    assert len(asked) > 60


@pytest.mark.guarantee("approval:url")
async def test_who_did_not_say_that_it_opens_urls_is_sent_none(desk: Desk) -> None:
    meta = {"dev.mcpbroker/wait_s": 0}
    async with desk.http("ada") as http:
        for capabilities in ({}, {"elicitation": {}}, {"elicitation": {"url": "yes"}}):
            session = await session_of(http, capabilities)
            body = old_call(str(uuid4()))
            body["params"]["_meta"] = meta
            answer = await http.post("/mcp", json=body, headers=session)
            assert "elicitation/create" not in answer.text
            assert message(answer)["result"]["structuredContent"]["status"] == "accepted"
        form = await call(http, "policy_asked", {"what": str(uuid4())}, asks={"form": {}})
        assert form["result"]["inputRequests"]["approve"]["params"]["mode"] == "form"


@pytest.mark.guarantee("approval:url")
async def test_an_older_task_asks_by_the_stream_of_its_result(desk: Desk) -> None:
    async with desk.http("ada") as http:
        session = await session_of(http, {"elicitation": URL})
        body = old_call(str(uuid4()))
        body["params"]["task"] = {}
        made = message(await http.post("/mcp", json=body, headers=session))["result"]["task"]
        assert made["status"] == "input_required"
        asked = {"jsonrpc": "2.0", "id": 2, "params": {"taskId": made["taskId"]}}
        asked["method"] = "tasks/result"
        async with http.stream("POST", "/mcp", json=asked, headers=session) as answer:
            async for line in answer.aiter_lines():
                if "elicitation/create" in line:
                    offered = orjson.loads(line[6:])["params"]
                    break
            else:
                raise AssertionError("it asked nothing")
        related = offered["_meta"]["io.modelcontextprotocol/related-task"]
        assert related == {"taskId": made["taskId"]}
        await desk.decide("ada", offered["url"], "approve")
        asked["method"] = "tasks/get"
        shown = message(await http.post("/mcp", json=asked, headers=session))["result"]
    assert shown["status"] == "working"
