"""A broker with a relay in the test's process, and workers as processes of their own."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from app.config import Settings
from app.edges.parts import Parts
from devstack.process import Process
from devstack.stack import Dsns, worker_process
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.support.calls import fetch
from tests.support.served import served
from tests.support.stack import listening, wait_for
from tests.system.relay.conftest import open_relay

LEASE_S = 3.0
EVENTS = """
    SELECT type, attempt, actor, body::jsonb AS body, occurred_at
      FROM audit.events WHERE command_id = $1 ORDER BY occurred_at, event_id
"""
STATE = """
    SELECT state, attempt, result::text, error::text, outcome_unknown, adapter
      FROM commands WHERE id = $1
"""


@dataclass(slots=True, kw_only=True)
class Shop:
    """Where workers work, and those that do."""

    broker: Parts
    database: Dsns
    kafka: str
    url: str
    token: str
    home: Path
    group: str = field(default_factory=lambda: f"workers-{uuid4().hex[:8]}")
    workers: list[Process] = field(default_factory=list[Process])

    def start(self, **env: str) -> Process:
        """A worker more."""
        whole = {
            "MCP_BROKER_KAFKA_BOOTSTRAP": self.kafka,
            "MCP_BROKER_URL": self.url,
            "MCP_BROKER_TOKEN": self.token,
            "MCP_BROKER_WORKER_GROUP": self.group,
        }
        name = f"worker-{len(self.workers)}"
        made = worker_process(home=self.home, env=whole | env, name=name)
        made.start()
        self.workers.append(made)
        return made

    async def row(self, command_id: UUID) -> Any:
        [found] = await fetch(self.database.owner, STATE, command_id)
        return found

    async def events(self, command_id: UUID) -> list[Any]:
        return await fetch(self.database.owner, EVENTS, command_id)

    async def until(self, command_id: UUID, *states: str, timeout_s: float = 30) -> Any:
        """The command's row, once it is in one of these states."""

        async def there() -> Any:
            row = await self.row(command_id)
            return row if row["state"] in states else None

        try:
            return await wait_for(there, timeout_s)
        except TimeoutError:
            row = await self.row(command_id)
            logs = "\n".join(worker.tail() for worker in self.workers)
            raise AssertionError(f"{dict(row)}\n{logs}") from None


@pytest.fixture
def settings(database: Dsns, issuer: DevIssuer) -> Settings:
    return settings_of(database.app, issuer, lease_s=LEASE_S)


@pytest.fixture
async def shop(
    broker: Parts, database: Dsns, issuer: DevIssuer, kafka_bootstrap: str, home: Path
) -> AsyncIterator[Shop]:
    relaying = settings_of(
        database.relay,
        issuer,
        kafka_bootstrap=kafka_bootstrap,
        claim_wait_s=60,
        cancel_grace_s=5,
    )
    token = issuer.token(tenant="adapters", user="worker", scopes=["results:write"])
    stop = asyncio.Event()
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        """In a task of its own, which enters and leaves the app's task groups."""
        async with (
            served(broker, issuer) as app,
            listening(app.guard) as bound,
            open_relay(relaying, f"relay-{uuid4().hex[:6]}") as relay,
        ):
            port.set_result(bound)
            await relay.clock.run(stop)

    serving = asyncio.create_task(serve())
    await asyncio.wait({serving, port}, return_when=asyncio.FIRST_COMPLETED)
    made = Shop(
        broker=broker,
        database=database,
        kafka=kafka_bootstrap,
        url=f"http://127.0.0.1:{port.result()}",
        token=token,
        home=home,
    )
    try:
        yield made
    finally:
        for worker in made.workers:
            await asyncio.to_thread(worker.stop, timeout_s=10)
        stop.set()
        await serving
