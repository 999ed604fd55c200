"""The audit trail as the sealer sees it: what no seal covers yet, and the seals.

All of it is batches on asyncpg: a batch costs nine statements, however many events and tenants it
has. Row by row the sealer would fall behind intake.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import asyncpg

from app.audit.seal import NOTHING, Seal
from app.audit.tree import Tree
from app.contract import AUDIT
from app.postgres.engine import dump
from app.postgres.statements import Connection

# Transaction ids belong to one cluster: a dump restored elsewhere brings events whose ids mean
# nothing there, so the watermark is worth something in its own cluster only.
WATERMARK: Final = """
    SELECT c.system_identifier AS cluster, w.cluster AS of_cluster, w.xid::text::bigint AS xid
      FROM pg_control_system() c
      LEFT JOIN audit.watermark w ON true
"""

# The newest transaction of the next batch: about $2 events, in whole transactions. Below the
# snapshot's xmin every transaction has ended, so none can add an event there later.
CUT: Final = """
    SELECT max(xid)::text::bigint AS xid, count(*) AS events
      FROM (SELECT xid
              FROM audit.events
             WHERE xid > $1::bigint::text::xid8
               AND xid < pg_snapshot_xmin(pg_current_snapshot())
             ORDER BY xid
             LIMIT $2) AS oldest
"""

# Whether an event has a member is asked one by one: a scalar subquery is never planned as a join
# over all members there ever were.
PENDING: Final = """
    SELECT e.tenant_id,
           array_agg(e.event_id ORDER BY e.xid, e.occurred_at, e.event_id) AS event_ids,
           array_agg(e.occurred_at ORDER BY e.xid, e.occurred_at, e.event_id) AS occurred_ats,
           array_agg(e.leaf ORDER BY e.xid, e.occurred_at, e.event_id) AS leaves,
           array_agg(e.xid::text::bigint ORDER BY e.xid, e.occurred_at, e.event_id) AS xids
      FROM ({chosen}) AS e
     GROUP BY e.tenant_id
"""
UNSEALED: Final = """
    (SELECT true
       FROM audit.members m
      WHERE m.event_id = e.event_id AND m.occurred_at = e.occurred_at
        AND m.tenant_id = e.tenant_id) IS NULL
"""

IN_RANGE: Final = PENDING.format(
    chosen=f"""
        SELECT e.*, audit.leaf(e) AS leaf
          FROM audit.events e
         WHERE e.xid > $1::bigint::text::xid8 AND e.xid <= $2::bigint::text::xid8 AND {UNSEALED}
    """
)

# Visible, yet of a transaction that this cluster has not begun: it came with a restored dump.
FROM_ELSEWHERE: Final = PENDING.format(
    chosen=f"""
        SELECT e.*, audit.leaf(e) AS leaf
          FROM audit.events e
         WHERE e.xid >= pg_snapshot_xmax(pg_current_snapshot()) AND {UNSEALED}
         ORDER BY e.xid
         LIMIT $1
    """
)

# Of transactions that have ended, while an older one has not: it may still write below them, and
# what it writes is sealed after them, late. Whoever holds a transaction open stops nobody's seal.
OVERTAKING: Final = PENDING.format(
    chosen=f"""
        SELECT e.*, audit.leaf(e) AS leaf
          FROM audit.events e
         WHERE e.xid > $1::bigint::text::xid8
           AND e.xid < pg_snapshot_xmax(pg_current_snapshot()) AND {UNSEALED}
         ORDER BY e.xid
         LIMIT $2
    """
)

HEADS: Final = """
    SELECT t.tenant_id, greatest(clock_timestamp(), s.sealed_at) AS now, s.seal_no, s.seq_to,
           s.frontier, s.digest
      FROM unnest($1::text[]) AS t (tenant_id)
      LEFT JOIN LATERAL (
        SELECT seal_no, seq_to, frontier, digest, sealed_at
          FROM audit.seals
         WHERE tenant_id = t.tenant_id
         ORDER BY seal_no DESC
         LIMIT 1
      ) AS s ON true
"""

INSERT_KEYS: Final = """
    INSERT INTO audit.keys (key_id, public_key)
    SELECT * FROM unnest($1::text[], $2::bytea[])
        ON CONFLICT DO NOTHING
"""

INSERT_MEMBERS: Final = """
    INSERT INTO audit.members (tenant_id, seq, event_id, occurred_at, leaf)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::uuid[], $4::timestamptz[], $5::bytea[])
