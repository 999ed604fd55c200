"""What a test must not leave behind: tasks, sockets, processes, sessions of its database, and rows
there that are another tenant's."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from tests.support.stack import alive, command_of

GRACE_S = 2.0
"""For what was asked to end and has not yet: a closed connection's backend, a cancelled task."""
LISTEN_STATE = "0A"
LIBRARIES = {"_shutdown_watcher"}
"""sse-starlette's."""

SESSIONS = """
    SELECT format('%s %s, %s: %s', pid, application_name, state, query)
      FROM pg_stat_activity
     WHERE datname = $1
"""
# What a pool would lend to the next one. The app has a connection to listen on.
HELD = """
    SELECT DISTINCT format('%s %s, %s%s: %s', a.pid, a.application_name, a.state,
                           ', ' || l.locktype || ' lock', a.query)
      FROM pg_stat_activity a
      LEFT JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'advisory' AND l.granted
     WHERE a.datname = $1
       AND (l.pid IS NOT NULL
            OR a.state LIKE 'idle in transaction%'
            OR (a.state = 'idle' AND a.query ILIKE 'LISTEN %'
                AND a.application_name NOT LIKE '%-listen'))
"""

# Every table with a tenant, whoever adds it; most have no page, and so no row, after most tests.
TENANTED = """
    SELECT c.oid::regclass::text AS name, array_agg(a.attname::text) AS columns
      FROM pg_class c
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
     WHERE c.relnamespace IN ('public'::regnamespace, 'audit'::regnamespace)
       AND c.relkind IN ('r', 'p') AND NOT c.relispartition
       AND CASE c.relkind
               WHEN 'r' THEN pg_relation_size(c.oid) > 0
               ELSE EXISTS (SELECT
                              FROM pg_partition_tree(c.oid) p
                             WHERE p.isleaf AND pg_relation_size(p.relid) > 0) END
     GROUP BY c.oid
    HAVING bool_or(a.attname = 'tenant_id')
"""
OF_NOBODY = """
    SELECT DISTINCT format('{name}: of %s, who is no tenant', x.tenant_id)
      FROM {name} x
     WHERE x.tenant_id NOT IN (SELECT tenant_id FROM tenants UNION ALL SELECT '_broker')
"""
REFUSED: Final = "audit.events", " AND x.type NOT IN ('access.denied', 'call.denied')"
"""Whoever bears a token of a tenant that is none is refused, and that is written in its log."""
OF_TWO = """
    SELECT DISTINCT format('{name}: of %s, with a {column} of %s', x.tenant_id, o.tenant_id)
      FROM {name} x
      JOIN {other} o ON o.id = x.{column}
     WHERE o.tenant_id <> x.tenant_id
"""
NAMES: Final[Mapping[str, str]] = {
    "command_id": "commands",
    "active_id": "commands",
    "undo_id": "commands",
    "reconcile_id": "commands",
    "saga_id": "sagas",
}
"""Columns that name a row of a table."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What this process has at a moment."""

    tasks: frozenset[asyncio.Task[Any]]
    sockets: frozenset[str]
    processes: frozenset[int]


def seen() -> Seen:
    """What there is; on Linux sockets and processes too."""
    return Seen(frozenset(asyncio.all_tasks()), _sockets(), _processes())


async def since(before: Seen, *, postgres: int | None = None) -> list[str]:
    """What is there that was not, and does not end by itself.

    Connections to PostgreSQL's port are left to `sessions`: pools of a module grow in any test.
    """

    async def left() -> list[str]:
        now = seen()
        found = [
            f"task {task!r}"
            for task in now.tasks - before.tasks
            if task is not asyncio.current_task() and not task.done() and not of_library(task)
        ]
        if new := now.sockets - before.sockets:
            found += _named(new, postgres)
        return found + [
            f"process {pid} {command_of(pid)}"
            for pid in now.processes - before.processes
            if alive(pid)
        ]

    return await _lasting(left)


def of_library(task: asyncio.Task[Any]) -> bool:
    """Whether a library starts it once for the event loop, not for what a test opened."""
    return getattr(task.get_coro(), "__qualname__", "") in LIBRARIES


async def sessions(admin: asyncpg.Connection, database: str) -> list[str]:
    """Who is still connected to a database, with the locks and channels that come with it."""
    return await _lasting(lambda: _rows(admin, SESSIONS, database))


async def held(admin: asyncpg.Connection, database: str) -> list[str]:
    """Which idle sessions hold a transaction, an advisory lock or a channel."""
    return await _lasting(lambda: _rows(admin, HELD, database))


async def strays(superuser: asyncpg.Connection) -> list[str]:
    """Which rows of the connection's database are of no tenant, or hang on another tenant's row."""
    looks: list[str] = []
    for row in await superuser.fetch(TENANTED):
        name = row["name"]
        looks.append(OF_NOBODY.format(name=name) + (REFUSED[1] if name == REFUSED[0] else ""))
        looks += [
            OF_TWO.format(name=name, column=column, other=NAMES[column])
            for column in row["columns"]
            if column in NAMES
        ]
    return await _rows(superuser, " UNION ALL ".join(looks))


async def _rows(admin: asyncpg.Connection, query: str, *values: str) -> list[str]:
    return [row[0] for row in await admin.fetch(query, *values)]


async def _lasting(look: Callable[[], Awaitable[list[str]]]) -> list[str]:
    until = time.monotonic() + GRACE_S
    while True:
        found = await look()
        if not found or time.monotonic() > until:
            return found
        await asyncio.sleep(0.01)


def _sockets() -> frozenset[str]:
    found: set[str] = set()
    for one in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # the folder's own
            target = str(one.readlink())
            if target.startswith("socket:["):
                found.add(target.removeprefix("socket:[").removesuffix("]"))
    return frozenset(found)


def _named(inodes: frozenset[str], postgres: int | None) -> list[str]:
    """Those of TCP; others are an event loop's own."""
    found: list[str] = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:]:
            _, local, remote, state, *_rest = line.split()
            if _rest[5] in inodes and _port(remote) != postgres:
                kind = "listening socket" if state == LISTEN_STATE else "connection"
                found.append(f"{kind} {_port(local)} to {_port(remote)}")
    return found


def _port(address: str) -> int:
    return int(address.rpartition(":")[2], 16)


def _processes() -> frozenset[int]:
    """The direct children; what they started is looked for when the last test is done."""
    found: set[int] = set()
    for thread in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread that ended
            found.update(int(pid) for pid in thread.read_text().split())
    return frozenset(found)
