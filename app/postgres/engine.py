"""Connections: SQLAlchemy for everyday statements, a small asyncpg pool for the hot ones."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.config import Settings
from app.postgres.migrate import async_url

SCOPE: Final = text(
    "SELECT set_config('app.tenants', CAST(CAST(:tenants AS text[]) AS text), true)"
)

# The one list of what a database that is away looks like. Loops outlive all of it and try again;
# who answers somebody asks `is_lost` or `is_away` what it was. A connection that is cut in the
# middle of a statement may be an internal error of asyncpg's.
AWAY: Final = (
    OSError,
    TimeoutError,
    DBAPIError,
    PoolTimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

LOST: Final = ("08", "53300", "57P")
"""What SQLSTATEs begin with where the server lets nobody in: no connection, no room for one more,
operator intervention (PostgreSQL's manual, appendix A)."""

PASSING: Final = ("08", "40", "53", "55", "57", "58", "25006", "25P03")
"""What SQLSTATEs of states that pass begin with: connection, rollback, resources, locks, operator
intervention, system error; a server that only reads, as one does that has just become a standby,
and a transaction that the server ended for being idle."""

# An idle transaction pins vacuum's horizon and the audit sealer's; ours never wait for a network
# peer inside one, so a session that does is broken and is ended by the server.
SERVER_SETTINGS: Final = {
    "idle_in_transaction_session_timeout": "10s",
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "jit": "off",
}


KEPT_PLANS: Final = {"plan_cache_mode": "force_generic_plan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The two ways to one database."""

    engine: AsyncEngine
    pool: asyncpg.Pool
    dsn: str


def sqlstate_of(error: Exception) -> str:
    """The SQLSTATE of a database error, SQLAlchemy's or the driver's; empty where there is none."""
    return str(getattr(getattr(error, "orig", error), "sqlstate", None) or "")


def is_lost(error: Exception) -> bool:
    """Whether one of `AWAY` says that the server was not reached: another statement fares no better.

    What has no SQLSTATE did not come from the server.
    """
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return not (state := sqlstate_of(error)) or state.startswith(LOST)


def is_away(error: Exception) -> bool:
    """Whether one of `AWAY` says that the server is away or busy, not that we are wrong."""
    return is_lost(error) or sqlstate_of(error).startswith(PASSING)


def dump(value: Any) -> str:
    """JSON text, as a json or jsonb parameter takes it."""
    return orjson.dumps(value).decode()


async def _as_it_is(_: object) -> None:
    """Give a connection back without a round trip: nothing here changes a session.

    Every setting and lock is its transaction's, and a transaction that its block leaves open is
    rolled back by asyncpg before this is asked.
    """


@asynccontextmanager
async def open_database(
    settings: Settings, *, name: str, hot_max: int | None = None, hot_plans_kept: bool = False
) -> AsyncGenerator[Database]:
    """Open both pools; `name` shows in pg_stat_activity, `hot_max` is the hot one's size.

    With `hot_plans_kept` a statement on the hot one is planned once, whatever its values: half a
    millisecond less for each call with an ordering key.
    Connections are made when first needed, so this succeeds while the database is away.
    """
    dsn = settings.database_url.get_secret_value()
    server_settings = SERVER_SETTINGS | {"application_name": name}
    engine = create_async_engine(
        async_url(dsn),
        pool_size=settings.database_pool_max,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=True,
        hide_parameters=True,  # arguments and results are in them, and errors are logged
        json_serializer=dump,
        json_deserializer=orjson.loads,
        connect_args={"server_settings": server_settings, "timeout": 10},
    )
    pool = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=settings.intake_pool_max if hot_max is None else hot_max,
        server_settings=server_settings | (KEPT_PLANS if hot_plans_kept else {}),
        timeout=10,
        command_timeout=30,
        reset=_as_it_is,
    )
    try:
        # With min_size 0 this makes no connection.
        await pool
        yield Database(engine=engine, pool=pool, dsn=dsn)
    finally:
        pool.terminate()
        await engine.dispose()


@asynccontextmanager
async def tenant_transaction(engine: AsyncEngine, *tenants: str) -> AsyncGenerator[AsyncConnection]:
    """One transaction that sees and writes the rows of these tenants only."""
    async with engine.begin() as conn:
        await conn.execute(SCOPE, {"tenants": list(tenants)})
        yield conn
