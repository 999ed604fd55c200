"""notifications/cancelled of the older era: another POST, to any replica, that names a number."""

import asyncio
from typing import Any

import asyncpg
import httpx2
import orjson
import pytest
from mcp.shared.exceptions import MCPError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import message
from tests.support.calls import fetch
from tests.support.stack import wait_for

VERSION = "2025-11-25"
BLOCKED = """
    SELECT FROM pg_locks
     WHERE NOT granted AND relation = 'outbox'::regclass
       AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
WHOLE = """
    SELECT count(*),
           count(*) FILTER (WHERE EXISTS (
               SELECT FROM outbox o WHERE o.command_id = c.id AND kind = 'command')),
           count(*) FILTER (WHERE EXISTS (
               SELECT FROM audit.events e WHERE e.command_id = c.id AND type = 'command.accepted'))
      FROM commands c
     WHERE user_id = $1
"""
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

    def __init__(self, front: Front, user: str, *, version: str = VERSION) -> None:
        self.front = front
        self.user = user
        self.version = version
        self.name: str | None = None

    async def post(self, http: httpx2.AsyncClient, **body: Any) -> httpx2.Response:
        headers = {"Accept": "application/json, text/event-stream"}
        if self.name is not None:
            headers |= {"Mcp-Session-Id": self.name, "MCP-Protocol-Version": self.version}
        return await http.post("/mcp", json={"jsonrpc": "2.0", **body}, headers=headers)

    async def open(self) -> None:
        hello = {
            "protocolVersion": self.version,
            "capabilities": {},
            "clientInfo": {"name": "wire", "version": "1"},
        }
        async with self.front.http(self.user) as http:
            answer = await self.post(http, id=1, method="initialize", params=hello)
        assert message(answer)["result"]["protocolVersion"] == self.version
        self.name = answer.headers["mcp-session-id"]

    async def call(self, tool: str, what: str, at: Front | None = None) -> Any:
        params = {"name": tool, "arguments": {"what": what}}
        async with (at or self.front).http(self.user) as http:
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


LISTENING = """
    SELECT pid FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'broker-app-listen'
"""


@pytest.mark.guarantee("mcp:cancelled")
async def test_what_was_told_while_a_replica_did_not_listen_it_hears_when_it_does_again(
    front: Front, twin: Front
) -> None:
    session = Session(front, "unheard")
    await session.open()
    calling = asyncio.create_task(session.call("policy_tied", "unheard"))
    await reaches(front, "unheard", "unheard", "queued")
    role = await asyncpg.connect(front.dsns.app)
    try:
        cut = f"SELECT pg_terminate_backend(pid) FROM ({LISTENING}) AS listening"
        assert len(await role.fetch(cut)) == 2

        async def deaf() -> bool:
            return not await role.fetch(LISTENING)

        await wait_for(deaf)
        await session.cancel(twin)  # they listen again after half a second only
    finally:
        await role.close()
    assert (await asyncio.wait_for(calling, 10))["error"]["code"] == -32800
    await reaches(front, "unheard", "unheard", "cancelled")


@pytest.mark.guarantee("mcp:disconnect")
@pytest.mark.parametrize("tool", ["policy_tied", "policy_patient"])
async def test_a_call_given_up_in_the_middle_of_its_accept_is_whole(
    front: Front, tool: str
) -> None:
    """The accept waits for a lock while the client goes; then the policy decides."""
    user = f"middle of {tool}"
    session = Session(front, user)
    await session.open()
    holder = await asyncpg.connect(front.dsns.owner)
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
            calling = asyncio.create_task(session.call(tool, "middle"))

            async def accepting() -> bool:
                return bool(await fetch(front.dsns.owner, BLOCKED))

            await wait_for(accepting)
            await session.cancel(front)
            async with front.http(user) as http:  # it was heard before this is answered
                assert (await http.get("/healthz")).status_code == 200
            assert not calling.done(), "it is answered once it is known what became of it"
    finally:
        await holder.close()
    assert (await asyncio.wait_for(calling, 10))["error"]["code"] == -32800
    await reaches(front, user, "middle", "cancelled" if tool == "policy_tied" else "queued")
    rows = await fetch(front.dsns.owner, WHOLE, user)
    queued = tool != "policy_tied"
    assert [tuple(row) for row in rows] == [(1, int(queued), 1)]


@pytest.mark.parametrize("version", HANDSHAKE_PROTOCOL_VERSIONS)
async def test_each_older_version_is_served_by_whatever_replica_is_asked(
    front: Front, twin: Front, version: str
) -> None:
    session = Session(front, f"old {version}", version=version)
    await session.open()
    accepted = await session.call("policy_quick", version, at=twin)
    one = accepted["result"]["structuredContent"]["command_id"]
    assert accepted["result"]["structuredContent"]["status"] == "accepted"
    async with front.http(session.user) as http:
        params = {"name": "command_status", "arguments": {"command_id": one, "wait_s": 0}}
        asked = await session.post(http, id=8, method="tools/call", params=params)
    assert message(asked)["result"]["structuredContent"]["command_id"] == one


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
        headers = {"Accept": "text/event-stream", "Mcp-Session-Id": "made up"}
        answer = await http.delete("/mcp", headers=headers)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
        elsewhere = await http.get("/nowhere")
        assert (elsewhere.status_code, "mcp-session-id" in elsewhere.headers) == (404, False)
        for odd in (5, {"params": {"requestId": 7}}, {"method": "notifications/cancelled"}):
            body = orjson.dumps(odd)
            headers |= {"Accept": "application/json, text/event-stream"}
            headers |= {"Content-Type": "application/json"}
            answer = await http.post("/mcp", content=body, headers=headers)
            assert answer.status_code == 400
