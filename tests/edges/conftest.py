"""The app's edges over HTTP, in the test's process, on a real database."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from app.config import Settings
from app.edges.parts import Parts
from app.edges.server import build
from devstack.tokens import DevIssuer


@pytest.fixture
async def http(
    settings: Settings, broker: Parts, issuer: DevIssuer
) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of tenant demo."""
    transport = httpx.ASGITransport(app=build(settings, broker), raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport,
        base_url="http://testserver",
        headers=auth(issuer, "ada"),
    ) as client:
        yield client


def auth(
    issuer: DevIssuer, user: str, *scopes: str, tenant: str = "demo", **claims: Any
) -> dict[str, str]:
    token = issuer.token(tenant=tenant, user=user, scopes=scopes or ("tools",), **claims)
    return {"Authorization": f"Bearer {token}"}
