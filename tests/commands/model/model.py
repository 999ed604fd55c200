"""What the broker promises of a command's life, in plain Python, for Postgres to match."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

FINAL = {"succeeded", "failed", "cancelled", "timed_out", "dead_lettered"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What the catalog says of a tool."""

    idempotent: bool
    attempts_max: int
    blocks: bool
    asks: bool = False
    delivery: bool = False


KINDS = {
    "slow": Kind(idempotent=True, attempts_max=3, blocks=True),
    "once": Kind(idempotent=False, attempts_max=1, blocks=True),
    "loose": Kind(idempotent=False, attempts_max=1, blocks=False),
    "asked": Kind(idempotent=True, attempts_max=1, blocks=True, asks=True),
    "flow": Kind(idempotent=True, attempts_max=1, blocks=True, delivery=True),
}


@dataclass(slots=True, kw_only=True)
class Row:
    """An unpublished attempt."""

    status: str
    relay: str | None = None


@dataclass(slots=True, kw_only=True)
class Modelled:
    """A command as it should be."""

    id: UUID
    method: str
    text: str
    key: str | None
    ordering_key: str | None
    accept_async: bool
    place: int
    attempts_max: int
    pending: bool = False
    held: bool = False
    redriven: bool = False
    discarded: bool = False
    ends: int = 0
    state: str = "queued"
    attempt: int = 1
    run: str | None = None
    overdue: bool = False
    missed: bool = False
    lapsed: bool = False
    cancel_target: str | None = None
    unknown: bool = False
    result: Any = None
    error: dict[str, Any] | None = None
    sent: list[int] = field(default_factory=list[int])
    granted: Counter[int] = field(default_factory=Counter[int])

    @property
    def kind(self) -> Kind:
        return KINDS[self.method]

    @property
    def final(self) -> bool:
        return self.state in FINAL

    def claimable(self, attempt: int) -> bool:
        wanted = self.accept_async or not self.overdue
        waits = self.state in {"queued", "dispatched"}
        released = not self.held and not self.pending
        return waits and attempt == self.attempt and released and wanted


