"""notifications/cancelled of the older era: another POST, to any replica, that names a number."""

import asyncio
from typing import Any

import httpx2
import orjson
import pytest
from mcp.shared.exceptions import MCPError

from tests.kernel.calls import fetch
from tests.mcp.conftest import Front
from tests.mcp.wire import message
from tests.stack import wait_for

VERSION = "2025-11-25"
STATE = "SELECT id::text, state FROM commands WHERE user_id = $1 AND args ->> 'what' = $2"


async def state(front: Front, user: str, what: str) -> str | None:
    rows = await fetch(front.dsns.owner, STATE, user, what)
    return rows[0]["state"] if rows else None


async def reaches(front: Front, user: str, what: str, wanted: str) -> None:
    async def there() -> bool:
        return await state(front, user, what) == wanted

    await wait_for(there)


@pytest.mark.guarantee("mcp:cancelled")
@pytest.mark.parametrize("how", ["timed out", "aborted"])
async def test_the_python_sdk_gives_a_call_up_and_its_command_ends(front: Front, how: str) -> None:
    user = f"py {how}"
    async with front.client(user, mode="legacy") as client:
        patience: Any = {"read_timeout_seconds": 3} if how == "timed out" else {}
        calling = asyncio.create_task(client.call_tool("policy_tied", {"what": how}, **patience))
        await reaches(front, user, how, "queued")
        if how == "aborted":
            calling.cancel()
        [ended] = await asyncio.gather(calling, return_exceptions=True)
        assert isinstance(ended, MCPError | asyncio.CancelledError)
        await reaches(front, user, how, "cancelled")
        assert (await client.list_tools()).tools, "the session goes on"


class Session:
    """A client of the older era without an SDK, whose requests all have the same number."""

    def __init__(self, front: Front, user: str) -> None:
        self.front = front
        self.user = user
        self.name: str | None = None

    async def post(self, http: httpx2.AsyncClient, **body: Any) -> httpx2.Response:
        headers = {"Accept": "application/json, text/event-stream"}
        headers |= {} if self.name is None else {"Mcp-Session-Id": self.name}
        return await http.post("/mcp", json={"jsonrpc": "2.0", **body}, headers=headers)

    async def open(self) -> None:
        hello = {
            "protocolVersion": VERSION,
            "capabilities": {},
            "clientInfo": {"name": "wire", "version": "1"},
        }
        async with self.front.http(self.user) as http:
            answer = await self.post(http, id=1, method="initialize", params=hello)
        assert message(answer)["result"]["protocolVersion"] == VERSION
        self.name = answer.headers["mcp-session-id"]

    async def call(self, tool: str, what: str) -> Any:
        params = {"name": tool, "arguments": {"what": what}}
        async with self.front.http(self.user) as http:
            return message(await self.post(http, id=7, method="tools/call", params=params))

    async def cancel(self, front: Front, user: str | None = None, request_id: Any = 7) -> None:
        params = {"requestId": request_id, "reason": "user cancelled"}
        async with front.http(user or self.user) as http:
            answer = await self.post(http, method="notifications/cancelled", params=params)
        assert answer.status_code == 202


@pytest.mark.guarantee("mcp:cancelled")
async def test_any_replica_hears_it_and_only_that_callers_sessions_call_ends(
    front: Front, twin: Front
) -> None:
    mine, other = Session(front, "many"), Session(front, "many")
    stranger, nameless = Session(front, "stranger"), Session(front, "many")
    await mine.open()
    await other.open()
    assert mine.name != other.name
    stranger.name = mine.name
    sessions = {"mine": mine, "other": other, "stranger": stranger, "nameless": nameless}
    calls = {
        what: asyncio.create_task(one.call("policy_tied", what)) for what, one in sessions.items()
    }
    for what, one in sessions.items():
        await reaches(front, one.user, what, "queued")
    for replica in (twin, front):
        await nameless.cancel(replica)
        await other.cancel(replica, request_id="7")
        await mine.cancel(replica, request_id=None)
    await mine.cancel(twin)
    answer = await asyncio.wait_for(calls.pop("mine"), 10)
    assert answer["error"] == {"code": -32800, "message": "Request cancelled"}
    await reaches(front, "many", "mine", "cancelled")
    for what, call in calls.items():
        assert await state(front, sessions[what].user, what) == "queued"
        assert not call.done()
    for what in ("other", "stranger"):
        await sessions[what].cancel(front)
        await reaches(front, sessions[what].user, what, "cancelled")
    calls["nameless"].cancel()
    await asyncio.gather(*calls.values(), return_exceptions=True)


async def test_a_tool_that_goes_on_is_only_waited_for_no_longer(front: Front) -> None:
    session = Session(front, "goes on")
    await session.open()
    calling = asyncio.create_task(session.call("policy_patient", "goes on"))
    await reaches(front, "goes on", "goes on", "queued")
    await session.cancel(front)
    assert (await asyncio.wait_for(calling, 10))["error"]["code"] == -32800
    assert await state(front, "goes on", "goes on") == "queued"


async def test_a_session_is_a_name_that_nothing_holds(front: Front) -> None:
    session = Session(front, "names")
    session.name = "made up"
    async with front.http("names") as http:
        listed = await session.post(http, id=1, method="tools/list", params={})
        assert message(listed)["result"]["tools"]
        assert "mcp-session-id" not in listed.headers
        for verb in ("GET", "DELETE"):
            headers = {"Accept": "text/event-stream", "Mcp-Session-Id": "made up"}
            answer = await http.request(verb, "/mcp", headers=headers)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        for odd in ([1], {"params": {"requestId": 7}}, {"method": "notifications/cancelled"}):
            body = orjson.dumps(odd)
            headers |= {"Accept": "application/json, text/event-stream"}
            headers |= {"Content-Type": "application/json"}
            answer = await http.post("/mcp", content=body, headers=headers)
            assert answer.status_code == 400
