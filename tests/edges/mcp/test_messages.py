"""What is POSTed to /mcp is acted on or refused in a sentence, in both eras; 202 means "taken"."""

import asyncio
import gzip
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import pytest

from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import VERSION, framed, message

LEGACY = "2025-11-25"
VERSIONS = [VERSION, LEGACY]


def headers_of(version: str, method: str = "tools/call", name: str = "probe_echo") -> Any:
    made = {
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": version,
    }
    return made | ({"Mcp-Method": method, "Mcp-Name": name} if version == VERSION else {})


def call_of(version: str, **params: Any) -> dict[str, Any]:
    """A call of probe_echo that is not waited for, with these parameters instead of its own."""
    whole = {"name": "probe_echo", "arguments": {"text": "x"}, **params}
    _, body = framed("tools/call", whole, None, meta={"dev.mcpbroker/wait_s": 0})
    if "_meta" in params:
        body["params"]["_meta"] = params["_meta"]
    return body


async def post(http: httpx2.AsyncClient, content: Any, version: str, **more: str) -> Any:
    if not isinstance(content, bytes) and not hasattr(content, "__aiter__"):
        content = json.dumps(content).encode()
    return await http.post("/mcp", content=content, headers={**headers_of(version), **more})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("request_id", [None, 1.0, True, [1], {"a": 1}, "absent"])
