"""A call of a server's tool, from its arguments to the end of what it began."""

from collections.abc import Mapping
from typing import Any, Final

import mcp_types as types
from pydantic import TypeAdapter, ValidationError

from adapters import templates
from adapters.contract import (
    RESULT_UNREADABLE,
    TARGET_FAILED,
    TARGET_LOST,
    TARGET_REFUSED,
    AdapterCall,
    CallFailedError,
    Known,
    Opening,
    Outcome,
    Report,
    Result,
    target_changed,
)
from adapters.mcp import tasks, wire
from adapters.mcp.errors import AGAIN
from adapters.mcp.sessions import Session, Sessions
from adapters.progress import Telling

KEY_META: Final = "dev.mcpbroker/idempotency_key"
RAW: Final[TypeAdapter[Any]] = TypeAdapter(dict[str, Any])
WORDS_MAX: Final = 500
TRIES: Final = 2
"""A session that is lost between two calls is noticed by the second."""


class McpTarget:
    """A server's tools, by one session."""

    def __init__(self, opening: Opening) -> None:
        self._sessions = Sessions(opening)

    async def run(self, call: AdapterCall, report: Report) -> Outcome:
        """Call the tool; what the server makes a task of is followed to its end."""
        arguments = _arguments(call)
        wire.CALL.set(call)
        async with Telling(report) as telling:
            for left in reversed(range(TRIES)):
                try:
                    said = await self._once(call, arguments, telling)
                except CallFailedError as error:
                    if error.code in AGAIN and left:
                        continue
                    if error.code == wire.SESSION_LOST:
                        error.code = TARGET_LOST
                    raise
                if said.get("resultType") == "task":
                    if not isinstance(said.get("taskId"), str):
                        raise _unreadable("its task has no name")
                    said = await tasks.follow(self._sessions, said, telling)
                return _result(call, said)
        raise AssertionError("unreachable")

    async def close(self) -> None:
        """Close the session."""
        await self._sessions.close()

    async def _once(
        self, call: AdapterCall, arguments: dict[str, Any], telling: Telling
    ) -> dict[str, Any]:
        async with self._sessions.session() as session:
            try:
                await _reviewed(call, session)
                return await _say(session, call, arguments, telling)
            except ValidationError as error:
                raise _unreadable(f"{error.error_count()} errors") from None


def _arguments(call: AdapterCall) -> dict[str, Any]:
    if "args" not in call.mapping:
        return dict(call.args)
    return templates.json_value(dict(call.mapping["args"]), call.args)


async def _reviewed(call: AdapterCall, session: Session) -> None:
    """Refuse a tool that is not what was reviewed."""
    expected: str | None = call.mapping.get("digest")
    if expected is None:
        return
    found = await session.tool(call.mapping["tool"])
    if found == expected:
        return
    raise target_changed(call.mapping["tool"], expected, found)


async def _say(
    session: Session, call: AdapterCall, arguments: dict[str, Any], telling: Telling
) -> dict[str, Any]:
    async def hear(progress: float, total: float | None, message: str | None) -> None:
        telling.say(progress, total, message)

    assert session.client is not None
    meta: dict[str, Any] = {KEY_META: call.idempotency_key}
    if call.traceparent is not None:
        meta["traceparent"] = call.traceparent
    params = types.CallToolRequestParams(
        name=call.mapping["tool"], arguments=arguments, _meta=types.RequestParamsMeta(**meta)
    )
    request = types.CallToolRequest(params=params)
    return await session.client.session.send_request(request, RAW, progress_callback=hear)


def _unreadable(words: str) -> CallFailedError:
    return CallFailedError(
        Known.UNKNOWN, RESULT_UNREADABLE, f"The server's answer is none of the protocol: {words}."
    )


def _result(call: AdapterCall, said: Mapping[str, Any]) -> Result:
    content = said.get("content") or []
    if not isinstance(content, list) or not all(isinstance(one, dict) for one in content):
        raise _unreadable("its content is no list of blocks")
    if said.get("resultType") == "input_required":
        words = "The server asks for more input, and nobody is there to give it."
        raise CallFailedError(Known.REFUSED, TARGET_REFUSED, words)
    if said.get("isError"):
        known = Known(call.mapping.get("on_tool_error", Known.REFUSED))
        details: dict[str, Any] = {"content": content}
        if "structuredContent" in said:
            details["structuredContent"] = said["structuredContent"]
        texts = [one.get("text") for one in content if one.get("type") == "text"]
        words = (
            str(texts[0])[:WORDS_MAX]
            if texts
            else "The server's tool failed, and does not say why."
        )
        raise CallFailedError(known, TARGET_FAILED, words, details=details)
    return Result(value=said.get("structuredContent"), content=content)
