"""`make schema`: the migrated schema as one commented file, `schema.sql`."""

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Final

import asyncpg

from app import assets
from app.postgres import migrate
from devstack.postgres import EmbeddedPostgres, wheel_binaries
from devstack.stack import dsns

FILE: Final = assets.root() / "schema.sql"

HEAD: Final = """\
-- The schema of the MCP broker's database, as the migrations leave it. Read it, do not run it:
-- `broker migrate` makes it, with its roles. Made by `make schema`, and held equal by a test.
-- The monthly partitions of audit.events are left out, as they are made month by month.
"""

# What depends on the day, on the server's version, or on the session that dumps.
LEFT_OUT: Final = re.compile(
    r"^(\\(un)?restrict .*|-- (Dumped|PostgreSQL database dump).*|SET .*;|--|"
    r"SELECT pg_catalog\.set_config\(.*)$"
)


def dump(dsn: str, *, binaries: Path | None = None) -> str:
    """The schema of a database, without what differs between two databases of one revision."""
    argv: list[str | Path] = [(binaries or wheel_binaries()) / "pg_dump", "--schema-only"]
    argv += ["--no-owner", "--exclude-table=audit.events_*", "--exclude-table=alembic_version", dsn]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)  # noqa: S603
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    kept = "\n".join(line for line in lines if not LEFT_OUT.match(line))
    named = re.sub(r"\n-- Name: (.*?); Type: (.*?); Schema: .*\n", r"\n-- \2 \1\n", kept)
    return HEAD + re.sub(r"\n{3,}", "\n\n", f"\n{named.strip()}\n")


async def written() -> None:
    """Migrate a database of an embedded server, and write its schema to the file."""
    with EmbeddedPostgres() as server:
        conn = await asyncpg.connect(server.dsn)
        try:
            await conn.execute("CREATE DATABASE broker")
        finally:
            await conn.close()
        found = dsns(server.dsn, "broker")
        await migrate.upgrade(found.owner)
        FILE.write_text(dump(found.owner), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(written())