@pytest.mark.guarantee("mcp:taken-or-refused")
async def test_a_call_whose_id_is_none_is_refused(
    front: Front, version: str, request_id: Any
) -> None:
    body = call_of(version) | {"id": request_id}
    if request_id == "absent":
        del body["id"]
    async with front.http("ids") as http:
        answer = await post(http, body, version)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == -32600
    assert "Nothing was done" in error["message"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"arguments": '{"text": "x"}'}, "JSON text"),
        ({"arguments": [1]}, "params.arguments is an object"),
        ({"name": 7}, "params.name"),
        ({"arguments": {"text": float("nan")}}, "NaN"),
        ({"arguments": {"text": float("inf")}}, "Infinity"),
        ({"arguments": {"text": 2**64}}, "64 bits"),
        ({"arguments": {"text": "\ud800"}}, "surrogate"),
        ({"arguments": {"text": "\0"}}, "NUL"),
    ],
)
@pytest.mark.guarantee("intake:as-sent")
async def test_parameters_that_are_none_of_a_call_are_refused_in_a_sentence(
    front: Front, version: str, changes: Any, said: str
) -> None:
    async with front.http("params") as http:
        answer = await post(http, call_of(version, **changes), version)
    error = message(answer)["error"]
    assert error["code"] == -32602, error
    assert said in error["message"]
    assert "pydantic" not in answer.text


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", -32700),
        (b"\xef\xbb\xbf{}", -32700),
        ('{"jsonrpc": "2.0"}'.encode("utf-16"), -32700),
        (b"{}", -32600),
        (b'"x"', -32600),
        (b'{"jsonrpc": "1.0", "method": "ping", "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "method": 7, "id": 1}', -32600),
        (b'{"jsonrpc": "2.0", "method": "ping", "id": 1, "params": 7}', -32602),
        (b'{"jsonrpc": "2.0", "method": "ping", "id": 1, "id": 2}', -32602),
        (b'[{"jsonrpc": "2.0", "method": "ping", "id": 1}]', -32600),
    ],
)
async def test_what_is_no_message_is_told_alike_in_both_eras(
    front: Front, version: str, content: bytes, code: int
) -> None:
    async with front.http("messages") as http:
        answer = await post(http, content, version)
    error = message(answer)["error"]
    assert error["code"] == code, error
    assert error["message"].endswith("."), error
    for dump in ("pydantic", "validation error", "Traceback"):
        assert dump not in error["message"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_compressed_message_and_one_sided_accepts_are_told(
    front: Front, version: str
) -> None:
    async with front.http("encodings") as http:
        zipped = gzip.compress(json.dumps(call_of(version)).encode())
        answer = await post(http, zipped, version, **{"Content-Encoding": "gzip"})
        assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")
        answer = await post(http, call_of(version), version, Accept="application/json")
        assert answer.status_code == 406
        assert "text/event-stream" in answer.json()["error"]["message"]


async def test_a_missing_header_is_not_called_a_wrong_one(front: Front) -> None:
    async with front.http("headers") as http:
        headers = headers_of(VERSION)
        for name in ("Mcp-Method", "Mcp-Name"):
            sent = {key: value for key, value in headers.items() if key != name}
            body = json.dumps(call_of(VERSION)).encode()
            answer = await http.post("/mcp", content=body, headers=sent)
            assert answer.status_code == 400
            assert f"{name} is missing" in answer.json()["error"]["message"]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("method", ["tools/list", "resources/list", "resources/templates/list"])
async def test_a_cursor_that_nobody_gave_is_refused(
    front: Front, version: str, method: str
) -> None:
    _, body = framed(method, {"cursor": "bogus"}, None)
    async with front.http("cursors") as http:
        answer = await post(http, body, version, **{"Mcp-Method": method})
    assert message(answer)["error"]["code"] == -32602
    assert "cursor" in message(answer)["error"]["message"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_an_unknown_tool_has_our_code_and_a_short_message(front: Front, version: str) -> None:
    name = "n" * 100_000
    async with front.http("unknown") as http:
        answer = await post(http, call_of(version, name=name), version, **{"Mcp-Name": "x"})
        if version == LEGACY:
            error = message(answer)["error"]
            assert error["data"] == {"code": "unknown_tool"}
        assert len(answer.text) < 2000


async def test_a_batch_of_the_version_that_has_them_is_served(front: Front) -> None:
    batch = [
        {"jsonrpc": "2.0", "id": 1, "method": "ping"},
        call_of(LEGACY) | {"id": "two"},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": None, "method": "ping"},
        7,
    ]
    async with front.http("batches") as http:
        answer = await post(http, batch, "2025-03-26")
        assert answer.status_code == 200, answer.text
        told = answer.json()
        only = await post(http, batch[2:3], "2025-03-26")
        empty = await post(http, [], "2025-03-26")
    assert [one.get("id") for one in told] == [1, "two", None, None]
    assert told[0]["result"] == {}
    assert told[1]["result"]["structuredContent"]["status"] == "accepted"
    assert only.status_code == 202
    assert empty.json()["error"]["code"] == -32600


@pytest.mark.guarantee("mcp:cancelled")
@pytest.mark.parametrize("chunked", [True, False])
async def test_a_cancel_is_heard_however_it_is_framed(front: Front, chunked: bool) -> None:
    user = f"cancels-{chunked}"
    async with front.http(user) as http:
        legacy = headers_of(LEGACY) | {"Mcp-Session-Id": f"session-{chunked}"}
        params = {"name": "policy_tied", "arguments": {}}
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
        calling = asyncio.create_task(http.post("/mcp", json=body, headers=legacy))
        one = await front.newest(user)
        reason = {"requestId": 1, "reason": "r" * 5000}
        said = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": reason}
        written = json.dumps(said).encode()

        async def pieces() -> AsyncGenerator[bytes]:
            for start in range(0, len(written), 1000):
                yield written[start : start + 1000]

        content: Any = pieces() if chunked else written
        answer = await http.post("/mcp", content=content, headers=legacy)
        assert answer.status_code == 202
        async with asyncio.timeout(10):
            await calling
            shown = (await http.get(f"/commands/{one}")).json()
            while not shown["final"]:
                shown = (await http.get(f"/commands/{one}")).json()
    assert shown["state"] == "cancelled"


@pytest.mark.parametrize("version", VERSIONS)
async def test_line_breaks_of_other_standards_are_escaped_in_event_streams(
    front: Front, version: str
) -> None:
    odd = "a\u2028b\u2029c\u0085d"
    async with front.http("breaks") as http:
        body = call_of(version, _meta=None, arguments={"text": odd})
        body["params"]["_meta"] = framed("x", {}, None)[1]["params"]["_meta"] | {"progressToken": 1}
        calling = asyncio.create_task(post(http, body, version))
        one = await front.newest("breaks")
        await front.say(one, "/progress", stage="s", message=odd)
        await front.say(one, "", status="ok", result={"text": odd})
        answer = await calling
        events = await http.get(f"/commands/{one}/events")
    for stream in (answer, events):
        assert stream.headers["content-type"].startswith("text/event-stream")
        for raw in ("\u2028", "\u2029", "\u0085"):
            assert raw.encode() not in stream.content
    assert message(answer)["result"]["structuredContent"] == {"text": odd}
