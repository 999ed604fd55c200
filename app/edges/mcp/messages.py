"""The one reading of what is POSTed to the MCP endpoint, in either era, before anything acts on it.

What is no message, or one that would be taken (202) and not acted on, is refused in a sentence. The
message then goes with its request (`scope["broker.message"]`), so that nobody reads it otherwise.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import anyio
import orjson
from mcp.shared.inbound import NAME_BEARING_METHODS
from mcp_types.jsonrpc import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import metrics
from app.edges.bodies import is_json, read, replayed
from app.edges.mcp.calls import VERSION_HEADER
from app.errors import cut
from app.json_values import JsonRefusedError, JsonUnreadableError, loads

MESSAGE: Final = "broker.message"
BATCHES: Final = frozenset({None, "2025-03-26"})
"""Versions whose clients may send a batch; who names none is of that version."""
BATCH_MAX: Final = 50
METHOD_MAX: Final = 128
"""Characters of a method's name; the SDK would quote one that it does not know as it came."""
SERVED_IN_JSON: Final = ("*/*", "application/*", "application/json")
SERVED_IN_SSE: Final = ("*/*", "text/*", "text/event-stream")


class NoMessageError(Exception):
    """What came is refused, by a JSON-RPC error of this code."""

    def __init__(self, code: int, text: str, *, status: int = 400, data: Any = None) -> None:
        super().__init__(text)
        self.code = code
        self.status = status
        self.data = data


@dataclass(frozen=True, slots=True)
class Messages:
    """Middleware of the MCP endpoint."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request whose message is one; say what is wrong with another."""
        headers = Headers(scope=scope)
        if scope["method"] != "POST":
            await self.app(scope, receive, send)
            return
        if not is_json(headers.get("content-type")):
            words = "Send the message as JSON, with 'Content-Type: application/json'."
            answer = refusal(NoMessageError(INVALID_REQUEST, words, status=415), None)
            await answer(scope, receive, send)
            return
        messages = await read(receive)
        if messages[-1]["type"] != "http.request":
            return  # gone in the middle of the body
        body = b"".join(message.get("body", b"") for message in messages)
        decoded: Any = None
        try:
            check_accept(headers)
            decoded = value_of(body)
            if isinstance(decoded, list) and headers.get(VERSION_HEADER) in BATCHES:
                answer = await self._batch(scope, decoded)  # pyright: ignore[reportUnknownArgumentType]
            else:
                check(decoded, headers)
                scope[MESSAGE] = decoded
                await self.app(scope, replayed(messages, receive), send)
                return
        except NoMessageError as error:
            answer = refusal(error, decoded if decoded is not None else guessed(body))
        await answer(scope, receive, send)

    async def _batch(self, scope: Scope, batch: list[Any]) -> Response:
        """Serve each message of a batch by itself, all at once; their answers in one body."""
        if not 0 < len(batch) <= BATCH_MAX:
            raise NoMessageError(INVALID_REQUEST, f"A batch has 1 to {BATCH_MAX} messages.")
        answers: list[Any] = [None] * len(batch)

        async def serve(place: int, one: Any) -> None:
            answers[place] = await self._answer_of(scope, one)

        async with anyio.create_task_group() as group:
            for place, one in enumerate(batch):
                group.start_soon(serve, place, one)
        answered = [one for one in answers if one is not None]
        if not answered:
            return Response(status_code=202)
        return Response(orjson.dumps(answered), media_type="application/json")

    async def _answer_of(self, scope: Scope, decoded: Any) -> Any:
        """The answer to one message of a batch; None for what has none."""
        try:
            check(decoded, Headers(scope=scope))
        except NoMessageError as error:
            return told_of(error, decoded)
        begun: list[Message] = [
            {"type": "http.request", "body": orjson.dumps(decoded), "more_body": False}
        ]
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await self.app({**scope, MESSAGE: decoded}, replayed(begun, never), keep)
        return answer_in(b"".join(message.get("body", b"") for message in sent))


async def never() -> Message:
    """Nothing more comes of a message in a batch; whether its client leaves is not looked at."""
    await anyio.sleep_forever()
    raise AssertionError("for ever has no end")


def answer_in(body: bytes) -> Any:
    """The response in a body, or in the events of a stream."""
    if body.startswith(b"{"):
        return orjson.loads(body)
    for line in body.splitlines():
        if line.startswith(b"data: {"):
            message = orjson.loads(line.removeprefix(b"data: "))
            if "id" in message and "method" not in message:
                return message
    return None


def value_of(body: bytes) -> Any:
    """What stands in the body.

    Raises:
        NoMessageError: no JSON in UTF-8, or a value that is not kept as it was sent.
    """
    try:
        return loads(body)
    except JsonUnreadableError as error:
        raise NoMessageError(PARSE_ERROR, f"Parse error: {error}.") from error
    except JsonRefusedError as error:
        raise NoMessageError(INVALID_PARAMS, f"{error}. Nothing was started.") from error