"""

INSERT_SEALS: Final = """
    INSERT INTO audit.seals (tenant_id, seal_no, kind, seq_from, seq_to, retired_before, root,
                             frontier, previous, key_id, sealed_at, checkpoint, digest, attestation,
                             request, retired_digest, transactions)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[],
                         $6::timestamptz[], $7::bytea[], $8::bytea[], $9::bytea[], $10::text[],
                         $11::timestamptz[], $12::text[], $13::bytea[], $14::text[], $15::text[],
                         $16::bytea[], $17::bytea[])
"""

INSERT_OUTBOX: Final = f"""
    INSERT INTO outbox (tenant_id, kind, topic, key, payload)
    SELECT tenant_id, 'audit', '{AUDIT}', tenant_id, payload
      FROM unnest($1::text[], $2::json[]) AS anchor (tenant_id, payload)
"""

# In the logs themselves: from here on transactions are numbered anew.
MOVED: Final = """
    INSERT INTO audit.events (tenant_id, type, actor, body)
    SELECT tenant_id, 'log.moved', 'relay:sealer',
           json_build_object('from_cluster', $1::bigint, 'to_cluster', $2::bigint)
      FROM audit.seals
     WHERE seal_no = 1
"""

HELD_UP: Final = """
    INSERT INTO audit.events (tenant_id, type, actor, body)
    VALUES ('_broker', 'sealing.held_up', 'relay:sealer',
            json_build_object('oldest_open_transaction',
                              pg_snapshot_xmin(pg_current_snapshot())::text))
"""

MOVE_WATERMARK: Final = """
    INSERT INTO audit.watermark AS w (cluster, xid)
    VALUES ($1, $2::bigint::text::xid8)
        ON CONFLICT (one_row) DO UPDATE SET cluster = excluded.cluster, xid = excluded.xid
"""

LAG: Final = f"""
    SELECT coalesce(extract(epoch FROM clock_timestamp() - (
               SELECT e.occurred_at
                 FROM audit.events e
                WHERE e.xid > $1::bigint::text::xid8
                  AND e.xid < pg_snapshot_xmax(pg_current_snapshot()) AND {UNSEALED}
                ORDER BY e.xid
                LIMIT 1)), 0)::float8
"""

# In the index's order, so that no plan begins with the events that were sealed long ago.
WAITING: Final = """
    SELECT count(*)
      FROM (SELECT
              FROM audit.events
             WHERE xid > $1::bigint::text::xid8
               AND xid < pg_snapshot_xmax(pg_current_snapshot())
             ORDER BY xid
             LIMIT $2) AS waiting
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watermark:
    """Every event of a transaction up to this one has been looked at, in this cluster."""

    cluster: int
    xid: int
    adopted: bool  # whether it is this cluster's own; False after a restore, and at first
    before: int | None = None  # the cluster that it is of


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """A batch ends with this transaction; full is: there may be more."""

    xid: int
    full: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """One tenant's events that no seal covers, in the order they will be sealed in."""

    tenant_id: str
    event_ids: Sequence[UUID]
    occurred_ats: Sequence[datetime]
    leaves: Sequence[bytes]
    xids: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where a tenant's log ends now."""

    tree: Tree
    seal_no: int
    digest: bytes
    now: datetime  # by the database's clock, and never before the seal before


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """A seal with its attestation, and the events that it adds."""

    seal: Seal
    attestation: str
    pending: Pending


async def watermark(conn: Connection | asyncpg.Pool) -> Watermark:
    """How far the log was sealed; from the start where that is not known."""
    row = await conn.fetchrow(WATERMARK)
    assert row is not None
    known = row["of_cluster"] == row["cluster"]
    return Watermark(
        cluster=row["cluster"],
        xid=row["xid"] if known else 0,
        adopted=known,
        before=row["of_cluster"],
    )


async def cut(pool: asyncpg.Pool, *, after: int, limit: int) -> Cut | None:
    """Where the next batch ends; None where there is nothing to look at."""
    assert limit > 0
    row = await pool.fetchrow(CUT, after, limit)
    assert row is not None
    return None if row["xid"] is None else Cut(xid=row["xid"], full=row["events"] == limit)


async def in_range(pool: asyncpg.Pool, *, after: int, upto: int) -> list[Pending]:
    """What the transactions of a range have written and no seal covers."""
    return [Pending(**dict(row)) for row in await pool.fetch(IN_RANGE, after, upto)]


