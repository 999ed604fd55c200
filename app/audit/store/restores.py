"""Whether the database is the one that was sealed, and what was signed of it where it was put back.

A row of `audit.restores` is nobody's word: the note in it is an officer's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import asyncpg

from app.audit.anchoring import Anchor
from app.audit.request import Restore
from app.audit.rulings import restore_of

# A timeline begins where a server is promoted or recovered to a point in time; a dump that is
# restored, beside or over what was there, has a table of another number.
PLACE: Final = """
    SELECT c.system_identifier AS cluster, left(pg_walfile_name(pg_current_wal_lsn()), 8) AS line,
           d.oid::bigint AS database, 'audit.seals'::regclass::oid::bigint AS relation
      FROM pg_control_system() c, pg_database d
     WHERE d.datname = current_database()
"""

UNLIKE: Final = """
    SELECT a.tenant_id, a.seal_no, a.digest
      FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS a (tenant_id, seal_no, digest)
      LEFT JOIN audit.seals s ON s.tenant_id = a.tenant_id AND s.seal_no = a.seal_no
     WHERE s.digest IS DISTINCT FROM a.digest
"""

# As the function of the owner's that the retention role may ask.
UNLIKE_BY_VERB: Final = "SELECT * FROM audit.unlike($1, $2, $3)"

ACCEPTED: Final = """
    SELECT tenant_id, request FROM audit.restores WHERE tenant_id = ANY ($1) ORDER BY accepted_at
"""

ACCEPT: Final = "SELECT audit.accept_restore($1)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which database this is, and in which of its lives."""

    cluster: int
    line: str
    database: int
    relation: int


Odd = dict[str, dict[int, frozenset[bytes]]]
"""By tenant and number, the digests of published seals that the database does not have."""


async def place(pool: asyncpg.Pool) -> Place:
    """Where we are; another place wants another look at the anchors."""
    row = await pool.fetchrow(PLACE)
    assert row is not None
    return Place(**dict(row))


async def unlike(
    conn: asyncpg.Connection | asyncpg.Pool, anchors: Sequence[Anchor], *, statement: str = UNLIKE
) -> list[Anchor]:
    """Those of the anchors whose seals the database does not have, or has otherwise."""
    rows = await conn.fetch(
        statement,
        [one.tenant_id for one in anchors],
        [one.seal_no for one in anchors],
        [one.digest for one in anchors],
    )
    odd = {(row["tenant_id"], row["seal_no"], row["digest"]) for row in rows}
    return [one for one in anchors if (one.tenant_id, one.seal_no, one.digest) in odd]


async def accepted(
    conn: asyncpg.Connection | asyncpg.Pool,
    tenants: Iterable[str],
    *,
    log: str,
    keys: Mapping[str, bytes],
) -> dict[str, list[Restore]]:
    """What officers with these keys have signed of these tenants' logs."""
    found: dict[str, list[Restore]] = {}
    for row in await conn.fetch(ACCEPTED, sorted(set(tenants))):
        tenant_id = row["tenant_id"]
        asked = restore_of(row["request"], log=log, tenant_id=tenant_id, keys=keys)
        if asked is not None:
            found.setdefault(tenant_id, []).append(asked)
    return found


async def accept(conn: asyncpg.Connection, note: str) -> None:
    """Record in a log that it goes on from an earlier state.

    Raises:
        asyncpg.InvalidParameterValueError: it is no such request.
    """
    await conn.execute(ACCEPT, note)
