"""A command's life, driven at random through the real use cases and compared with a model."""

from typing import Literal
from uuid import UUID

import pytest
from asyncpg import Record
from hypothesis import seed
from hypothesis import strategies as st
from hypothesis.stateful import (
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog.policy import ToolPolicy
from app.commands import control
from app.commands.results import reject
from app.commands.store.commands import Command
from app.edges.commands import cancel
from app.errors import (
    NotCancellableError,
    StaleAttemptError,
)
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.commands.model.model import Modelled
from tests.commands.model.work import GIVEN, PICK, RELAYS, Work
from tests.commands.model.world import LEASE_S, World
from tests.conftest import settings_of
from tests.support import calls
from tests.support.examples import bounds_of_model

pytestmark = pytest.mark.thorough


class Lifecycle(Work):
    """Beside them operators and the clock, each at a moment of Hypothesis's choice."""

    @precondition(lambda self: self.model.waiting.get("k"))
    @rule(relay=RELAYS, dies=st.booleans())
    def the_key_goes_on(self, relay: str, *, dies: bool) -> None:
        """The active command of the key ends, in one step: most that matters comes after it."""
        self.dispatch(relay, recorded=True)
        found = self.model.active.get("k")
        if found is None or not self.model.commands[found].sent:
            return
        sent = [one.id for one in self.model.commands.values() if one.sent]
        pick = len(sent) - 1 - sent.index(found)
        if dies:
            self.reject(pick)
        else:
            self.finish(pick, 0, {"result": {"text": "a"}}, named=False)

    @precondition(lambda self: self.model.commands)
    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        one = self.pick(pick)
        assert one is not None
        self.world.run(cancel(self.world.broker, calls.ADA, one.id, reason="enough"))
        self.model.stop(one, "cancelled")

    @precondition(lambda self: any(one.sent for one in self.model.commands.values()))
    @rule(pick=PICK)
    def reject(self, pick: int) -> None:
        one = self.pick(pick, sent=True)
        assert one is not None
        broker = self.world.broker
        said = reject(
            broker.database.engine,
            adapter=calls.ADAPTER,
            policy=self.world.run(calls.policy_of(broker, one.id)),
            command_id=one.id,
            attempt=one.attempt,
            reason="no rule",
        )
        error = {"code": "unroutable", "message": "no rule"}
        if one.state in {"queued", "dispatched"}:
            assert not self.world.run(said).repeated
            self.model.end(one, "dead_lettered", error=error)
        elif one.final and one.error == error:
            assert self.world.run(said).repeated
        else:
            with pytest.raises(StaleAttemptError):
                self.world.run(said)

    @precondition(lambda self: any(one.pending for one in self.model.commands.values()))
    @rule(pick=PICK, approve=st.booleans())
    def decide(self, pick: int, *, approve: bool) -> None:
        found = [one for one in self.model.commands.values() if one.pending]
        one = found[-1 - pick % len(found)]

        async def verb(conn: AsyncConnection, command: Command, policy: ToolPolicy) -> None:
            await control.decide(
                conn,
                command,
                approve=approve,
                user_id="olga",
                policy=policy,
                actor="operator:olga",
                reason="so",
            )

        if one.final:
            with pytest.raises(NotCancellableError):
                self.world.by_hand(one.id, verb)
            return
        self.world.by_hand(one.id, verb)
        self.model.decide(one, approve=approve)

    @precondition(lambda self: self.model.commands)
    @rule(pick=PICK, dead=st.booleans())
    def redrive(self, pick: int, *, dead: bool) -> None:
        one = self.any_dead(pick) if dead else self.pick(pick)
        if one is None:
            return

        async def verb(conn: AsyncConnection, command: Command, policy: ToolPolicy) -> None:
            await control.redrive(
                conn, command, policy=policy, actor="operator:olga", reason="so", deadline_s=9999
            )

        if one.state == "dead_lettered" and not one.discarded:
            self.world.by_hand(one.id, verb)
            self.model.redrive(one)
            return
        with pytest.raises(NotCancellableError):
            self.world.by_hand(one.id, verb)

    @rule(pick=PICK)
    def discard(self, pick: int) -> None:
        one = self.any_dead(pick)
        if one is None:
            return

        async def verb(conn: AsyncConnection, command: Command, _: ToolPolicy) -> None:
            await control.discard(conn, command, actor="operator:olga", reason="so")

        if one.id in self.model.blocked.values():
            with pytest.raises(NotCancellableError, match="waits to know"):
                self.world.by_hand(one.id, verb)
            return
        self.world.by_hand(one.id, verb)
        one.discarded = True

    @rule(pick=PICK, outcome=st.sampled_from(["succeeded", "failed"]))
    def resolve(self, pick: int, outcome: Literal["succeeded", "failed"]) -> None:
        found = [one for one in self.model.commands.values() if one.unknown] or [self.pick(pick)]
        one = found[-1 - pick % len(found)]
        if one is None:
            return

        async def verb(conn: AsyncConnection, command: Command, _: ToolPolicy) -> None:
            await control.resolve(
                conn, command, outcome=outcome, actor="operator:olga", reason="so"
            )

        if not one.unknown:
            with pytest.raises(NotCancellableError):
                self.world.by_hand(one.id, verb)
            return
        self.world.by_hand(one.id, verb)
        self.model.resolve(one)

    def any_dead(self, pick: int) -> Modelled | None:
        """One of the dead letters that are not discarded."""
        commands = self.model.commands.values()
        found = [one for one in commands if one.state == "dead_lettered" and not one.discarded]
        return found[-1 - pick % len(found)] if found else None

    @precondition(lambda self: self.model.commands)
    @rule(pick=PICK, tick=st.booleans())
    def deadline_passes(self, pick: int, *, tick: bool) -> None:
        one = self.pick(pick)
        assert one is not None
        self.late("deadline_at", one)
        one.overdue = True
        if tick:
            self.tick()

    @precondition(lambda self: any(one.sent for one in self.model.commands.values()))
    @rule(pick=PICK, tick=st.booleans())
    def lease_is_lost(self, pick: int, *, tick: bool) -> None:
        one = self.pick(pick, sent=True)
        assert one is not None
        if one.state in {"dispatched", "running"}:
            self.late("lease_until", one)
            one.lapsed = True
        if tick:
            self.tick()

    def late(self, column: str, one: Modelled) -> None:
        statement = f"UPDATE commands SET {column} = now() - interval '1 s' WHERE id = $1"
        self.world.execute(statement, one.id)

    @invariant()
    def postgres_agrees(self) -> None:
        found, rows = self.world.look()
        assert rows == {place: row.status for place, row in self.model.rows.items()}
        assert found.keys() == self.model.commands.keys()
        for one in self.model.commands.values():
            row = found[one.id]
            seen = (row["state"], row["attempt"], row["held"], row["outcome_unknown"])
            assert seen == (one.state, one.attempt, one.held, one.unknown), one
            assert row["accepted"] == 1
            assert row["ended"] == one.ends
            assert (row["finished_at"] is not None) == one.final
            assert (row["lease_until"] is not None) == (one.state in {"dispatched", "running"})
            assert row["cancel_target"] == one.cancel_target
            assert all(times <= 1 for times in one.granted.values()), "one effect an attempt"
            if one.final:
                left = {status for place, status in rows.items() if place[0] == one.id}
                assert left <= {"claimed"}
            if one.state == "queued":
                assert (one.id, one.attempt) in rows, "a queued attempt is on its way"
        self.keys_are_in_order(found)

    def keys_are_in_order(self, found: dict[UUID, Record]) -> None:
        free = [
            row["ordering_key"]
            for row in found.values()
            if row["ordering"] == "completion" and not row["held"] and row["finished_at"] is None
        ]
        assert len(free) == len(set(free)), "one command of a key at a time"
        for started in self.model.started.values():
            places = [found[one]["key_seq"] for one in started]
            assert places == sorted(places), "a key's commands start in their order"


@pytest.mark.timeout(600)
@pytest.mark.guarantee("lifecycle:model")
def test_whatever_happens_in_whatever_order_postgres_agrees_with_the_model(
    database: Dsns, issuer: DevIssuer
) -> None:
    times = {"lease_s": LEASE_S, "cancel_grace_s": LEASE_S, "claim_wait_s": LEASE_S}
    app = settings_of(database.app, issuer, **times)
    relay = settings_of(database.relay, issuer, **times, relay_lease_s=LEASE_S)
    if GIVEN is not None:
        seed(int(GIVEN))(Lifecycle)
    bounds = bounds_of_model(steps=25, derandomize=GIVEN is None)
    with World(database, app, relay) as world:
        Lifecycle.world = world
        run_state_machine_as_test(Lifecycle, settings=bounds)
