"""Connections: SQLAlchemy for everyday statements, a small asyncpg pool for the hot ones."""

import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
import orjson
from sqlalchemy import event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.config import Settings
from app.json_values import read
from app.postgres.connect import IDLE_S, Connection, connect, only_reads, usable

SCOPE: Final = text(
    "SELECT set_config('app.tenants', CAST(CAST(:tenants AS text[]) AS text), true)"
)

WRITES: Final = text("SELECT NOT current_setting('transaction_read_only')::boolean")
"""Whether this server takes writes: a standby does not."""

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
    "statement_timeout": "12s",  # below connect.COMMAND_S
    "lock_timeout": "10s",
    "jit": "off",
}


ONLY_READS: Final = "25006"
"""The SQLSTATE of a write to a standby."""

KEPT_PLANS: Final = {"plan_cache_mode": "force_generic_plan"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The two ways to one database."""

    engine: AsyncEngine
    pool: asyncpg.Pool
    direct_dsn: str
    """Past any pooler, for what needs a session of its own."""


def sqlstate_of(error: Exception) -> str:
    """The SQLSTATE of a database error, SQLAlchemy's or the driver's; empty where there is none."""
    return str(getattr(getattr(error, "orig", error), "sqlstate", None) or "")


def is_lost(error: Exception) -> bool:
    """Whether one of `AWAY` says that the server was not reached: no statement fares better.

    What has no SQLSTATE did not come from the server.
    """
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    return not (state := sqlstate_of(error)) or state.startswith(LOST)


def is_away(error: Exception) -> bool:
    """Whether one of `AWAY` says that the server is away or busy, not that we are wrong."""
    return is_lost(error) or sqlstate_of(error).startswith(PASSING) or lacks_month(error)


def lacks_month(error: Exception) -> bool:
    """Whether a row found no partition: the clock was set on, and the months are made in seconds.

    PostgreSQL has no SQLSTATE for it: it is a check's (23514), of no constraint that has a name.
    """
    orig = getattr(error, "orig", error)
    found = orig if isinstance(orig, asyncpg.PostgresError) else orig.__cause__
    return isinstance(found, asyncpg.CheckViolationError) and not getattr(
        found, "constraint_name", None
    )


def dump(value: Any) -> str:
    """JSON text, as a json or jsonb parameter takes it."""
    return orjson.dumps(value).decode()


def code_of(error: Exception) -> str:
    """What a caller or a log may learn of a failure: its words can quote any call of the batch."""
    return sqlstate_of(error) or type(error).__name__


def is_data_error(error: Exception) -> bool:
    """Whether the database refused a value as data (SQLSTATE class 22), which it always will."""
    return sqlstate_of(error).startswith("22")


def _give_up_on_lost(engine: AsyncEngine) -> None:
    """Have a connection, and all of its pool, given up that answers nothing or takes no writes."""

    @event.listens_for(engine.sync_engine, "handle_error")
    def lost(context: ExceptionContext) -> None:  # pyright: ignore[reportUnusedFunction] an event
        error = context.original_exception
        state = str(getattr(error, "sqlstate", None) or "")
        if isinstance(error, OSError) or state.startswith(("08", ONLY_READS)):
            context.is_disconnect = True

    @event.listens_for(engine.sync_engine, "checkout")
    def probe(connection: Any, _record: Any, _proxy: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        driver: Connection = connection.driver_connection
        if time.monotonic() - driver.used_at < IDLE_S and not driver.is_closed():
            fit = not only_reads(driver)
        else:
            fit = connection.run_async(usable)
        if not fit:
            raise InvalidatePoolError

    @event.listens_for(engine.sync_engine, "checkin")
    def used(connection: Any, _record: Any) -> None:  # pyright: ignore[reportUnusedFunction]
        if connection is not None:
            connection.driver_connection.used_at = time.monotonic()


def _hot_pool(dsn: str, server_settings: Mapping[str, str], *, max_size: int) -> asyncpg.Pool:
    async def hot(url: str, **options: Any) -> Connection:
        made = await connect(url, server_settings=server_settings, **options)
        made.on_lost = pool.expire_connections
        return made

    async def probe(conn: Any) -> None:
        if time.monotonic() - conn.used_at > IDLE_S and not await usable(conn):
            await pool.expire_connections()
            raise asyncpg.InterfaceError("The connection was lost while it was idle.")

    async def as_it_is(conn: Any) -> None:
        """Give a connection back without a round trip: nothing here changes a session.

        Every setting and lock is its transaction's, and a transaction that its block leaves open
        is rolled back by asyncpg before this is asked.
        """
        conn.used_at = time.monotonic()
        if not conn.is_closed() and only_reads(conn):
            await pool.expire_connections()

    pool = asyncpg.create_pool(
        dsn,
        min_size=0,
        max_size=max_size,
        connect=hot,
        connection_class=Connection,
        setup=probe,
        reset=as_it_is,
    )
    return pool


def direct_of(settings: Settings) -> str | None:
    """The database past any pooler, where it is set."""
    url = settings.database_direct_url
    return None if url is None else url.get_secret_value()


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

    async def everyday() -> Connection:
        return await connect(dsn, server_settings=server_settings)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=everyday,
        pool_size=settings.database_pool_max,
        max_overflow=0,
        pool_timeout=10,
        hide_parameters=True,  # arguments and results are in them, and errors are logged
        json_serializer=dump,
        json_deserializer=read,
    )
    _give_up_on_lost(engine)
    pool = _hot_pool(
        dsn,
        server_settings | (KEPT_PLANS if hot_plans_kept else {}),
        max_size=settings.intake_pool_max if hot_max is None else hot_max,
    )
    try:
        # With min_size 0 this makes no connection.
        await pool
        yield Database(engine=engine, pool=pool, direct_dsn=direct_of(settings) or dsn)
    finally:
        pool.terminate()
        await engine.dispose()


@asynccontextmanager
async def tenant_transaction(engine: AsyncEngine, *tenants: str) -> AsyncGenerator[AsyncConnection]:
    """One transaction that sees and writes the rows of these tenants only."""
    async with engine.begin() as conn:
        await conn.execute(SCOPE, {"tenants": list(tenants)})
        yield conn


@asynccontextmanager
async def each_by_itself(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """A connection on which each statement is a transaction: one round trip, not three."""
    async with engine.connect() as conn:
        yield await conn.execution_options(isolation_level="AUTOCOMMIT")
