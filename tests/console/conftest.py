"""People at the console: signed in by a one-time link, over HTTP in the test's process."""

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from app.edges.parts import Parts
from app.edges.server import build
from devstack.tokens import PERSON, DevIssuer, console_link

BASE = "http://testserver"
HTML = {"Accept": "text/html"}


def link_of(
    issuer: DevIssuer, user: str, *scopes: str, tenant: str = "demo", base: str = BASE, **more: Any
) -> str:
    return console_link(issuer, base, tenant=tenant, user=user, scopes=scopes or PERSON, **more)


def token_of(link: str) -> str:
    return parse_qs(urlsplit(link).query)["token"][0]


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
    assert found is not None, page[:500]
    return found[1]


@asynccontextmanager
async def browsing(broker: Parts) -> AsyncGenerator[httpx.AsyncClient]:
    """A browser of nobody's."""
    transport = httpx.ASGITransport(app=build(broker.settings, broker), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=BASE, headers=HTML) as client:
        yield client


async def enter(client: httpx.AsyncClient, link: str) -> httpx.Response:
    """Use a link, as its page's button does."""
    return await client.post(
        "/console/sign-in/link", data={"token": token_of(link)}, headers={"Origin": BASE}
    )


async def send(client: httpx.AsyncClient, path: str, /, **fields: Any) -> httpx.Response:
    """Send a form of the session's, as a page does."""
    page = await client.get("/console", follow_redirects=True)
    data = {"csrf": csrf_of(page.text)} | fields
    return await client.post(path, data=data, headers={"Origin": origin_of(client)})


def origin_of(client: httpx.AsyncClient) -> str:
    return str(client.base_url).rstrip("/")


@asynccontextmanager
async def signed_in(
    broker: Parts,
    issuer: DevIssuer,
    user: str = "olga",
    *scopes: str,
    tenant: str = "demo",
    groups: tuple[str, ...] = (),
) -> AsyncGenerator[httpx.AsyncClient]:
    """Somebody's browser."""
    async with browsing(broker) as client:
        answer = await enter(client, link_of(issuer, user, *scopes, tenant=tenant, groups=groups))
        assert answer.status_code == 303, answer.text
        yield client
