"""Statements: those too long for a string, and the transactions that save round trips."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import asyncpg
from asyncpg.pool import PoolConnectionProxy

Connection = asyncpg.Connection | PoolConnectionProxy


def beside(module: str, name: str) -> str:
    """The statement in `name`, beside the module with this `__file__`. Read once, at import."""
    return Path(module).with_name(name).read_text(encoding="utf-8")


def rows_of(tag: str) -> int:
    """How many rows a statement was of, by its command tag (`UPDATE 3`)."""
    return int(tag.rpartition(" ")[2])


@asynccontextmanager
async def begun(conn: Connection, first: str) -> AsyncGenerator[str]:
    """A transaction that begins with these statements, in one round trip, not one for each.

    They have no parameters. Gives the tag of the last one.
    """
    try:
        yield await conn.execute(f"BEGIN; {first}")
        await conn.execute("COMMIT")
    except BaseException:
        if not conn.is_closed():
            with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await conn.execute("ROLLBACK")
        raise
