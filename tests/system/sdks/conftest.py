"""A broker, and an adapter that serves the interop tests' tools."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.edges.mcp.adapter import serving
from tests.edges.mcp.conftest import Front, front, offer, standing
from tests.system.interop.jobs import Jobs

__all__ = ["front", "standing"]


@pytest.fixture
async def jobs(front: Front) -> AsyncGenerator[Jobs]:
    """An adapter that serves the interop tests' tools."""
    await offer(front.dsns.owner, Path(__file__).parents[1] / "interop" / "tools.yml")
    made = Jobs()
    async with (
        front.http("eda", "results:write", tenant="adapters") as http,
        serving(owner_dsn=front.dsns.owner, http=http, tools=made.tools),
    ):
        yield made
