"""What an LLM client meets, on both eras of the protocol."""

import asyncio
from typing import Any
from uuid import uuid4

import jsonschema_rs
import pytest
from mcp.shared.exceptions import MCPError

from app.catalog import store as catalog_store
from app.catalog.policy import Grant
from app.contract import KEY_META
from tests.edges.mcp.conftest import ERAS, Front, operating
from tests.edges.mcp.wire import call, message, send
from tests.support.calls import fetch
from tests.support.stack import wait_for

KEY = "dev.mcpbroker/command"

DENIED = """
    SELECT tool FROM audit.events WHERE type = 'call.denied' AND user_id = 'mallory'
"""


def text(result: Any) -> str:
    return " ".join(part.text for part in result.content if part.type == "text")


@pytest.mark.parametrize("mode", ERAS)
async def test_the_list_is_sorted_private_and_says_that_output_may_be_accepted(
    front: Front, mode: str
) -> None:
    async with front.client(mode=mode) as client:
        first, second = await client.list_tools(), await client.list_tools()
    assert first.cache_scope == "private"
    names = [tool.name for tool in first.tools]
    assert names == sorted(names) == [tool.name for tool in second.tools]
    clone = next(tool for tool in first.tools if tool.name == "git_clone")
    assert clone.output_schema is not None
    assert len(clone.output_schema["anyOf"]) == 4
    delete = next(tool for tool in first.tools if tool.name == "git_delete")
    assert delete.annotations is not None
    assert delete.annotations.destructive_hint


@pytest.mark.guarantee("tenancy:not-guessable")
async def test_a_tool_without_a_grant_is_neither_listed_nor_told_from_one_that_is_not_there(
    front: Front,
) -> None:
    denied_git = Grant(subject_kind="user", subject="mallory", pattern="git/*", effect="deny")
    async with operating(front.dsns.owner) as conn:
        await catalog_store.grant(conn, "other", [denied_git])
    async with front.client("mallory", tenant="other") as client:

        async def hidden() -> bool:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert "probe_echo" in names
            return "git_clone" not in names

        await wait_for(hidden)  # replicas are told of a grant once it is there
    async with front.http("mallory", tenant="other") as http:
        denied = (await call(http, "git_delete", {"dest": "x"}))["error"]
        unknown = (await call(http, "git_deletf", {"dest": "x"}))["error"]
    assert denied["message"].replace("delete", "deletf") == unknown["message"]
    assert (denied["code"], denied.get("data")) == (unknown["code"], unknown.get("data"))
    rows = await fetch(front.dsns.owner, DENIED)
    assert {row["tool"] for row in rows} == {"git", "git_deletf"}


@pytest.mark.parametrize("mode", ERAS)
async def test_progress_strictly_increases_and_the_result_follows(front: Front, mode: str) -> None:
    said: list[tuple[float, str | None]] = []

    async def heard(progress: float, total: float | None, message: str | None) -> None:
        said.append((progress, message))

    async with front.client(mode=mode) as client:
        call = asyncio.create_task(
            client.call_tool("probe_echo", {"text": mode}, progress_callback=heard)
        )
        one = await front.newest()
        await front.say(one, "/claim", attempt=1, adapter="run")
        await front.say(one, "/progress", stage="half", percent=50)
        await front.say(one, "", status="ok", result={"text": mode})
        result = await call
    assert result.structured_content == {"text": mode}
    assert not result.is_error
    values = [value for value, _ in said]
    assert values == sorted(set(values))


@pytest.mark.guarantee("mcp:accepted-then-status")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_call_that_outlives_the_wait_is_recovered_by_command_status(
    front: Front, mode: str
) -> None:
    async with front.client(mode=mode) as client:
        accepted = await client.call_tool("git_delete", {"dest": f"d{mode[:4]}"})
        assert not accepted.is_error
        body = accepted.structured_content
        assert body["status"] == "accepted"
        assert "Do not call this tool again" in text(accepted)
        one = body["command_id"]
        assert body["result_uri"] == f"command://{one}"
        assert {part.type for part in accepted.content} == {"text"}, "a link is no result"
        waiting = asyncio.create_task(
            client.call_tool("command_status", {"command_id": one, "wait_s": 10})
        )
        await front.say(one, "", status="ok", result={"path": "d", "deleted": True})
        status = (await waiting).structured_content
        assert (status["state"], status["result"]) == (
            "succeeded",
            {"path": "d", "deleted": True},
        )
        listed = (await client.call_tool("command_list", {"limit": 1})).structured_content
        assert listed["commands"][0]["command_id"] == one
        resource = await client.read_resource(f"command://{one}")
        assert '"deleted":true' in str(resource.contents[0])


async def test_the_instructions_say_what_a_model_can_do(front: Front) -> None:
    async with front.client(mode="legacy") as client, front.http("ada") as http:
        told = {client.instructions}
        discovered = message(await send(http, "server/discover", {}))["result"]
    [said] = told | {discovered["instructions"]}
    assert said is not None
    assert "After a time-out or an interruption look in command_list" in said
    assert "do not call the tool again" in said
    assert "_meta" not in said, "no model can set it"


