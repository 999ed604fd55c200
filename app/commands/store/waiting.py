"""What waits for a person, by pages: approvals, most urgent first; dead letters, newest first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.commands import COLUMNS, LIST_MAX, Command
from app.commands.store.decisions import MAY_DECIDE

WINDOW: Final = 10_000
"""Commands that a page of somebody's approvals looks through at the most."""
COUNT_MAX: Final = 1000
Place = tuple[datetime, UUID]
"""Of the last command of a page: its deadline, or its end, and its id."""
FIRST: Final[Place] = (datetime(1, 1, 1, tzinfo=UTC), UUID(int=0))
LAST: Final[Place] = (datetime(9999, 12, 31, tzinfo=UTC), UUID(int=2**128 - 1))

WINDOWED: Final = """
    commands c
     WHERE c.tenant_id = :tenant_id AND c.approval = 'pending' AND c.finished_at IS NULL
       AND (c.deadline_at, c.id) > (:after_at, CAST(:after_id AS uuid))
     ORDER BY c.deadline_at, c.id
"""
# Operators see each; who is none, those that they may decide about.
SHOWN: Final = f"(:everyone OR {MAY_DECIDE})"

UNAPPROVED: Final = text(f"""
    SELECT {COLUMNS}
      FROM (SELECT c.* FROM {WINDOWED} LIMIT :window) c
     WHERE {SHOWN}
     LIMIT :limit
""")

# Where the window of a page ends that found too few in it.
UNAPPROVED_END: Final = text(f"""
    SELECT c.deadline_at, c.id FROM {WINDOWED} OFFSET :window - 1 LIMIT 1
""")

UNAPPROVED_COUNT: Final = text(f"""
    SELECT count(*)
      FROM (SELECT FROM (SELECT c.* FROM {WINDOWED} LIMIT :window) c
             WHERE {SHOWN}
             LIMIT :most) few
""")

# Those that block an ordering key wait there, not here: asked of each by the key's row, as a join
# would read them all.
DEAD_LETTER: Final = """
    commands c
     WHERE c.tenant_id = :tenant_id AND c.state = 'dead_lettered' AND c.discarded_at IS NULL
       AND (SELECT strpos(h.blocked_reason, CAST(c.id AS text)) > 0
              FROM ordering_heads h
             WHERE h.tenant_id = c.tenant_id AND h.ordering_key = c.ordering_key) IS NOT TRUE
"""

DEAD: Final = text(f"""
    SELECT {COLUMNS}
      FROM {DEAD_LETTER}
       AND (c.finished_at, c.id) < (:before_at, CAST(:before_id AS uuid))
     ORDER BY c.finished_at DESC, c.id DESC
     LIMIT :limit
""")

# In the index's order: else all of its entries are gathered first.
DEAD_COUNT: Final = text(f"""
    SELECT count(*)
      FROM (SELECT FROM {DEAD_LETTER} ORDER BY c.finished_at DESC LIMIT :most) few
""")

BEHIND: Final = text("""
    SELECT count(*)
      FROM (SELECT
              FROM commands c
              JOIN commands w
                ON w.held AND w.tenant_id = c.tenant_id AND w.ordering_key = c.ordering_key
             WHERE c.id = :id
             LIMIT :most) behind
""")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """Whose approvals: everyone's of the tenant, or those that these groups may decide about."""

    tenant_id: str
    groups: Sequence[str] = ()
    everyone: bool = False

    def values(self) -> dict[str, Any]:
        """As the statements take it."""
        return {
            "tenant_id": self.tenant_id,
            "groups": list(self.groups),
            "everyone": self.everyone,
            "operator": False,
            "window": WINDOW,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page, and where the next one begins; None where there is none."""

    commands: list[Command]
    more: Place | None


async def unapproved(
    conn: AsyncConnection, asking: Asking, *, after: Place | None, limit: int
) -> Found:
    """Commands that wait for an approval, by their deadlines, behind a place."""
    assert 0 < limit < LIST_MAX
    after_at, after_id = after or FIRST
    values = asking.values() | {"after_at": after_at, "after_id": after_id}
    rows = (await conn.execute(UNAPPROVED, {**values, "limit": limit + 1})).mappings().all()
    found = [Command.of(row) for row in rows[:limit]]
    if len(rows) > limit:
        return Found(commands=found, more=(found[-1].deadline_at, found[-1].id))
    named = ("tenant_id", "after_at", "after_id", "window")
    end = (await conn.execute(UNAPPROVED_END, {name: values[name] for name in named})).first()
    return Found(commands=found, more=None if end is None else (end.deadline_at, end.id))


async def count_unapproved(conn: AsyncConnection, asking: Asking) -> int:
    """How many there are in the first window, up to COUNT_MAX and one."""
    values = asking.values() | {"after_at": FIRST[0], "after_id": FIRST[1], "most": COUNT_MAX + 1}
    return int(await conn.scalar(UNAPPROVED_COUNT, values) or 0)


async def dead(conn: AsyncConnection, *, tenant_id: str, before: Place | None, limit: int) -> Found:
    """A tenant's dead letters that are not settled, newest first, before a place."""
    assert 0 < limit < LIST_MAX
    before_at, before_id = before or LAST
    values = {"tenant_id": tenant_id, "before_at": before_at, "before_id": before_id}
    rows = (await conn.execute(DEAD, {**values, "limit": limit + 1})).mappings().all()
    found = [Command.of(row) for row in rows[:limit]]
    last = found[-1] if len(rows) > limit else None
    if last is None:
        return Found(commands=found, more=None)
    assert last.finished_at is not None, "it is dead"
    return Found(commands=found, more=(last.finished_at, last.id))


async def count_dead(conn: AsyncConnection, *, tenant_id: str) -> int:
    """How many there are, up to COUNT_MAX and one."""
    values = {"tenant_id": tenant_id, "most": COUNT_MAX + 1}
    return int(await conn.scalar(DEAD_COUNT, values) or 0)


async def behind(conn: AsyncConnection, command_id: UUID, *, most: int) -> int:
    """How many commands are held for the ordering key of this one, up to `most`."""
    return int(await conn.scalar(BEHIND, {"id": command_id, "most": most}) or 0)