def check_accept(headers: Headers) -> None:
    """Hold a client to the two forms in which answers come.

    Raises:
        NoMessageError: it does not take both.
    """
    accept = headers.get("accept", "")
    kinds = {one.partition(";")[0].strip().lower() for one in accept.split(",")}
    if kinds.isdisjoint(SERVED_IN_JSON) or kinds.isdisjoint(SERVED_IN_SSE):
        wanted = "application/json, text/event-stream"
        raise NoMessageError(
            INVALID_REQUEST, f"Not Acceptable: send 'Accept: {wanted}'.", status=406
        )


def check(message: Any, headers: Headers) -> None:
    """Hold what came to the form of a message, and of a call.

    Raises:
        NoMessageError: it has another.
    """
    match message:
        case {"jsonrpc": "2.0", "method": str(method)}:
            check_request(message, method, headers)
        case {"jsonrpc": "2.0", **rest} if rest.keys() & {"result", "error"}:
            pass  # an answer, to what nobody asked
        case dict():
            raise NoMessageError(
                INVALID_REQUEST, 'Send a JSON-RPC message: {"jsonrpc": "2.0", "method": …}.'
            )
        case _:
            raise NoMessageError(
                INVALID_REQUEST,
                "Send one JSON-RPC message, an object; batches are of version 2025-03-26 only.",
            )


def check_request(message: Mapping[str, Any], method: str, headers: Headers) -> None:
    """Hold a request or a notification to its form.

    Raises:
        NoMessageError: it has another.
    """
    if len(method) > METHOD_MAX:
        raise NoMessageError(METHOD_NOT_FOUND, f"Method not found: {cut(method)}.")
    if "id" in message:
        known = isinstance(message["id"], str | int) and not isinstance(message["id"], bool)
        if not known:
            raise NoMessageError(
                INVALID_REQUEST, "The id of a request is a string or an integer. Nothing was done."
            )
    elif not method.startswith("notifications/"):
        raise NoMessageError(
            INVALID_REQUEST, f"{cut(method)} is a request: send it with an id. Nothing was done."
        )
    params = message.get("params")
    if not isinstance(params, dict | None):
        raise bad_params("params is an object", headers)
    modern = is_modern(headers)
    if modern and "id" in message and "mcp-method" not in headers:
        raise NoMessageError(
            HEADER_MISMATCH, f"The header Mcp-Method is missing: send 'Mcp-Method: {cut(method)}'."
        )
    named = NAME_BEARING_METHODS.get(method)
    if modern and named and "mcp-name" not in headers:
        raise NoMessageError(
            HEADER_MISMATCH, f"The header Mcp-Name is missing: send it with params.{named}."
        )
    if method == "tools/call":
        check_call(params or {}, headers)


def check_call(params: Mapping[str, Any], headers: Headers) -> None:
    """Hold a call's parameters to their form.

    Raises:
        NoMessageError: they have another.
    """
    if not isinstance(params.get("name"), str):
        raise bad_params("params.name is the name of a tool, a string", headers)
    arguments = params.get("arguments")
    if isinstance(arguments, str):
        raise bad_params("params.arguments is a JSON text; send the object itself", headers)
    if not isinstance(arguments, dict | None):
        raise bad_params("params.arguments is an object", headers)
    if not isinstance(params.get("_meta"), dict | None):
        raise bad_params("params._meta is an object", headers)


def bad_params(text: str, headers: Headers) -> NoMessageError:
    """A request that is one, with parameters that are none of its method's."""
    status = 400 if is_modern(headers) else 200
    return NoMessageError(INVALID_PARAMS, f"{text}. Nothing was started.", status=status)


def is_modern(headers: Headers) -> bool:
    """Whether a request is of the newer era, by its version header."""
    version = headers.get(VERSION_HEADER)
    return version is not None and version not in HANDSHAKE_PROTOCOL_VERSIONS


def guessed(body: bytes) -> Any:
    """What a lenient reader makes of a refused body, for the id that its sender waits for."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def told_of(error: NoMessageError, message: Any) -> dict[str, Any]:
    """The JSON-RPC error, with the id of what it answers where that has one."""
    found = message.get("id") if isinstance(message, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    known = isinstance(found, str | int) and not isinstance(found, bool)
    body: dict[str, Any] = {"code": error.code, "message": str(error)}
    return {"jsonrpc": "2.0", "id": found if known else None, "error": body}


def refusal(error: NoMessageError, message: Any) -> Response:
    """The answer to what is no message."""
    metrics.REFUSED.labels("bad_request").inc()
    body = json.dumps(told_of(error, message))  # escapes what is no character
    return Response(body, status_code=error.status, media_type="application/json")
