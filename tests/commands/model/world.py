"""The use cases of two app replicas on a real database, for a test that is not async.

They run on an event loop of their own.
"""

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection

from app import assets
from app.catalog import file as catalog_file
from app.catalog.policy import ToolPolicy
from app.commands import control
from app.commands.store import commands, dispatch_claim, dispatch_record
from app.commands.store.commands import Command
from app.commands.store.dispatch_claim import LeasedRow
from app.commands.store.dispatch_record import Acked
from app.config import Settings
from app.edges.parts import Parts
from app.edges.server import open_broker
from app.postgres import migrate
from app.postgres.engine import open_database, tenant_transaction
from app.postgres.wakeups import Notifier
from devstack.stack import Dsns
from relay.clock import Clock
from tests.support.background import Background

Verb = Callable[[AsyncConnection, Command, ToolPolicy], Awaitable[object]]

TOOLS = assets.root() / "tests" / "system" / "chaos" / "tools.yml"
LEASE_S = 10_000.0

LOOK = """
    SELECT c.id, c.state, c.attempt, c.held, c.key_seq, c.ordering_key, c.ordering, c.finished_at,
           c.lease_until, c.outcome_unknown, c.cancel_target,
           (SELECT count(*) FROM audit.events e
             WHERE e.command_id = c.id AND e.type = 'command.accepted') AS accepted,
           (SELECT count(*) FROM audit.events e
             WHERE e.command_id = c.id AND e.type IN (
                   'command.succeeded', 'command.failed', 'command.cancelled',
                   'command.timed_out', 'command.dead_lettered')) AS ended
      FROM commands c
"""
ROWS = "SELECT command_id, attempt, status FROM outbox WHERE kind = 'command'"
CLEAR = "TRUNCATE commands, outbox, ordering_heads, progress CASCADE"


class World(Background):
    """One app's and one relay's parts."""

    replicas: list[Parts]
    relay: asyncpg.Pool
    clock: Clock
    owner: asyncpg.Connection

    def __init__(self, database: Dsns, app: Settings, relay: Settings) -> None:
        super().__init__()
        self._database = database
        self._settings = app, relay
        self.replicas = []
        self._turn = 0

    @property
    def broker(self) -> Parts:
        """One app replica, then the other."""
        self._turn += 1
        return self.replicas[self._turn % len(self.replicas)]

    async def open(self) -> None:
        app, relay = self._settings
        async with migrate.connected(self._database.owner) as engine:
            await catalog_file.apply(engine, catalog_file.parse(TOOLS), prune=False)
        self.owner = await asyncpg.connect(self._database.owner)
        self.stack.push_async_callback(self.owner.close)
        for _ in range(2):
            self.replicas.append(await self.stack.enter_async_context(open_broker(app)))
        opened = await self.stack.enter_async_context(open_database(relay, name="relay"))
        self.relay = opened.pool
        notifier = Notifier(opened.pool, coalesce_ms=relay.notify_coalesce_ms)
        self.clock = Clock(opened.engine, opened.pool, notifier, relay, random=Random(1))

    def clear(self) -> None:
        self._turn = 0
        self.run(self.owner.execute(CLEAR))

    def execute(self, statement: str, *values: Any) -> None:
        self.run(self.owner.execute(statement, *values))

    def look(self) -> tuple[dict[UUID, asyncpg.Record], dict[tuple[UUID, int], str]]:
        """Every command with its audit counts, and every unpublished attempt."""

        async def read() -> tuple[list[asyncpg.Record], list[asyncpg.Record]]:
            return await self.owner.fetch(LOOK), await self.owner.fetch(ROWS)

        found, rows = self.run(read())
        places = {(row["command_id"], row["attempt"]): row["status"] for row in rows}
        assert len(places) == len(rows), "an attempt has one outbox row"
        return {row["id"]: row for row in found}, places

    def claim_rows(self, relay: str) -> list[LeasedRow]:
        return self.run(
            dispatch_claim.lease_commands(
                self.relay, relay=relay, batch_max=100, window=40, aging_s=60, lease_s=LEASE_S
            )
        )

    def publish(self, claimed: list[LeasedRow], relay: str) -> None:
        acked = [Acked(claimed=one, partition=0, offset=n) for n, one in enumerate(claimed)]
        self.run(dispatch_record.published(self.relay, acked, relay=relay, claim_wait_s=LEASE_S))

    def give_back(self, claimed: list[LeasedRow], relay: str) -> None:
        self.run(dispatch_record.give_back(self.relay, claimed, relay=relay))

    def by_hand(self, command_id: UUID, verb: Verb) -> None:
        """What an operator does to one command."""

        async def act() -> None:
            broker = self.broker
            async with tenant_transaction(broker.database.engine, "demo") as conn:
                found = await commands.find(conn, command_id)
                assert found is not None
                policy = await broker.catalog.policy(found.tool, found.method)
                await verb(conn, await control.locked(conn, found), policy)

        self.run(act())

    def tick(self) -> None:
        self.run(self.clock.tick())
