"""Migrations run one at a time, and none locks readers or writers out for long."""

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from alembic.script import ScriptDirectory

from app import assets
from app.postgres import migrate
from devstack.stack import dsns
from tests.support.stack import PostgresServer

FIRST = "0015"
"""Those before were in 0.1.0, and are in the field; so are their locks."""
FEW = r"(audit\.)?ix_retirements_open"
"""Requests of officers: looked through in no time, under the lock."""

LOCKS_OUT = {
    rf'CREATE (UNIQUE )?INDEX (?!CONCURRENTLY|[^("]* ON ONLY|{FEW})': "build an index CONCURRENTLY",
    rf"DROP INDEX (?!CONCURRENTLY|{FEW})": "drop an index CONCURRENTLY",
    rf"ADD CONSTRAINT (?![^;]*NOT VALID|{FEW})": "add a constraint NOT VALID, and validate it then",
    r"ALTER COLUMN \w+ (SET DATA )?TYPE": "a new type writes the whole table anew",
    r"SET NOT NULL": "check by a constraint that is NOT VALID first",
    r"\bLOCK TABLE\b": "do without",
    r"\bVACUUM FULL\b|\bCLUSTER\b": "do without",
}


def upgrades() -> Iterator[tuple[str, str]]:
    """The SQL of each migration's way up, without that of its own new tables."""
    for path in sorted(Path(migrate.SCRIPTS, "versions").glob("*.py")):
        if path.name >= FIRST:
            up = path.read_text().partition("def downgrade")[0]
            yield path.name, re.sub(r"\s+", " ", up)


def test_files_are_numbered_as_they_are_chained() -> None:
    """One head, no branch: who adds a migration takes the number after the newest."""
    scripts = ScriptDirectory(str(migrate.SCRIPTS))
    chain = [
        (one.down_revision, one.revision, Path(one.path).name[:5])
        for one in scripts.walk_revisions()
    ]
    numbers = [f"{number:04}" for number in range(1, len(chain) + 1)]
    links = zip([None, *numbers], numbers, [f"{number}_" for number in numbers], strict=False)
    assert chain[::-1] == list(links), "renumber the newest migration, and its down_revision"


@pytest.mark.guarantee("migrate:unlocked")
def test_no_migration_locks_out_readers_or_writers() -> None:
    found = [
        f"{name}: {cure}"
        for name, up in upgrades()
        for pattern, cure in LOCKS_OUT.items()
        if re.search(pattern, up)
    ]
    assert not found, "\n".join(found)


def test_the_gate_finds_what_locks_out() -> None:
    for statement in (
        "CREATE INDEX i ON outbox (id)",
        "CREATE INDEX IF NOT EXISTS i ON outbox (id)",
        "DROP INDEX i",
        "ALTER TABLE outbox ADD CONSTRAINT c CHECK (true)",
        "ALTER TABLE outbox ALTER COLUMN topic TYPE varchar",
    ):
        assert any(re.search(pattern, statement) for pattern in LOCKS_OUT), statement
    for statement in (
        "CREATE INDEX CONCURRENTLY i ON outbox (id)",
        "CREATE INDEX IF NOT EXISTS i ON ONLY audit.events (tenant_id)",
        "ALTER TABLE outbox ADD CONSTRAINT c CHECK (true) NOT VALID",
    ):
        assert not any(re.search(pattern, statement) for pattern in LOCKS_OUT), statement


@pytest.mark.guarantee("migrate:alone")
async def test_two_migrations_at_once_are_one_after_the_other(
    template: PostgresServer,
) -> None:
    name = f"m_{uuid4().hex}"
    admin = await asyncpg.connect(template.superuser_dsn)
    await admin.execute(f'CREATE DATABASE "{name}"')
    try:
        owner = dsns(template.superuser_dsn, name).owner
        argv = [sys.executable, "-m", "app", "migrate", "--database-url", owner]
        both = [await asyncio.create_subprocess_exec(*argv, cwd=assets.root()) for _ in range(2)]
        assert [await one.wait() for one in both] == [0, 0]
        assert await migrate.plan(owner) == []
        # Where the URL names several hosts, the one that answers and writes.
        several = re.sub(r"(127\.0\.0\.1:\d+)", r"127.0.0.1:1,\1", owner)
        assert await migrate.plan(several) == []
        await migrate.upgrade(several)
    finally:
        await admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        await admin.close()
