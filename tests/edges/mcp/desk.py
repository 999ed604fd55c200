"""An app whose console people sign in to by OpenID Connect, and what they do at it."""

import asyncio
import html
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
import httpx2
import orjson
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from devstack.postgres import free_port
from devstack.tokens import DevIssuer
from tests.console.conftest import HTML, csrf_of
from tests.edges.auth.provider import Provider
from tests.edges.mcp.conftest import Front, offer, served
from tests.support import stack as servers
from tests.support.calls import fetch
from tests.support.stack import PostgresServer

CLIENT = "console-client"
PEOPLE: dict[str, dict[str, Any]] = {
    "ada": {"tenant": "demo", "scope": "tools", "groups": ["finance"]},
    "bob": {"tenant": "demo", "scope": "tools"},
    "olga": {"tenant": "demo", "scope": "tools operator"},
    "eve": {"tenant": "other", "scope": "tools operator"},
    "eda": {"tenant": "adapters", "scope": "results:write", "tenants": ["*"]},
}


@dataclass(frozen=True, slots=True)
class Desk:
    """An app whose console people sign in to by the issuer that their clients' tokens are of."""

    front: Front
    tokens: Mapping[str, str]

    @property
    def base(self) -> str:
        return self.front.app.url

    def http(self, user: str) -> httpx2.AsyncClient:
        """Somebody's client."""
        headers = {"Authorization": f"Bearer {self.tokens[user]}"}
        return httpx2.AsyncClient(base_url=self.base, headers=headers, timeout=30)

    @asynccontextmanager
    async def client(self, user: str, *, mode: str, **options: Any) -> AsyncGenerator[Client]:
        """Somebody's client of the SDK."""
        async with self.http(user) as http:
            transport = streamable_http_client(f"{self.base}/mcp", http_client=http)
            async with Client(transport, mode=mode, **options) as made:  # pyright: ignore[reportArgumentType]
                yield made

    @asynccontextmanager
    async def person(self, user: str, page: str) -> AsyncGenerator[tuple[httpx.AsyncClient, str]]:
        """Somebody's browser that has opened a page, signed in for it, and come back to it."""
        async with httpx.AsyncClient(base_url=self.base, headers=HTML) as browser:
            away = await browser.get(page)
            assert away.status_code == 303, "nobody is let in by the address alone"
            assert urlsplit(away.headers["location"]).path == "/console/sign-in"
            path = urlencode({"page": urlsplit(page).path})
            begun = await browser.get(f"/console/sign-in/openid?{path}")
            async with httpx.AsyncClient() as issuer:
                agreed = await issuer.post(begun.headers["location"], data={"sub": user})
            back = await browser.get(agreed.headers["location"])
            assert back.headers["location"] == urlsplit(page).path, back.text
            yield browser, (await browser.get(page)).text

    async def decide(self, user: str, page: str, verb: str, **fields: str) -> str:
        """Somebody opens the page, signs in, and presses a button."""
        async with self.person(user, page) as (browser, shown):
            data = {"csrf": csrf_of(shown), "verb": verb} | fields
            done = await browser.post(page, data=data, headers={"Origin": self.base})
            assert done.status_code == 200, done.text
            return html.unescape(done.text)

    async def finish(self, command_id: str) -> None:
        """The adapter's part."""
        done = {"status": "ok", "result": {"done": "whole"}, "attempt": 1}
        async with self.http("eda") as http:
            claim = {"attempt": 1, "adapter": "run"}
            claimed = await http.post(f"/results/{command_id}/claim", json=claim)
            assert claimed.json()["proceed"], claimed.text
            answer = await http.post(f"/results/{command_id}", json=done)
            assert answer.status_code == 200, answer.text


@pytest.fixture(scope="module")
def desk(
    template: PostgresServer, issuer: DevIssuer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Desk]:
    dsns = asyncio.run(servers.clone(template.superuser_dsn))
    asyncio.run(offer(dsns.owner, Path(__file__).with_name("tools.yml")))
    provider, port = Provider(CLIENT), free_port()
    people = {"issuer": provider.issuer, "audience": CLIENT}
    changes = {
        "PUBLIC_URL": f"http://127.0.0.1:{port}",
        "ISSUERS": orjson.dumps([people]).decode(),
        "CONSOLE_CLIENT_ID": CLIENT,
        "CONSOLE_CLIENT_SECRET": "any",
        "INLINE_WAIT_S": "20",
    }
    home = tmp_path_factory.mktemp("desk")
    with provider.running(**PEOPLE), served(home, dsns, issuer, port=port, **changes) as made:
        tokens = {user: asyncio.run(provider.login(user)) for user in PEOPLE}
        yield Desk(made, tokens)


def id_of(page: str) -> str:
    return urlsplit(page).path.rpartition("/")[2]


async def state_of(desk: Desk, command_id: str) -> Any:
    rows = await fetch(
        desk.front.dsns.owner,
        "SELECT state, approval FROM commands WHERE id = CAST($1::text AS uuid)",
        command_id,
    )
    return tuple(rows[0].values())
