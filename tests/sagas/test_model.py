"""Sagas of random shape, driven at random through the real use cases, against what they promise.

The test is the adapter, and writes down what it did: the ledger. What a saga came to must follow
from the ledger alone.
"""

import asyncio
import os
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import note, seed
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from app.catalog.cache import Tools
from app.config import Settings
from app.edges import commands
from app.edges import sagas as edge_sagas
from app.edges.server import open_broker
from app.errors import BrokerError
from app.sagas import conductor
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.sagas.lab import Lab, open_lab
from tests.sagas.shapes import chains, plans
from tests.sagas.test_runs import FAILED
from tests.support.background import Background
from tests.support.calls import ADA
from tests.support.examples import bounds_of_model

pytestmark = pytest.mark.thorough

PICK = st.integers(0, 999)
HOWS = st.sampled_from(["ok", "ok", "ok", "ok", "ok", "fail", "lose", "error"])
GIVEN = os.environ.get("MCP_BROKER_MODEL_SEED")
CLEAR = "TRUNCATE commands, outbox, ordering_heads, progress, sagas, saga_steps, saga_turns CASCADE"


@dataclass(slots=True, kw_only=True)
class Ledger:
    """What adapters did for a saga, in its order."""

    plan: dict[str, Any]
    doomed: str | None  # the step that fails if the test's end comes before its own
    done: list[str] = field(default_factory=list[str])  # told: succeeded
    maybe: set[str] = field(default_factory=set[str])  # taken, and never told
    undone: list[str] = field(default_factory=list[str])
    by_hand: set[str] = field(default_factory=set[str])

    @property
    def steps(self) -> dict[str, dict[str, Any]]:
        return {one["id"]: one for one in self.plan["steps"]}

    @property
    def pivoted(self) -> bool:
        return "p" in self.done or "p" in self.by_hand


class SagaWorld(Background):
    """The laboratory, on a loop of its own."""

    lab: Lab
    owner: asyncpg.Connection

    def __init__(self, dsns: Dsns, app: Settings, relay: Settings) -> None:
        super().__init__()
        self._given = dsns, app, relay

    async def open(self) -> None:
        dsns, app, relay = self._given
        broker = await self.stack.enter_async_context(open_broker(app))
        self.lab = await self.stack.enter_async_context(open_lab(broker, dsns, relay))
        self.owner = self.lab.owner


