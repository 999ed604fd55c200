"""A server's task in place of a result (the tasks extension, SEP-2663), followed to its end."""

import asyncio
from collections.abc import Mapping
from typing import Any, Final, Literal

import mcp_types as types
from pydantic import TypeAdapter

from adapters.contract import (
    TARGET_FAILED,
    TARGET_LOST,
    TARGET_REFUSED,
    TARGET_UNAVAILABLE,
    CallFailedError,
    Known,
)
from adapters.mcp.sessions import Sessions
from adapters.progress import Telling

EVERY_S: Final = 1.0
EVERY_MAX_S: Final = 30.0
LEAST_S: Final = 0.05
CANCEL_S: Final = 5.0
RAW: Final[TypeAdapter[Any]] = TypeAdapter(dict[str, Any])


class TaskParams(types.RequestParams):
    """Names a task."""

    task_id: str


class GetTask(types.Request[TaskParams, Literal["tasks/get"]]):
    """How far is it?"""

    name_param = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: TaskParams


class CancelTask(types.Request[TaskParams, Literal["tasks/cancel"]]):
    """End it."""

    name_param = "taskId"
    method: Literal["tasks/cancel"] = "tasks/cancel"
    params: TaskParams


async def follow(sessions: Sessions, made: Mapping[str, Any], telling: Telling) -> dict[str, Any]:
    """The result of a task; asking does no harm, so a lost connection is no end.

    Raises:
        CallFailedError: it failed, was cancelled, asks for input, or is not known any more.
    """
    task_id: str = made["taskId"]
    state: Mapping[str, Any] = made
    try:
        while state.get("status") == "working":
            if isinstance(state.get("statusMessage"), str):
                telling.say(message=state["statusMessage"])
            await asyncio.sleep(_pause_s(state))
            state = await _ask(sessions, task_id, state)
    except asyncio.CancelledError:
        await _cancel(sessions, task_id)
        raise
    match state.get("status"):
        case "completed" if isinstance(state.get("result"), dict):
            return state["result"]
        case "failed":
            details = {"mcp": state.get("error")}
            words = "The server's task failed."
            raise CallFailedError(Known.UNKNOWN, TARGET_FAILED, words, details=details)
        case "cancelled":
            words = "The server's task was cancelled."
            raise CallFailedError(Known.UNKNOWN, TARGET_FAILED, words)
        case "input_required":
            await _cancel(sessions, task_id)
            words = "The server's task asks for input, and nobody is there to give it."
            raise CallFailedError(Known.REFUSED, TARGET_REFUSED, words)
        case _:
            words = f"The server's task is in a state that is none: {state.get('status')!r:.50}."
            raise CallFailedError(Known.UNKNOWN, TARGET_FAILED, words)


def _pause_s(state: Mapping[str, Any]) -> float:
    asked = state.get("pollIntervalMs")
    if not isinstance(asked, int | float):
        return EVERY_S
    return min(max(asked / 1000, LEAST_S), EVERY_MAX_S)


async def _ask(sessions: Sessions, task_id: str, state: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the server says of it, or what it said before where it cannot be asked."""
    try:
        async with sessions.session() as session:
            request = GetTask(params=TaskParams(task_id=task_id))
            assert session.client is not None
            return await session.client.session.send_request(request, RAW)
    except CallFailedError as error:
        if error.known is Known.REFUSED:
            words = f"The server does not know its task any more: {error.message}"
            raise CallFailedError(Known.UNKNOWN, TARGET_LOST, words) from None
        if error.code == TARGET_UNAVAILABLE:
            await asyncio.sleep(EVERY_S)
        return state


async def _cancel(sessions: Sessions, task_id: str) -> None:
    try:
        async with asyncio.timeout(CANCEL_S), sessions.session() as session:
            request = CancelTask(params=TaskParams(task_id=task_id))
            assert session.client is not None
            await session.client.session.send_request(request, RAW)
    except (CallFailedError, TimeoutError):
        return
