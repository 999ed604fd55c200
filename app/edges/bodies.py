"""Bodies on their way in: how large, how long, in which encoding, and as which JSON."""

import asyncio
from collections import deque
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from app.errors import (
    BadRequestError,
    InvalidArgumentsError,
    OversizeError,
    SlowBodyError,
    UnsupportedEncodingError,
)
from app.json_values import JsonRefusedError, JsonUnreadableError, loads

DIGITS_MAX: Final = 15


def number(text: str) -> int | None:
    """A header's decimal number; None for what is none, or too long to mean anything.

    Neither `str.isdigit` nor `int` is asked first: they know digits of other scripts, and int gives
    up on long ones.
    """
    if text.isascii() and text.isdecimal() and len(text) <= DIGITS_MAX:
        return int(text)
    return None


def limited(headers: Headers, receive: Receive, *, bytes_max: int, whole_s: float) -> Receive:
    """The body, cut off with an error at its limit of bytes or of time.

    Raises:
        UnsupportedEncodingError: it is compressed.
        OversizeError: its announced length is over the limit.
    """
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedEncodingError(
            f"Send the body without Content-Encoding; {encoding[:40]!r} is not read here."
        )
    announced = headers.get("content-length")
    size = 0 if announced is None else number(announced)
    if size is None or size > bytes_max:
        raise OversizeError(f"The body has {str(announced)[:20]} bytes; {bytes_max} are taken.")
    loop = asyncio.get_running_loop()
    until = loop.time() + whole_s
    taken = 0
    more = True

    async def counted() -> Message:
        nonlocal taken, more
        if not more:  # the wait for the client to leave has no end
            return await receive()
        try:
            async with asyncio.timeout_at(until):
                message = await receive()
        except TimeoutError as error:
            raise SlowBodyError(f"The body did not come within {whole_s:g} s.") from error
        taken += len(message.get("body", b""))
        if taken > bytes_max:
            raise OversizeError(f"The body is over {bytes_max} bytes.")
        more = message["type"] == "http.request" and message.get("more_body", False)
        return message

    return counted


async def read(receive: Receive) -> list[Message]:
    """The messages of a whole body, or of what came of it; the guard limits what that can be."""
    messages = [await receive()]
    while messages[-1]["type"] == "http.request" and messages[-1].get("more_body", False):
        messages.append(await receive())
    return messages


def replayed(messages: list[Message], receive: Receive) -> Receive:
    """What was read, then what comes."""
    kept = deque(messages)

    async def again() -> Message:
        return kept.popleft() if kept else await receive()

    return again


def parsed(body: bytes) -> Any:
    """The body's JSON.

    Raises:
        BadRequestError: it is no JSON in UTF-8.
        InvalidArgumentsError: it holds a value that would not come back as it was sent.
    """
    try:
        return loads(body)
    except JsonUnreadableError as error:
        raise BadRequestError(f"/body: {error}.", problems=[_told("", error)]) from error
    except JsonRefusedError as error:
        raise InvalidArgumentsError(
            f"/body{error}. Nothing was started.", problems=[_told(error.at, error)]
        ) from error


def _told(at: str, error: ValueError) -> dict[str, str]:
    return {"at": f"/body{at}", "problem": getattr(error, "problem", str(error))}


def is_json(content_type: str | None) -> bool:
    """Whether a body of this Content-Type is read as JSON."""
    kind, _, subtype = (content_type or "").partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (subtype == "json" or subtype.endswith("+json"))
