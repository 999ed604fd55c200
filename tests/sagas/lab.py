"""A laboratory for sagas: the use cases of an app and a relay, with the test as the adapter."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import asyncpg

from app.catalog import file as catalog_file
from app.catalog.cache import Tools
from app.commands import results, timeouts
from app.commands.attempts import Change
from app.commands.results import Claim
from app.config import Settings
from app.edges import sagas
from app.edges.parts import Parts
from app.edges.sagas import Which
from app.identity import Identity
from app.intake.prepare import CallRequest
from app.postgres import migrate
from app.postgres.engine import Database, open_database
from app.postgres.wakeups import Notifier
from app.sagas import deadlocks
from devstack.stack import Dsns
from relay.clock import Clock
from relay.sagas import Conductor
from tests.support.calls import ADA, ADAPTER, fetch, subject

TOOLS = Path(__file__).with_name("tools.yml")
TURNS_MAX = 50
PREFIX = {"undo": "undo ", "reconcile": "look "}

WAITING = """
    SELECT c.id, c.saga_step, c.saga_role, c.attempt, c.args, c.ordering_key, c.priority,
           o.exempt, o.status
      FROM commands c
      JOIN outbox o ON o.command_id = c.id AND o.kind = 'command'
     WHERE c.saga_id = $1 AND c.state = 'queued' AND NOT c.held
       AND c.approval IS DISTINCT FROM 'pending'
     ORDER BY c.id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lab:
    """What a saga test works with."""

    broker: Parts
    relay: Database
    conductor: Conductor
    dsns: Dsns
    owner: asyncpg.Connection

    async def run(
        self,
        plan: dict[str, Any],
        given: dict[str, Any] | None = None,
        who: Identity = ADA,
        **more: Any,
    ) -> UUID:
        """Accept a saga of these steps, and take its first turn."""
        which = Which(plan=plan, input=given or {})
        args = which.model_dump(exclude_none=True)
        request = CallRequest(tool="saga", method="run", args=args, **more)
        accepted = await sagas.run(self.broker, who, which, request)
        await self.turns()
        return accepted.written.id

    async def turns(self) -> None:
        """Take turns until none is due."""
        for _ in range(TURNS_MAX):
            await self.conductor.tick()
            left = await self.owner.fetch("SELECT 1 FROM saga_turns WHERE due_at <= now()")
            if not left:
                return
        raise AssertionError("turns without an end")

    async def waiting(self, saga_id: UUID) -> dict[str, Any]:
        """What adapters may take now: {step: command}, of an undo {"undo step": command}."""
        rows = await self.owner.fetch(WAITING, saga_id)
        return {PREFIX.get(row["saga_role"], "") + row["saga_step"]: row for row in rows}

    async def under_way(self, saga_id: UUID) -> list[str]:
        """Commands of the saga's steps that are open, other than its own; undos by "undo step"."""
        rows = await self.owner.fetch(
            "SELECT saga_step, saga_role FROM commands"
            " WHERE saga_id = $1 AND finished_at IS NULL AND saga_role <> 'saga'",
            saga_id,
        )
        return [PREFIX.get(row["saga_role"], "") + row["saga_step"] for row in rows]

    async def claim(self, command_id: UUID, *, attempt: int = 1) -> Claim:
        command = await subject(self.broker, command_id)
        return await results.claim(
            self.broker.database.engine,
            adapter=ADAPTER,
            policy=await self.broker.catalog.policy(command.tool, command.method),
            command_id=command_id,
            attempt=attempt,
            run=f"run-{command_id}-{attempt}",
            leases=self.broker.leases,
        )

    async def finish(
        self,
        command_id: UUID,
        *,
        attempt: int | None = None,
        result: Any = None,
        error: dict[str, Any] | None = None,
    ) -> Change:
        command = await subject(self.broker, command_id)
        word = await results.finish(
            self.broker.database.engine,
            adapter=ADAPTER,
            policy=await self.broker.catalog.policy(command.tool, command.method),
            command_id=command_id,
            attempt=attempt,
            result=result,
            error=error,
            random=Random(1),
        )
        await self.turns()
        return word

    async def do(self, saga_id: UUID, step: str, **said: Any) -> UUID:
        """Play the adapter of what waits for this step; by default it succeeds."""
        waiting = await self.waiting(saga_id)
        assert step in waiting, f"{step} is not among {sorted(waiting)}"
        row = waiting[step]
        assert (await self.claim(row["id"], attempt=row["attempt"])).proceed
        if not said:
            said = {"result": {"made": step}}
        await self.finish(row["id"], attempt=row["attempt"], **said)
        return row["id"]

    async def lose(self, saga_id: UUID, step: str) -> UUID:
        """An adapter takes it and is never heard of again."""
        row = (await self.waiting(saga_id))[step]
        assert (await self.claim(row["id"], attempt=row["attempt"])).proceed
        await fetch(
            self.dsns.owner, "UPDATE commands SET lease_until = now() WHERE id = $1", row["id"]
        )
        await self.tick()
        return row["id"]

    async def tick(self) -> None:
        """What time does, and the turns that come of it."""
        tools = Tools(self.relay.engine, kept_s=5)
        grace_s = self.broker.settings.cancel_grace_s
        await timeouts.expire_deadlines(self.relay.engine, tools.policy, grace_s=grace_s)
        await timeouts.expire_leases(
            self.relay.engine, tools.policy, grace_s=grace_s, random=Random(1)
        )
        await deadlocks.break_up(self.relay.engine)
        await self.owner.fetch(
            "UPDATE outbox SET status = 'ready' WHERE status = 'delayed' AND kind = 'command'",
        )
        await self.turns()

    async def idle(self) -> None:
        """A tick of the relay's clock, which looks at sagas that nobody adds to."""
        notifier = Notifier(self.relay.pool, coalesce_ms=5)
        settings = self.broker.settings
        clock = Clock(self.relay.engine, self.relay.pool, notifier, settings, random=Random(1))
        await clock.tick()
        await self.turns()

    async def saga(self, saga_id: UUID) -> tuple[str, dict[str, str]]:
        """Its state, and those of its steps."""
        [row] = await self.owner.fetch("SELECT state FROM sagas WHERE id = $1", saga_id)
        steps = await self.owner.fetch(
            "SELECT step, state FROM saga_steps WHERE saga_id = $1 ORDER BY position",
            saga_id,
        )
        return row["state"], {step["step"]: step["state"] for step in steps}

    async def command(self, command_id: UUID) -> Any:
        [row] = await self.owner.fetch("SELECT * FROM commands WHERE id = $1", command_id)
        return row


async def offer(owner: str) -> None:
    """Put the laboratory's tools in force, and let everybody of tenant demo call them."""
    async with migrate.connected(owner) as engine:
        await catalog_file.apply(engine, catalog_file.parse(TOOLS), prune=False)


@asynccontextmanager
async def open_lab(broker: Parts, dsns: Dsns, settings: Settings) -> AsyncGenerator[Lab]:
    """The broker with a relay's parts beside it."""
    await offer(dsns.owner)
    broker.catalog.forget()
    async with open_database(settings, name="lab-relay") as relay:
        notifier = Notifier(relay.pool, coalesce_ms=5)
        conductor = Conductor(relay.engine, notifier, settings)
        owner = await asyncpg.connect(dsns.owner)
        try:
            yield Lab(broker=broker, relay=relay, conductor=conductor, dsns=dsns, owner=owner)
        finally:
            await owner.close()
