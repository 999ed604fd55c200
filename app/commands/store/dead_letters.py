"""Commands that were given up: the list of dead letters, and how an operator settles one."""

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.commands.store.commands import COLUMNS, LIST_MAX, Command
from app.commands.store.moves import AUDIT, moved
from app.postgres.engine import dump


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which dead letters: those that fit all that is given. Ages count from the giving up."""

    tool: str | None = None
    method: str | None = None
    code: str | None = None
    outcome_unknown: bool | None = None
    older_than_s: float | None = None
    newer_than_s: float | None = None


# In the order in which they died, which is that of their keys.
LIST: Final = text(f"""
    SELECT {COLUMNS}
      FROM commands c
     WHERE c.tenant_id = :tenant_id AND c.state = 'dead_lettered' AND c.discarded_at IS NULL
       AND (CAST(:tool AS text) IS NULL OR c.tool = :tool)
       AND (CAST(:method AS text) IS NULL OR c.method = :method)
       AND (CAST(:code AS text) IS NULL OR c.error ->> 'code' = :code)
       AND (CAST(:outcome_unknown AS boolean) IS NULL OR c.outcome_unknown = :outcome_unknown)
       AND (CAST(:older_than_s AS float8) IS NULL
            OR c.finished_at <= now() - make_interval(secs => :older_than_s))
       AND (CAST(:newer_than_s AS float8) IS NULL
            OR c.finished_at > now() - make_interval(secs => :newer_than_s))
       AND (CAST(:after AS uuid) IS NULL OR (c.finished_at, c.id) >
            (SELECT f.finished_at, f.id FROM commands f WHERE f.id = :after))
     ORDER BY c.finished_at, c.id
     LIMIT :limit
""")

DISCARD: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET discarded_at = now()
         WHERE c.id = :id AND c.state = 'dead_lettered' AND c.discarded_at IS NULL
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM moved
""")

# What was unknown is known; a dead letter is settled with that.
RESOLVE: Final = text(f"""
    WITH moved AS (
        UPDATE commands c
           SET outcome_unknown = false,
               discarded_at = CASE WHEN c.state = 'dead_lettered'
                                   THEN coalesce(c.discarded_at, now()) END,
               error = coalesce(c.error, '{{}}') || CAST(:resolution AS jsonb)
         WHERE c.id = :id AND c.outcome_unknown AND c.finished_at IS NOT NULL
        RETURNING {COLUMNS}
    ), audited AS ({AUDIT})
    SELECT * FROM moved
""")


async def list_oldest(
    conn: AsyncConnection, *, tenant_id: str, wanted: Wanted, after: UUID | None, limit: int
) -> list[Command]:
    """A tenant's dead letters that are not settled, oldest first, after one of them."""
    assert 0 < limit <= LIST_MAX
    values: dict[str, Any] = {
        "tool": wanted.tool,
        "method": wanted.method,
        "code": wanted.code,
        "outcome_unknown": wanted.outcome_unknown,
        "older_than_s": wanted.older_than_s,
        "newer_than_s": wanted.newer_than_s,
    }
    values |= {"tenant_id": tenant_id, "after": after, "limit": limit}
    rows = await conn.execute(LIST, values)
    return [Command.of(row) for row in rows.mappings()]


async def discard(
    conn: AsyncConnection, command: Command, *, actor: str, reason: str
) -> Command | None:
    """Take a dead letter off the list; None where it is not on it."""
    return await moved(
        conn,
        DISCARD,
        command,
        kind="command.discarded",
        actor=actor,
        body={"reason": reason},
    )


async def resolve(
    conn: AsyncConnection, command: Command, *, outcome: str, actor: str, reason: str
) -> Command | None:
    """Record what became of a command that ended in doubt; None where there is no doubt."""
    details = {"outcome": outcome, "reason": reason}
    return await moved(
        conn,
        RESOLVE,
        command,
        kind="command.resolved",
        actor=actor,
        body=details,
        resolution=dump({"resolved": details}),
    )
