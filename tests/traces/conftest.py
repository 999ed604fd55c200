from collections.abc import Iterator

import pytest

from tests.support.traced import Opened, opening


@pytest.fixture
def opened() -> Iterator[Opened]:
    with opening() as made:
        yield made
