"""Each use case with a fault at each of its statements: whole, or as if it had never begun."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.catalog.policy import Retry, ToolPolicy
from app.commands import control, results, timeouts
from app.commands.state import State
from app.commands.store import commands, dispatch_record
from app.commands.store.commands import Command
from app.commands.store.dispatch_claim import LeasedRow, lease_commands
from app.commands.store.dispatch_record import Acked
from app.edges.parts import Parts
from app.intake import store as intake_store
from app.postgres.engine import open_database, tenant_transaction
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.support.calls import ADA, ADAPTER, accept, claim, echo, finish
from tests.support.faults import InjectedFaultError, fail_at_each_statement, faulty_pool

EVERYTHING = """
    SELECT (SELECT json_agg(c ORDER BY c.id)::text FROM commands c) AS commands,
           (SELECT json_agg(o ORDER BY o.id)::text FROM outbox o) AS outbox,
           (SELECT json_agg(h ORDER BY h.ordering_key)::text FROM ordering_heads h) AS heads,
           (SELECT json_agg(b ORDER BY b.tenant_id)::text FROM tenant_budgets b) AS budgets,
           (SELECT count(*) FROM progress) AS progress,
           (SELECT count(*) FROM audit.events) AS events
"""
LATE = "UPDATE commands SET {column} = now() - interval '1 s' WHERE id = $1"
LAPSE = "UPDATE outbox SET claimed_until = now() WHERE status = 'claimed'"
GRACE_S = 10.0
PLAIN = ToolPolicy()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A first command of a key, a second one that waits for it, and who works on them."""

    broker: Parts
    database: Dsns
    relay: AsyncEngine
    first: UUID
    second: UUID
    owner: asyncpg.Connection
    policy: ToolPolicy = PLAIN

    async def late(self, column: str) -> None:
        await self.owner.execute(LATE.format(column=column), self.first)

    async def everything(self) -> list[Any]:
        return await self.owner.fetch(EVERYTHING)

    async def policy_of(self, tool: str, method: str) -> ToolPolicy:
        del tool, method
        return self.policy

    async def running(self) -> None:
        assert (await claim(self.broker, self.first)).proceed

    async def dispatched(self) -> None:
        await self.owner.execute(
            "UPDATE commands SET state = 'dispatched', lease_until = now() WHERE id = $1",
            self.first,
        )
        await self.owner.execute("DELETE FROM outbox WHERE command_id = $1", self.first)

    async def dead(self) -> None:
        for attempt in (1, 2, 3):
            await finish(self.broker, self.first, attempt=attempt, error={"message": "boom"})

    async def by_hand(self, verb: Callable[[AsyncConnection, Command], Awaitable[object]]) -> None:
        async with tenant_transaction(self.broker.database.engine, "demo") as conn:
            found = await commands.find(conn, self.first)
            assert found is not None
            await verb(conn, await control.locked(conn, found))


@pytest.fixture
async def stage(broker: Parts, database: Dsns, issuer: DevIssuer) -> AsyncIterator[Stage]:
    first = (await accept(broker, echo("1", ordering_key="k"))).written.id
    second = (await accept(broker, echo("2", ordering_key="k"))).written.id
    owner = await asyncpg.connect(database.owner)
    async with open_database(settings_of(database.relay, issuer), name="relay") as relay:
        yield Stage(
            broker=broker,
            database=database,
            relay=relay.engine,
            first=first,
            second=second,
            owner=owner,
        )
    await owner.close()


async def claims(stage: Stage) -> None:
    await results.claim(
        stage.broker.database.engine,
        adapter=ADAPTER,
        policy=stage.policy,
        command_id=stage.first,
        attempt=1,
        run="run",
        leases=stage.broker.leases,
    )


async def says_progress(stage: Stage) -> None:
    await results.progress(
        stage.broker.database.engine,
        adapter=ADAPTER,
        policy=stage.policy,
        command_id=stage.first,
        attempt=1,
        stage="half",
        percent=50,
        message=None,
        leases=stage.broker.leases,
    )


