"""An MCP server of the official SDK, for a process of its own (stdio) or the test's (HTTP)."""

import asyncio
import os
import sys
from typing import Any

import mcp_types as types
from mcp.server import InitializationOptions, NotificationOptions, Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import (
    InMemorySubscriptionBus,
    ListenHandler,
    ToolsListChanged,
)
from mcp.shared.exceptions import MCPError

TASKS = "io.modelcontextprotocol/tasks"
BLOCKS: list[dict[str, Any]] = [
    {"type": "text", "text": "one", "annotations": {"audience": ["user"], "priority": 0.5}},
    {"type": "image", "data": "AP8=", "mimeType": "image/png"},
    {"type": "audio", "data": "AP8=", "mimeType": "audio/wav"},
    {"type": "resource_link", "uri": "file:///a", "name": "a"},
    {"type": "resource", "resource": {"uri": "file:///b", "text": "b", "mimeType": "text/plain"}},
]
OBJECT: dict[str, Any] = {"type": "object"}


class Servant:
    """Its tools do what their names say."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.described = "Says what it was given."
        self.begun = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.asked = 0
        self.ended = "completed"
        self.bus = InMemorySubscriptionBus()
        self.server = Server(
            "servant",
            on_list_tools=self.list_tools,
            on_call_tool=self.call_tool,
            on_subscriptions_listen=ListenHandler(self.bus),
        )
        self.server.extensions[TASKS] = {}
        self.server.add_request_handler("tasks/get", TaskParams, self.get_task)
        self.server.add_request_handler("tasks/cancel", TaskParams, self.cancel_task)

    async def list_tools(self, _ctx: Any, _params: Any) -> types.ListToolsResult:
        names = ("echo", "blocks", "slow", "fail", "refuse", "die", "huge", "task", "ask", "misfit")
        names += ("change",)
        tools = [
            types.Tool(
                name=name,
                description=self.described if name == "echo" else name,
                input_schema=OBJECT,
                output_schema=OBJECT if name == "misfit" else None,
            )
            for name in names
        ]
        return types.ListToolsResult(tools=tools, ttl_ms=0, cache_scope="private")

    async def call_tool(self, ctx: Any, params: types.CallToolRequestParams) -> Any:
        meta = dict(params.meta or {})
        headers = dict(ctx.request.headers) if ctx.request is not None else {}
        self.seen.append({"args": params.arguments, "meta": meta, "headers": headers})
        return await getattr(self, f"do_{params.name}")(ctx, params.arguments or {})

    async def do_echo(self, _ctx: Any, args: dict[str, Any]) -> types.CallToolResult:
        text = types.TextContent(text=str(self.seen[-1]["headers"].get("authorization")))
        return types.CallToolResult(content=[text], structured_content=args)

    async def do_blocks(self, _ctx: Any, _args: dict[str, Any]) -> types.CallToolResult:
        return types.CallToolResult.model_validate(
            {"content": BLOCKS, "structuredContent": {"n": 5}}
        )

    async def do_slow(self, ctx: Any, args: dict[str, Any]) -> types.CallToolResult:
        for n in range(args.get("times", 3)):
            await ctx.session.report_progress(n + 1, args.get("times", 3), f"step {n + 1}")
        self.begun.set()
        try:
            await asyncio.sleep(args.get("seconds", 0))
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return types.CallToolResult(content=[])

    async def do_fail(self, _ctx: Any, _args: dict[str, Any]) -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(text="It broke.")], is_error=True)

    async def do_refuse(self, _ctx: Any, args: dict[str, Any]) -> types.CallToolResult:
        raise MCPError(code=args["code"], message="no", data={"why": "so"})

    async def do_die(self, _ctx: Any, _args: dict[str, Any]) -> types.CallToolResult:
        sys.stderr.write("about to die\n")
        sys.stderr.flush()
        os._exit(3)

    async def do_change(self, ctx: Any, args: dict[str, Any]) -> types.CallToolResult:
        """Says so by either era's way."""
        self.described = args["described"]
        await ctx.session.send_tool_list_changed()
        await self.bus.publish(ToolsListChanged())
        return types.CallToolResult(content=[])

    async def do_huge(self, _ctx: Any, args: dict[str, Any]) -> types.CallToolResult:
        return types.CallToolResult(content=[types.TextContent(text="x" * args["bytes"])])

    async def do_misfit(self, _ctx: Any, _args: dict[str, Any]) -> types.CallToolResult:
        return types.CallToolResult(content=[])

    async def do_ask(self, _ctx: Any, _args: dict[str, Any]) -> types.InputRequiredResult:
        asked = {"message": "who?", "requestedSchema": {"type": "object", "properties": {}}}
        return types.InputRequiredResult.model_validate(
            {
                "resultType": "input_required",
                "inputRequests": {"a": {"method": "elicitation/create", "params": asked}},
            }
        )

    async def do_task(self, _ctx: Any, args: dict[str, Any]) -> Any:
        self.asked, self.ended = 0, args.get("end", "completed")
        return {"resultType": "task"} | self.task()

    def task(self) -> dict[str, Any]:
        at = "2026-01-01T00:00:00Z"
        going = self.asked < 3 or self.ended == "never"
        shown = {
            "taskId": "task-1",
            "status": "working" if going else self.ended,
            "statusMessage": f"asked {self.asked} times",
            "createdAt": at,
            "lastUpdatedAt": at,
            "ttlMs": None,
            "pollIntervalMs": 10,
        }
        if not going and self.ended == "completed":
            shown["result"] = {"content": BLOCKS[:1], "structuredContent": {"made": True}}
        if not going and self.ended == "failed":
            shown["error"] = {"code": -32603, "message": "out of luck"}
        return shown

    async def get_task(self, _ctx: Any, _params: Any) -> Any:
        self.asked += 1
        self.begun.set()
        if self.asked >= 3 and self.ended == "gone":
            raise MCPError(code=types.INVALID_PARAMS, message="Task not found")
        return {"resultType": "complete"} | self.task()

    async def cancel_task(self, _ctx: Any, _params: Any) -> Any:
        self.cancelled.set()
        return {"resultType": "complete"}


class TaskParams(types.RequestParams):
    task_id: str


async def main() -> None:
    servant = Servant()
    if len(sys.argv) > 1:
        servant.described = sys.argv[1]
    async with stdio_server() as (read, write):
        capabilities = servant.server.get_capabilities(NotificationOptions(tools_changed=True), {})
        options = InitializationOptions(
            server_name="servant", server_version="1", capabilities=capabilities
        )
        await servant.server.run(read, write, options)


if __name__ == "__main__":
    asyncio.run(main())
