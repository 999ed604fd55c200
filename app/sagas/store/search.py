"""Looking for sagas as people do: newest first, at a bounded cost.

As with calls (`app/commands/store/search.py`), a page reads a window of the newest and takes those
that fit; where they did not fill it, the next page begins where the window ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.search import MOST, WINDOW
from app.sagas.state import WAITING, State
from app.sagas.store.sagas import COLUMNS, LIST_MAX, SagaRow

# Each is a window that an index has in the order of the ids.
OF_TENANT: Final = "s.tenant_id = :tenant_id"
OF_USER: Final = "s.tenant_id = :tenant_id AND s.user_id = :user_id"
OF_WAITING: Final = "s.tenant_id = :tenant_id AND s.state IN ('stuck', 'compensation_failed')"
WAYS: Final = (OF_TENANT, OF_USER, OF_WAITING)

FOUND: Final = f"""
    SELECT {COLUMNS}
      FROM (SELECT s.*
              FROM sagas s
             WHERE {{which}} AND s.id < :before
             ORDER BY s.id DESC
             LIMIT :window) s
     WHERE (CAST(:states AS text[]) IS NULL OR s.state = ANY (:states))
       AND (CAST(:user_id AS text) IS NULL OR s.user_id = :user_id)
       AND (CAST(:name AS text) IS NULL OR s.name = :name)
     LIMIT :limit
"""
END: Final = """
    SELECT s.id
      FROM sagas s
     WHERE {which} AND s.id < :before
     ORDER BY s.id DESC
    OFFSET :window - 1
     LIMIT 1
"""
FOUND_BY: Final[Mapping[str, TextClause]] = {way: text(FOUND.format(which=way)) for way in WAYS}
END_BY: Final[Mapping[str, TextClause]] = {way: text(END.format(which=way)) for way in WAYS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """Which sagas: those that fit all that is given."""

    states: frozenset[State] | None = None
    user_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page, and where the next one begins; None where there is none."""

    sagas: list[SagaRow]
    before: UUID | None


async def find(
    conn: AsyncConnection, *, tenant_id: str, sought: Sought, before: UUID | None, limit: int
) -> Found:
    """A page of a tenant's sagas, newest first, older than `before`."""
    assert 0 < limit <= LIST_MAX
    values: dict[str, Any] = {
        "tenant_id": tenant_id,
        "before": MOST if before is None else before,
        "states": None if sought.states is None else sorted(sought.states),
        "user_id": sought.user_id,
        "name": sought.name,
        "window": WINDOW,
        "limit": limit,
    }
    way = _way(sought)
    rows = (await conn.execute(FOUND_BY[way], values)).mappings()
    found = [SagaRow.of(row) for row in rows]
    if len(found) == limit:
        return Found(sagas=found, before=found[-1].id)
    used = {name: values[name] for name in ("tenant_id", "before", "window")}
    if way == OF_USER:
        used["user_id"] = sought.user_id
    return Found(sagas=found, before=await conn.scalar(END_BY[way], used))


def _way(sought: Sought) -> str:
    """The index whose window is likely to have the most that fit."""
    if sought.states is not None and sought.states <= WAITING:
        return OF_WAITING
    return OF_TENANT if sought.user_id is None else OF_USER
