"""Tasks with the Python SDK's client: it claims the extension's result and polls to the end."""

import asyncio
from collections.abc import Sequence
from typing import Any, Literal

import pytest
from mcp import types
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim

from tests.mcp.conftest import Front
from tests.mcp.wire import TASKS


class Started(types.Result):
    """A task's handle, or its state."""

    result_type: Literal["task"] = "task"
    task_id: str


class State(types.Result):
    """What tasks/get tells."""

    task_id: str
    status: str
    result: types.CallToolResult | None = None


class GetTask(types.Request[dict[str, Any], Literal["tasks/get"]]):
    """tasks/get, with its routing header."""

    method: Literal["tasks/get"] = "tasks/get"
    name_param = "taskId"


class TasksExtension(ClientExtension):
    """Polls each task that a call was answered with."""

    identifier = TASKS

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self.started = asyncio.Event()

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Started, resolve=self._poll)]

    async def _poll(self, task: Started, ctx: ClaimContext) -> types.CallToolResult:
        async with asyncio.timeout(10):
            while True:
                request = GetTask(params={"taskId": task.task_id})
                state = await ctx.session.send_request(request, State)
                self.seen.append((state.task_id, state.status))
                self.started.set()
                if state.result is not None:
                    return state.result


@pytest.mark.guarantee("mcp:interop")
async def test_a_call_becomes_a_task_that_the_sdk_polls_to_its_result(front: Front) -> None:
    tasks = TasksExtension()
    async with front.client("sdk", extensions=[tasks]) as client:
        call = asyncio.create_task(client.call_tool("probe_echo", {"text": "sdk task"}))
        async with asyncio.timeout(10):
            await tasks.started.wait()
        await front.say(tasks.seen[0][0], "", status="ok", result={"text": "sdk task"})
        done = await call
    assert done.structured_content == {"text": "sdk task"}
    assert {status for _, status in tasks.seen} == {"working", "completed"}
