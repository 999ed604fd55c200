"""A command's life, driven at random through the real use cases and compared with a model."""

import os
from typing import Any, Literal
from uuid import UUID

import pytest
from asyncpg import Record
from hypothesis import HealthCheck, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog.policy import ToolPolicy
from app.commands import control
from app.commands.results import progress, reject
from app.commands.store.commands import Command
from app.commands.store.dispatch_claim import LeasedRow
from app.edges.commands import cancel
from app.errors import (
    ContradictionError,
    IdempotencyConflictError,
    NotCancellableError,
    StaleAttemptError,
)
from app.intake.prepare import CallRequest
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.commands.model.model import KINDS, Model, Modelled
from tests.commands.model.world import LEASE_S, World
from tests.conftest import settings_of
from tests.support import calls

PICK = st.integers(0, 999)
METHODS = st.sampled_from(sorted(KINDS))
TEXTS = st.sampled_from(["a", "b"])
KEYS = st.sampled_from(["k", "k", "l"])
RELAYS = st.sampled_from(["relay-1", "relay-2", "relay-3"])
WORDS = st.sampled_from(
    [
        {"result": {"text": "a"}},
        {"result": {"text": "b"}},
        {"error": {"message": "broken"}},
        {"error": {"message": "hopeless", "retryable": False}},
    ]
)


GIVEN = os.environ.get("MCP_BROKER_MODEL_SEED")


