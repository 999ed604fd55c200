"""The hot statements of adapters' reports: each takes a batch, and moves what its guard lets.

A report that a statement did not move is not lost: `app.commands.results` looks at it by itself,
finds out why, and answers. So the guards here only have the common cases: an attempt that is
claimed, an attempt that runs, an attempt that ends for good.

On asyncpg, in the transaction of the batch, which names its tenants. Rows are locked in the order
of their ids, as the relay does, so two batches wait for each other and never deadlock. Python
gives the random ids, which cost the server more.
"""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import JSON
from uuid_utils import uuid4

from app.catalog.store import TARGET_OF
from app.commands.state import Event, State, sources, target
from app.commands.store.commands import NAMES, Command
from app.commands.store.heads import ACTIVATE_NEXT_SQL, LOCK_MANY
from app.contract import RESULTS
from app.postgres.statements import Connection, begun
from app.postgres.tables import calls

PLAIN: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

COLUMNS: Final = ", ".join(f"c.{name}" for name in NAMES if name != "args")
"""What waiters are shown of a command, which is all but its arguments."""

TENANTS_OF: Final = """
    SELECT wanted.id, broker_tenant_of(wanted.id) AS tenant_id
      FROM unnest($1::uuid[]) AS wanted (id)
"""

SUBJECTS: Final = """
    SELECT id, tenant_id, tool, method, ordering_key, args
      FROM commands
     WHERE id = ANY ($1::uuid[])
"""

# What a locked row was before it moved is part of its audit event.
LOCKED: Final = """
    locked AS MATERIALIZED (
        SELECT c.id, c.state AS state_from
          FROM commands c
         WHERE c.id = ANY ($1::uuid[])
         ORDER BY c.id
           FOR NO KEY UPDATE
    )
"""

AUDITED: Final = """
    audited AS (
        INSERT INTO audit.events (event_id, salt, tenant_id, type, actor, user_id, command_id,
                                  saga_id, tool, method, attempt, state_from, state_to, fingerprint,
                                  body)
        SELECT event_id, uuid_send(salt), tenant_id, 'command.' || {kind}, actor, user_id, id,
               saga_id, tool, method, attempt, state_from, state, fingerprint, {body}
          FROM moved
    )
"""


def _guard(event: Event) -> str:
    return ", ".join(f"'{state}'" for state in sources(event))


RUNS_UNTIL: Final = """
    CASE WHEN c.accept_async OR c.saga_role IN ('retriable', 'undo') THEN c.hard_stop_at
         ELSE least(c.deadline_at, c.hard_stop_at) END
"""
"""Until when a claimed command may run: its deadline, or the hard stop if that does not end it."""

# The claim is the fence: one adapter run takes one attempt, once, while it is still wanted.
# $1 id, $2 attempt, $3 run, $4 actor, $5 lease_s, $6 max_runtime_s, $7 tenant, $8 tool, $9 method,
# $10 event_id, $11 salt.
CLAIM: Final = f"""
    WITH item AS (
        SELECT *
          FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::float8[], $6::float8[],
                      $7::text[], $8::text[], $9::text[], $10::uuid[], $11::uuid[])
            AS i (id, attempt, run, actor, lease_s, max_runtime_s, tenant_id, tool, method,
                  event_id, salt)
    ), {LOCKED}, moved AS (
        UPDATE commands c
           SET state = '{target(Event.CLAIMED)}', adapter = i.run,
               started_at = coalesce(c.started_at, now()),
               lease_until = now() + make_interval(secs => least(i.lease_s, i.max_runtime_s)),
               hard_stop_at = now() + make_interval(secs => i.max_runtime_s)
          FROM item i
          JOIN locked USING (id)
         WHERE c.id = i.id AND c.attempt = i.attempt AND NOT c.held
           AND c.tenant_id = i.tenant_id AND c.tool = i.tool AND c.method = i.method
           AND c.state IN ({_guard(Event.CLAIMED)}) AND c.cancel_requested_at IS NULL
           AND (c.approval IS NULL OR c.approval = 'approved')
           AND (c.accept_async OR c.saga_role IN ('undo', 'retriable') OR c.deadline_at > now())
           AND c.saga_role IS DISTINCT FROM 'saga'
        RETURNING c.id, c.tenant_id, c.user_id, c.tool, c.method, c.args, c.ordering_key,
                  c.attempt, c.state, c.saga_id, c.saga_step, c.deadline_at, c.traceparent,
                  c.fingerprint, {RUNS_UNTIL} AS until, i.run, i.actor, i.event_id, i.salt,
                  locked.state_from
    ), {AUDITED.format(kind="'claimed'", body="json_build_object('adapter', run)")}
    SELECT id, tenant_id, user_id, moved.tool, moved.method, args, ordering_key, attempt, saga_id,
           saga_step, deadline_at, traceparent, t.adapter, g.target,
           extract(epoch FROM until - now())::float8 AS left_s
      FROM moved
      LEFT JOIN tools t ON t.tool = moved.tool AND t.method = moved.method
      LEFT JOIN LATERAL ({TARGET_OF.format(name="t.adapter ->> 'target'", tenant="moved.tenant_id")}
                        ) g ON true
"""

