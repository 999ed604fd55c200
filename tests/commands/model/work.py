"""Callers, relays and adapters of the lifecycle's model, driven at random."""

import os
from typing import Any
from uuid import UUID

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from app.commands.results import progress
from app.commands.store.dispatch_claim import LeasedRow
from app.errors import (
    ContradictionError,
    IdempotencyConflictError,
    StaleAttemptError,
)
from app.intake.prepare import CallRequest
from tests.commands.model.model import KINDS, Model, Modelled
from tests.commands.model.world import World
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


class Work(RuleBasedStateMachine):
    """What makes and does the work: callers, three relays, adapters."""

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
