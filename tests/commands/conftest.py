"""A relay's way to the test's database."""

from collections.abc import AsyncIterator

import pytest

from app.postgres.engine import Database, open_database
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of


@pytest.fixture
async def relay(database: Dsns, issuer: DevIssuer) -> AsyncIterator[Database]:
    """A relay's connection, for its clock."""
    async with open_database(settings_of(database.relay, issuer), name="relay") as opened:
        yield opened
