"""What another tenant has, for a stranger to look for."""

from dataclasses import dataclass
from uuid import UUID

from app.commands import holds
from app.edges import sagas
from app.edges.parts import Parts
from app.edges.sagas import Which
from app.intake.prepare import CallRequest
from tests.support.calls import ADA, EVE, accept, claim, delete, echo, finish


@dataclass(frozen=True, slots=True, kw_only=True)
class Theirs:
    """What tenant demo has: a command in each state that some route asks for."""

    queued: UUID
    running: UUID
    done: UUID
    dead: UUID
    saga: UUID
    hold: UUID

    @property
    def commands(self) -> tuple[UUID, ...]:
        return (self.queued, self.running, self.done, self.dead, self.saga)

    @property
    def ids(self) -> tuple[UUID, ...]:
        return (*self.commands, self.hold)


async def fill(broker: Parts) -> Theirs:
    """Commands of demo in every state, a hold of none of them, and one of the other tenant."""
    queued = (await accept(broker, delete("theirs", idempotency_key="their-key"))).written.id
    running = (await accept(broker, echo("running"))).written.id
    await claim(broker, running)
    done = (await accept(broker, echo("done", ordering_key="their-order"))).written.id
    await finish(broker, done, result={"text": "their result"})
    dead = (await accept(broker, echo("dead"))).written.id
    for attempt in (1, 2, 3):
        await finish(broker, dead, attempt=attempt, error={"code": "boom"})
    step = {"id": "a", "tool": "probe_echo", "kind": "readonly", "args": {"text": "their step"}}
    which = Which.model_validate({"plan": {"steps": [step]}})
    request = CallRequest(tool="saga", method="run", args=which.model_dump(exclude_none=True))
    saga = (await sagas.run(broker, ADA, which, request)).written.id
    mine = (await accept(broker, echo("mine"), EVE)).written.id
    await finish(broker, mine, result={"text": "my result"})
    placed = await holds.place(
        broker.database.engine,
        "demo",
        holds.Which(ordering_key="held"),
        effect="wait",
        reason="theirs",
        until=None,
        actor="operator:olga",
    )
    return Theirs(
        queued=queued, running=running, done=done, dead=dead, saga=saga, hold=placed.hold.id
    )
