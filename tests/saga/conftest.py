"""The saga tests' laboratory."""

from collections.abc import AsyncIterator

import pytest

from app.devstack.stack import Dsns
from app.devstack.tokens import DevIssuer
from app.edges.broker import Broker
from tests.conftest import settings_of
from tests.saga.lab import Lab, open_lab


@pytest.fixture
async def lab(broker: Broker, database: Dsns, issuer: DevIssuer) -> AsyncIterator[Lab]:
    async with open_lab(broker, database, settings_of(database.relay, issuer)) as made:
        yield made
