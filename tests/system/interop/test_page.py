"""The TypeScript SDK's person is asked at the console's page, on both eras."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.edges.mcp.desk import Desk, desk, id_of
from tests.support import npm
from tests.support.calls import fetch
from tests.support.stack import wait_for
from tests.system.interop import typescript_sdk

__all__ = ["desk"]

# Of the OpenID provider's own use of Authlib.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def packages() -> Path:
    try:
        return typescript_sdk.install()
    except npm.UnreachableError as error:
        pytest.skip(f"npm's registry does not answer: {error}")


async def decided(desk: Desk, what: str) -> None:
    """The person's part, and the adapter's."""
    sql = "SELECT id FROM commands WHERE args ->> 'what' = $1 AND approval = 'pending'"

    async def waits() -> Any:
        return await fetch(desk.front.dsns.owner, sql, what)

    [row] = await wait_for(waits)
    page = f"{desk.base}/console/approvals/{row['id']}"
    assert "Approved." in await desk.decide("ada", page, "approve")
    await desk.finish(str(row["id"]))


@pytest.mark.guarantee("approval:url")
@pytest.mark.parametrize("version", ["2026-07-28", "2025-11-25"])
async def test_the_typescript_sdk_offers_the_page_and_has_the_result(
    desk: Desk, packages: Path, version: str
) -> None:
    what = f"by {version}"
    running = npm.node(
        typescript_sdk.script(packages, "page"),
        f"{desk.base}/mcp",
        version,
        what,
        run_s=60,
        MCP_TOKEN=desk.tokens["ada"],
    )
    (code, said, complained), _ = await asyncio.gather(running, decided(desk, what))
    assert code == 0, complained.decode()
    told = orjson.loads(said)
    assert told["result"]["structuredContent"] == {"done": "whole"}
    [offered] = told["offered"]
    assert offered["mode"] == "url"
    if version == "2025-11-25":
        assert told["completed"] == [offered["elicitationId"]] == [id_of(offered["url"])]
