"""What waits for a person: one of each kind."""

from dataclasses import dataclass, replace
from uuid import UUID

from app.edges.parts import Parts
from app.intake.prepare import CallRequest
from benchmarks.servers import execute
from devstack.stack import Dsns
from tests.support.calls import BOB, accept, claim, delete, echo, fetch, finish

UNKNOWN = {"code": "target_lost", "retryable": False, "outcome_unknown": True}
STUCK = """
    WITH saga AS (
        INSERT INTO sagas (id, tenant_id, user_id, kind, name, state, reason)
        VALUES (gen_random_uuid(), 'demo', 'ada', 'declared', 'provision', 'compensation_failed',
                '{"message": "The undo of a failed 5 times."}')
        RETURNING id
    )
    INSERT INTO saga_steps (saga_id, step, tenant_id, position, state, reason)
    SELECT id, 'a', 'demo', 0, 'compensation_failed', 'no such host' FROM saga
    RETURNING saga_id
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """What the inbox of tenant demo has, and what it has not."""

    approval: UUID
    second: UUID
    doubtful: UUID
    behind: UUID
    dead: UUID
    queued: UUID
    saga: UUID

    @property
    def calls(self) -> tuple[UUID, ...]:
        return (
            self.approval,
            self.second,
            self.doubtful,
            self.behind,
            self.dead,
            self.queued,
        )


async def waits(broker: Parts, database: Dsns) -> Waits:
    """Two approvals, an unknown outcome with a call behind it, a dead letter, a saga."""
    await execute(
        database.owner,
        "UPDATE tools SET digest = sha256('asks'),"
        ' policy = policy || \'{"approval": "operator"}\''
        " WHERE tool = 'git' AND method = 'delete';"
        "UPDATE tools SET policy = policy || '{\"idempotent\": false}'"
        " WHERE tool = 'git' AND method = 'clone'",
    )
    broker.catalog.forget()
    approval = (await accept(broker, delete("later", deadline_s=3600))).written.id
    second = (await accept(broker, delete("sooner", deadline_s=60), BOB)).written.id
    clone = CallRequest(tool="git", method="clone", args={"repo": "r", "dest": "d"})
    doubtful = (await accept(broker, replace(clone, ordering_key="host-1"))).written.id
    await claim(broker, doubtful)
    await finish(broker, doubtful, attempt=1, error=UNKNOWN)
    behind = (await accept(broker, echo("behind", ordering_key="host-1"))).written.id
    dead = (await accept(broker, echo("dead"), BOB)).written.id
    for attempt in (1, 2, 3):
        await finish(broker, dead, attempt=attempt, error={"code": "boom"})
    queued = (await accept(broker, echo("queued"))).written.id
    [row] = await fetch(database.owner, STUCK)
    return Waits(
        approval=approval,
        second=second,
        doubtful=doubtful,
        behind=behind,
        dead=dead,
        queued=queued,
        saga=row["saga_id"],
    )