# $1 id, $2 attempt (NULL: the present one), $3 stage, $4 percent, $5 message, $6 lease_s.
PROGRESS: Final = f"""
    WITH item AS (
        SELECT *
          FROM unnest($1::uuid[], $2::int[], $3::text[], $4::float8[], $5::text[], $6::float8[])
            AS i (id, attempt, stage, percent, message, lease_s)
    ), {LOCKED}, moved AS (
        UPDATE commands c
           SET progress_seq = c.progress_seq + 1, stage = i.stage, percent = i.percent,
               message = i.message,
               lease_until = least(now() + make_interval(secs => i.lease_s), c.hard_stop_at)
          FROM item i
          JOIN locked USING (id)
         WHERE c.id = i.id AND c.state = 'running' AND c.saga_role IS DISTINCT FROM 'saga'
           AND c.attempt = coalesce(i.attempt, c.attempt)
        RETURNING c.id, c.tenant_id, c.attempt, c.progress_seq, c.stage, c.percent, c.message,
                  c.cancel_requested_at IS NOT NULL AS cancel_requested
    ), kept AS (
        INSERT INTO progress (command_id, seq, tenant_id, attempt, stage, percent, message)
        SELECT id, progress_seq, tenant_id, attempt, stage, percent, message
          FROM moved
    )
    SELECT id, cancel_requested FROM moved
"""

# An error that could be tried again is not for this statement, nor one that answers a cancel.
# $1 id, $2 attempt (NULL: the present one), $3 state, $4 retryable, $5 actor, $6 result, $7 error,
# $8 error as its event has it, $9 dedupe_s, $10 event_id, $11 salt, $12 message_id.
END: Final = f"""
    WITH item AS (
        SELECT *
          FROM unnest($1::uuid[], $2::int[], $3::text[], $4::bool[], $5::text[], $6::jsonb[],
                      $7::jsonb[], $8::json[], $9::float8[], $10::uuid[], $11::uuid[],
                      $12::uuid[])
            AS i (id, attempt, target, retryable, actor, result, error, brief, dedupe_s, event_id,
                  salt, message_id)
    ), {LOCKED}, moved AS (
        UPDATE commands c
           SET state = i.target, finished_at = now(), held = false, lease_until = NULL,
               dedupe_key = CASE WHEN i.dedupe_s IS NOT NULL THEN c.dedupe_key END,
               dedupe_until = now() + make_interval(secs => i.dedupe_s),
               outcome_unknown = false, result = i.result, error = i.error
          FROM item i
          JOIN locked USING (id)
         WHERE c.id = i.id AND c.attempt = coalesce(i.attempt, c.attempt)
           AND c.state IN ({_guard(Event.RESULT_OK)})
           AND c.saga_role IS DISTINCT FROM 'saga'
           AND (i.target = 'succeeded'
                OR c.cancel_target IS NULL AND (c.attempts_max = 1 OR NOT i.retryable))
        RETURNING {COLUMNS}, i.actor, i.brief, i.event_id, i.salt, i.message_id, locked.state_from
    ), {
    AUDITED.format(
        kind="state",
        body="CASE WHEN brief IS NULL THEN '{}'::json ELSE json_build_object('error', brief) END",
    )
}, ticked AS (
        INSERT INTO saga_turns (tenant_id, saga_id)
        SELECT tenant_id, saga_id FROM moved WHERE saga_id IS NOT NULL
    ), withdrawn AS (
        DELETE FROM outbox o
         USING moved m
         WHERE o.command_id = m.id AND o.kind = 'command' AND o.status <> 'claimed'
    ), queued AS (
        INSERT INTO outbox (event_id, tenant_id, kind, topic, key, command_id, attempt, payload)
        SELECT message_id, tenant_id, 'result', '{RESULTS}',
               tenant_id || ':' || coalesce(ordering_key, id::text), id, attempt,
               json_build_object(
                   'correlation_id', id, 'tenant_id', tenant_id, 'tool', tool, 'method', method,
                   'ordering_key', ordering_key, 'attempt', attempt, 'state', state,
                   'status', CASE WHEN error IS NULL THEN 'ok' ELSE 'error' END,
                   'result', result, 'error', error, 'outcome_unknown', false,
                   'finished_at', to_char(finished_at AT TIME ZONE 'UTC',
                                          'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
          FROM moved
    )
    SELECT {", ".join(name for name in NAMES if name != "args")} FROM moved
"""

