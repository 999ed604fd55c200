"""Event streams, so written that every reader parts them into the same lines."""

from typing import Final

from starlette.datastructures import Headers
from starlette.types import Message, Send

BREAKS: Final = {
    "\u0085".encode(): b"\\u0085",
    "\u2028".encode(): b"\\u2028",
    "\u2029".encode(): b"\\u2029",
}
"""Line breaks to Python's str.splitlines (httpx-sse to 0.4.1), and not to the standard. All data of
our events is JSON, where they stand in texts only and may be escaped."""


def escaped(send: Send) -> Send:
    """Escape those in each event stream that goes out; its events are each sent whole."""
    streams = False

    async def sent(message: Message) -> None:
        nonlocal streams
        if message["type"] == "http.response.start":
            kind = Headers(raw=message.get("headers", [])).get("content-type", "")
            streams = kind.startswith("text/event-stream")
        elif streams and message["type"] == "http.response.body" and message.get("body"):
            body = bytes(message["body"])
            if not body.isascii():
                for separator, written in BREAKS.items():
                    body = body.replace(separator, written)
                message = {**message, "body": body}
        await send(message)

    return sent
