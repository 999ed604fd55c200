"""People at the console in a browser: Debian's Chromium, by Playwright; skipped without it."""

import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Page, async_playwright
from pydantic import SecretStr

from app.edges.parts import Parts
from app.edges.server import build, open_broker
from devstack.postgres import free_port
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.console.conftest import link_of
from tests.support.stack import listening

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
}
PICTURES = Path(__file__).parents[3] / "docs/console"
Scheme = Literal["light", "dark"]


@pytest.fixture(scope="session")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium here: `apt-get install chromium` brings it")
    return found


@pytest.fixture(scope="session")
async def browser(chromium: str) -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        made = await playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield made
        await made.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """An app that listens, and browsers of people who are signed in there."""

    broker: Parts
    issuer: DevIssuer
    browser: Browser
    url: str
    complaints: list[str] = field(default_factory=list)
    """What the pages' console says: a script that failed, or what the policy refused."""

    @asynccontextmanager
    async def page(
        self,
        user: str = "olga",
        *scopes: str,
        tenant: str = "demo",
        scheme: Scheme = "light",
        groups: tuple[str, ...] = (),
        **options: Any,
    ) -> AsyncGenerator[Page]:
        """A page of somebody's, signed in by a link."""
        async with self.context(scheme=scheme, **options) as context:
            page = await context.new_page()
            page.on("console", lambda said: self._hear(said.type, f"{said.text} {said.location}"))
            page.on("pageerror", lambda error: self.complaints.append(str(error)))
            link = link_of(self.issuer, user, *scopes, tenant=tenant, groups=groups, base=self.url)
            await page.goto(link)
            await page.get_by_role("main").get_by_role("button", name="Sign in").click()
            await page.wait_for_url("**/console/*")
            yield page

    def _hear(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.complaints.append(text)

    @asynccontextmanager
    async def context(
        self, *, scheme: Scheme = "light", **options: Any
    ) -> AsyncGenerator[BrowserContext]:
        size: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
        context = await self.browser.new_context(color_scheme=scheme, **size | options)
        context.set_default_timeout(10_000)
        yield context
        await context.close()


@pytest.fixture
async def desk(database: Dsns, issuer: DevIssuer, browser: Browser) -> AsyncIterator[Desk]:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = settings_of(database.app, issuer, public_url=url, port=port, poll_s=0.1)
    assert isinstance(settings.database_url, SecretStr)
    async with open_broker(settings) as broker, listening(build(settings, broker), port=port):
        yield Desk(broker=broker, issuer=issuer, browser=browser, url=url)


async def accessible(page: Page) -> None:
    """No rule of WCAG 2.2 AA is broken on the page as it is."""
    found = await Axe().run(page, options=AXE)
    assert not found.violations_count, found.generate_report()


async def picture(page: Page, name: str) -> None:
    """Keep a picture of the page for the docs, where the run is asked to: `make pictures`."""
    if os.environ.get("WRITE_PICTURES"):
        await page.screenshot(path=PICTURES / f"{name}.png", caret="initial")
