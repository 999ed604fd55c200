"""What a target answers, read within a bound, whatever it says of its length or its encoding."""

import base64
import zlib
from dataclasses import dataclass
from typing import Any, Final

import httpx2
import orjson

from adapters.contract import (
    RESULT_TOO_LARGE,
    RESULT_UNREADABLE,
    CallFailedError,
    Known,
    Result,
)

ERROR_BYTES_MAX: Final = 8192
"""Of a body that tells why not."""
ENCODINGS: Final = {"gzip": 31, "x-gzip": 31, "deflate": 15}
"""`wbits` of zlib; none was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer."""

    status: int
    headers: httpx2.Headers
    url: httpx2.URL
    body: bytes
    whole: bool = True
    """Whether the body was within the bound."""

    @property
    def media_type(self) -> str:
        """Without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def json(self) -> Any:
        """The body's value, or None where it is no JSON."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None


async def read(response: httpx2.Response, bytes_max: int) -> Answer:
    """Read an answer; of one that is not a success, its beginning."""
    bound = bytes_max if response.is_success else min(bytes_max, ERROR_BYTES_MAX)
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    inflate = None
    if encoding in ENCODINGS:
        inflate = zlib.decompressobj(ENCODINGS[encoding])
    elif encoding not in ("identity", ""):
        bound = 0
    body, whole = bytearray(), True
    try:
        async for chunk in response.aiter_raw():
            room = bound + 1 - len(body)
            body += chunk[:room] if inflate is None else inflate.decompress(chunk, room)
            if len(body) > bound:
                whole = False
                break
    except zlib.error:
        known = Known.DONE if response.is_success else Known.UNKNOWN
        words = f"The target answered {response.status_code}, in an encoding that is broken."
        raise CallFailedError(known, RESULT_UNREADABLE, words) from None
    return Answer(
        status=response.status_code,
        headers=response.headers,
        url=response.url,
        body=bytes(body[:bound]),
        whole=whole,
    )


def result(answer: Answer) -> Result:
    """A success as a result: JSON as it is, a picture as MCP shows one, all else in an object.

    Raises:
        CallFailedError: it is larger than the bound, or no JSON where it says that it is.
    """
    if not answer.whole:
        words = f"The target did it; its answer has over {len(answer.body)} bytes, or a strange"
        raise CallFailedError(Known.DONE, RESULT_TOO_LARGE, f"{words} encoding.")
    kind = answer.media_type
    if not answer.body:
        return Result(value=None)
    if kind == "application/json" or kind.endswith("+json"):
        try:
            return Result(value=orjson.loads(answer.body))
        except orjson.JSONDecodeError as error:
            words = f"The target did it; its answer is not JSON: {error}."
            raise CallFailedError(Known.DONE, RESULT_UNREADABLE, words) from None
    if kind.partition("/")[0] in ("image", "audio"):
        data = base64.b64encode(answer.body).decode()
        block = {"type": kind.partition("/")[0], "data": data, "mimeType": kind}
        return Result(value=None, content=[block])
    try:
        text = answer.body.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return Result(
            value={"content_type": kind, "base64": base64.b64encode(answer.body).decode()}
        )
    return Result(value={"content_type": kind, "text": text})


def told(answer: Answer) -> dict[str, Any]:
    """What an error's details have of an answer."""
    value = answer.json()
    text = answer.body.decode(errors="replace").replace("\0", "\ufffd")
    return {"status": answer.status, "body": text if value is None else value}
