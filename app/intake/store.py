"""The hot statement: a batch of calls becomes commands, outbox rows and audit events.

On asyncpg, one round trip a batch: the statement by itself was measured at 3-5 times pgbench's
one-statement rate, where one SQLAlchemy transaction a call reaches 0.1 of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Final
from uuid import UUID

import asyncpg
import orjson
from asyncpg.pool import PoolConnectionProxy
from uuid_utils import uuid4

from app.commands.envelope import partition_key
from app.commands.state import State
from app.commands.store.heads import ACTIVATE_NEXT_SQL
from app.contract import COMMANDS, instant
from app.intake.call import Call
from app.postgres.engine import dump

CALL: Final[Mapping[str, str]] = {
    "id": "uuid",
    "tenant_id": "text",
    "user_id": "text",
    "actor": "text",
    "tool": "text",
    "method": "text",
    "args": "jsonb",
    "idempotency_key": "text",
    "key_source": "text",
    "fingerprint": "bytea",
    "dedupe_key": "bytea",
    "ordering_key": "text",
    "ordering": "text",
    "deadline_s": "float8",
    "not_before": "timestamptz",
    "priority": "int2",
    "accept_async": "bool",
    "accept_partials": "bool",
    "attempts_max": "int",
    "approval": "text",
    "approval_rule": "jsonb",
    "saga_id": "uuid",
    "saga_step": "text",
    "saga_role": "text",
    "compensation": "jsonb",
    "traceparent": "text",
    "labels_text": "text",
    "asserted": "jsonb",
    "topic": "text",
    "kafka_key": "text",
    "body": "text",
    "message_id": "uuid",
    "event_id": "uuid",
    "salt": "uuid",
    "secret": "bool",
    "from_last": "int",
    "turn": "int",
    "own_yes": "bool",
    "approval_expires_s": "float8",
    "approval_escalate_s": "float8",
}
"""The columns of a batch, with their types: the parameters of ACCEPT, in order, from $1."""

# Of the outbox row and the audit event, or of how the command is written.
NOT_OF_COMMANDS: Final = (
    *("actor", "deadline_s", "topic", "kafka_key", "body", "message_id", "event_id", "salt"),
    *("secret", "from_last", "turn", "labels_text"),
    *("own_yes", "approval_expires_s", "approval_escalate_s"),
)
AS_GIVEN: Final = ", ".join(name for name in CALL if name not in NOT_OF_COMMANDS)
ARRAYS: Final = ", ".join(f"${n}::{kind}[]" for n, kind in enumerate(CALL.values(), start=1))

# The transaction's tenants are set by the statement itself, before it makes a row: so a batch whose
# calls wait for no key is one statement, which commits itself, and one round trip.
# Keys are taken in one order by every batch (heads first, then the unique keys, by `turn`), so that
# two batches wait for each other and never deadlock. A call that was there before is not written,
# and neither is its outbox row or its event.
# Python gives what costs the server more: random ids (2.6 us each where it is built without
# OpenSSL), the turns, and each call's place among those of its key (a window over rows so wide).
ACCEPT: Final = f"""
    WITH call AS (
        SELECT *
          FROM unnest({ARRAYS}) WITH ORDINALITY AS call ({", ".join(CALL)}, n)
         WHERE (SELECT set_config('app.tenants', ${len(CALL) + 1}::text[]::text, true)) IS NOT NULL
    ), head AS (
        -- The next numbers of each ordering key; the last call of a batch has the highest.
        INSERT INTO ordering_heads AS h (tenant_id, ordering_key, next_seq)
        SELECT tenant_id, ordering_key, 1 + count(*)
          FROM call
         WHERE ordering_key IS NOT NULL
         GROUP BY tenant_id, ordering_key
         ORDER BY tenant_id, ordering_key
            ON CONFLICT (tenant_id, ordering_key)
            DO UPDATE SET next_seq = h.next_seq + excluded.next_seq - 1
        RETURNING tenant_id, ordering_key, next_seq
    ), written AS (
        -- New commands; one whose key or id is taken is left out, here and below. Here, and nowhere
        -- else, a call begins to wait for an approval.
        INSERT INTO commands ({AS_GIVEN}, labels, key_seq, held, deadline_at, approvals,
                              approval_until, approval_due)
        SELECT {AS_GIVEN}, CAST(labels_text AS text[]), head.next_seq - from_last,
               ordering_key IS NOT NULL,
               greatest(now(), not_before) + make_interval(secs => deadline_s),
               CASE WHEN own_yes
                    THEN jsonb_build_array(jsonb_build_object('user', user_id, 'at', now())) END,
               now() + make_interval(secs => approval_expires_s),
               CASE WHEN approval = 'pending' THEN now() + make_interval(
                    secs => least(approval_expires_s, approval_escalate_s)) END
          FROM call
          LEFT JOIN head USING (tenant_id, ordering_key)
         ORDER BY turn
            ON CONFLICT DO NOTHING
        RETURNING id, created_at, deadline_at
    ), queued AS (
        -- Their outbox rows; a saga's own command goes to no adapter.
        INSERT INTO outbox (event_id, tenant_id, kind, topic, key, command_id, attempt, tool,
                            method, priority, exempt, status, available_at)
        SELECT message_id, tenant_id, 'command', coalesce(topic, '{COMMANDS}'), kafka_key, id, 1,
               tool, method, priority, saga_role IS NOT DISTINCT FROM 'undo',
               CASE WHEN ordering_key IS NULL AND approval IS DISTINCT FROM 'pending'
                    THEN CASE WHEN not_before > now() THEN 'delayed' ELSE 'ready' END
                    ELSE 'held' END,
               greatest(now(), not_before)
          FROM call
          JOIN written USING (id)
         WHERE saga_role IS DISTINCT FROM 'saga'
         ORDER BY n
    ), labelled AS (
        -- Their labels, one a row, to be searched.
        INSERT INTO command_labels (tenant_id, label, command_id)
        SELECT tenant_id, unnest(CAST(labels_text AS text[])), id
          FROM call
          JOIN written USING (id)
         WHERE labels_text IS NOT NULL
    ), audited AS (
        -- Their audit events. A fingerprint would tell whether a secret was guessed right.
        INSERT INTO audit.events (event_id, salt, tenant_id, type, actor, user_id, command_id,
                                  saga_id, tool, method, attempt, state_to, fingerprint, body)
        SELECT event_id, uuid_send(salt), tenant_id, 'command.accepted', actor, user_id, id,
               saga_id, tool, method, 1, '{State.QUEUED}',
               CASE WHEN secret IS NOT TRUE THEN fingerprint END, body::json
          FROM call
          JOIN written USING (id)
    )
    SELECT id, created_at, deadline_at FROM written
