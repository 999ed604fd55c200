"""What the suite's fixtures answer: the work behind tools.yml."""

import asyncio
import base64
import struct
import zlib
from typing import Any

from tests.edges.mcp.adapter import Serve, ToolError, Work

STEP_S = 0.6
"""Between words of progress: over the time in which the front joins them."""


def png() -> bytes:
    """One red pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    head = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\x00\xff\x00\x00")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def wav() -> bytes:
    """A hundredth of a second of silence."""
    data = bytes(160)
    form = struct.pack("<HHIIHH", 1, 1, 8000, 16000, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(form)) + form
    body += b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(body)) + body


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def blob(kind: str, mime_type: str, data: bytes) -> dict[str, Any]:
    return {"type": kind, "data": base64.b64encode(data).decode(), "mimeType": mime_type}


def resource(uri: str, mime_type: str, words: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": words}}


def answering(*content: dict[str, Any]) -> Serve:
    async def serve(work: Work) -> Any:
        del work
        return {"mcp": {"content": list(content)}}

    return serve


async def greet(work: Work) -> Any:
    return {"mcp": {"content": [text(f"Hello, {work.args.get('name', 'World')}!")]}}


async def progress(work: Work) -> Any:
    for percent in (0, 50, 100):
        await work.progress(percent)
        await asyncio.sleep(STEP_S)
    return {"mcp": {"content": [text("Done.")]}}


async def slow(work: Work) -> Any:
    """Sleeps as long as asked; gives up once its caller has cancelled."""
    seconds = float(work.args.get("seconds", 0))
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while (left_s := until - loop.time()) > 0:
        if not await work.progress(100 * (1 - left_s / seconds)):
            raise ToolError({"code": "cancelled", "message": "stopped", "retryable": False})
        await asyncio.sleep(min(0.2, left_s))
    return {"mcp": {"content": [text(f"{work.args.get('label', 'slow')}: done")]}}


async def failing(work: Work) -> Any:
    await work.progress(50)
    raise ToolError({"code": "failed", "message": "This tool always fails.", "retryable": False})


async def protocol_error(work: Work) -> Any:
    del work
    raise ToolError(
        {
            "code": "crashed",
            "message": "The tool crashed.",
            "retryable": False,
            "mcp": {"code": -32603, "message": "The tool crashed."},
        }
    )


TOOLS: dict[str, Serve] = {
    "fixture/simple_text": answering(text("This is a simple text response for testing.")),
    "fixture/image": answering(blob("image", "image/png", png())),
    "fixture/audio": answering(blob("audio", "audio/wav", wav())),
    "fixture/resource": answering(
        resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")
    ),
    "fixture/mixed": answering(
        text("Multiple content types test:"),
        blob("image", "image/png", png()),
        resource("test://mixed-content-resource", "application/json", '{"test":"data"}'),
    ),
    "fixture/error": failing,
    "fixture/logging": answering(text("Done.")),
    "fixture/progress": progress,
    "fixture/schema": answering(text("Valid.")),
    "fixture/header": answering(text("Valid.")),
    "fixture/greet": greet,
    "fixture/slow": slow,
    "fixture/failing": failing,
    "fixture/protocol_error": protocol_error,
    "fixture/asks": answering(text("state-ok")),
    "fixture/asks_elicitation": greet,
    "fixture/asks_rounds": greet,
    "fixture/asks_then_task": greet,
    "fixture/asks_sealed": answering(text("Done.")),
    "fixture/asks_streaming": answering(text("Done.")),
    "fixture/asks_task": answering(text("Deleted.")),
}
