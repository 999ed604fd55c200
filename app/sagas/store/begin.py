"""The beginning of a saga and of an ad hoc step, on asyncpg: in the transaction that accepts it."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy

from app.intake.call import Call
from app.postgres.engine import dump

Conn = asyncpg.Connection | PoolConnectionProxy

# The saga's own command runs until the saga is over; no adapter has it, so no lease ends.
BEGIN: Final = """
    WITH root AS (
        UPDATE commands
           SET state = 'running', adapter = 'broker', started_at = now(), dispatched_at = now(),
               lease_until = 'infinity'
         WHERE id = $1
    ), saga AS (
        INSERT INTO sagas (id, tenant_id, user_id, kind, name, version, plan, input)
        VALUES ($1, $2, $3, 'declared', $4, $5, $6, $7)
    ), step AS (
        INSERT INTO saga_steps (saga_id, tenant_id, step, position)
        SELECT $1, $2, step, n - 1 FROM unnest($8::text[]) WITH ORDINALITY AS made (step, n)
    ), tick AS (
        INSERT INTO saga_turns (tenant_id, saga_id) VALUES ($2, $1)
    )
    INSERT INTO audit.events (tenant_id, type, actor, user_id, command_id, saga_id, body)
    VALUES ($2, 'saga.started', $9, $3, $1, $1, $10)
"""

BEGIN_ADHOC: Final = """
    WITH made AS (
        INSERT INTO sagas (id, tenant_id, user_id, kind, closed, on_idle, idle_timeout_s)
        VALUES ($1, $2, $3, 'adhoc', false, $4, $5)
            ON CONFLICT (id) DO NOTHING
        RETURNING id
    )
    INSERT INTO audit.events (tenant_id, type, actor, user_id, saga_id, body)
    SELECT $2, 'saga.started', $6, $3, id, json_build_object('kind', 'adhoc') FROM made
"""

OPEN: Final = """
    SELECT s.user_id, s.state, s.closed, s.reason, s.stop,
           (SELECT count(*) FROM saga_steps t WHERE t.saga_id = s.id) AS steps
      FROM sagas s
     WHERE s.id = $1 AND s.kind = 'adhoc'
       FOR UPDATE OF s
"""

ADD_STEP: Final = """
    WITH touched AS (
        UPDATE sagas SET idle_at = now() + make_interval(secs => idle_timeout_s) WHERE id = $1
    )
    INSERT INTO saga_steps (saga_id, tenant_id, step, position, state, command_id, compensation,
                            issues)
    VALUES ($1, $2, $3, $4, 'dispatched', $5, $6, 1)
        ON CONFLICT (saga_id, step) DO NOTHING
    RETURNING 1
"""


async def begin(
    conn: Conn,
    call: Call,
    *,
    name: str,
    version: int,
    plan: Mapping[str, Any],
    given: Mapping[str, Any],
    steps: Sequence[str],
) -> None:
    """Write the saga of a command that was just written; from here on the broker runs that."""
    await conn.execute(
        BEGIN,
        call.correlation_id,
        call.tenant_id,
        call.user_id,
        name,
        version,
        dump(plan),
        dump(given),
        list(steps),
        call.actor,
        dump({"kind": "declared", "name": name, "version": version}),
    )


async def open_adhoc(
    conn: Conn, call: Call, *, on_idle: str, idle_timeout_s: float
) -> dict[str, Any] | None:
    """The ad hoc saga that a call names, locked; begun by this where it is new.

    None where the id is another tenant's, or a declared saga's.
    """
    await conn.execute(
        BEGIN_ADHOC,
        call.saga_id,
        call.tenant_id,
        call.user_id,
        on_idle,
        idle_timeout_s,
        call.actor,
    )
    row = await conn.fetchrow(OPEN, call.saga_id)
    if row is None:
        return None
    found = dict(row)
    for name in ("reason", "stop"):
        found[name] = None if found[name] is None else orjson.loads(found[name])
    return found


async def add_step(conn: Conn, call: Call, *, position: int) -> bool:
    """Write a step beside its command; False where the saga has one of this name."""
    compensation = None if call.compensation is None else dump(call.compensation)
    return bool(
        await conn.fetchval(
            ADD_STEP,
            call.saga_id,
            call.tenant_id,
            call.saga_step,
            position,
            call.correlation_id,
            compensation,
        )
    )
