"""A client without any SDK: what curl would send, and what it would read."""

import asyncio
from typing import Any

import httpx2
import orjson
import pytest

from tests.mcp.conftest import Front
from tests.mcp.wire import TASKS, call, framed, message, send, task


@pytest.mark.guarantee("mcp:interop")
async def test_it_lists_calls_recovers_cancels_and_has_a_task(front: Front) -> None:
    async with front.http("curl") as http:
        listed = message(await send(http, "tools/list", {}))["result"]
        assert "probe_echo" in [tool["name"] for tool in listed["tools"]]

        told: list[Any] = []
        params = {"name": "probe_echo", "arguments": {"text": "curl"}}
        headers, body = framed("tools/call", params, "probe_echo", meta={"progressToken": "p"})
        async with http.stream("POST", "/mcp", json=body, headers=headers) as answer:
            lines = answer.aiter_lines()  # headers come with the first event
            assert answer.headers["content-type"].startswith("text/event-stream")
            one = await front.newest("curl")
            await front.say(one, "/progress", stage="half", percent=50)
            async for line in lines:
                if line.startswith("data: "):
                    told.append(orjson.loads(line.removeprefix("data: ")))
                    if told[-1].get("params", {}).get("progress", 0) >= 50:
                        await front.say(one, "", status="ok", result={"text": "curl"})
        *progress, last = told
        assert {each["method"] for each in progress} == {"notifications/progress"}
        assert last["result"]["structuredContent"] == {"text": "curl"}

        async with impatient(front) as hasty:
            with pytest.raises(httpx2.TimeoutException):
                await call(hasty, "policy_patient", {})  # its tool waits for an hour
        found = (await call(http, "command_list", {"limit": 1}))["result"]["structuredContent"]
        lost = found["commands"][0]["correlation_id"]
        status = asyncio.create_task(call(http, "command_status", {"command_id": lost}))
        await front.say(lost, "", status="ok", result={"text": "lost"})
        state = (await status)["result"]["structuredContent"]
        assert (state["state"], state["result"]) == ("succeeded", {"text": "lost"})

        accepted = (await call(http, "probe_echo", {"text": "stop"}))["result"]
        stop = {"command_id": accepted["structuredContent"]["command_id"]}
        stopped = (await call(http, "command_cancel", stop))["result"]["structuredContent"]
        assert stopped["state"] == "cancelled"

        made = await call(http, "probe_echo", {"text": "task"}, extensions=(TASKS,))
        one = made["result"]["taskId"]
        await front.say(one, "", status="ok", result={"text": "task"})
        assert (await task(http, "get", one))["result"]["status"] == "completed"


def impatient(front: Front) -> httpx2.AsyncClient:
    """The same user with little time."""
    made = front.http("curl")
    made.timeout = httpx2.Timeout(3)
    return made
