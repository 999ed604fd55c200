"""The whole app in the test's process, with the MCP transport's own tasks running."""

from collections.abc import AsyncGenerator

import httpx
import pytest

from app.config import Settings
from app.edges.parts import Parts
from app.edges.server import build
from devstack.tokens import DevIssuer
from tests.edges.conftest import auth
from tests.support.stack import listening


@pytest.fixture
async def mcp_http(
    settings: Settings, broker: Parts, issuer: DevIssuer
) -> AsyncGenerator[httpx.AsyncClient]:
    """A caller of tenant demo, over a real connection."""
    async with (
        listening(build(settings, broker), lifespan="auto") as port,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", headers=auth(issuer, "ada"), timeout=20
        ) as client,
    ):
        yield client
