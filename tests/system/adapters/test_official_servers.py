"""MCP servers of other people's, as packages have them: mcp-server-time, mcp-server-fetch."""

import json
import sys
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route

from adapters.contract import TARGET_FAILED, Failure, Result
from adapters.kinds import Adapters
from adapters.targets import Target
from tests.adapters.executor import Heard, call_of
from tests.support import packages
from tests.support.stack import listening

SERVER = Path(sys.executable).with_name("mcp-server-time")


async def test_the_official_time_server_answers_over_stdio() -> None:
    adapters = Adapters()
    target = Target(name="time", kind="mcp", address=f"stdio:{SERVER}")
    args = {"source_timezone": "UTC", "time": "12:00", "target_timezone": "Asia/Tokyo"}
    call = call_of(target, args=args, mapping={"tool": "convert_time"})
    outcome = await adapters.run(call, Heard())
    await adapters.close()
    assert isinstance(outcome, Result), outcome
    assert outcome.content is not None
    assert "T21:00:00+09:00" in json.loads(outcome.content[0]["text"])["target"]["datetime"]


@pytest.fixture(scope="module")
def fetcher() -> Path:
    """The program, in an environment of its own."""
    pinned = Path(__file__).with_name("official-servers.txt")
    try:
        return packages.programs("official-servers", pinned) / "mcp-server-fetch"
    except packages.UnreachableError as error:
        pytest.skip(f"the package index does not answer: {error}")


async def page(_: Request) -> HTMLResponse:
    return HTMLResponse("<html><body><h1>A page</h1><p>Of words.</p></body></html>")


async def closed(_: Request) -> PlainTextResponse:
    return PlainTextResponse("User-agent: *\nDisallow: /private\n")


@pytest.mark.timeout(240)
async def test_the_official_fetch_server_brings_a_page_and_says_what_it_may_not(
    fetcher: Path,
) -> None:
    adapters = Adapters()
    options = {"args": ["--user-agent", "test", "--allow-private-ips"]}
    target = Target(name="fetch", kind="mcp", address=f"stdio:{fetcher}", options=options)
    web = Starlette(routes=[Route("/page", page), Route("/robots.txt", closed)])
    async with listening(web) as port:
        found, refused = [
            await adapters.run(
                call_of(
                    target,
                    args={"url": f"http://127.0.0.1:{port}/{path}"},
                    mapping={"tool": "fetch"},
                    deadline_s=60,
                ),
                Heard(),
            )
            for path in ("page", "private")
        ]
    await adapters.close()
    assert isinstance(found, Result), found
    assert found.content is not None
    assert "Of words." in found.content[0]["text"]
    assert isinstance(refused, Failure)
    assert (refused.code, refused.retryable) == (TARGET_FAILED, False)
    assert "robots.txt" in refused.message
