"""The story with the Python SDK's client, on both eras.

Its tasks are those of 2026-07-28: the SDK's client refuses the older version's results of that
kind.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Literal

from mcp import Client, types
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from mcp.shared.exceptions import MCPError

from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import TASKS, VERSION
from tests.system.interop.story import BOUND_S, TIMEOUT_S, UNFINISHED, Story, TaskStory


class Made(types.Result):
    """A task instead of a result."""

    result_type: Literal["task"] = "task"
    task_id: str
    status: str


class Shown(types.Result):
    """tasks/get."""

    status: str
    result: types.CallToolResult | None = None


class TaskParams(types.RequestParams):
    task_id: str


class Get(types.Request[TaskParams, Literal["tasks/get"]]):
    name_param = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams


class Cancel(types.Request[TaskParams, Literal["tasks/cancel"]]):
    name_param = "taskId"
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: TaskParams


class Tasks(ClientExtension):
    """The tasks extension, as an application adds it to the SDK's client."""

    identifier = TASKS

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.release: Callable[[], Awaitable[Any]] | None = None

    def claims(self) -> Sequence[ResultClaim[Any]]:
        return [ResultClaim(result_type="task", model=Made, resolve=self._resolve)]

    async def _resolve(self, made: Made, ctx: ClaimContext) -> types.CallToolResult:
        """Release the job, or else cancel the task, and follow it to its end."""
        params = TaskParams(task_id=made.task_id)
        self.seen = [made.status]
        if self.release is None:
            await ctx.session.send_request(Cancel(params=params), types.EmptyResult)
        else:
            await self.release()
        async with asyncio.timeout(BOUND_S):
            while True:
                shown = await ctx.session.send_request(Get(params=params), Shown)
                self.seen.append(shown.status)
                if shown.status != "working":
                    break
        gone = types.CallToolResult(content=[], is_error=True)
        return shown.result or gone


async def play(front: Front, *, user: str, mode: str) -> Story:
    """Connect and do all of it."""
    async with front.client(user, mode=mode) as client:
        one = Player(client, user)
        version = client.protocol_version
        tools = [tool.name for tool in (await client.list_tools()).tools]
        heard, result = await one.progress()
        accepted, recovered = await one.accepted()
        gave_up, found = await one.gives_up()
        cancelled = await one.cancels()
        dropped = await one.drops()
    task = None
    if version == VERSION:
        extension = Tasks()
        async with front.client(user, mode=mode, extensions=[extension]) as client:
            task = await Player(client, user).tasks(extension)
    return Story(
        version=version,
        tools=tools,
        heard=heard,
        result=result,
        accepted=accepted,
        recovered=recovered,
        gave_up=gave_up,
        found=found,
        cancelled=cancelled,
        dropped=dropped,
        task=task,
    )


class Player:
    """One connected client."""

    def __init__(self, client: Client, user: str) -> None:
        self._client = client
        self._user = user

    def job(self, name: str) -> dict[str, Any]:
        return {"job": f"{self._user} {name}"}

    async def call(self, tool: str, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
        done = await self._client.call_tool(tool, arguments, **more)
        assert not done.is_error, done
        return done.structured_content

    async def progress(self) -> tuple[list[float], dict[str, Any]]:
        heard: list[float] = []
        job = self.job("progress")

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            heard.append(progress)
            if message is not None and job["job"] in message:
                await self.call("interop_release", job)

        result = await self.call("interop_work", job, progress_callback=hear)
        return heard, result

    async def accepted(self) -> tuple[dict[str, Any], dict[str, Any]]:
        job = self.job("slow")
        accepted = await self.call("interop_slow", job)
        await self.call("interop_release", job)
        return accepted, await self.outcome(accepted["command_id"])

    async def outcome(self, command_id: str) -> dict[str, Any]:
        return await self.call("command_status", {"command_id": command_id, "wait_s": BOUND_S})

    async def unfinished(self) -> str:
        """The one command of ours that runs, by command_list alone."""
        async with asyncio.timeout(BOUND_S):
            while True:
                listed = await self.call("command_list", {"state": UNFINISHED})
                if listed["commands"]:
                    [one] = listed["commands"]
                    return one["command_id"]

    async def gives_up(self) -> tuple[bool, dict[str, Any]]:
        job = self.job("time-out")
        gave_up = False
        try:
            await self.call("interop_work", job, read_timeout_seconds=TIMEOUT_S)
        except MCPError as error:
            gave_up = error.code == types.REQUEST_TIMEOUT
        one = await self.unfinished()
        await self.call("interop_release", job)
        return gave_up, await self.outcome(one)

    async def cancels(self) -> dict[str, Any]:
        await self.drop("interop_work", self.job("cancel"))
        one = await self.unfinished()
        await self.call("command_cancel", {"command_id": one, "reason": "not needed"})
        return await self.outcome(one)

    async def drops(self) -> dict[str, Any]:
        await self.drop("interop_tied", self.job("drop"))
        [one] = (await self.call("command_list", {"limit": 1}))["commands"]
        return await self.outcome(one["command_id"])

    async def drop(self, tool: str, job: dict[str, Any]) -> None:
        """Call, and abort the call once its job runs."""
        running = asyncio.Event()

        async def hear(progress: float, total: float | None, message: str | None) -> None:
            if message is not None and job["job"] in message:
                running.set()

        calling = asyncio.create_task(self.call(tool, job, progress_callback=hear))
        async with asyncio.timeout(BOUND_S):
            await running.wait()
        calling.cancel()
        await asyncio.gather(calling, return_exceptions=True)

    async def tasks(self, extension: Tasks) -> TaskStory:
        """By the extension: the SDK hands it the task, and us the result."""
        job = self.job("task")
        extension.release = partial(self.call, "interop_release", job)
        result = await self.call("interop_work", job)
        statuses = list(dict.fromkeys(extension.seen))
        extension.release = None
        gone = await self._client.call_tool("interop_work", self.job("task-cancel"))
        assert gone.is_error
        return TaskStory(statuses=statuses, result=result, cancelled=extension.seen[-1])
