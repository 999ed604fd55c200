"""A model server of our own: it does what a test says, and keeps what it was told, word for word.

It speaks the streaming APIs that agents know: Anthropic Messages, OpenAI Responses and OpenAI Chat
Completions. A request that offers none of the broker's tools (a title, a summary) is no turn of it.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from devstack.postgres import free_port
from tests.support.stack import wait_for

NAME: Final = "scripted-1"
MARK: Final = "command_status"
"""A tool of the broker's that is always listed: who offers it is an agent at work."""


@dataclass(frozen=True, slots=True)
class Use:
    """Call a tool, by its name on the broker; `args` may depend on what was told until then."""

    tool: str
    args: dict[str, Any] | Callable[[Sequence[str]], dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Say:
    """Say this and end the turn."""

    text: str


Act = Use | Say


@dataclass(slots=True)
class Turn:
    """One request of the agent, in no provider's form."""

    tools: dict[str, str]  # the broker's name of each to the agent's
    told: list[str]  # each tool result so far, oldest first


class Model:
    """The server, and its script."""

    def __init__(self) -> None:
        self.port = free_port()
        self.acts: list[Act] = []
        self.turns: list[Turn] = []
        self._ids = 0

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def told(self) -> list[str]:
        """Every tool result that the model was told in this conversation, oldest first."""
        return self.turns[-1].told if self.turns else []

    def script(self, *acts: Act) -> None:
        """Do these, one a turn, from now on."""
        self.acts, self.turns = list(acts), []

    def _next(self, turn: Turn) -> Act:
        self.turns.append(turn)
        return self.acts.pop(0) if self.acts else Say("Nothing is left of the script.")

    def _id(self) -> str:
        self._ids += 1
        return f"{self._ids:06d}"

    async def _messages(self, request: Request) -> Response:
        """Anthropic's Messages."""
        asked = await request.json()
        tools = asked.get("tools") or []
        turn = Turn(
            tools=named([one["name"] for one in tools]),
            told=[
                text_of(part.get("content"))
                for message in asked["messages"]
                if isinstance(message["content"], list)
                for part in message["content"]
                if part["type"] == "tool_result"
            ],
        )
        act = self._act(turn)
        use = used(act, turn)
        block: dict[str, Any] = {"type": "text", "text": ""}
        delta: dict[str, Any] = {"type": "text_delta", "text": said(act)}
        if use is not None:
            name, args = use
            block = {"type": "tool_use", "id": f"toolu_{self._id()}", "name": name, "input": {}}
            delta = {"type": "input_json_delta", "partial_json": json.dumps(args)}
        stop = "end_turn" if use is None else "tool_use"
        usage = {"input_tokens": 10, "output_tokens": 10}
        message: dict[str, Any] = {"id": f"msg_{self._id()}", "type": "message"}
        message |= {"role": "assistant", "model": asked["model"], "usage": usage}
        message |= {"stop_sequence": None}
        if not asked.get("stream"):
            whole = block | ({"text": said(act)} if use is None else {"input": use[1]})
            return JSONResponse(message | {"content": [whole], "stop_reason": stop})
        return stream(
            [
                {
                    "type": "message_start",
                    "message": message | {"content": [], "stop_reason": None},
                },
                {"type": "content_block_start", "index": 0, "content_block": block},
                {"type": "content_block_delta", "index": 0, "delta": delta},
                {"type": "content_block_stop", "index": 0},
                {
                    "type": "message_delta",
                    "delta": {"stop_reason": stop, "stop_sequence": None},
                    "usage": usage,
                },
                {"type": "message_stop"},
            ]
        )

    async def _responses(self, request: Request) -> Response:
        """OpenAI's Responses."""
        asked = await request.json()
        items = asked["input"] if isinstance(asked["input"], list) else []
        offered: dict[str, str] = {}
        spaces: dict[str, Any] = {}
        for one in asked.get("tools") or []:
            if one.get("type") == "namespace":
                within = named([tool["name"] for tool in one["tools"]])
                offered |= within
                spaces |= dict.fromkeys(within, one["name"])
            elif "name" in one:
                offered |= named([one["name"]])
        turn = Turn(
            tools=offered,
            told=[
                text_of(item["output"])
                for item in items
                if item.get("type") == "function_call_output"
            ],
        )
        act = self._act(turn)
        use = used(act, turn)
        item: dict[str, Any] = {
            "type": "message",
            "id": f"msg_{self._id()}",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": said(act), "annotations": []}],
        }
        if use is not None:
            name, args = use
            item = {"type": "function_call", "id": f"fc_{self._id()}", "status": "completed"}
            item |= {"call_id": f"call_{self._id()}", "name": name, "arguments": json.dumps(args)}
            assert isinstance(act, Use)
            if act.tool in spaces:
                item["namespace"] = spaces[act.tool]
        response: dict[str, Any] = {"id": f"resp_{self._id()}", "object": "response"}
        response |= {"created_at": 0, "model": NAME, "status": "in_progress", "output": []}
        usage: dict[str, Any] = {"input_tokens": 10, "output_tokens": 10, "total_tokens": 20}
        usage |= {"input_tokens_details": {"cached_tokens": 0}}
        usage |= {"output_tokens_details": {"reasoning_tokens": 0}}
        done = response | {"status": "completed", "output": [item], "usage": usage}
        return stream(
            [
                {"type": "response.created", "response": response},
                {"type": "response.output_item.added", "output_index": 0, "item": item},
                {"type": "response.output_item.done", "output_index": 0, "item": item},
                {"type": "response.completed", "response": done},
            ]
        )

    async def _chat(self, request: Request) -> Response:
        """OpenAI's Chat Completions."""
        asked = await request.json()
        tools = [one["function"]["name"] for one in asked.get("tools") or []]
        turn = Turn(
            tools=named(tools),
            told=[text_of(one["content"]) for one in asked["messages"] if one["role"] == "tool"],
        )
        act = self._act(turn)
        use = used(act, turn)
        message: dict[str, Any] = {"role": "assistant", "content": said(act)}
        if use is not None:
            function = {"name": use[0], "arguments": json.dumps(use[1])}
            call: dict[str, Any] = {"index": 0, "id": f"call_{self._id()}", "type": "function"}
            message |= {"content": None, "tool_calls": [{**call, "function": function}]}
        stop = "stop" if use is None else "tool_calls"
        usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
        whole: dict[str, Any] = {"id": f"chatcmpl-{self._id()}", "created": 0, "model": NAME}
        if not asked.get("stream"):
            choice = {"index": 0, "message": message, "finish_reason": stop}
            whole |= {"object": "chat.completion", "choices": [choice], "usage": usage}
            return JSONResponse(whole)
        whole |= {"object": "chat.completion.chunk"}
        first = {"index": 0, "delta": message, "finish_reason": None}
        last: dict[str, Any] = {"index": 0, "delta": {}, "finish_reason": stop}
        return stream([whole | {"choices": [first]}, whole | {"choices": [last], "usage": usage}])

    def _act(self, turn: Turn) -> Act:
        if MARK not in turn.tools:
            return Say("ok")
        return self._next(turn)

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator["Model"]:
        """Serve on a port of loopback."""
        app = Starlette(
            routes=[
                Route("/v1/messages", self._messages, methods=["POST"]),
                Route("/v1/messages/count_tokens", counted, methods=["POST"]),
                Route("/v1/responses", self._responses, methods=["POST"]),
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", models),
            ]
        )
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, log_config=None, lifespan="off"
        )
        server = uvicorn.Server(config)
        running = asyncio.create_task(server.serve())

        async def started() -> bool:
            return server.started

        try:
            await wait_for(started)
            yield self
        finally:
            server.should_exit = True
            await running


