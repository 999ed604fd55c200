"""Keys, hosts, other people's commands, and results of unusual shape or size."""

import asyncio
import re
from collections.abc import AsyncGenerator
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import orjson
import pytest
from mcp.shared.exceptions import MCPError

from app.contract import KEY_META
from tests.conftest import AUDIENCE
from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import call, framed, message, send, task
from tests.support.calls import fetch

META = "dev.mcpbroker/command"
BODY_BYTES = 1 << 20
"""The limit of a body, so one that holds a text of this length is over it."""


@pytest.mark.parametrize("place", ["meta", "header", "params"])
async def test_a_key_is_taken_from_meta_header_or_params(front: Front, place: str) -> None:
    key = f"{place}-{uuid4()}"
    sent: dict[str, Any] = {
        "meta": {"meta": {KEY_META: key}},
        "header": {"headers": {"Idempotency-Key": key}},
        "params": {"params": {"idempotencyKey": key}},
    }[place]
    async with front.http("keys") as http:
        calling = asyncio.create_task(call(http, "probe_echo", {"text": "k"}, **sent))
        one = await front.newest("keys")
        await front.say(one, "", status="ok", result={"text": "k"})
        first = (await calling)["result"]
        again = (await call(http, "probe_echo", {"text": "k"}, **sent))["result"]
        other = (await call(http, "probe_echo", {"text": "other"}, **sent))["result"]
        assert again["_meta"][META]["command_id"] == first["_meta"][META]["command_id"] == one
        assert again["_meta"][META]["replayed"]
        assert not first["_meta"][META]["replayed"]
        assert other["isError"]
        assert other["structuredContent"]["error"]["code"] == "idempotency_conflict"
        rows = await fetch(
            front.dsns.owner, "SELECT key_source FROM commands WHERE idempotency_key = $1", key
        )
    assert [row["key_source"] for row in rows] == ["body" if place == "params" else place]


@pytest.mark.parametrize(
    "sent",
    [
        {"meta": {KEY_META: ""}},
        {"meta": {KEY_META: 7}},
        {"meta": {KEY_META: "ключ"}},
        {"meta": {KEY_META: "k" * 256}},
        {"meta": {KEY_META: "a"}, "headers": {"Idempotency-Key": "b"}},
    ],
)
async def test_a_key_that_cannot_be_one_starts_nothing(front: Front, sent: Any) -> None:
    before = await fetch(front.dsns.owner, "SELECT count(*) AS n FROM commands")
    async with front.http("ada") as http:
        result = (await call(http, "probe_echo", {"text": "k"}, **sent))["result"]
    assert result["isError"]
    assert "key" in result["content"][0]["text"]
    assert await fetch(front.dsns.owner, "SELECT count(*) AS n FROM commands") == before


async def test_the_same_call_without_a_key_joins_the_unfinished_one_and_says_so(
    front: Front,
) -> None:
    async with front.http("joins") as http:
        args = {"dest": "twice"}
        calls = [asyncio.create_task(call(http, "git_delete", args)) for _ in range(2)]
        one = await front.newest("joins")
        accepted = [(await calling)["result"] for calling in calls]
        assert {result["structuredContent"]["command_id"] for result in accepted} == {one}
        joined = [result["_meta"][META]["deduplicated"] for result in accepted]
        assert sorted(joined) == [False, True]
        for result, again in zip(accepted, joined, strict=True):
            told = result["structuredContent"]
            assert told.get("deduplicated", False) == again
            assert ("This call joined" in told["next_step"]) == again
            assert told["next_step"] in result["content"][0]["text"]
        await call(http, "command_cancel", {"command_id": one})
        calling = asyncio.create_task(call(http, "git_delete", args))
        assert await front.newest("joins") != one
        await asyncio.wait([calling])


@pytest.mark.guarantee("tenancy:not-guessable")
async def test_anothers_command_is_not_listed_shown_or_read(front: Front) -> None:
    async with (
        front.client() as ada,
        front.client("bob") as bob,
        front.client(tenant="other") as namesake,
    ):
        accepted = await ada.call_tool("git_delete", {"dest": f"mine-{uuid4()}"})
        one = accepted.structured_content["command_id"]
        for stranger in (bob, namesake):
            listed = (await stranger.call_tool("command_list", {})).structured_content
            assert one not in {found["command_id"] for found in listed["commands"]}
            for command_id in (one, str(uuid4())):
                shown = await stranger.call_tool("command_status", {"command_id": command_id})
                assert shown.is_error
                assert shown.structured_content["error"]["code"] == "not_found"
                with pytest.raises(MCPError, match="Resource not found"):
                    await stranger.read_resource(f"command://{command_id}")
        listed = (await ada.call_tool("command_list", {"limit": 1})).structured_content
        assert listed["commands"][0]["command_id"] == one
        with pytest.raises(MCPError, match="Resource not found"):
            await ada.read_resource("command://not-an-id")
        await ada.call_tool("command_cancel", {"command_id": one})


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [("Host", "evil.example", 421), ("Origin", "http://evil.example", 403)],
)
async def test_a_strange_host_or_origin_is_refused(
    front: Front, header: str, value: str, status: int
) -> None:
    async with front.http("ada") as http:
        answer = await send(http, "tools/list", {}, headers={header: value})
    assert answer.status_code == status


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_over_the_limit_is_refused_whether_or_not_its_length_is_announced(
    front: Front, announced: bool
) -> None:
    before = await fetch(front.dsns.owner, "SELECT count(*) AS n FROM commands")
    arguments = {"text": "x" * BODY_BYTES}
    headers, body = framed("tools/call", {"name": "probe_echo", "arguments": arguments}, None)
    sent = orjson.dumps(body)

    async def pieces() -> AsyncGenerator[bytes]:
        for start in range(0, len(sent), 1 << 16):
            yield sent[start : start + (1 << 16)]

    headers["Content-Type"] = "application/json"
    async with front.http("ada") as http:
        content = sent if announced else pieces()
        answer = await http.post("/mcp", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "oversize")
    assert await fetch(front.dsns.owner, "SELECT count(*) AS n FROM commands") == before


