"""Brings a database to a schema revision, and says whether it is there."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app import assets
from app.postgres.connect import Connection, connect

SCRIPTS: Final = str(assets.root() / "migrations")
REVISION: Final = text("SELECT version_num FROM alembic_version")


def engine_of(url: str, **options: Any) -> AsyncEngine:
    """An engine for whatever URL the driver takes, several hosts too; to the one that writes."""

    async def opened() -> Connection:
        return await connect(url, server_settings={}, command_timeout=None)

    return create_async_engine("postgresql+asyncpg://", async_creator=opened, **options)


@asynccontextmanager
async def connected(url: str) -> AsyncGenerator[AsyncEngine]:
    """An engine for the block, as whatever role the URL names."""
    engine = engine_of(url)
    try:
        yield engine
    finally:
        await engine.dispose()


def config(url: str) -> Config:
    """Alembic's configuration for one database."""
    made = Config()
    made.set_main_option("script_location", SCRIPTS)
    made.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return made


@cache
def _scripts() -> ScriptDirectory:
    """The migrations, each loaded once a process."""
    return ScriptDirectory(SCRIPTS)


def head() -> str:
    """The newest revision that this code knows."""
    found = _scripts().get_current_head()
    assert found is not None, "the package carries its migrations"
    return found


def older() -> frozenset[str]:
    """The revisions before it that this code knows; any other but the newest is of later code."""
    return frozenset(script.revision for script in _scripts().walk_revisions()) - {head()}


async def current(conn: AsyncConnection) -> str | None:
    """The revision the database is at; None before the first migration."""
    return await conn.scalar(REVISION)


async def plan(url: str) -> list[str]:
    """The revisions that `upgrade` would run, in order, a line each."""
    async with connected(url) as engine, engine.connect() as conn:
        known = await conn.scalar(text("SELECT to_regclass('alembic_version')"))
        at = await current(conn) if known else None
    scripts = _scripts().iterate_revisions("head", at or "base")
    return [f"{script.revision}: {script.doc}" for script in reversed(list(scripts))]


async def upgrade(url: str, revision: str = "head") -> None:
    """Migrate up to a revision. Needs a role that is a member of broker_owner."""
    # Alembic runs its own event loop, so it gets a thread of its own.
    await asyncio.to_thread(command.upgrade, config(url), revision)


async def downgrade(url: str, revision: str) -> None:
    """Migrate down to a revision; data of dropped tables is lost."""
    await asyncio.to_thread(command.downgrade, config(url), revision)