async def counted(_: Request) -> Response:
    """How many tokens there are."""
    return JSONResponse({"input_tokens": 10})


async def models(_: Request) -> Response:
    """Which models there are."""
    return JSONResponse({"object": "list", "data": [{"id": NAME, "object": "model"}], "models": []})


def named(offered: Sequence[str]) -> dict[str, str]:
    """The agent's name of each of the broker's tools: agents put the server's before it."""
    found: dict[str, str] = {}
    for name in offered:
        plain = name.removeprefix("mcp__broker__").removeprefix("broker_")
        found[plain] = name
    return found


def used(act: Act, turn: Turn) -> tuple[str, dict[str, Any]] | None:
    """The tool to call, by the agent's name of it, and its arguments."""
    if isinstance(act, Say):
        return None
    args = act.args if isinstance(act.args, dict) else act.args(turn.told)
    return turn.tools.get(act.tool, act.tool), args


def said(act: Act) -> str:
    """The words, where there are any."""
    return act.text if isinstance(act, Say) else ""


def text_of(content: Any) -> str:
    """A tool result's words, in whatever form the provider's API has them."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(
        part["text"] if "text" in part else json.dumps(part, sort_keys=True) for part in content
    )


def stream(events: Sequence[dict[str, Any]]) -> StreamingResponse:
    """Server-sent events, as every provider ends them."""

    async def lines() -> AsyncIterator[bytes]:
        for one in events:
            named = f"event: {one['type']}\n" if "type" in one else ""
            yield f"{named}data: {json.dumps(one)}\n\n".encode()
        if "type" not in events[0]:
            yield b"data: [DONE]\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream")
