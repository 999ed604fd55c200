"""Where the servant is: behind HTTP in both eras, in this process, or on stdio."""

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Receive, Scope, Send

from adapters.targets import Target
from tests.adapters.mcp import servant as servants
from tests.support.stack import listening

SERVANT = Path(servants.__file__)
ERAS = ("legacy", "2026-07-28")


@dataclass
class Place:
    """A server, and the target that leads to it."""

    target: Callable[..., Target]
    servant: servants.Servant | None = None
    """The server itself, where it is in this process."""
    requests: list[str] = field(default_factory=list[str])


@pytest.fixture(params=[*ERAS, "stdio"])
async def way(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    era: str = request.param
    if era == "stdio":
        yield Place(stdio_target)
        return
    async with AsyncExitStack() as stack:
        made = servants.Servant()
        requests: list[str] = []
        app = made.server.streamable_http_app()

        async def seen(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                requests.append(scope["method"])
            await app(scope, receive, send)

        port = await stack.enter_async_context(listening(seen, lifespan="auto"))

        def target(**fields: Any) -> Target:
            options = {"era": era} | fields.pop("options", {})
            address = f"http://127.0.0.1:{port}/mcp"
            return Target(name="servant", kind="mcp", address=address, options=options, **fields)

        yield Place(target, made, requests)


def stdio_target(**fields: Any) -> Target:
    args = ["-I", str(SERVANT), *fields.pop("more", [])]
    options = {"args": args} | fields.pop("options", {})
    return Target(
        name="servant", kind="mcp", address=f"stdio:{sys.executable}", options=options, **fields
    )
