"""The whole app in the test's process, its MCP front included, for callers of two tenants."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2
from fastapi import FastAPI

from app.config import Settings
from app.edges.http.fast_call import FastCall
from app.edges.parts import Parts
from app.edges.server import Guard, build, open_broker
from devstack.stack import Dsns
from devstack.tokens import DevIssuer

OPERATOR = ("tools", "operator", "auditor", "admin")
ADAPTER = ("results:write",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A running app."""

    guard: Guard
    issuer: DevIssuer

    @property
    def api(self) -> FastAPI:
        """The app below the token check."""
        assert isinstance(self.guard.app, FastCall)
        assert isinstance(self.guard.app.app, FastAPI)
        return self.guard.app.app

    def client(
        self, user: str, *scopes: str, tenant: str = "demo", **claims: Any
    ) -> httpx2.AsyncClient:
        token = self.issuer.token(tenant=tenant, user=user, scopes=scopes or ("tools",), **claims)
        return httpx2.AsyncClient(
            transport=httpx2.ASGITransport(app=self.guard, raise_app_exceptions=False),
            base_url="http://testserver",
            headers={"Authorization": f"Bearer {token}"},
            timeout=30,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """An app in the test's process, for the tests of a module that are refused or never meet."""

    dsns: Dsns
    parts: Parts
    http: httpx.AsyncClient
    """A caller of tenant demo."""


@asynccontextmanager
async def sharing(dsns: Dsns, settings: Settings, issuer: DevIssuer) -> AsyncGenerator[Shared]:
    async with open_broker(settings) as parts:
        transport = httpx.ASGITransport(app=build(settings, parts), raise_app_exceptions=False)
        headers = {
            "Authorization": f"Bearer {issuer.token(tenant='demo', user='ada', scopes=('tools',))}"
        }
        async with httpx.AsyncClient(
            transport=transport, base_url="http://testserver", headers=headers
        ) as http:
            yield Shared(dsns=dsns, parts=parts, http=http)


@asynccontextmanager
async def served(broker: Parts, issuer: DevIssuer) -> AsyncGenerator[Served]:
    """The app with its lifespan; entered in the test, as its task group is the test's."""
    guard = build(broker.settings, broker)
    assert isinstance(guard, Guard)
    made = Served(guard=guard, issuer=issuer)
    async with made.api.router.lifespan_context(made.api):
        yield made
