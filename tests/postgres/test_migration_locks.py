"""Migrations on a database that has rows: what each statement reads while it locks others out."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.edges import sagas
from app.edges.sagas import Which
from app.edges.server import open_broker
from app.intake.prepare import CallRequest
from app.postgres import bounds, migrate
from app.postgres.bounds import BESIDE, ROWS, WHOLE, bounds_of
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.audit.conftest import open_log
from tests.conftest import settings_of
from tests.support.calls import ADA, accept, echo, fetch

pytestmark = pytest.mark.thorough

RELEASED = "0014"
"""The newest revision of 0.1.0: its locks are in the field."""
MANY = 40
"""A table that has so many rows here is one that grows in the field."""

TABLES = """
    SELECT c.oid::regclass::text AS name
      FROM pg_class c
     WHERE c.relkind = 'r' AND c.relnamespace IN ('public'::regnamespace, 'audit'::regnamespace)
"""
LOCKED = """
    SELECT DISTINCT relation::regclass::text
      FROM pg_locks
     WHERE pid = pg_backend_pid() AND locktype = 'relation' AND granted
       AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""
# What is counted already, and what the session has yet to hand in.
TAKEN = """
    SELECT a.relid::regclass::text,
           coalesce(a.seq_tup_read, 0) + coalesce(x.seq_tup_read, 0)
           + coalesce(a.idx_tup_fetch, 0) + coalesce(x.idx_tup_fetch, 0)
           + a.n_tup_ins + x.n_tup_ins + a.n_tup_upd + x.n_tup_upd + a.n_tup_del + x.n_tup_del
      FROM pg_stat_all_tables a
      JOIN pg_stat_xact_all_tables x USING (relid)
     WHERE a.schemaname IN ('public', 'audit')
"""


class BrokenOffError(Exception):
    """The migration ends here, as if its process were killed."""


@dataclass(slots=True, kw_only=True)
class Watch:
    """Finds statements that go through a table's rows while others are locked out of one."""

    rows: dict[str, int]
    """How many there are, of each table that grows."""
    found: list[str] = field(default_factory=list)
    taken: dict[str, int] = field(default_factory=dict)

    def after(self, conn: Connection, statement: str) -> None:
        """Look at a statement that has just been done."""
        said = " ".join(statement.split())[:150]
        driver: Any = conn.connection.driver_connection
        if driver.is_in_transaction():
            locked = self.rows.keys() & {name for (name,) in ask(conn, LOCKED)}
        else:  # it has given its locks back
            locked = self.rows.keys() if bounds_of(statement) is WHOLE else frozenset[str]()
        before, self.taken = self.taken, dict(ask(conn, TAKEN))
        for name, rows in self.rows.items():
            count = self.taken.get(name, 0) - before.get(name, 0)
            if locked and before and count >= rows:
                self.found.append(f"{said}: takes {count} rows of {name}, others locked out")


def ask(conn: Connection, query: str) -> list[Any]:
    cursor = conn.connection.cursor()
    try:
        cursor.execute("SET stats_fetch_consistency = none")
        cursor.execute(query)
        return list(cursor.fetchall())
    finally:
        cursor.close()