async def finishes(stage: Stage, **word: Any) -> None:
    await results.finish(
        stage.broker.database.engine,
        adapter=ADAPTER,
        policy=stage.policy,
        command_id=stage.first,
        attempt=1,
        random=Random(1),
        **word,
    )


async def succeeds(stage: Stage) -> None:
    await finishes(stage, result={"text": "1"})


async def fails(stage: Stage) -> None:
    await finishes(stage, error={"message": "boom"})


async def fails_for_good(stage: Stage) -> None:
    await finishes(stage, error={"message": "boom", "retryable": False})


async def rejects(stage: Stage) -> None:
    await results.reject(
        stage.broker.database.engine,
        adapter=ADAPTER,
        policy=stage.policy,
        command_id=stage.first,
        attempt=1,
        reason="no rule",
    )


async def cancels(stage: Stage) -> None:
    async def verb(conn: AsyncConnection, command: Command) -> None:
        await control.cancel(
            conn,
            command,
            policy=stage.policy,
            actor="user:ada",
            reason="enough",
            grace_s=GRACE_S,
        )

    await stage.by_hand(verb)


async def waits_for_approval(stage: Stage) -> None:
    """As if it had been accepted so."""
    await stage.owner.execute("UPDATE commands SET approval = 'pending' WHERE id = $1", stage.first)
    await stage.owner.execute(
        "UPDATE outbox SET status = 'held' WHERE command_id = $1", stage.first
    )


async def decides(stage: Stage, *, approve: bool) -> None:
    async def verb(conn: AsyncConnection, command: Command) -> None:
        await control.decide(
            conn,
            command,
            approve=approve,
            user_id="olga",
            policy=stage.policy,
            actor="operator:olga",
            reason="so",
        )

    await stage.by_hand(verb)


async def approves(stage: Stage) -> None:
    await decides(stage, approve=True)


async def denies(stage: Stage) -> None:
    await decides(stage, approve=False)


async def redrives(stage: Stage) -> None:
    async def verb(conn: AsyncConnection, command: Command) -> None:
        await control.redrive(
            conn,
            command,
            policy=stage.policy,
            actor="operator:olga",
            reason="mended",
            deadline_s=60,
        )

    await stage.by_hand(verb)


async def discards(stage: Stage) -> None:
    async def verb(conn: AsyncConnection, command: Command) -> None:
        await control.discard(conn, command, actor="operator:olga", reason="settled")

    await stage.by_hand(verb)


async def resolves(stage: Stage) -> None:
    async def verb(conn: AsyncConnection, command: Command) -> None:
        await control.resolve(
            conn, command, outcome="succeeded", actor="operator:olga", reason="looked"
        )

    await stage.by_hand(verb)


async def deadlines(stage: Stage) -> None:
    await timeouts.expire_deadlines(stage.relay, stage.policy_of, grace_s=GRACE_S)


async def leases(stage: Stage) -> None:
    await timeouts.expire_leases(stage.relay, stage.policy_of, grace_s=GRACE_S, random=Random(1))


async def nothing(_: Stage) -> None:
    """Queued, as it was accepted."""


async def late(stage: Stage) -> None:
    await stage.late("deadline_at")


async def late_and_running(stage: Stage) -> None:
    await stage.running()
    await stage.late("deadline_at")


async def silent(stage: Stage) -> None:
    await stage.running()
    await stage.late("lease_until")


async def in_doubt(stage: Stage) -> None:
    await silent(stage)
    await leases(stage)


async def runs_for_too_long(stage: Stage) -> None:
    await silent(stage)
    await stage.late("hard_stop_at")


async def ignores_a_cancel(stage: Stage) -> None:
    await stage.running()
    await cancels(stage)
    await stage.late("lease_until")


AGAIN = ToolPolicy(idempotent=True, retry=Retry(attempts_max=3))
Act = Callable[[Stage], Awaitable[None]]