"""

ACTIVATE_NEXT: Final = ACTIVATE_NEXT_SQL.format(tenants="$1", keys="$2")

# In a statement of its own: the one that wrote waited for whoever held the key, and its snapshot
# is older than that one's commit.
EARLIER: Final = """
    SELECT wanted.n, c.id, c.fingerprint, c.state, c.created_at, c.deadline_at, c.traceparent
      FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY
           AS wanted (tenant_id, user_id, idempotency_key, dedupe_key, n)
      JOIN commands c
        ON c.tenant_id = wanted.tenant_id
       AND (c.user_id = wanted.user_id AND c.idempotency_key = wanted.idempotency_key
            OR c.dedupe_key = wanted.dedupe_key
               AND (c.dedupe_until IS NULL OR c.dedupe_until > now()))
"""

# Only where a call met its key, so it costs new calls nothing. Takes no head after these rows.
EXPIRE_DEDUPE_KEYS: Final = """
    UPDATE commands
       SET dedupe_key = NULL, dedupe_until = NULL
     WHERE id IN (SELECT c.id
                    FROM commands c
                    JOIN unnest($1::text[], $2::bytea[]) AS wanted (tenant_id, dedupe_key)
                   USING (tenant_id, dedupe_key)
                   WHERE c.dedupe_until <= now()
                   ORDER BY c.id
                     FOR UPDATE OF c)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What became of a call: `new`, or the earlier command that its key names."""

    id: UUID
    new: bool
    fingerprint: bytes
    state: State
    created_at: datetime
    deadline_at: datetime
    traceparent: str | None = None  # of an earlier one


async def write(
    conn: asyncpg.Connection | PoolConnectionProxy, calls: Sequence[Call]
) -> list[Written | None]:
    """Write each new call, whole: in the caller's transaction, or in one of its own.

    In the caller's it names the tenants, too. Returns one entry a call, in order; None where a
    call met an earlier one's key, or has the correlation id of another command.
    """
    assert calls
    columns = _columns(calls)
    tenants = sorted({call.tenant_id for call in calls})
    rows = await conn.fetch(ACCEPT, *(_array(columns[name]) for name in CALL), tenants)
    new = {row["id"]: row for row in rows}
    found = [new.get(call.correlation_id) for call in calls]
    return [
        None if row is None else _written(call, row) for call, row in zip(calls, found, strict=True)
    ]


async def activate_next(
    conn: asyncpg.Connection | PoolConnectionProxy, keys: Sequence[tuple[str, str]]
) -> None:
    """Let the first command of each free (tenant, ordering key) go; `write` holds their heads."""
    await conn.fetch(ACTIVATE_NEXT, [key[0] for key in keys], [key[1] for key in keys])


async def find_conflicting(
    conn: asyncpg.Connection | PoolConnectionProxy, calls: Sequence[Call]
) -> list[Written | None]:
    """What became of calls that `write` did not write: the command that each one's key names.

    None where no earlier command has the key: the correlation id is another command's, or that
    command has released its dedupe key: it ended in between, or its window is over. Then the
    next try is written.
    """
    found = await find_earlier(conn, calls)
    met = [
        call
        for call, earlier in zip(calls, found, strict=True)
        if earlier is None and call.dedupe_key is not None
    ]
    if met:
        await conn.execute(
            EXPIRE_DEDUPE_KEYS, [call.tenant_id for call in met], [call.dedupe_key for call in met]
        )
    return found


async def find_earlier(
    conn: asyncpg.Connection | PoolConnectionProxy, calls: Sequence[Call]
) -> list[Written | None]:
    """The command that each call's key names, if there is one; in order."""
    found: list[Written | None] = [None] * len(calls)
    if not calls:
        return found
    rows = await conn.fetch(
        EARLIER,
        [call.tenant_id for call in calls],
        [call.user_id for call in calls],
        [call.idempotency_key for call in calls],
        [call.dedupe_key for call in calls],
    )
    for row in rows:
        found[row["n"] - 1] = Written(
            id=row["id"],
            new=False,
            fingerprint=row["fingerprint"],
            state=State(row["state"]),
            created_at=row["created_at"],
            deadline_at=row["deadline_at"],
            traceparent=row["traceparent"],
        )
    return found


