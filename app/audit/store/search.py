"""Looking for audit events as auditors do: by whatever they know, newest first, at a bounded cost.

A page reads a window of a tenant's newest events of the time asked for, and takes those that fit;
where they did not fill it, the next page begins where the window ended. A command's events are
found by their index.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.json_values import showable

WINDOW: Final = 10_000
"""Events that a page looks through at the most."""
GROUPS_MAX: Final = 50
LATEST: Final = (datetime(9999, 12, 31, tzinfo=UTC), UUID(int=2**128 - 1))
EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)

OF_TENANT: Final = "e.tenant_id = :tenant_id"
OF_COMMAND: Final = "e.tenant_id = :tenant_id AND e.command_id = :command_id"
WAYS: Final = (OF_TENANT, OF_COMMAND)

WINDOWED: Final = """
    FROM (SELECT e.*
            FROM audit.events e
           WHERE {which} AND e.occurred_at >= :since
             AND (e.occurred_at, e.event_id) < (:before_at, CAST(:before_id AS uuid))
           ORDER BY e.occurred_at DESC, e.event_id DESC
           LIMIT :window) e
   WHERE (CAST(:person AS text) IS NULL OR e.user_id = :person OR e.actor = :person)
     AND (CAST(:kind AS text) IS NULL OR starts_with(e.type, :kind))
     AND (CAST(:tool AS text) IS NULL OR e.tool = :tool)
     AND (CAST(:method AS text) IS NULL OR e.method = :method)
"""
FOUND: Final = f"""
    SELECT e.event_id, e.occurred_at AS at, e.type, e.actor, e.user_id, e.command_id, e.saga_id,
           e.tool, e.method, e.attempt, e.state_from, e.state_to, e.body, e.erased_by
    {WINDOWED}
     LIMIT :limit
"""
ACTIVITY: Final = f"""
    SELECT e.type, e.tool, e.method, count(*) AS events, min(e.occurred_at) AS first,
           max(e.occurred_at) AS last
    {WINDOWED}
     GROUP BY e.type, e.tool, e.method
     ORDER BY count(*) DESC, e.type, e.tool, e.method
     LIMIT :limit
"""
END: Final = """
    SELECT e.occurred_at, e.event_id
      FROM audit.events e
     WHERE {which} AND e.occurred_at >= :since
       AND (e.occurred_at, e.event_id) < (:before_at, CAST(:before_id AS uuid))
     ORDER BY e.occurred_at DESC, e.event_id DESC
    OFFSET :window - 1
     LIMIT 1
"""
FOUND_BY: Final[Mapping[str, TextClause]] = {way: text(FOUND.format(which=way)) for way in WAYS}
DONE_BY: Final[Mapping[str, TextClause]] = {way: text(ACTIVITY.format(which=way)) for way in WAYS}
END_BY: Final[Mapping[str, TextClause]] = {way: text(END.format(which=way)) for way in WAYS}

PROVE: Final = text("""
    SELECT tenant_id, seq, leaf, size, root, path, seal_no, checkpoint
      FROM audit.prove(:event_id)
     WHERE tenant_id = :tenant_id
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Which events: those that fit all that is given."""

    person: str | None = None
    """A user, or whoever acted (`user:ada`, `operator:olga`, `adapter:eda`)."""
    kind: str | None = None
    """What the event's type begins with."""
    tool: str | None = None
    method: str | None = None
    command_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


Place = tuple[datetime, UUID]
"""An event's place in the order of time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page, and where the next one begins; None where there is none."""

    events: list[dict[str, Any]]
    before: Place | None


async def find(
    conn: AsyncConnection, *, tenant_id: str, sought: Sought, before: Place | None, limit: int
) -> Found:
    """A page of a tenant's events, newest first, older than `before`."""
    assert limit > 0
    way, values = _asked(tenant_id, sought, before)
    rows = (await conn.execute(FOUND_BY[way], values | {"limit": limit})).mappings()
    found = [{**row, "body": showable(row["body"])} for row in rows]
    if len(found) == limit:
        return Found(events=found, before=(found[-1]["at"], found[-1]["event_id"]))
    own = ("tenant_id", "since", "before_at", "before_id", "window", "command_id")
    used = {name: values[name] for name in own if name in values}
    end = (await conn.execute(END_BY[way], used)).one_or_none()
    return Found(events=found, before=None if end is None else (end[0], end[1]))


async def activity(
    conn: AsyncConnection, *, tenant_id: str, sought: Sought, before: Place | None
) -> list[dict[str, Any]]:
    """What was done how often, of the same window: kind, tool, method, events, first, last."""
    way, values = _asked(tenant_id, sought, before)
    rows = await conn.execute(DONE_BY[way], values | {"limit": GROUPS_MAX})
    return [dict(row) for row in rows.mappings()]


def _asked(tenant_id: str, sought: Sought, before: Place | None) -> tuple[str, dict[str, Any]]:
    upper = LATEST if sought.until is None else (sought.until, UUID(int=0))
    if before is not None:
        upper = min(upper, before)
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "since": sought.since or EARLIEST,
        "before_at": upper[0],
        "before_id": upper[1],
        "person": sought.person,
        "kind": sought.kind,
        "tool": sought.tool,
        "method": sought.method,
        "window": WINDOW,
    }
    if sought.command_id is None:
        return OF_TENANT, values
    return OF_COMMAND, values | {"command_id": sought.command_id}


async def proof(conn: AsyncConnection, *, tenant_id: str, event_id: UUID) -> dict[str, Any] | None:
    """An event's inclusion proof; None where it is not sealed yet, or not there."""
    values = {"event_id": event_id, "tenant_id": tenant_id}
    row = (await conn.execute(PROVE, values)).mappings().one_or_none()
    return None if row is None else dict(row)
