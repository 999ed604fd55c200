"""What must be true when the dust has settled, from the database, Kafka and the effects file."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from aiokafka import AIOKafkaConsumer

from app.contract import RESULTS
from tests.system.chaos.fleet import Fleet

NOT_IDEMPOTENT = {"once", "loose"}

COMMANDS = """
    SELECT c.id::text, c.method, c.state, c.attempt, c.key_seq, c.ordering_key, c.idempotency_key,
           c.finished_at, c.outcome_unknown,
           count(*) FILTER (WHERE e.type = 'command.accepted') AS accepted,
           count(*) FILTER (WHERE e.type IN (
               'command.succeeded', 'command.failed', 'command.cancelled', 'command.timed_out',
               'command.dead_lettered')) AS ended,
           count(*) FILTER (WHERE e.type = 'command.redrive') AS redriven,
           min(e.attempt) FILTER (WHERE e.type = 'command.redrive') AS redriven_at
      FROM commands c
      LEFT JOIN audit.events e ON e.command_id = c.id
     GROUP BY c.id
"""
CLAIMS = """
    SELECT command_id::text AS id, attempt, count(*) AS times
      FROM audit.events
     WHERE type = 'command.claimed'
     GROUP BY 1, 2
"""
# An event's time is taken under its key's lock.
KEYED = """
    SELECT e.command_id::text AS id, e.type, c.ordering_key
      FROM audit.events e
      JOIN commands c ON c.id = e.command_id
     WHERE c.ordering_key IS NOT NULL
       AND e.type IN ('command.claimed', 'command.succeeded', 'command.failed',
                      'command.cancelled', 'command.timed_out', 'command.dead_lettered')
     ORDER BY e.occurred_at
"""
LEFT = """
    SELECT (SELECT count(*) FROM commands WHERE finished_at IS NULL) AS open,
           -- The sealer goes on for a moment, and its checkpoints go out like all the rest.
           (SELECT count(*) FROM outbox WHERE kind <> 'audit') AS unpublished
"""
STUCK = """
    SELECT c.id, c.method, c.state, c.attempt, c.held, c.ordering_key, c.deadline_at, c.lease_until,
           now() AS now, h.active_id, h.blocked_reason,
           (SELECT string_agg(o.kind || ':' || o.status || ':' || o.attempt, ',') FROM outbox o
             WHERE o.command_id = c.id) AS outbox
      FROM commands c
      LEFT JOIN ordering_heads h USING (tenant_id, ordering_key)
     WHERE c.finished_at IS NULL
     ORDER BY c.created_at
     LIMIT 10
