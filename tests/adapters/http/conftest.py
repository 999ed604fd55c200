"""A real HTTP server on loopback that shows what it was sent, and answers as it is asked to."""

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from adapters.credentials import CredentialSources
from adapters.kinds import Adapters
from adapters.targets import Target
from tests.support.stack import listening

AT_ONCE = {"retry-after": "0"}
SECRET = 'p"ss wörd/ \\1'


@dataclass
class Server:
    """What it has seen, and where it is."""

    address: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    work: dict[str, int] = field(default_factory=dict[str, int])
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    """The client has closed its connection."""

    def target(self, **fields: Any) -> Target:
        return Target(name="server", kind="http", address=self.address, **fields)


def seen_of(request: Request, body: bytes) -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.scope["raw_path"].decode(),
        "query": request.scope["query_string"].decode(),
        "headers": dict(request.headers),
        "body": body.decode(errors="backslashreplace"),
    }


class Answers:
    """The routes."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def show(self, request: Request) -> Response:
        self._server.seen.append(seen_of(request, await request.body()))
        return JSONResponse(self._server.seen[-1])

    async def answer(self, request: Request) -> Response:
        asked = json.loads(await request.body())
        self._server.seen.append(seen_of(request, b""))
        body = base64.b64decode(asked["base64"]) if "base64" in asked else asked.get("body", "")
        content = body if isinstance(body, str | bytes) else json.dumps(body)
        return Response(content, asked.get("status", 200), asked.get("headers", {}))

    async def bomb(self, _: Request) -> Response:
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        return Response(gzip.compress(b'"' + b"x" * 50_000_000 + b'"'), 200, headers)

    async def slow(self, request: Request) -> Response:
        self._server.seen.append(seen_of(request, await request.body()))
        self._server.arrived.set()
        while (await request.receive())["type"] != "http.disconnect":
            continue
        self._server.left.set()
        return JSONResponse({})

    async def redirect(self, request: Request) -> Response:
        status = int(request.query_params["status"])
        return Response(status_code=status, headers={"location": request.query_params["to"]})

    async def begin(self, request: Request) -> Response:
        asked = json.loads(await request.body())
        self._server.work["asked"] = 0
        self._server.seen.append(seen_of(request, b""))
        name = "operation-location" if asked["style"] == "operation" else "location"
        headers = {name: asked.get("place", f"/work/{asked['style']}/{asked['end']}")}
        return JSONResponse({}, 202, headers | AT_ONCE)

    async def work(self, request: Request) -> Response:
        self._server.seen.append(seen_of(request, b""))
        self._server.work["asked"] += 1
        if request.method == "DELETE":
            return Response(status_code=204)
        if self._server.work["asked"] == 2:
            return Response("trouble", 503, AT_ONCE)
        style, end = request.path_params["style"], request.path_params["end"]
        running = self._server.work["asked"] < 4 or end == "never"
        return (
            operation(end, running=running) if style == "operation" else made(end, running=running)
        )

    async def result(self, _: Request) -> Response:
        return JSONResponse({"made": "there"})


def operation(end: str, *, running: bool) -> Response:
    if running:
        return JSONResponse({"status": "Running", "percentComplete": 40}, 200, AT_ONCE)
    return JSONResponse(
        {"status": end, "resourceLocation": "/answer-of-work", "error": {"code": 1}}
    )


def made(end: str, *, running: bool) -> Response:
    if running:
        return Response(status_code=202, headers=AT_ONCE)
    return Response(status_code=404) if end == "gone" else JSONResponse({"made": True})


def app_of(server: Server) -> Starlette:
    answers, anything = Answers(server), ["GET", "POST", "PUT", "DELETE", "PATCH"]
    return Starlette(
        routes=[
            Route("/answer", answers.answer, methods=anything),
            Route("/bomb", answers.bomb),
            Route("/slow", answers.slow, methods=anything),
            Route("/begin", answers.begin, methods=anything),
            Route("/work/{style}/{end}", answers.work, methods=anything),
            Route("/answer-of-work", answers.result),
            Route("/redirect", answers.redirect, methods=anything),
            Route("/{rest:path}", answers.show, methods=anything),
        ]
    )


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with listening(app_of(made)) as port:
        made.address = f"http://127.0.0.1:{port}"
        yield made


@pytest.fixture
async def adapters(server: Server) -> AsyncIterator[Adapters]:
    """Closed before the server, which waits for its connections."""
    made = Adapters(credentials=CredentialSources({"PASSWORD": SECRET, "TOKEN": "t0ken-t0ken"}))
    yield made
    await made.close()


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