async def overtaking(pool: asyncpg.Pool, *, after: int, limit: int) -> list[Pending]:
    """What ended transactions have written and no seal covers, though an older one is open."""
    assert limit > 0
    return [Pending(**dict(row)) for row in await pool.fetch(OVERTAKING, after, limit)]


async def from_elsewhere(pool: asyncpg.Pool, *, limit: int) -> list[Pending]:
    """What a restored dump has brought and no seal covers."""
    return [Pending(**dict(row)) for row in await pool.fetch(FROM_ELSEWHERE, limit)]


async def heads(conn: Connection | asyncpg.Pool, tenants: Sequence[str]) -> dict[str, Head]:
    """Where these tenants' logs end; an empty tree where there is no seal yet."""
    found: dict[str, Head] = {}
    for row in await conn.fetch(HEADS, list(tenants)):
        fresh = row["seal_no"] is None
        found[row["tenant_id"]] = Head(
            tree=Tree() if fresh else Tree.of(row["seq_to"], row["frontier"]),
            seal_no=0 if fresh else row["seal_no"],
            digest=NOTHING if fresh else row["digest"],
            now=row["now"],
        )
    return found


async def write(conn: Connection, sealed: Sequence[Sealed], *, keys: dict[str, bytes]) -> None:
    """Write members, seals, and the anchors that go to Kafka, in the caller's transaction."""
    await conn.execute(INSERT_KEYS, list(keys), list(keys.values()))
    added = [(one.seal, one.pending) for one in sealed]
    await conn.execute(
        INSERT_MEMBERS,
        [seal.tenant_id for seal, pending in added for _ in pending.event_ids],
        [seq for seal, _ in added for seq in range(seal.seq_from, seal.seq_to + 1)],
        [event_id for _, pending in added for event_id in pending.event_ids],
        [at for _, pending in added for at in pending.occurred_ats],
        [leaf for _, pending in added for leaf in pending.leaves],
    )
    columns = zip(*(_row(one) for one in sealed), strict=True)
    await conn.execute(INSERT_SEALS, *(list(column) for column in columns))
    await conn.execute(
        INSERT_OUTBOX,
        [one.seal.tenant_id for one in sealed],
        [dump(anchor(one)) for one in sealed],
    )


async def say_held_up(pool: asyncpg.Pool) -> None:
    """A transaction is open for so long that sealing goes on past it."""
    await pool.execute(HELD_UP)


async def say_moved(conn: Connection, *, before: int, cluster: int) -> None:
    """Every log goes on in another cluster."""
    await conn.execute(MOVED, before, cluster)


async def move_watermark(conn: Connection, *, cluster: int, xid: int) -> None:
    """Remember how far the log is sealed."""
    await conn.execute(MOVE_WATERMARK, cluster, xid)


async def lag_s(conn: Connection | asyncpg.Pool, *, after: int) -> float:
    """The age of the oldest event behind the watermark; a transaction that hangs makes it grow."""
    return float(await conn.fetchval(LAG, after) or 0)


async def waiting(conn: Connection, *, after: int, limit: int) -> int:
    """How many events the sealer has yet to look at, counted up to a limit."""
    return int(await conn.fetchval(WAITING, after, limit) or 0)


def anchor(sealed: Sealed) -> dict[str, object]:
    """What Kafka and anchor files keep of a seal: enough to find any later change of the log."""
    seal = sealed.seal
    return {
        "tenant_id": seal.tenant_id,
        "seal_no": seal.seal_no,
        "kind": str(seal.kind),
        "size": seal.seq_to,
        "digest": seal.digest.hex(),
        "key_id": seal.key_id,
        "sealed_at": seal.sealed_at,
        "checkpoint": seal.checkpoint,
        "attestation": sealed.attestation,
    }


def _row(sealed: Sealed) -> tuple[object, ...]:
    seal = sealed.seal
    return (
        seal.tenant_id,
        seal.seal_no,
        str(seal.kind),
        seal.seq_from,
        seal.seq_to,
        seal.retired_before,
        seal.root,
        seal.frontier,
        seal.previous,
        seal.key_id,
        seal.sealed_at,
        seal.checkpoint,
        seal.digest,
        sealed.attestation,
        seal.request,
        seal.retired_digest,
        seal.transactions,
    )