class Sagas(RuleBasedStateMachine):
    """Callers, operators, relays that crash, adapters and the clock."""

    world: SagaWorld

    def __init__(self) -> None:
        super().__init__()
        self.lab = self.world.lab
        self.run = self.world.run
        self.run(self.world.owner.execute(CLEAR))
        self.ledgers: dict[UUID, Ledger] = {}
        self.at_work: dict[UUID, tuple[Ledger, str, int]] = {}
        self.lost: list[tuple[UUID, int]] = []
        note(f"MCP_BROKER_MODEL_SEED={GIVEN or 'unset: the same examples each time'}")

    def one(self, pick: int) -> tuple[UUID, Ledger] | None:
        found = list(self.ledgers.items())
        return found[pick % len(found)] if found else None

    @initialize(plan=plans(), doom=PICK)
    def first(self, plan: dict[str, Any], doom: int) -> None:
        self.begin(plan, doom)

    @rule(plan=plans(), doom=PICK)
    def begin(self, plan: dict[str, Any], doom: int) -> None:
        if len(self.ledgers) < 4:
            key = f"key-{len(self.ledgers)}"
            saga_id = self.run(self.lab.run(plan, idempotency_key=key))
            assert self.run(self.lab.run(plan, idempotency_key=key)) == saga_id
            names = [one["id"] for one in plan["steps"]]
            doomed = [*names, None][doom % (len(names) + 1)]
            self.ledgers[saga_id] = Ledger(plan=plan, doomed=doomed)

    @rule(plans=st.tuples(*(chains(*keys) for keys in ("kl", "lk"))), dooms=st.tuples(PICK, PICK))
    def cross(self, plans: tuple[dict[str, Any], ...], dooms: tuple[int, ...]) -> None:
        """Two that take the same keys in opposite order: where the keys are free, a circle."""
        for plan, doom in zip(plans, dooms, strict=True):
            self.begin(plan, doom)
        for saga_id, ledger in list(self.ledgers.items())[-2:]:
            if "a" in self.run(self.lab.waiting(saga_id)):
                self.act(saga_id, ledger, "a", "ok")

    @rule(pick=PICK, acts=st.lists(st.tuples(PICK, HOWS), min_size=1, max_size=6))
    def adapter(self, pick: int, acts: list[tuple[int, str]]) -> None:
        """Take some of what waits, and do it, fail, or fall silent."""
        found = self.one(pick)
        for which, how in acts if found is not None else []:
            assert found is not None
            waiting = self.run(self.lab.waiting(found[0]))
            if waiting:
                self.act(*found, sorted(waiting)[which % len(waiting)], how)

    def act(self, saga_id: UUID, ledger: Ledger, name: str, how: str) -> None:
        row = self.run(self.lab.waiting(saga_id))[name]
        step = name.rpartition(" ")[2]
        if name.startswith("undo "):
            self.undo(saga_id, ledger, name, how)
        elif name.startswith("look "):
            done = step in ledger.maybe
            said: dict[str, Any] = {"result": {"done": how != "fail" and done}}
            self.run(self.lab.do(saga_id, name, **(FAILED if how in {"lose", "error"} else said)))
            if how not in {"lose", "error"} and done:
                ledger.maybe.discard(step)
                if how != "fail":
                    ledger.done.append(step)
        else:
            self.started(ledger, step)
            match how:
                case "ok":
                    self.run(self.lab.do(saga_id, name))
                    ledger.done.append(step)
                    if step in ledger.maybe:
                        ledger.maybe.discard(step)
                case "lose":
                    ledger.maybe.add(step)
                    self.run(self.lab.lose(saga_id, name))
                    self.lost.append((row["id"], row["attempt"]))
                case "error":
                    error = {"error": {"code": "busy", "message": "not now"}}
                    self.run(self.lab.do(saga_id, name, **error))
                case _:
                    self.run(self.lab.do(saga_id, name, **FAILED))

    def started(self, ledger: Ledger, step: str) -> None:
        passed = {*ledger.done, *ledger.by_hand}
        assert passed.issuperset(ledger.steps[step].get("needs", [])), "its needs have succeeded"
        assert not ledger.undone, "nothing starts once something was undone"
        assert step not in ledger.done, "and nothing is done twice that was told"

    def undo(self, saga_id: UUID, ledger: Ledger, name: str, how: str) -> None:
        step = name.removeprefix("undo ")
        assert not ledger.pivoted, "after the pivot it goes forward only"
        assert step in ledger.done or step in ledger.maybe, "only what may have been done is undone"
        assert step not in ledger.undone, "and once"
        running = [one for one in self.run(self.lab.under_way(saga_id)) if one != name]
        assert not running, "nothing is undone beside what runs"
        match how:
            case "ok":
                self.run(self.lab.do(saga_id, name))
                ledger.undone.append(step)
            case "lose":
                self.run(self.lab.lose(saga_id, name))
            case "error":
                error = {"error": {"code": "busy", "message": "not now"}}
                self.run(self.lab.do(saga_id, name, **error))
            case _:
                self.run(self.lab.do(saga_id, name, **FAILED))

    @rule(pick=PICK)
    def take(self, pick: int) -> None:
        """An adapter takes a step and is at work for a while; another rule ends it."""
        found = self.one(pick)
        steps = (
            [name for name in self.run(self.lab.waiting(found[0])) if " " not in name]
            if found
            else []
        )
        if found is not None and steps:
            name = sorted(steps)[pick % len(steps)]
            self.started(found[1], name)
            row = self.run(self.lab.waiting(found[0]))[name]
            assert self.run(self.lab.claim(row["id"], attempt=row["attempt"])).proceed
            self.at_work[row["id"]] = (found[1], name, row["attempt"])
            found[1].maybe.add(name)

    @rule(pick=PICK, ok=st.booleans())
    def tell(self, pick: int, ok: bool) -> None:
        """What was taken before ends now."""
        if self.at_work:
            command_id = sorted(self.at_work)[pick % len(self.at_work)]
            ledger, name, attempt = self.at_work.pop(command_id)
            said = {"result": {"made": name}} if ok else FAILED
            self.run(self.lab.finish(command_id, attempt=attempt, **said))
            state = self.run(self.lab.command(command_id))["state"]
            if ok:
                ledger.maybe.discard(name)
                ledger.done.append(name)
            elif state == "failed" and attempt == 1:
                ledger.maybe.discard(name)

    @rule(pick=PICK)
    def cancel(self, pick: int) -> None:
        found = self.one(pick)
        if found is not None:
            self.run(commands.cancel(self.lab.broker, ADA, found[0], reason="never mind"))

    @rule(pick=PICK)
    def too_late(self, pick: int) -> None:
        found = self.one(pick)
        if found is not None:
            statement = "UPDATE commands SET deadline_at = now() WHERE id = $1"
            self.run(self.world.owner.execute(statement, found[0]))

    @rule(pick=PICK)
    def late_word(self, pick: int) -> None:
        """An adapter that was given up speaks after all; it changes nothing."""
        if self.lost:
            command_id, attempt = self.lost[pick % len(self.lost)]

            async def say() -> None:
                try:
                    await self.lab.finish(command_id, attempt=attempt, result={"made": "late"})
                except BrokerError:
                    return
                raise AssertionError("a given-up attempt was believed")

            self.run(say())

    @rule()
    def turns(self) -> None:
        """Two relays at once."""

        async def both() -> None:
            await asyncio.gather(self.lab.conductor.tick(), self.lab.conductor.tick())

        self.run(both())

    @rule(pick=PICK, at=st.integers(1, 12))
    def crash(self, pick: int, at: int) -> None:
        """A relay dies in the middle of a turn; what it had not committed is as if never begun."""
        found = self.one(pick)
        if found is not None:
            self.run(self._crash(found[0], at))

    async def _crash(self, saga_id: UUID, at: int) -> None:
        tools = Tools(self.lab.relay.engine, kept_s=5)
        task = asyncio.ensure_future(
            conductor.advance(
                self.lab.relay.engine, saga_id, tools=tools.find, deadline_s=60, grace_s=60
            )
        )
        for _ in range(at):
            await asyncio.sleep(0)  # a step of the loop, not of time
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    @rule()
    def tick(self) -> None:
        self.run(self.lab.tick())

    @rule(pick=PICK, verb=st.sampled_from(["retry", "skip", "resolve"]), yes=st.booleans())
    def operator(self, pick: int, verb: Any, yes: bool) -> None:
        found = self.one(pick)
        if found is not None:
            self.settle(*found, verb, yes)

    def settle(self, saga_id: UUID, ledger: Ledger, verb: Any, yes: bool) -> None:
        state, steps = self.run(self.lab.saga(saga_id))
        undo = state == "compensation_failed"
        bad = {"compensation_failed"} if undo else {"failed", "unknown"}
        waits = [name for name, one in steps.items() if one in bad]
        if state not in {"stuck", "compensation_failed"} or not waits:
            return
        name = waits[0]
        if verb == "skip" and name == "p":
            return
        outcome = None
        if verb == "resolve":
            outcome = "compensated" if undo else "succeeded" if yes else "failed"
        if outcome == "failed" and steps[name] == "failed":
            return  # that is what it says already
        self.run(
            edge_sagas.settle(
                self.lab.broker, ADA, saga_id, step=name, verb=verb, outcome=outcome, reason="hand"
            )
        )
        if undo and verb != "retry":
            ledger.by_hand.add(name)
        elif outcome == "succeeded" or verb == "skip":
            ledger.by_hand.add(name)
            ledger.maybe.discard(name)
        elif outcome == "failed":
            ledger.maybe.discard(name)
        self.run(self.lab.turns())

    @invariant()
    def sagas_are_as_they_may_be(self) -> None:
        for saga_id, ledger in self.ledgers.items():
            state, _ = self.run(self.lab.saga(saga_id))
            self.undone_in_order(ledger)
            if state == "completed":
                assert not ledger.undone
                assert {*ledger.done, *ledger.by_hand} >= set(ledger.steps)
            elif state == "compensated":
                may_be = {*ledger.done, *ledger.maybe}
                undoable = {one for one in may_be if "compensate" in ledger.steps[one]}
                assert {*ledger.undone, *ledger.by_hand} >= undoable, "nothing of it is left"

    @staticmethod
    def undone_in_order(ledger: Ledger) -> None:
        told = [ledger.done.index(one) for one in ledger.undone if one in ledger.done]
        assert told == sorted(told, reverse=True), "the newest first"

    def teardown(self) -> None:
        """Let everything but one step of each succeed from here on: each saga comes to an end."""
        while self.at_work:
            self.tell(0, ok=True)
        for saga_id in self.ledgers:
            for _ in range(60):
                self.run(self.lab.tick())
                state, _ = self.run(self.lab.saga(saga_id))
                if state in {"completed", "compensated"}:
                    break
                for other, book in self.ledgers.items():  # it may wait for another's key
                    self.settle(other, book, "retry", True)
                    for name in sorted(self.run(self.lab.waiting(other))):
                        if name in self.run(self.lab.waiting(other)):
                            doomed = name == book.doomed
                            book.doomed = None if doomed else book.doomed
                            self.act(other, book, name, "lose" if doomed else "ok")
            else:
                raise AssertionError(
                    f"saga {saga_id} has no end: {self.run(self.lab.saga(saga_id))}"
                )
        self.sagas_are_as_they_may_be()
        left = (
            "SELECT count(*) FROM ordering_heads WHERE saga_id IS NOT NULL OR active_id IS NOT NULL"
        )
        assert self.run(self.world.owner.fetchval(left)) == 0, "every key is free"
        open_ = "SELECT count(*) FROM commands WHERE finished_at IS NULL"
        assert self.run(self.world.owner.fetchval(open_)) == 0


@pytest.mark.timeout(600)
@pytest.mark.guarantee("saga:model")
def test_whatever_happens_a_saga_is_completed_or_what_it_did_is_undone(
    database: Dsns, issuer: DevIssuer
) -> None:
    times = {"lease_s": 10_000, "cancel_grace_s": 10_000, "claim_wait_s": 10_000}
    app = settings_of(database.app, issuer, **times)
    relay = settings_of(database.relay, issuer, **times)
    if GIVEN is not None:
        seed(int(GIVEN))(Sagas)
    bounds = bounds_of_model(steps=20, derandomize=GIVEN is None)
    with SagaWorld(database, app, relay) as world:
        Sagas.world = world
        run_state_machine_as_test(Sagas, settings=bounds)
