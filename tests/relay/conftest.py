"""The relay's timers, on the relay's role; they say what they did to nobody but the tables."""

from collections.abc import AsyncIterator
from random import Random

import pytest

from app.postgres.engine import Database, open_database
from app.postgres.wakeups import Notifier
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from relay.clock import Clock
from tests.conftest import settings_of


@pytest.fixture
async def relay_database(database: Dsns, issuer: DevIssuer) -> AsyncIterator[Database]:
    async with open_database(settings_of(database.relay, issuer), name="relay") as opened:
        yield opened


@pytest.fixture
def clock(relay_database: Database, database: Dsns, issuer: DevIssuer) -> Clock:
    """A clock that is the test's to tick."""
    settings = settings_of(database.relay, issuer, claim_wait_s=60)
    notifier = Notifier(relay_database.pool, coalesce_ms=settings.notify_coalesce_ms)
    return Clock(relay_database.engine, relay_database.pool, notifier, settings, random=Random(1))