"""


async def look(dsn: str, query: str) -> list[dict[str, Any]]:
    """Rows, read by the owner."""
    conn = await asyncpg.connect(dsn, timeout=5)
    try:
        return [dict(row) for row in await conn.fetch(query)]
    finally:
        await conn.close()


def effects_of(path: Path) -> list[dict[str, Any]]:
    """What the adapters did, in order."""
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


async def results_of(bootstrap: str) -> dict[str, set[tuple[str, str]]]:
    """What mcp.results says: (message_uuid, state) by command."""
    consumer = AIOKafkaConsumer(
        RESULTS,
        bootstrap_servers=bootstrap,
        group_id=None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        async with asyncio.timeout(20):
            while not consumer.assignment():
                await consumer.getmany(timeout_ms=100)
        places = list(consumer.assignment())
        ends = await consumer.end_offsets(places)
        await consumer.seek_to_beginning(*places)
        found = defaultdict[str, set[tuple[str, str]]](set)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    body = orjson.loads(record.value or b"")
                    event = dict(record.headers)["message_uuid"].decode()
                    found[body["correlation_id"]].add((event, body["state"]))
        return found
    finally:
        await consumer.stop()


async def violations(
    fleet: Fleet, promised: Mapping[str, str], *, clocks_move: bool = False
) -> tuple[list[str], dict[str, Any]]:
    """Every broken promise in words, and the counts; `clocks_move`: times tell no order."""
    rows = {row["id"]: row for row in await look(fleet.dsns.owner, COMMANDS)}
    claims = {
        (row["id"], row["attempt"]): row["times"] for row in await look(fleet.dsns.owner, CLAIMS)
    }
    [left] = await look(fleet.dsns.owner, LEFT)
    effects = effects_of(fleet.effects)
    said = await results_of(fleet.kafka.bootstrap)
    wrong: list[str] = []
    for key, one in promised.items():
        row = rows.get(one)
        if row is None or row["idempotency_key"] != key:
            wrong.append(f"{one} was accepted for {key} and is not in the database as that")
    wrong += [f"{row['id']}: {problem}" for row in rows.values() for problem in trail(row)]
    wrong += [
        f"{one}: mcp.results says {sorted(said.get(one, ()))}, the database {row['state']}"
        for one, row in rows.items()
        if row["finished_at"] and not told(row, said.get(one, set()))
    ]
    wrong += [f"{place} was claimed {times} times" for place, times in claims.items() if times > 1]
    wrong += of_effects(rows, claims, effects) + of_order(rows, effects)
    if not clocks_move:
        wrong += of_keys(await look(fleet.dsns.owner, KEYED))
    if left["open"] or left["unpublished"]:
        wrong.append(f"left over: {left}")
    counts = {
        "promised": len(promised),
        "commands": len(rows),
        "effects": len(effects),
        "effects of workers": sum(one.get("run") == "worker" for one in effects),
        "attempts claimed": len(claims),
        "redriven": sum(row["redriven"] for row in rows.values()),
        "unknown": sum(row["outcome_unknown"] for row in rows.values()),
        "states": dict(Counter(row["state"] for row in rows.values())),
        "violations": len(wrong),
    }
    return wrong, counts


def trail(row: Mapping[str, Any]) -> list[str]:
    """What is wrong with a command's own row and audit trail."""
    wrong: list[str] = []
    if row["accepted"] != 1:
        wrong.append(f"{row['accepted']} accepted events")
    if row["ended"] != 1 + row["redriven"] or row["finished_at"] is None:
        wrong.append(
            f"{row['ended']} terminal events, {row['redriven']} redrives, in state {row['state']}"
        )
    return wrong


def told(row: Mapping[str, Any], said: set[tuple[str, str]]) -> bool:
    """Whether mcp.results has each end of a command, the last one among them."""
    states = [state for _, state in said]
    return len(states) == 1 + row["redriven"] and row["state"] in states


def of_effects(
    rows: Mapping[str, Mapping[str, Any]],
    claims: Mapping[tuple[str, int], int],
    effects: list[dict[str, Any]],
) -> list[str]:
    """At most one effect an attempt, each after a granted claim; one where it must be one."""
    places = Counter((one["id"], one["attempt"]) for one in effects)
    wrong = [f"{place}: {times} effects" for place, times in places.items() if times > 1]
    wrong += [f"{place}: an effect without a claim" for place in places if place not in claims]
    by_command = Counter(one["id"] for one in effects)
    for one, row in rows.items():
        times = by_command[one]
        once = row["method"] in NOT_IDEMPOTENT
        if once and times > 1:
            wrong.append(f"{one}: {times} effects of {row['method']}")
        if row["state"] == "succeeded" and (times < 1 or (once and times != 1)):
            wrong.append(f"{one}: {row['method']} succeeded with {times} effects")
    return wrong


def of_order(rows: Mapping[str, Mapping[str, Any]], effects: list[dict[str, Any]]) -> list[str]:
    """Each key's effects are in the order of acceptance, but for those of a redrive."""
    last: dict[str, tuple[int, int]] = {}
    wrong: list[str] = []
    for one in effects:
        row = rows[one["id"]]
        key = row["ordering_key"]
        if key is None:
            continue
        if row["redriven_at"] is not None and one["attempt"] >= row["redriven_at"]:
            continue  # it died, the key went on, and an operator called it back
        place = (row["key_seq"], one["attempt"])
        if place < last.get(key, (0, 0)):
            wrong.append(f"key {key}: {place} after {last[key]} ({one['id']})")
        last[key] = max(place, last.get(key, (0, 0)))
    return wrong


def of_keys(events: list[dict[str, Any]]) -> list[str]:
    """From its claim to its end a command has its key to itself, redriven or not."""
    active: dict[str, str] = {}
    wrong: list[str] = []
    for one in events:
        key, holder = one["ordering_key"], active.get(one["ordering_key"])
        if one["type"] != "command.claimed":
            if holder == one["id"]:
                del active[key]
        elif holder not in {None, one["id"]}:
            wrong.append(f"key {key}: {one['id']} was claimed while {holder} had it")
        else:
            active[key] = one["id"]
    return wrong
