"""Adapters, and a folder for the folders of their programs."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from adapters.credentials import CredentialSources
from adapters.kinds import Adapters


@pytest.fixture
async def adapters() -> AsyncIterator[Adapters]:
    made = Adapters(credentials=CredentialSources({"KEY": "s3cret-key"}))
    yield made
    await made.close()


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    made = tmp_path / "workspace"
    made.mkdir()
    return made