class Lifecycle(RuleBasedStateMachine):
    """Callers, operators, three relays, adapters and the clock, each at a moment of Hypothesis's choice."""

    world: World

    def __init__(self) -> None:
        super().__init__()
        self.world.clear()
        self.model = Model()
        self.number = 0
        self.in_hand: list[tuple[str, list[LeasedRow]]] = []
        note(f"MCP_BROKER_MODEL_SEED={GIVEN or 'unset: the same examples each time'}")

    def pick(self, pick: int, *, sent: bool = False) -> Modelled | None:
        """One of the commands; with `sent`, one that an adapter can know of. Late ones first."""
        found = [one for one in self.model.commands.values() if one.sent or not sent]
        return found[-1 - pick % len(found)] if found else None

    def send(self, request: CallRequest) -> tuple[UUID, bool]:
        accepted = self.world.run(calls.accept(self.world.broker, request))
        return accepted.written.id, accepted.replayed

    @initialize(methods=st.lists(METHODS, min_size=3, max_size=5), relay=RELAYS)
    def some_wait(self, methods: list[str], relay: str) -> None:
        """A key with a queue; its first command is with the adapters."""
        for number, method in enumerate(methods):
            text = f"first {number}"
            self.accept(method, text, keyed=True, ordering_key="k", accept_async=False)
        self.dispatch(relay, recorded=True)

    @rule(
        method=METHODS,
        text=TEXTS,
        keyed=st.booleans(),
        ordering_key=KEYS | st.none(),
        accept_async=st.booleans(),
    )
    def accept(
        self, method: str, text: str, *, keyed: bool, ordering_key: str | None, accept_async: bool
    ) -> None:
        self.number += 1
        key = f"key-{self.number}" if keyed else None
        twin = None if keyed else self.model.twin(method, text, ordering_key)
        one, replayed = self.send(
            CallRequest(
                tool="trial",
                method=method,
                args={"text": text},
                idempotency_key=key,
                ordering_key=ordering_key,
                accept_async=accept_async,
            )
        )
        note(f"{one} accepted")
        assert replayed == (twin is not None)
        if twin is not None:
            assert one == twin.id
            return
        made = Modelled(
            id=one,
            method=method,
            text=text,
            key=key,
            ordering_key=ordering_key,
            accept_async=accept_async,
            place=self.number,
            attempts_max=KINDS[method].attempts_max,
        )
        self.model.add(made)

    @precondition(lambda self: self.model.commands)
    @rule(pick=PICK, text=TEXTS)
    def accept_again(self, pick: int, text: str) -> None:
        one = self.pick(pick)
        if one is None or one.key is None:
            return
        request = CallRequest(
            tool="trial",
            method=one.method,
            args={"text": text},
            idempotency_key=one.key,
            ordering_key=one.ordering_key,
        )
        if text == one.text:
            assert self.send(request) == (one.id, True)
        else:
            with pytest.raises(IdempotencyConflictError):
                self.send(request)

    @rule(relay=RELAYS, recorded=st.booleans())
    def dispatch(self, relay: str, *, recorded: bool) -> None:
        """Kafka gets what is ready; the relay may lose the acknowledgement."""
        claimed = self.world.claim_rows(relay)
        ready = {place for place, row in self.model.rows.items() if row.status == "ready"}
        assert {(one.command_id, one.attempt) for one in claimed} == ready
        for place in ready:
            row = self.model.rows[place]
            row.status, row.relay = "claimed", relay
            self.model.commands[place[0]].sent.append(place[1])
        if recorded:
            self.publish(claimed, relay)
        elif claimed:
            self.in_hand.append((relay, claimed))

    def publish(self, claimed: list[LeasedRow], relay: str) -> None:
        self.world.publish(claimed, relay)
        for one in claimed:
            assert one.command_id is not None
            assert one.attempt is not None
            self.model.published((one.command_id, one.attempt), relay)
        for one in claimed:
            self.model.delivered(self.model.commands[one.command_id])  # pyright: ignore[reportArgumentType] never None here

    @precondition(lambda self: self.in_hand)
    @rule(kafka=st.booleans())
    def late_word_of_kafka(self, *, kafka: bool) -> None:
        relay, claimed = self.in_hand.pop(0)
        if kafka:
            self.publish(claimed, relay)
            return
        self.world.give_back(claimed, relay)
        for one in claimed:
            place = (one.command_id, one.attempt)
            row = self.model.rows.get(place)  # pyright: ignore[reportArgumentType] never None here
            if row is not None and (row.status, row.relay) == ("claimed", relay):
                self.model.free(place)  # pyright: ignore[reportArgumentType]

    @rule()
    def relay_dies(self) -> None:
        self.world.execute(
            "UPDATE outbox SET claimed_until = now() - interval '1 s' WHERE status = 'claimed'"
        )
        for place, row in list(self.model.rows.items()):
            if row.status == "claimed":
                self.model.free(place)
        self.tick()

    @rule()
    def pauses_end(self) -> None:
        self.world.execute(
            "UPDATE outbox SET available_at = now() - interval '1 s' WHERE status = 'delayed'"
        )
        for row in self.model.rows.values():
            if row.status == "delayed":
                row.status = "ready"
        self.tick()

    @rule()
    def tick(self) -> None:
        self.world.tick()
        self.model.tick()

    @precondition(lambda self: any(one.sent for one in self.model.commands.values()))
    @rule(pick=PICK, delivery=PICK, run=st.sampled_from(["run-1", "run-2"]))
    def claim(self, pick: int, delivery: int, run: str) -> None:
        one = self.pick(pick, sent=True)
        assert one is not None
        attempt = one.sent[-1 - delivery % len(one.sent)]
        again = one.state == "running" and (one.attempt, one.run) == (attempt, run)
        expected = again or one.claimable(attempt)
        word = self.world.run(calls.claim(self.world.broker, one.id, attempt=attempt, run=run))
        assert word.proceed == expected, word.reason
        if expected and not again:
            self.model.take(one, run)

    @precondition(lambda self: any(one.sent for one in self.model.commands.values()))
    @rule(pick=PICK, delivery=PICK, named=st.booleans())
    def progress(self, pick: int, delivery: int, *, named: bool) -> None:
        one = self.pick(pick, sent=True)
        assert one is not None
        attempt = one.sent[-1 - delivery % len(one.sent)] if named else None
        running = one.state == "running" and attempt in {None, one.attempt}
        claims = one.claimable(attempt or one.attempt)

        async def say() -> bool:
            said = await progress(
                self.world.broker.database.engine,
                adapter=calls.ADAPTER,
                policy=await calls.policy_of(self.world.broker, one.id),
                command_id=one.id,
                attempt=attempt,
                stage="working",
                percent=None,
                message=None,
                leases=self.world.broker.leases,
            )
            return said.cancel_requested

        if not running and not claims:
            with pytest.raises(StaleAttemptError):
                self.world.run(say())
            return
        assert self.world.run(say()) == (one.cancel_target is not None)
        if claims:
            self.model.take(one, "unclaimed:eda")
        one.lapsed = False

    @precondition(lambda self: any(one.sent for one in self.model.commands.values()))
    @rule(pick=PICK, delivery=PICK, named=st.booleans(), word=WORDS)
    def finish(self, pick: int, delivery: int, word: dict[str, Any], *, named: bool) -> None:
        one = self.pick(pick, sent=True)
        assert one is not None
        attempt = one.sent[-1 - delivery % len(one.sent)] if named else None
        expected = self.model.finish(one, attempt, word)
        said = calls.finish(self.world.broker, one.id, attempt=attempt, **word)
        if expected == "contradiction":
            with pytest.raises(ContradictionError):
                self.world.run(said)
        elif expected == "stale":
            with pytest.raises(StaleAttemptError):
                self.world.run(said)
        else:
            assert self.world.run(said).repeated == (expected == "repeated")

    @precondition(lambda self: self.model.waiting.get("k"))
    @rule(relay=RELAYS, dies=st.booleans())
    def the_key_goes_on(self, relay: str, *, dies: bool) -> None:
        """The active command of the key ends, in one step: most of what matters comes after that."""
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
                conn, command, approve=approve, policy=policy, actor="operator:olga", reason="so"
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
    relay = settings_of(database.relay, issuer, **times)
    if GIVEN is not None:
        seed(int(GIVEN))(Lifecycle)
    bounds = settings(
        max_examples=int(os.environ.get("MCP_BROKER_MODEL_EXAMPLES", "25")),
        stateful_step_count=25,
        deadline=None,
        derandomize=GIVEN is None,
        database=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    with World(database, app, relay) as world:
        Lifecycle.world = world
        run_state_machine_as_test(Lifecycle, settings=bounds)
