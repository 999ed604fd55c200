"""How long each statement of a migration may wait for a lock and may take: by whom it keeps out.

PostgreSQL has one limit for all statements of a session. A migration needs three: what locks
readers or writers out must be over in seconds, whatever it waits for queues all traffic behind it;
what is built or checked beside them takes as long as the table is large.
"""

import re
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, event


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of one statement, as PostgreSQL takes them."""

    lock: str
    statement: str


BESIDE: Final = Bounds(lock="30min", statement="12h")
"""Beside readers and writers: it waits for old transactions, and nobody waits for it."""
ROWS: Final = Bounds(lock="5s", statement="10min")
"""Locks the rows that it changes."""
WHOLE: Final = Bounds(lock="5s", statement="30s")
"""Locks whole tables."""

IS_BESIDE: Final = re.compile(
    r"(CREATE (UNIQUE )?|DROP |RE)INDEX .*\bCONCURRENTLY\b|ALTER TABLE .* VALIDATE CONSTRAINT",
    re.IGNORECASE,
)
IS_OF_ROWS: Final = re.compile(r"INSERT|UPDATE|DELETE|WITH|SELECT|ANALYZE|VACUUM", re.IGNORECASE)


def bounds_of(statement: str) -> Bounds:
    """The limits of a statement, by what it is."""
    said = " ".join(statement.split())
    if IS_BESIDE.match(said):
        return BESIDE
    return ROWS if IS_OF_ROWS.match(said) else WHOLE


def bound(connection: Connection) -> None:
    """Give each statement of this connection its own limits."""
    in_force: list[Bounds] = []

    @event.listens_for(connection, "before_cursor_execute")
    def before(conn: Connection, _cursor: Any, statement: str, *_: Any) -> None:  # pyright: ignore[reportUnusedFunction] an event
        wanted = bounds_of(statement)
        if in_force != [wanted]:
            in_force[:] = [wanted]
            cursor = conn.connection.cursor()
            cursor.execute(
                f"SELECT set_config('lock_timeout', '{wanted.lock}', false),"
                f" set_config('statement_timeout', '{wanted.statement}', false)"
            )
            cursor.close()
