"""What a person may do from the inbox, to one or many: what it would touch, and doing it.

Each is one use case of the edges' and one transaction, so of many each stands or fails alone.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal
from uuid import UUID

from app.commands import control
from app.commands.approvals import has_approved, missing, refusal, waits_for
from app.commands.store import waiting
from app.commands.store.commands import Command
from app.edges import commands as acts
from app.edges import sagas, settling
from app.edges.auth.scopes import OPERATE, need
from app.edges.parts import Parts
from app.errors import BadRequestError, BrokerError, ForbiddenError, NotCancellableError
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from app.sagas import runs

ITEMS_MAX: Final = 200
"""That one form may name."""
BEHIND_MAX: Final = 1000

Kind = Literal["call", "step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A call, or a step of a saga, as a form names it: its id, or `saga/step`."""

    id: UUID
    step: str | None = None

    @property
    def name(self) -> str:
        """As a form has it."""
        return str(self.id) if self.step is None else f"{self.id}/{self.step}"

    @property
    def url(self) -> str:
        """Its page."""
        return f"/console/{'calls' if self.step is None else 'sagas'}/{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Touched:
    """What a verb would do, or did, to one item."""

    item: Item
    title: str
    words: str
    refused: bool = False
    command: Command | None = None


Preview = Callable[[Parts, Identity, Item], Awaitable[Touched]]
Act = Callable[[Parts, Identity, Item, str], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """Something that an operator does."""

    title: str
    kind: Kind
    danger: bool
    preview: Preview
    act: Act
    decides: bool = False
    """Whether it is also for who may decide about a call, and is no operator."""


def item_of(name: str, kind: Kind) -> Item:
    """The item that a form names.

    Raises:
        BadRequestError: it names none of this kind.
    """
    text, slash, step = name.partition("/")
    try:
        found = UUID(text)
    except ValueError as error:
        raise BadRequestError("What was chosen is no call and no step.") from error
    if bool(slash and step) != (kind == "step"):
        raise BadRequestError("That cannot be done to what was chosen.")
    return Item(id=found, step=step or None)


def must_do(who: Identity, verb: Verb) -> None:
    """Hold a verb to who may try it.

    Raises:
        ForbiddenError: it is an operator's.
    """
    if not verb.decides:
        need(who, OPERATE)


async def preview(broker: Parts, who: Identity, verb: Verb, items: Sequence[Item]) -> list[Touched]:
    """What the verb would do to each; nothing is done."""
    return [await _previewed(broker, who, verb, item) for item in items]


async def _previewed(broker: Parts, who: Identity, verb: Verb, item: Item) -> Touched:
    try:
        return await verb.preview(broker, who, item)
    except BrokerError as error:
        return Touched(item=item, title=item.name, words=error.detail, refused=True)


async def act(
    broker: Parts, who: Identity, verb: Verb, items: Sequence[Item], reason: str
) -> list[Touched]:
    """Do it to each; who was not first is told so."""
    done: list[Touched] = []
    for item in items:
        try:
            words = await verb.act(broker, who, item, reason)
        except BrokerError as error:
            done.append(Touched(item=item, title=item.name, words=error.detail, refused=True))
        else:
            done.append(Touched(item=item, title=item.name, words=words))
    return done


async def _behind(broker: Parts, command: Command) -> str:
    """Who goes on when a key does."""
    if command.ordering_key is None:
        return ""
    async with tenant_transaction(broker.database.engine, command.tenant_id) as conn:
        count = await waiting.behind(conn, command.id, most=BEHIND_MAX)
    many = f"{BEHIND_MAX} or more" if count >= BEHIND_MAX else str(count)
    calls = "call waits" if count == 1 else "calls wait"
    return f" {many} {calls} for ordering key {command.ordering_key!r}." if count else ""


def _of(item: Item, command: Command, words: str) -> Touched:
    title = f"{command.tool}/{command.method} of {command.user_id}"
    return Touched(item=item, title=title, words=words, command=command)


async def _may_be_decided(broker: Parts, who: Identity, item: Item, *, approve: bool) -> Command:
    """The call, where a decision of this person's would count."""
    command = await acts.decidable(broker, who, item.id)
    if not command.awaits_approval:
        raise NotCancellableError(f"Command {command.id} does not wait for an approval.")
    operator = OPERATE in who.scopes
    said = refusal(command, who, approve=approve, route="named", operator=operator)
    if said is not None:
        raise ForbiddenError(said)
    if approve and has_approved(command, who.user_id):
        raise NotCancellableError(f"You have approved it already; it {waits_for(command)}.")
    return command


async def _approving(broker: Parts, who: Identity, item: Item) -> Touched:
    command = await _may_be_decided(broker, who, item, approve=True)
    goes = "It goes to its executor as soon as it is its turn."
    if command.held:
        goes = f"It goes on when the earlier calls of {command.ordering_key!r} have ended."
    if missing(command) > 1:
        goes = f"It {waits_for(command)}; your yes is one."
    return _of(item, command, goes)


async def _denying(broker: Parts, who: Identity, item: Item) -> Touched:
    command = await _may_be_decided(broker, who, item, approve=False)
    ends = "It ends as cancelled, with the error “denied”; nothing was done."
    return _of(item, command, ends + await _behind(broker, command))


async def _decide(broker: Parts, who: Identity, item: Item, reason: str, *, approve: bool) -> str:
    found = await acts.decidable(broker, who, item.id)
    change = await acts.decide(broker, who, found, approve=approve, reason=reason)
    if change.command.awaits_approval:
        return f"Approved; it {waits_for(change.command)}."
    return "Approved." if approve else "Denied."


Outcome = Literal["succeeded", "failed"]


async def _resolving(broker: Parts, who: Identity, item: Item, *, outcome: Outcome) -> Touched:
    command = await acts.find(broker, who, item.id)
    if not command.outcome_unknown:
        raise NotCancellableError(f"The outcome of command {command.id} is not in doubt.")
    words = f"It is written down that it {outcome}; its state stays, as its caller was told it."
    return _of(item, command, words + await _behind(broker, command))


async def _resolve(
    broker: Parts, who: Identity, item: Item, reason: str, *, outcome: Outcome
) -> str:
    await settling.resolve(broker, who, item.id, outcome=outcome, reason=reason)
    return f"Resolved: it {outcome}."


async def _redriving(broker: Parts, who: Identity, item: Item) -> Touched:
    command = await acts.find(broker, who, item.id)
    control.must_be_redrivable(command)
    words = f"Attempt {command.attempt + 1} is queued, with the same arguments."
    if command.outcome_unknown:
        words += " Nobody knows what the last one did: it may be done twice."
    return _of(item, command, words + await _behind(broker, command))


async def _redrive(broker: Parts, who: Identity, item: Item, reason: str) -> str:
    command = await settling.redrive(broker, who, item.id, reason=reason)
    return f"Queued again, as attempt {command.attempt}."


async def _discarding(broker: Parts, who: Identity, item: Item) -> Touched:
    command = await acts.find(broker, who, item.id)
    control.must_be_dead(command)
    return _of(item, command, "It leaves the dead letters; nothing is done again.")


async def _discard(broker: Parts, who: Identity, item: Item, reason: str) -> str:
    await settling.discard(broker, who, item.id, reason=reason)
    return "Discarded."


SETTLING: Final[Mapping[tuple[str, str | None], str]] = {
    ("retry", None): "It, or its undo, is done again.",
    ("skip", None): "The saga goes on without it.",
    ("resolve", "succeeded"): "The saga goes on as if it had succeeded.",
    ("resolve", "failed"): "The saga goes on as if it had not been done.",
    ("resolve", "compensated"): "The saga goes on as if it had been undone.",
}


async def _stepping(
    broker: Parts, who: Identity, item: Item, *, verb: runs.Verb, outcome: runs.Outcome | None
) -> Touched:
    saga, steps = await sagas.find(broker, who, item.id)
    row = next((one for one in steps if one.step == item.step), None)
    if row is None or not runs.waits(saga, row):
        raise NotCancellableError(f"Saga {saga.id} does not wait for step {item.step!r}.")
    title = f"step {row.step} of {saga.name or saga.kind}, {row.state.replace('_', ' ')}"
    return Touched(item=item, title=title, words=SETTLING[verb, outcome])


async def _settle(
    broker: Parts,
    who: Identity,
    item: Item,
    reason: str,
    *,
    verb: runs.Verb,
    outcome: runs.Outcome | None,
) -> str:
    assert item.step is not None
    shown = await sagas.settle(
        broker, who, item.id, step=item.step, verb=verb, outcome=outcome, reason=reason
    )
    return f"Settled; the saga is {shown['state']}."


def _step(
    title: str, verb: runs.Verb, outcome: runs.Outcome | None = None, *, danger: bool = False
) -> Verb:
    return Verb(
        title=title,
        kind="step",
        danger=danger,
        preview=partial(_stepping, verb=verb, outcome=outcome),
        act=partial(_settle, verb=verb, outcome=outcome),
    )


def _resolution(title: str, outcome: Outcome) -> Verb:
    return Verb(
        title=title,
        kind="call",
        danger=False,
        preview=partial(_resolving, outcome=outcome),
        act=partial(_resolve, outcome=outcome),
    )


VERBS: Final[Mapping[str, Verb]] = {
    "approve": Verb(
        title="Approve",
        kind="call",
        danger=False,
        preview=_approving,
        act=partial(_decide, approve=True),
        decides=True,
    ),
    "deny": Verb(
        title="Deny",
        kind="call",
        danger=True,
        preview=_denying,
        act=partial(_decide, approve=False),
        decides=True,
    ),
    "resolve-succeeded": _resolution("Resolve: it succeeded", "succeeded"),
    "resolve-failed": _resolution("Resolve: it failed", "failed"),
    "redrive": Verb(title="Redrive", kind="call", danger=False, preview=_redriving, act=_redrive),
    "discard": Verb(title="Discard", kind="call", danger=True, preview=_discarding, act=_discard),
    "step-retry": _step("Retry", "retry"),
    "step-skip": _step("Skip", "skip", danger=True),
    "step-succeeded": _step("Resolve: it succeeded", "resolve", "succeeded"),
    "step-failed": _step("Resolve: it failed", "resolve", "failed"),
    "step-compensated": _step("Resolve: it is undone", "resolve", "compensated"),
}