@pytest.mark.guarantee("kernel:atomic")
@pytest.mark.parametrize(
    ("before", "work", "state", "policy"),
    [
        (nothing, claims, State.RUNNING, AGAIN),
        (nothing, says_progress, State.RUNNING, AGAIN),
        (Stage.running, says_progress, State.RUNNING, AGAIN),
        (Stage.running, succeeds, State.SUCCEEDED, AGAIN),
        (nothing, fails, State.QUEUED, AGAIN),
        (Stage.running, fails_for_good, State.FAILED, AGAIN),
        (nothing, rejects, State.DEAD_LETTERED, AGAIN),
        (nothing, cancels, State.CANCELLED, AGAIN),
        (Stage.running, cancels, State.RUNNING, AGAIN),
        (waits_for_approval, approves, State.QUEUED, AGAIN),
        (waits_for_approval, denies, State.CANCELLED, AGAIN),
        (Stage.dead, redrives, State.QUEUED, AGAIN),
        (Stage.dead, discards, State.DEAD_LETTERED, AGAIN),
        (in_doubt, resolves, State.DEAD_LETTERED, PLAIN),
        (late, deadlines, State.TIMED_OUT, AGAIN),
        (late_and_running, deadlines, State.RUNNING, AGAIN),
        (Stage.dispatched, leases, State.QUEUED, AGAIN),
        (silent, leases, State.QUEUED, AGAIN),
        (silent, leases, State.DEAD_LETTERED, PLAIN),
        (runs_for_too_long, leases, State.RUNNING, AGAIN),
        (ignores_a_cancel, leases, State.CANCELLED, PLAIN),
    ],
    ids=lambda one: getattr(one, "__name__", None),
)
async def test_a_fault_at_any_statement_of_a_use_case_leaves_nothing_behind(
    stage: Stage, before: Act, work: Act, state: State, policy: ToolPolicy
) -> None:
    stage = replace(stage, policy=policy)
    await before(stage)
    engine = stage.relay if work in {deadlines, leases} else stage.broker.database.engine
    steps = await fail_at_each_statement(engine, lambda: work(stage), stage.everything)
    assert steps >= 5, "the injector never fired"
    async with tenant_transaction(stage.broker.database.engine, "demo") as conn:
        found = await commands.find(conn, stage.first)
    assert found is not None
    assert found.state is state


async def rows(stage: Stage, pool: Any) -> list[LeasedRow]:
    del stage
    return await lease_commands(pool, relay="r", batch_max=9, window=9, aging_s=60, lease_s=60)


@pytest.mark.guarantee("kernel:atomic")
@pytest.mark.parametrize("what", ["accept", "claim", "published", "give_back", "give_back_expired"])
async def test_a_fault_at_any_statement_of_a_batch_leaves_nothing_behind(
    stage: Stage, what: str
) -> None:
    """The hot statements: the intake's and the relay's, which run on asyncpg."""
    await stage.owner.execute("UPDATE tenants SET rate_per_s = 1000, rate_burst = 1000")
    await stage.owner.execute(
        "UPDATE commands SET ordering = 'delivery' WHERE ordering_key IS NOT NULL",
    )
    call, _ = await stage.broker.preparer.prepare(ADA, echo("3", ordering_key="k"))
    async with faulty_pool(stage.database.owner) as (pool, faulty):
        claimed = [] if what in {"accept", "claim"} else await rows(stage, pool)

        async def work() -> None:
            match what:
                case "accept":
                    async with pool.acquire() as conn, conn.transaction():
                        await intake_store.write(conn, [call])
                        await intake_store.activate_next(conn, [("demo", "k")])
                case "claim":
                    await rows(stage, pool)
                case "published":
                    acked = [Acked(claimed=one, partition=0, offset=1) for one in claimed]
                    await dispatch_record.published(pool, acked, relay="r", claim_wait_s=60)
                case "give_back":
                    await dispatch_record.give_back(pool, claimed, relay="r")
                case _:
                    await dispatch_record.give_back_expired(pool, limit=9, lease_s=30)

        if what == "give_back_expired":
            await stage.owner.execute(LAPSE)
        seen = await stage.everything()
        for step in range(1, 20):
            faulty.left = step
            try:
                await work()
            except InjectedFaultError:
                assert await stage.everything() == seen, f"torn write at step {step}"
            else:
                assert step > 1, "the injector never fired"
                break
        assert await stage.everything() != seen, "the work did nothing"