@contextmanager
def looking(when: str, look: Callable[[Connection, str], None]) -> Generator[None]:
    """Look at every statement of this process's engines."""

    def seen(conn: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        look(conn, statement)

    event.listen(Engine, when, seen)
    try:
        yield
    finally:
        event.remove(Engine, when, seen)


async def grown(dsn: str) -> dict[str, int]:
    """The rows of each table that has many."""
    names = [row["name"] for row in await fetch(dsn, TABLES)]
    counts = {one: (await fetch(dsn, f"SELECT count(*) AS n FROM {one}"))[0]["n"] for one in names}
    return {name: count for name, count in counts.items() if count >= MANY}


@pytest.fixture
async def used(database: Dsns, issuer: DevIssuer) -> Dsns:
    """A database that has been worked with: calls with keys, a saga, and a sealed log."""
    call = {"tool": "probe_echo", "args": {"text": "x"}}
    steps = [{"id": f"s{n}", **call, "compensate": call} for n in range(MANY)]
    which = Which.model_validate({"plan": {"steps": steps}})
    request = CallRequest(tool="saga", method="run", args=which.model_dump(exclude_none=True))
    async with open_broker(settings_of(database.app, issuer)) as broker:
        await asyncio.gather(
            *(accept(broker, echo(str(n), ordering_key=f"k{n}")) for n in range(MANY))
        )
        await sagas.run(broker, ADA, which, request)
    async with open_log(database) as log:
        for _ in range(MANY):
            await log.append()
            await log.seal()
    return database


@pytest.mark.guarantee("migrate:unlocked")
async def test_no_migration_goes_through_a_table_while_it_locks_others_out(used: Dsns) -> None:
    await migrate.downgrade(used.owner, RELEASED)
    rows = await grown(used.owner)
    assert {"commands", "outbox", "ordering_heads", "saga_steps", "audit.seals"} <= rows.keys()
    watch = Watch(rows=rows)
    with looking("after_cursor_execute", watch.after):
        await migrate.upgrade(used.owner)
    assert watch.taken, "no statement was looked at"
    assert not watch.found, "\n".join(watch.found)


OUT = (
    ("CREATE INDEX i ON outbox (id)",),
    ("ALTER TABLE outbox ADD CONSTRAINT c CHECK (id IS NOT NULL)",),
    ("ALTER TABLE outbox ALTER COLUMN topic TYPE varchar(99)",),
    ("ALTER TABLE outbox ADD COLUMN c double precision DEFAULT random()",),
    ("ALTER TABLE outbox ADD COLUMN c integer", "UPDATE outbox SET c = 1"),
    ("LOCK TABLE outbox", "CREATE TABLE copied AS SELECT * FROM commands"),
)
IN = (
    ("ALTER TABLE outbox ADD COLUMN c integer NOT NULL DEFAULT 0",),
    ("ALTER TABLE outbox ADD CONSTRAINT c CHECK (id IS NOT NULL) NOT VALID",),
    ("UPDATE outbox SET topic = topic",),
    ("CREATE TABLE copied AS SELECT * FROM commands", "LOCK TABLE outbox"),
)


@pytest.mark.guarantee("migrate:unlocked")
async def test_the_watch_finds_what_locks_out(used: Dsns) -> None:
    rows = await grown(used.owner)

    async def found(conn: AsyncConnection, statements: tuple[str, ...]) -> list[str]:
        watch = Watch(rows=rows)
        with looking("after_cursor_execute", watch.after):
            for one in ("SET ROLE broker_owner", *statements):
                await conn.execute(text(one))
        await conn.rollback()
        return watch.found

    async with migrate.connected(used.owner) as engine, engine.connect() as conn:
        for statements in OUT:
            assert await found(conn, statements), statements
        for statements in IN:
            assert not await found(conn, statements), statements
        alone = await conn.execution_options(isolation_level="AUTOCOMMIT")
        assert await found(alone, ("CREATE INDEX i ON outbox (id)",))
        assert not await found(alone, ("CREATE INDEX CONCURRENTLY j ON outbox (id)",))


@pytest.mark.guarantee("migrate:again")
async def test_a_migration_that_was_broken_off_is_run_again(used: Dsns) -> None:
    """One in a transaction leaves nothing; here each statement of the others is the last once."""
    await migrate.downgrade(used.owner, RELEASED)
    folder = Path(migrate.SCRIPTS, "versions")
    parted = {one.name[:4] for one in folder.glob("*.py") if "autocommit_block" in one.read_text()}
    at, broken = RELEASED, set[str]()

    def break_off(_conn: Connection, statement: str) -> None:
        if statement.startswith("UPDATE alembic_version") or statement in broken:
            return
        if f"{int(at) + 1:04}" in parted:
            broken.add(statement)
            raise BrokenOffError

    with looking("after_cursor_execute", break_off):
        while at != migrate.head():
            try:
                await migrate.upgrade(used.owner, f"{int(at) + 1:04}")
            except BrokenOffError:
                continue
            at = f"{int(at) + 1:04}"
    assert len(broken) > 2 * len(parted & {f"{n:04}" for n in range(15, 40)})
    assert await migrate.plan(used.owner) == []


@pytest.mark.guarantee("migrate:unlocked")
async def test_a_statement_has_as_long_as_it_keeps_nobody_out(database: Dsns) -> None:
    async with migrate.connected(database.owner) as engine, engine.connect() as conn:
        await conn.execute(text("SET ROLE broker_owner"))
        await conn.run_sync(bounds.bound)
        driver: Any = (await conn.get_raw_connection()).driver_connection
        for statement, wanted in (
            ("ALTER TABLE outbox ADD COLUMN c integer", WHOLE),
            ("UPDATE outbox SET c = 1", ROWS),
            ("CREATE INDEX i ON outbox (c)", WHOLE),
            ("ALTER TABLE outbox VALIDATE CONSTRAINT ck_outbox_status_known", BESIDE),
            ("INSERT INTO leases (name) SELECT 'x' WHERE false", ROWS),
        ):
            await conn.execute(text(statement))
            in_force = [
                await driver.fetchval(f"SHOW {one}_timeout") for one in ("lock", "statement")
            ]
            assert in_force == [wanted.lock, wanted.statement], statement
        await conn.rollback()
    assert bounds_of("CREATE UNIQUE INDEX CONCURRENTLY i ON outbox (id)") is BESIDE
    assert bounds_of("DROP INDEX CONCURRENTLY IF EXISTS i") is BESIDE