async def test_who_shows_no_token_is_told_where_to_get_one_and_which_scope_it_needs(
    front: Front,
) -> None:
    async with httpx2.AsyncClient(base_url=front.app.url) as nobody:
        refused = await send(nobody, "tools/list", {})
        assert refused.status_code == 401
        challenge = refused.headers["www-authenticate"]
        said = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        path = urlsplit(said["resource_metadata"]).path
        metadata = (await nobody.get(path)).json()
    assert challenge.startswith("Bearer ")
    assert said["scope"] == "tools"
    assert "tools" in metadata["scopes_supported"]
    assert metadata["resource"] == AUDIENCE
    async with front.http("eda", "results:write") as adapter:
        refused = await send(adapter, "tools/list", {})
    assert refused.status_code == 403
    assert 'error="insufficient_scope", scope="tools"' in refused.headers["www-authenticate"]


async def finished(front: Front, **word: Any) -> tuple[Any, str]:
    """The answer to a call that an adapter ends with this word, and the command."""
    user = f"ends-{uuid4()}"
    async with front.http(user) as http:
        calling = asyncio.create_task(call(http, "probe_echo", {"text": "ends"}))
        one = await front.newest(user)
        await front.say(one, "", **word)
        answer = (await calling)["result"]
        status = (await call(http, "command_status", {"command_id": one}))["result"]
        params = {"uri": f"command://{one}"}
        sent = await send(http, "resources/read", params, name=params["uri"])
        whole = message(sent)["result"]["contents"][0]["text"]
    return (answer, status, whole), one


async def test_a_large_error_is_cut_and_read_by_link(front: Front) -> None:
    error = {"code": "large", "message": "m" * 50_000, "retryable": False}
    (answer, status, whole), one = await finished(front, status="error", error=error)
    assert answer["isError"]
    assert len(orjson.dumps(answer)) < 5000
    assert len(orjson.dumps(status)) < 5000
    assert status["structuredContent"]["result_uri"] == f"command://{one}"
    assert "m" * 50_000 in whole


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"mcp": {"content": [{"type": "text", "text": "native"}]}}, "native"),
        ({"mcp": {"content": "of no shape that MCP has"}}, "of no shape"),
        ({"mcp": {"content": [{"type": "text", "text": "x" * 5000}]}}, "too many to inline"),
        (["not", "an", "object"], "object"),
        (None, "null"),
    ],
)
async def test_a_result_of_any_json_is_answered(front: Front, result: Any, shown: str) -> None:
    (answer, _, _), _ = await finished(front, status="ok", result=result)
    assert not answer.get("isError")
    assert shown in answer["content"][0]["text"]
    assert len(answer["content"][0]["text"]) < 1000


async def test_an_adapter_may_end_a_call_in_a_protocol_error_and_a_task_has_failed_then(
    front: Front,
) -> None:
    broken = {"code": -32603, "message": "no controller"}
    error = {"code": "crashed", "message": "?", "retryable": False, "mcp": broken}
    async with front.http("ada") as http:
        calling = asyncio.create_task(call(http, "probe_echo", {"text": "breaks"}))
        one = await front.newest()
        await front.say(one, "", status="error", error=error)
        assert (await calling)["error"] == broken
        shown = (await task(http, "get", one))["result"]
    assert (shown["status"], shown["error"]) == ("failed", broken)
    assert "result" not in shown


async def test_a_call_says_its_order_deadline_priority_and_wait_in_meta(front: Front) -> None:
    said = {"ordering_key": "k-meta", "deadline_ms": 90_000, "priority": "high", "wait_s": 0}
    meta = {f"dev.mcpbroker/{name}": value for name, value in said.items()}
    async with front.http("ada") as http:
        async with asyncio.timeout(30):  # its tool would wait for an hour
            made = (await call(http, "policy_patient", {}, meta=meta))["result"]
        one = made["structuredContent"]["command_id"]
        shown = (await http.get(f"/commands/{one}")).json()
        assert (shown["ordering_key"], shown["priority"]) == ("k-meta", "high")
        lasts = datetime.fromisoformat(shown["deadline_at"]) - datetime.fromisoformat(
            shown["created_at"]
        )
        assert lasts.total_seconds() == pytest.approx(90, abs=1)
        for bad in ({"priority": "top"}, {"deadline_ms": 0}, {"ordering": "k"}):
            meta = {f"dev.mcpbroker/{name}": value for name, value in bad.items()}
            refused = (await call(http, "probe_echo", {"text": "bad"}, meta=meta))["result"]
            assert refused["isError"]
            assert "dev.mcpbroker/" in refused["content"][0]["text"]