async def test_a_failure_is_an_error_with_the_reason(front: Front) -> None:
    async with front.client() as client:
        call = asyncio.create_task(client.call_tool("git_clone", {"repo": "/x", "dest": "fails"}))
        one = await front.newest()
        await front.say(one, "", status="error", error="no such repository")
        result = await call
    assert result.is_error
    assert "no such repository" in text(result)


async def test_bad_arguments_and_an_unknown_tool_start_nothing(front: Front) -> None:
    before = await fetch(front.dsns.owner, "SELECT count(*) AS n FROM commands")
    async with front.client() as client:
        result = await client.call_tool("probe_echo", {"text": 1})
        assert result.is_error
        assert "Nothing was started" in text(result)
        result = await client.call_tool("command_status", {"command_id": "no"})
        assert result.is_error
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("no_such_tool", {})
    assert await fetch(front.dsns.owner, "SELECT count(*) AS n FROM commands") == before


@pytest.mark.guarantee("mcp:idempotency-key")
async def test_a_key_in_meta_replays_and_refuses_in_words_for_a_model(front: Front) -> None:
    key: Any = {KEY_META: f"k-{uuid4()}"}
    async with front.client() as client:
        call = asyncio.create_task(client.call_tool("probe_echo", {"text": "a"}, meta=key))
        one = await front.newest()
        await front.say(one, "", status="ok", result={"text": "a"})
        first = await call
        again = await client.call_tool("probe_echo", {"text": "a"}, meta=key)
        assert again.structured_content == first.structured_content
        assert (again.meta or {})[KEY]["replayed"]
        assert (again.meta or {})[KEY]["command_id"] == one
        other = await client.call_tool("probe_echo", {"text": "b"}, meta=key)
    assert other.is_error
    assert "new key" in text(other)


async def test_a_large_result_has_succeeded_and_comes_by_link(front: Front) -> None:
    async with front.client() as client:
        call = asyncio.create_task(client.call_tool("probe_echo", {"text": "big"}))
        one = await front.newest()
        await front.say(one, "", status="ok", result={"text": "x" * 5000})
        result = await call
        assert len(text(result)) < 1500
        links = [part.uri for part in result.content if part.type == "resource_link"]
        assert links == [f"command://{one}"]
        whole = await client.read_resource(links[0])
    assert result.structured_content == {
        "status": "succeeded",
        "command_id": one,
        "truncated": True,
        "result_bytes": len('{"text":""}') + 5000,
        "result_uri": links[0],
        "next_step": f"Read it in parts by command_status with command_id {one} and offset 0, or as"
        f" the resource {links[0]}; do not call the tool again.",
    }
    assert "x" * 5000 in str(whole.contents[0])


@pytest.mark.parametrize(
    "result",
    [
        {"at": {"name": "a"}},
        {"at": {"name": "x" * 5000}},
        None,  # it goes on: the accepted shape
        {"at": {"name": 5}},  # it does not fit: the shape of a success that is ours
    ],
)
async def test_each_shape_of_an_answer_is_of_the_output_schema_that_the_list_shows(
    front: Front, result: Any
) -> None:
    """The tool's own schema has `$defs`, which `$ref`s in it still find."""
    user = f"shapes-{uuid4()}"
    async with front.client(user) as client:
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}
        schema = listed["policy_shaped"].output_schema
        assert schema is not None
        jsonschema_rs.meta.validate(schema)
    async with front.http(user) as http:
        calling = asyncio.create_task(call(http, "policy_shaped", {}))
        one = await front.newest(user)
        if result is not None:
            await front.say(one, "", status="ok", result=result)
        shown = (await calling)["result"]["structuredContent"]
    assert jsonschema_rs.validator_for(schema).is_valid(shown), shown


@pytest.mark.guarantee("mcp:disconnect")
@pytest.mark.parametrize("mode", ERAS)
async def test_a_client_that_goes_away_leaves_its_command_running(front: Front, mode: str) -> None:
    dest = f"gone-{mode[:4]}"
    async with front.client(mode=mode) as client:
        call = asyncio.create_task(client.call_tool("git_delete", {"dest": dest}))
        one = await front.newest()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    await front.say(one, "/claim", attempt=1, adapter="run")
    await front.say(one, "", status="ok", result={"path": dest, "deleted": True})
    async with front.client(mode=mode) as client:
        found = await client.call_tool("command_status", {"command_id": one, "wait_s": 0})
    assert found.structured_content["state"] == "succeeded"


async def test_command_cancel_ends_a_waiting_command_and_nobody_elses(front: Front) -> None:
    async with front.client() as client, front.client("bob") as bob:
        accepted = await client.call_tool("git_delete", {"dest": "cancel-me"})
        one = accepted.structured_content["command_id"]
        refused = await bob.call_tool("command_cancel", {"command_id": one})
        assert refused.is_error
        done = await client.call_tool("command_cancel", {"command_id": one, "reason": "no need"})
    assert done.structured_content["state"] == "cancelled"