# The keys whose heads LOCK_MANY has locked, of what END has moved.
CLEAR_ACTIVE: Final = """
    UPDATE ordering_heads h
       SET active_id = NULL, blocked_reason = NULL, moved_at = now()
      FROM unnest($1::text[], $2::text[]) AS k (tenant_id, ordering_key)
     WHERE h.tenant_id = k.tenant_id AND h.ordering_key = k.ordering_key
       AND h.active_id = ANY ($3::uuid[])
"""
ACTIVATE_NEXT: Final = ACTIVATE_NEXT_SQL.format(tenants="$1", keys="$2")


@asynccontextmanager
async def transaction(conn: Connection, tenants: Sequence[str]) -> AsyncGenerator[None]:
    """A transaction that sees and writes the rows of these tenants; one round trip begins it."""
    assert all(PLAIN.fullmatch(name) for name in tenants), "a tenant's name needs no quoting"
    scope = ",".join(tenants)
    async with begun(conn, f"SELECT set_config('app.tenants', '{{{scope}}}', true)"):
        yield


async def tenants_of(conn: Connection, ids: Sequence[UUID]) -> dict[UUID, str]:
    """Whose these commands are; the one read that crosses tenants."""
    rows = await conn.fetch(TENANTS_OF, ids)
    return {row["id"]: row["tenant_id"] for row in rows if row["tenant_id"] is not None}


async def subjects(conn: Connection, ids: Sequence[UUID]) -> list[asyncpg.Record]:
    """What reports must know of their commands, of the transaction's tenants."""
    return await conn.fetch(SUBJECTS, ids)


async def lock_heads(conn: Connection, keys: Sequence[tuple[str, str]]) -> None:
    """Lock keys until the transaction ends. Before any command row."""
    await conn.execute(LOCK_MANY, [key[0] for key in keys], [key[1] for key in keys])


async def claim(conn: Connection, rows: Sequence[tuple[object, ...]]) -> list[asyncpg.Record]:
    """Take attempts for adapter runs; returns what was taken, with all that an adapter acts on."""
    return await _run(conn, CLAIM, rows, ids=2)


async def progress(conn: Connection, rows: Sequence[tuple[object, ...]]) -> list[asyncpg.Record]:
    """Record progress and renew leases; returns (id, cancel_requested) of those that run."""
    return await _run(conn, PROGRESS, rows)


async def end(conn: Connection, rows: Sequence[tuple[object, ...]]) -> list[asyncpg.Record]:
    """End attempts for good; returns the commands, which `command_of` reads."""
    return await _run(conn, END, rows, ids=3)


async def _run(
    conn: Connection, statement: str, rows: Sequence[tuple[object, ...]], *, ids: int = 0
) -> list[asyncpg.Record]:
    """Run a statement over its rows, with so many random ids behind each of them."""
    if not rows:
        return []
    columns = [list(column) for column in zip(*rows, strict=True)]
    return await conn.fetch(statement, *columns, *([uuid4() for _ in rows] for _ in range(ids)))


JSON_NAMES: Final = tuple(one.name for one in calls.COMMANDS.columns if isinstance(one.type, JSON))


def command_of(row: asyncpg.Record) -> Command:
    """A command of `end`'s row, without its arguments."""
    values: dict[str, Any] = dict(row) | {"args": None, "state": State(row["state"])}
    for name in JSON_NAMES:
        if values[name] is not None:
            values[name] = orjson.loads(values[name])
    return Command(**values)


async def activate_next(
    conn: Connection, keys: Sequence[tuple[str, str]], ended: Sequence[UUID]
) -> list[UUID]:
    """Let the next command of each key go, now that these have ended; returns those."""
    names = [key[0] for key in keys], [key[1] for key in keys]
    await conn.execute(CLEAR_ACTIVE, *names, ended)
    return [row["command_id"] for row in await conn.fetch(ACTIVATE_NEXT, *names)]
