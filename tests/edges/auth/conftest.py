"""The app in the test's process, trusting what a test says, on a real database."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx

from app.config import Settings
from app.edges.server import build, open_broker


@asynccontextmanager
async def serving(
    settings: Settings, *, peer: str = "127.0.0.1"
) -> AsyncGenerator[httpx.AsyncClient]:
    """A client of an app with these settings, that comes from an address."""
    async with open_broker(settings) as broker:
        transport = httpx.ASGITransport(
            app=build(settings, broker), raise_app_exceptions=False, client=(peer, 50000)
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
