"""The world of the hostile tests, one for all of a worker's."""

from collections.abc import AsyncIterator

import pytest

from devstack.tokens import DevIssuer
from tests.edges.hostile.world import Served, World, calling, serve
from tests.support import stack
from tests.support.stack import PostgresServer


@pytest.fixture(scope="package")
async def served(
    template: PostgresServer, issuer: DevIssuer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    dsns = await stack.clone(template.superuser_dsn)
    async with serve(tmp_path_factory.mktemp("hostile"), dsns, issuer) as made:
        yield made


@pytest.fixture
async def world(served: Served) -> AsyncIterator[World]:
    async with calling(served) as made:
        yield made
