"""An app and a relay's webhooks, of one database, and receivers on loopback."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import pytest

from app.config import Settings
from app.edges.parts import Parts
from app.postgres.engine import Database, open_database
from app.traces.tracing import Tracing
from app.webhooks.schedule import DELAYS_S
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from relay.webhooks import Webhooks
from tests.conftest import settings_of
from tests.support.pki import Authority
from tests.support.served import OPERATOR, Served, served
from tests.webhooks.receivers import Receiver, receiving

KEY = "a secret of thirty-two bytes or more"
LOOPBACK = ("127.0.0.0/8",)


@dataclass(slots=True, kw_only=True)
class Hooks:
    """An app that is served, and how relays of its database are run."""

    app: Served
    dsns: Dsns
    issuer: DevIssuer
    values: dict[str, Any]

    def operator(self, tenant: str = "demo") -> httpx2.AsyncClient:
        return self.app.client("olga", *OPERATOR, tenant=tenant)

    async def add(self, url: str, *kinds: str, tenant: str = "demo", **more: Any) -> dict[str, Any]:
        """A new endpoint, with its secret."""
        body = {"url": url, "events": list(kinds or ("command.ended",)), **more}
        async with self.operator(tenant) as http:
            answer = await http.post("/operator/webhooks", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def asked(self, method: str, path: str, *, tenant: str = "demo", **parts: Any) -> Any:
        """What an operator is answered, below /operator/webhooks."""
        async with self.operator(tenant) as http:
            answer = await http.request(method, f"/operator/webhooks{path}", **parts)
        assert answer.status_code == 200, answer.text
        return answer.json()

    @asynccontextmanager
    async def relay(
        self,
        delays_s: Sequence[float] = DELAYS_S,
        tracing: Tracing | None = None,
        **changes: Any,
    ) -> AsyncGenerator[Webhooks]:
        """A relay's webhooks, running."""
        settings = settings_of(self.dsns.relay, self.issuer, **self.values | changes)
        async with open_database(settings, name="relay") as database:
            made = Webhooks(
                database.engine,
                settings,
                random=Random(1),
                tracing=tracing,
                delays_s=delays_s,
                subscription_delays_s=delays_s,
            )
            stop = asyncio.Event()
            running = asyncio.create_task(made.run(stop))
            try:
                yield made
            finally:
                stop.set()
                await running


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"), "receivers")


@pytest.fixture(scope="session")
def certificate(authority: Authority) -> Path:
    return authority.server().both


@pytest.fixture
def values(authority: Authority) -> dict[str, Any]:
    """Settings of webhooks, with short times."""
    return {
        "webhook_keys": (KEY,),
        "webhook_networks": LOOPBACK,
        "webhook_ca_file": authority.file,
        "webhook_timeout_s": 2,
        "poll_s": 0.05,
    }


@pytest.fixture
def settings(database: Dsns, issuer: DevIssuer, values: dict[str, Any]) -> Settings:
    return settings_of(database.app, issuer, **values)


@pytest.fixture
async def hooks(
    broker: Parts, database: Dsns, issuer: DevIssuer, values: dict[str, Any]
) -> AsyncIterator[Hooks]:
    # The lifespan's task group is entered and left by one task, as pytest's fixtures are not.
    entered, leave = asyncio.Event(), asyncio.Event()
    made: list[Served] = []

    async def hold() -> None:
        async with served(broker, issuer) as app:
            made.append(app)
            entered.set()
            await leave.wait()

    holding = asyncio.create_task(hold())
    await entered.wait()
    yield Hooks(app=made[0], dsns=database, issuer=issuer, values=values)
    leave.set()
    await holding


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


@pytest.fixture
async def relay_database(
    database: Dsns, issuer: DevIssuer, values: dict[str, Any]
) -> AsyncIterator[Database]:
    async with open_database(settings_of(database.relay, issuer, **values), name="r") as opened:
        yield opened
