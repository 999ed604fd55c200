"""Plays, and no rulebook: each test has a results API of its own."""

from collections.abc import Iterator

import pytest

from tests.system.eda.results_api import ResultsApi


@pytest.fixture
def api() -> Iterator[ResultsApi]:
    with ResultsApi() as api:
        yield api
