"""Looking for commands as people do: by whatever they know, newest first, at a bounded cost.

A page reads a window of a tenant's newest commands in the order of their ids (uuid v7: of time),
and takes those that fit. Where the window did not fill the page, the next one begins where it
ended. So a filter without an index costs a window a page, however many commands there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.state import State
from app.commands.store.commands import COLUMNS, LIST_MAX, Command

WINDOW: Final = 10_000
"""Commands that a page looks through at the most."""
COUNT_MAX: Final = 1000
LEAST: Final = UUID(int=0)
MOST: Final = UUID(int=2**128 - 1)
TROUBLED: Final = frozenset({State.FAILED, State.CANCELLED, State.TIMED_OUT, State.DEAD_LETTERED})

# Each is a window that an index has in the order of the ids: where from, and its id.
OF_TENANT: Final = ("commands c WHERE c.tenant_id = :tenant_id", "c.id")
OF_USER: Final = ("commands c WHERE c.tenant_id = :tenant_id AND c.user_id = :user_id", "c.id")
OF_TROUBLED: Final = (
    (
        "commands c WHERE c.tenant_id = :tenant_id"
        " AND c.state IN ('failed', 'cancelled', 'timed_out', 'dead_lettered')"
    ),
    "c.id",
)
OF_SAGA: Final = ("commands c WHERE c.tenant_id = :tenant_id AND c.saga_id = :saga_id", "c.id")
OF_LABEL: Final = (
    (
        "command_labels l JOIN commands c ON c.id = l.command_id AND c.tenant_id = l.tenant_id"
        " WHERE l.tenant_id = :tenant_id AND l.label = :label"
    ),
    "l.command_id",
)

FOUND: Final = f"""
    SELECT {COLUMNS}
      FROM (SELECT c.*
              FROM {{which}} AND {{id}} < :before AND {{id}} >= :since
             ORDER BY {{id}} DESC
             LIMIT :window) c
     WHERE (CAST(:states AS text[]) IS NULL OR c.state = ANY (:states))
       AND (CAST(:user_id AS text) IS NULL OR c.user_id = :user_id)
       AND (CAST(:saga_id AS uuid) IS NULL OR c.saga_id = :saga_id)
       AND (CAST(:label AS text) IS NULL OR :label = ANY (c.labels))
       AND (CAST(:tool AS text) IS NULL OR c.tool = :tool)
       AND (CAST(:method AS text) IS NULL OR c.method = :method)
       AND (CAST(:ordering_key AS text) IS NULL OR c.ordering_key = :ordering_key)
       AND (CAST(:id_part AS text) IS NULL OR strpos(CAST(c.id AS text), :id_part) > 0
            OR c.idempotency_key = :id_part)
     LIMIT :limit
"""
END: Final = """
    SELECT {id}
      FROM {which} AND {id} < :before AND {id} >= :since
     ORDER BY {id} DESC
    OFFSET :window - 1
     LIMIT 1
"""
WAYS: Final[tuple[tuple[str, str], ...]] = (OF_TENANT, OF_USER, OF_TROUBLED, OF_SAGA, OF_LABEL)
FOUND_BY: Final[Mapping[tuple[str, str], TextClause]] = {
    way: text(FOUND.format(which=way[0], id=way[1])) for way in WAYS
}
END_BY: Final[Mapping[tuple[str, str], TextClause]] = {
    way: text(END.format(which=way[0], id=way[1])) for way in WAYS
}

COUNTS: Final = text("""
    SELECT (SELECT count(*) FROM (SELECT FROM commands c
                                   WHERE c.tenant_id = :tenant_id AND c.state = 'queued'
                                   LIMIT :most) q) AS queued,
           (SELECT count(*) FROM (SELECT FROM commands c
                                   WHERE c.tenant_id = :tenant_id
                                     AND c.state IN ('dispatched', 'running')
                                     AND c.saga_role IS DISTINCT FROM 'saga'
                                   LIMIT :most) f) AS in_flight,
           (SELECT count(*) FROM (SELECT FROM commands c
                                   WHERE c.tenant_id = :tenant_id AND c.id >= :since
                                     AND c.state IN ('failed', 'cancelled', 'timed_out',
                                                     'dead_lettered')
                                   LIMIT :most) t) AS troubled
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Which commands: those that fit all that is given."""

    states: frozenset[State] | None = None
    user_id: str | None = None
    tool: str | None = None
    method: str | None = None
    ordering_key: str | None = None
    saga_id: UUID | None = None
    label: str | None = None
    id_part: str | None = None
    """Of the id's text in lower case, or the whole of an idempotency key."""
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page, and where the next one begins; None where there is none."""

    commands: list[Command]
    before: UUID | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many there are, up to COUNT_MAX and one; those that ended badly of a day."""

    queued: int
    in_flight: int
    troubled: int


def first_of(at: datetime) -> UUID:
    """The least uuid v7 of a time (RFC 9562, 5.7)."""
    milliseconds = max(0, int(at.timestamp() * 1000))
    return UUID(int=min(milliseconds, 2**48 - 1) << 80)


async def find(
    conn: AsyncConnection, *, tenant_id: str, sought: Sought, before: UUID | None, limit: int
) -> Found:
    """A page of a tenant's commands, newest first, older than `before`."""
    assert 0 < limit <= LIST_MAX
    upper = MOST if sought.until is None else first_of(sought.until)
    since = LEAST if sought.since is None else first_of(sought.since)
    whole = whole_id(sought.id_part)
    if whole is not None and whole != MOST:
        upper, since = min(upper, UUID(int=whole.int + 1)), max(since, whole)
    if before is not None:
        upper = min(upper, before)
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "before": upper,
        "since": since,
        "states": None if sought.states is None else sorted(sought.states),
        "user_id": sought.user_id,
        "saga_id": sought.saga_id,
        "label": sought.label,
        "tool": sought.tool,
        "method": sought.method,
        "ordering_key": sought.ordering_key,
        "id_part": sought.id_part,
        "window": WINDOW,
        "limit": limit,
    }
    chosen = way(sought)
    rows = (await conn.execute(FOUND_BY[chosen], values)).mappings().all()
    commands = [Command.of(row) for row in rows]
    if len(commands) == limit:
        return Found(commands=commands, before=commands[-1].id)
    used = {name: values[name] for name in ("tenant_id", "before", "since", "window")}
    own = ("user_id", "saga_id", "label")
    used |= {name: values[name] for name in own if f":{name}" in chosen[0]}
    return Found(commands=commands, before=await conn.scalar(END_BY[chosen], used))


def way(sought: Sought) -> tuple[str, str]:
    """The index whose window is likely to have the most that fit."""
    if sought.saga_id is not None:
        return OF_SAGA
    if sought.label is not None:
        return OF_LABEL
    if sought.states is not None and sought.states <= TROUBLED:
        return OF_TROUBLED
    return OF_TENANT if sought.user_id is None else OF_USER


def whole_id(part: str | None) -> UUID | None:
    """The id, where its whole text is given."""
    try:
        return None if part is None else UUID(part)
    except ValueError:
        return None


async def counts(conn: AsyncConnection, *, tenant_id: str, since: datetime) -> Counts:
    """How many of a tenant's wait, are in flight, and ended badly since then, up to a bound."""
    values = {"tenant_id": tenant_id, "since": first_of(since), "most": COUNT_MAX + 1}
    return Counts(**(await conn.execute(COUNTS, values)).mappings().one())