def _array(column: Sequence[object]) -> Sequence[object] | None:
    """A column as a parameter. unnest() pads what is missing, and an array costs 5 us to send."""
    if column[0] is None and column.count(None) == len(column):
        return None
    return column


def _from_last(calls: Sequence[Call]) -> list[int | None]:
    """Each call's place among those of its ordering key: 1 for the last; None without a key."""
    seen: dict[tuple[str, str], int] = {}
    places: list[int | None] = []
    for call in reversed(calls):
        place = None
        if call.ordering_key is not None:
            key = (call.tenant_id, call.ordering_key)
            place = seen[key] = seen.get(key, 0) + 1
        places.append(place)
    return places[::-1]


def _turns(calls: Sequence[Call]) -> list[int]:
    """When each call's unique keys are taken: in the keys' order, whatever batch they are in."""
    keys = [
        (
            call.tenant_id,
            call.idempotency_key if call.dedupe_key is None else call.dedupe_key.hex(),
            call.correlation_id.bytes,
        )
        for call in calls
    ]
    turns = [0] * len(keys)
    for turn, n in enumerate(sorted(range(len(keys)), key=keys.__getitem__)):
        turns[n] = turn
    return turns


def _written(call: Call, row: asyncpg.Record) -> Written:
    return Written(
        id=row["id"],
        new=True,
        fingerprint=call.fingerprint,
        state=State.QUEUED,
        created_at=row["created_at"],
        deadline_at=row["deadline_at"],
    )


def _columns(calls: Sequence[Call]) -> dict[str, Sequence[object]]:
    """A batch by column; what is not made here is an attribute of a call by that name."""
    args = [orjson.dumps(call.args) for call in calls]
    made: dict[str, Sequence[object]] = {
        "id": [call.correlation_id for call in calls],
        "args": [one.decode() for one in args],
        "compensation": [
            None if call.compensation is None else dump(call.compensation) for call in calls
        ],
        "approval_rule": [
            None if call.approval_rule is None else dump(call.approval_rule) for call in calls
        ],
        "kafka_key": [
            partition_key(call.tenant_id, call.ordering_key, call.correlation_id) for call in calls
        ],
        "body": [dump(_body(call, one)) for call, one in zip(calls, args, strict=True)],
        "labels_text": [_array_text(call.labels) for call in calls],
        "asserted": [None if call.asserted is None else dump(call.asserted) for call in calls],
        "message_id": [uuid4() for _ in calls],
        "event_id": [uuid4() for _ in calls],
        "salt": [uuid4() for _ in calls],
        "secret": [_is_secret(call) or None for call in calls],
        "from_last": _from_last(calls),
        "turn": _turns(calls),
    }
    return {
        name: made[name] if name in made else list(map(attrgetter(name), calls)) for name in CALL
    }


def _array_text(texts: Sequence[str]) -> str | None:
    """An array as PostgreSQL reads it from a text: arrays of an unequal length are no column."""
    if not texts:
        return None
    quoted = (one.replace("\\", r"\\").replace('"', r"\"") for one in texts)
    return "{" + ",".join(f'"{one}"' for one in quoted) + "}"


def _is_secret(call: Call) -> bool:
    """Whether the request holds what its event does not."""
    return call.args_audited is not call.args or call.compensation is not None


def _body(call: Call, args: bytes) -> dict[str, object]:
    """The audit event's body."""
    body: dict[str, object] = {
        "idempotency_key": call.idempotency_key,
        "key_source": call.key_source,
        # Where nothing was redacted it is the same text, which need not be made twice.
        "args": orjson.Fragment(args) if call.args_audited is call.args else call.args_audited,
        "priority": call.priority.wire,
        "deadline_s": call.deadline_s,
    }
    if call.not_before is not None:
        body["not_before"] = instant(call.not_before)
    if call.labels:
        body["labels"] = call.labels
    if call.asserted is not None:
        body["asserted_by_caller"] = call.asserted
    if call.ordering_key is not None:
        body["ordering_key"] = call.ordering_key
    if call.approval is not None:
        body["approval"] = call.approval
        if call.approval_rule is not None:
            body["approval_rule"] = call.approval_rule
        if call.own_yes:
            body["approved_by"] = call.user_id
    if call.ruled is not None:
        body["grants"] = call.ruled
    if call.compensation is not None:
        body["compensation"] = call.compensation.get("tool")
    return body
