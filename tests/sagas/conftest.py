"""The saga tests' laboratory."""

from collections.abc import AsyncIterator

import pytest

from app.edges.parts import Parts
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.sagas.lab import Lab, open_lab


@pytest.fixture
async def lab(broker: Parts, database: Dsns, issuer: DevIssuer) -> AsyncIterator[Lab]:
    async with open_lab(broker, database, settings_of(database.relay, issuer)) as made:
        yield made
