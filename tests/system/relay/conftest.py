"""Relays in the test's process, on real servers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from random import Random

import pytest

from app.config import Settings
from app.postgres import wakeups
from app.postgres.engine import Database, open_database
from app.postgres.wakeups import Notifier
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from relay.clock import Clock
from relay.outbound import Outbound
from relay.publisher import Publisher
from tests.conftest import settings_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Relay:
    """One relay's parts."""

    settings: Settings
    database: Database
    outbound: Outbound
    clock: Clock


@asynccontextmanager
async def open_relay(settings: Settings, name: str) -> AsyncGenerator[Relay]:
    """A relay that publishes; its clock is the test's to tick."""
    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings, name=name))
        notifier = Notifier(database.pool, coalesce_ms=settings.notify_coalesce_ms)
        publisher = Publisher(settings, client_id=name)
        stack.push_async_callback(publisher.discard)
        outbound = Outbound(database.pool, publisher, notifier, settings, relay=name)
        clock = Clock(database.engine, database.pool, notifier, settings, random=Random(1))
        stop = asyncio.Event()
        handlers: dict[str, Callable[[str], None]] = {wakeups.OUTBOX: outbound.wake}
        helpers = [
            asyncio.create_task(notifier.run()),
            asyncio.create_task(wakeups.listen(database.direct_dsn, handlers, name=name)),
        ]
        running = asyncio.create_task(outbound.run(stop))
        try:
            yield Relay(settings=settings, database=database, outbound=outbound, clock=clock)
        finally:
            stop.set()
            outbound.wake()
            await running
            for helper in helpers:
                helper.cancel()


@pytest.fixture
def relay_settings(database: Dsns, issuer: DevIssuer, kafka_bootstrap: str) -> Settings:
    return settings_of(database.relay, issuer, kafka_bootstrap=kafka_bootstrap, claim_wait_s=60)


OpenRelay = Callable[..., AbstractAsyncContextManager[Relay]]


@pytest.fixture
async def relay(relay_settings: Settings) -> AsyncIterator[Relay]:
    async with open_relay(relay_settings, "relay-a") as made:
        yield made
