"""The relay's timers, on the relay's role; they say what they did to nobody but the tables."""

from collections.abc import AsyncIterator
from random import Random

import pytest

from app.postgres.engine import open_database
from app.postgres.wakeups import Notifier
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from relay.clock import Clock
from tests.conftest import settings_of


@pytest.fixture
async def clock(database: Dsns, issuer: DevIssuer) -> AsyncIterator[Clock]:
    """A clock that is the test's to tick."""
    settings = settings_of(database.relay, issuer, claim_wait_s=60)
    async with open_database(settings, name="relay") as opened:
        notifier = Notifier(opened.pool, coalesce_ms=settings.notify_coalesce_ms)
        yield Clock(opened.engine, opened.pool, notifier, settings, random=Random(1))
