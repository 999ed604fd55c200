"""A tool whose calls wait for persons, and the persons who decide."""

from pathlib import Path
from typing import Any
from uuid import UUID

from app.commands import timeouts
from app.edges import commands as edge
from app.edges.parts import Parts
from app.identity import Identity
from app.intake.prepare import CallRequest
from app.postgres.engine import Database
from devstack.stack import Dsns
from tests.support.calls import accept, fetch
from tests.support.offers import put

FOUR_EYES: dict[str, Any] = {
    "by": "operator",
    "approvers": ["finance"],
    "not_own": True,
    "quorum": 2,
}
SHIP: dict[str, Any] = {
    "tool": "grave",
    "method": "ship",
    "description": "Waits for persons.",
    "input_schema": {"type": "object", "properties": {"amount": {}, "dest": {"type": "string"}}},
}
OUTBOX = "SELECT status FROM outbox WHERE command_id = $1 AND kind = 'command'"
EVENTS = """
    SELECT type, actor, body::jsonb - 'args' AS body FROM audit.events
     WHERE command_id = $1 ORDER BY xid, occurred_at, event_id
"""


def person(user: str, *groups: str, scopes: tuple[str, ...] = ("tools",)) -> Identity:
    return Identity(
        tenant_id="demo",
        user_id=user,
        client_id="cli",
        groups=frozenset(groups),
        scopes=frozenset(scopes),
    )


FAY, FOX = person("fay", "finance"), person("fox", "finance")
OLGA = person("olga", scopes=("operator",))
MAX = person("max", "managers")


async def offered(broker: Parts, database: Dsns, home: Path, **approval: Any) -> None:
    tool = SHIP | {"policy": {"approval": approval}}
    await put(database, home, {"tools": [tool]}, broker=broker)


def ship(dest: str = "d", **more: Any) -> CallRequest:
    return CallRequest(tool="grave", method="ship", args={"dest": dest, **more})


async def waiting(broker: Parts, dest: str = "d", **more: Any) -> UUID:
    return (await accept(broker, ship(dest, **more))).written.id


async def decide(broker: Parts, who: Identity, one: UUID, *, approve: bool = True) -> None:
    found = await edge.decidable(broker, who, one)
    await edge.decide(broker, who, found, approve=approve, reason="seen")


async def sent(database: Dsns, one: UUID) -> str | None:
    rows = await fetch(database.owner, OUTBOX, one)
    return rows[0]["status"] if rows else None


async def events_of(database: Dsns, one: UUID) -> list[tuple[str, str]]:
    return [(row["type"], row["actor"]) for row in await fetch(database.owner, EVENTS, one)]


async def aged(database: Dsns, one: UUID, *, s: float) -> None:
    """As if it had waited for so long."""
    await fetch(
        database.owner,
        "UPDATE commands SET approval_until = approval_until - make_interval(secs => $2),"
        " approval_due = approval_due - make_interval(secs => $2) WHERE id = $1",
        one,
        s,
    )


async def clock(broker: Parts, relay: Database) -> int:
    return len(await timeouts.expire_approvals(relay.engine, broker.catalog.policy))
