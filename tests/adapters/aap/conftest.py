"""A controller with some templates, and calls of them."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import pytest

from adapters.contract import Outcome
from adapters.credentials import CredentialSources
from adapters.kinds import Adapters
from adapters.targets import Target
from tests.adapters.executor import Heard, call_of
from tests.system.eda.controller import TOKEN, Controller, Job, Template


@pytest.fixture
def controller() -> Iterator[Controller]:
    def run(_template: str, _variables: Mapping[str, Any]) -> subprocess.Popen[str]:
        return subprocess.Popen(["sleep", "600"], text=True)

    with Controller(run) as controller:
        controller.templates["deploy"] = Template("deploy", number=12, asks=["limit"])
        controller.templates["flow"] = Template("flow", number=13, workflow=True)
        controller.templates["closed"] = Template("closed", number=14, ask_variables=False)
        yield controller


@pytest.fixture
async def adapters(controller: Controller) -> AsyncIterator[Adapters]:
    assert controller.url
    made = Adapters(credentials=CredentialSources({"TOKEN": TOKEN}))
    yield made
    await made.close()


def target_of(controller: Controller) -> Target:
    bearer = {"type": "bearer", "token": "env:TOKEN"}
    return Target(name="aap", kind="aap", address=controller.url, credential=bearer)


class Calling:
    """A call under way."""

    def __init__(self, adapters: Adapters, controller: Controller, **fields: Any) -> None:
        self.heard = Heard()
        self._controller = controller
        mapping = {"template": 12} | fields.pop("mapping", {})
        call = call_of(target_of(controller), mapping=mapping, deadline_s=30, **fields)
        self._task = asyncio.create_task(adapters.run(call, self.heard))

    async def job(self) -> Job:
        """Its job, once it is launched and followed."""
        await self.heard.until_said()
        return self._controller.jobs[0]

    async def outcome(self) -> Outcome:
        async with asyncio.timeout(20):
            return await self._task