class Model:
    """Every command of one example, their unpublished attempts and their keys."""

    def __init__(self) -> None:
        self.commands: dict[UUID, Modelled] = {}
        self.rows: dict[tuple[UUID, int], Row] = {}
        self.active: dict[str, UUID] = {}
        self.blocked: dict[str, UUID] = {}
        self.waiting: dict[str, list[UUID]] = {}
        self.started: dict[str, list[UUID]] = {}

    def twin(self, method: str, text: str, ordering_key: str | None) -> Modelled | None:
        """The unfinished command without a key that the same call without a key is taken for."""
        for one in self.commands.values():
            same = (one.method, one.text, one.ordering_key) == (method, text, ordering_key)
            if one.key is None and same and not one.final and not one.redriven:
                return one
        return None

    def add(self, one: Modelled) -> None:
        self.commands[one.id] = one
        one.pending = one.kind.asks
        self.rows[one.id, 1] = Row(status="held" if one.pending else "ready")
        self._wait(one)
        self._release(one.ordering_key)

    def _wait(self, one: Modelled) -> None:
        """Take its place among those that wait for its key."""
        if one.ordering_key is None:
            return
        one.held = True
        self.rows[one.id, one.attempt].status = "held"
        waiting = self.waiting.setdefault(one.ordering_key, [])
        waiting.append(one.id)
        waiting.sort(key=lambda each: self.commands[each].place)

    def _release(self, key: str | None) -> None:
        if key is None or key in self.active or key in self.blocked or not self.waiting.get(key):
            return
        following = self.commands[self.waiting[key].pop(0)]
        self.active[key] = following.id
        following.held = False
        if not following.pending:
            self.rows[following.id, following.attempt].status = "ready"

    def _withdraw(self, one: Modelled) -> None:
        for place, row in list(self.rows.items()):
            if place[0] == one.id and row.status != "claimed":
                del self.rows[place]

    def end(
        self,
        one: Modelled,
        state: str,
        *,
        unknown: bool = False,
        result: Any = None,
        error: dict[str, Any] | None = None,
    ) -> None:
        one.state, one.unknown, one.result, one.error = state, unknown, result, error
        one.held = one.lapsed = False
        one.ends += 1
        self._withdraw(one)
        key = one.ordering_key
        if key is None:
            return
        if self.active.get(key) == one.id:
            del self.active[key]
            if unknown and one.kind.blocks:
                self.blocked[key] = one.id
        elif one.id in self.waiting.get(key, []):
            self.waiting[key].remove(one.id)
        self._release(key)

    def retry(self, one: Modelled) -> None:
        self._withdraw(one)
        one.state, one.run, one.lapsed, one.cancel_target = "queued", None, False, None
        one.attempt += 1
        self.rows[one.id, one.attempt] = Row(status="delayed")

    def take(self, one: Modelled, run: str) -> None:
        """A claim, or a word that counts as one, is granted."""
        first = not one.granted and not one.redriven and not one.kind.delivery
        one.state, one.run, one.lapsed = "running", run, False
        one.granted[one.attempt] += 1
        if one.ordering_key is not None and first:
            self.started.setdefault(one.ordering_key, []).append(one.id)

    def published(self, place: tuple[UUID, int], relay: str) -> None:
        """A relay records that Kafka has an attempt, if the row is still its own."""
        row = self.rows.get(place)
        if row is None or (row.status, row.relay) != ("claimed", relay):
            return
        del self.rows[place]
        one = self.commands[place[0]]
        if one.state == "queued" and one.attempt == place[1]:
            one.state = "dispatched"

    def delivered(self, one: Modelled) -> None:
        """Where order is kept up to Kafka only, the next of the key may go."""
        key = one.ordering_key
        if key is not None and one.kind.delivery:
            if self.active.get(key) == one.id:
                del self.active[key]
            self._release(key)

    def free(self, place: tuple[UUID, int]) -> None:
        """A claimed row goes again, unless its command has moved on."""
        one = self.commands[place[0]]
        if one.state == "queued" and one.attempt == place[1]:
            self.rows[place] = Row(status="ready")
        else:
            del self.rows[place]

    def stop(self, one: Modelled, goal: str) -> None:
        if one.final or one.cancel_target is not None:
            return
        if one.state == "running":
            one.cancel_target, one.lapsed = goal, False
        else:
            self.end(one, goal)

    def finish(self, one: Modelled, attempt: int | None, word: dict[str, Any]) -> str:
        """A last word; returns what the adapter is told."""
        result, error = word.get("result"), word.get("error")
        current = attempt in {None, one.attempt}
        if current and not one.final:
            self._conclude(one, result, error)
            return "applied"
        if current and error is None and (one.state, one.result) == ("succeeded", result):
            return "repeated"
        badly = one.state in {"failed", "dead_lettered"}
        if current and error is not None and badly and one.error == error:
            return "repeated"
        key = one.ordering_key
        if current and key is not None and self.blocked.get(key) == one.id:
            del self.blocked[key]
            self._release(key)
        return "contradiction" if current else "stale"

    def _conclude(self, one: Modelled, result: Any, error: dict[str, Any] | None) -> None:
        if error is None:
            self.end(one, "succeeded", result=result)
        elif one.cancel_target is not None:
            self.end(one, one.cancel_target, error=error)
        elif error.get("retryable", True) and one.attempt < one.attempts_max:
            self.retry(one)
        else:
            spent = one.attempts_max > 1 and error.get("retryable", True)
            self.end(one, "dead_lettered" if spent else "failed", error=error)

    def tick(self) -> None:
        """The clock looks at deadlines, then at leases."""
        for one in self.commands.values():
            if one.overdue and not one.missed and not one.final:
                one.missed = True
                if not one.accept_async:
                    self.stop(one, "timed_out")
        for one in list(self.commands.values()):
            if not one.lapsed:
                continue
            one.lapsed = False
            self._lost(one)

    def _lost(self, one: Modelled) -> None:
        unknown = not one.kind.idempotent
        if one.state == "dispatched":
            one.state = "queued"
            self.rows[one.id, one.attempt] = Row(status="ready")
        elif one.cancel_target is not None:
            self.end(one, one.cancel_target, unknown=unknown, error={"lost": True})
        elif one.kind.idempotent and one.attempt < one.attempts_max:
            self.retry(one)
        else:
            self.end(one, "dead_lettered", unknown=unknown, error={"lost": True})

    def decide(self, one: Modelled, *, approve: bool) -> None:
        """An operator's word on a command that waits for it."""
        if not approve:
            self.end(one, "cancelled", error={"code": "denied"})
            return
        one.pending = False
        if not one.held:
            self.rows[one.id, one.attempt].status = "ready"

    def resolve(self, one: Modelled) -> None:
        """An operator's word on what became of it: its state stays, its key goes on."""
        one.unknown, one.error = False, {"resolved": True}
        one.discarded = one.discarded or one.state == "dead_lettered"
        key = one.ordering_key
        if key is not None:
            if self.blocked.get(key) == one.id:
                del self.blocked[key]
            self._release(key)

    def redrive(self, one: Modelled) -> None:
        """A dead letter goes again, in its old place."""
        one.attempts_max = max(one.attempts_max, one.attempt + one.kind.attempts_max)
        one.attempt += 1
        one.state, one.run, one.cancel_target, one.redriven = "queued", None, None, True
        one.unknown = one.overdue = one.missed = one.lapsed = False
        one.result = one.error = None
        self.rows[one.id, one.attempt] = Row(status="ready")
        self._wait(one)
        key = one.ordering_key
        if key is not None and self.blocked.get(key) == one.id:
            del self.blocked[key]
        self._release(key)
