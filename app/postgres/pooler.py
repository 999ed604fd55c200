"""What a pooler between us and PostgreSQL has to keep, found out at start and not under load.

PgBouncer in transaction mode lends a session for a transaction. Ours need nothing of a session but
three things: the limits that it starts with, statements that were prepared on another one, and
LISTEN. The first two a pooler can give (docs/OPERATORS.md, "Behind PgBouncer"); for the third there
is `database_direct_url`.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping
from typing import Final
from uuid import uuid4

import asyncpg

from app.errors import BrokerError
from app.postgres.connect import Connection, connect
from app.postgres.engine import AWAY, KEPT_PLANS, SERVER_SETTINGS

logger = logging.getLogger(__name__)

STARTUP: Final = (*SERVER_SETTINGS, *KEPT_PLANS)
"""What our sessions start with, and PgBouncer has to be told to take."""

LIMITS_MS: Final[Mapping[str, int]] = {
    name: int(SERVER_SETTINGS[name].removesuffix("s")) * 1000
    for name in ("idle_in_transaction_session_timeout", "statement_timeout", "lock_timeout")
}
"""Settings that a session must have, at most so large."""
OTHERS_MAX: Final = 8
"""Connections that are tried for one that is lent the first one's session."""
ANSWER_S: Final = 5.0
START_S: Final = 10.0
AGAIN_S: Final = 1.0

BACKEND: Final = "SELECT pg_backend_pid()"
READ_LIMITS: Final = "SELECT name, setting::bigint AS ms FROM pg_settings WHERE name = ANY ($1)"
SAY: Final = "SELECT pg_notify($1, '')"


class PoolerError(BrokerError):
    """A pooler before PostgreSQL does not keep what is needed; the message says what."""

    code = "pooler"
    title = "The pooler before PostgreSQL cannot be used so"


async def check(url: str, *, direct_url: str | None) -> None:
    """Find out whether a pooler is there, and keeps what is needed.

    Raises:
        PoolerError: it does not; the words are for the operator.
        AWAY: the database cannot be reached now.
    """
    async with _opened(url) as conn:
        if not await is_pooled(conn):
            return
        await _limits(conn)
        await _prepared(conn, url)
        if direct_url is None:
            raise PoolerError(
                "LISTEN is lost behind it: set MCP_BROKER_DATABASE_DIRECT_URL to the server itself,"
                " for one connection of each process."
            )
        await _direct(conn, direct_url)


async def known(url: str, *, direct_url: str | None) -> bool:
    """As `check`; False where the database cannot be asked now.

    Raises:
        PoolerError: as `check`.
    """
    try:
        async with asyncio.timeout(START_S):
            await check(url, direct_url=direct_url)
    except AWAY as error:
        logger.warning("not known yet whether a pooler is there: postgres is away: %r", error)
        return False
    return True


async def find_out(url: str, *, direct_url: str | None) -> None:
    """As `check`, once the database can be asked; then there is nothing left to do, for ever.

    Raises:
        PoolerError: as `check`.
    """
    while True:
        if await known(url, direct_url=direct_url):
            await asyncio.Event().wait()
        await asyncio.sleep(AGAIN_S)


async def is_pooled(conn: asyncpg.Connection) -> bool:
    """Whether the session is lent by a pooler: its id is not the one that we were told."""
    return await conn.fetchval(BACKEND) != conn.get_server_pid()


async def _limits(conn: asyncpg.Connection) -> None:
    found = {row["name"]: row["ms"] for row in await conn.fetch(READ_LIMITS, list(LIMITS_MS))}
    wrong = [name for name, most in LIMITS_MS.items() if not 0 < found[name] <= most]
    if wrong:
        wanted = "; ".join(f"ALTER ROLE … SET {one} = '{SERVER_SETTINGS[one]}'" for one in wrong)
        raise PoolerError(
            f"It drops what a session starts with, and the login role does not have it: {wanted}."
        )


async def _prepared(conn: asyncpg.Connection, url: str) -> None:
    """Have a statement run in another session than the one that it was prepared in."""
    try:
        statement = await conn.prepare(BACKEND)
        backend = await statement.fetchval()
        async with contextlib.AsyncExitStack() as others:
            for _ in range(OTHERS_MAX):
                other = await others.enter_async_context(_opened(url))
                await others.enter_async_context(other.transaction())
                if await other.fetchval(BACKEND, timeout=ANSWER_S) == backend:
                    break  # what is ours is lent to it
            await statement.fetchval(timeout=ANSWER_S)
    except (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError) as error:
        raise PoolerError(
            "It does not know a statement that was prepared in another session: PgBouncer needs to"
            " be 1.21 or newer, with max_prepared_statements over 0; an older one can only pool"
            " sessions (pool_mode = session)."
        ) from error
    except TimeoutError as error:
        raise PoolerError(
            f"It lends no second session within {ANSWER_S:.0f} s: raise its default_pool_size to"
            " the connections of app and relay."
        ) from error


async def _direct(conn: asyncpg.Connection, direct_url: str) -> None:
    """Hear on the direct connection what is said on the pooled one."""
    channel, heard = f"broker_{uuid4().hex}", asyncio.Event()
    async with _opened(direct_url) as direct:
        if await is_pooled(direct):
            raise PoolerError(
                "MCP_BROKER_DATABASE_DIRECT_URL goes through a pooler, too: name the server itself."
            )
        await direct.add_listener(channel, lambda *_: heard.set())
        await conn.execute(SAY, channel)
        try:
            await asyncio.wait_for(heard.wait(), ANSWER_S)
        except TimeoutError as error:
            raise PoolerError(
                "What is said through MCP_BROKER_DATABASE_URL is not heard on"
                " MCP_BROKER_DATABASE_DIRECT_URL: they are not one database."
            ) from error


@contextlib.asynccontextmanager
async def _opened(url: str) -> AsyncGenerator[Connection]:
    try:
        conn = await connect(url, server_settings=SERVER_SETTINGS)
    except asyncpg.ProtocolViolationError as error:
        if "startup parameter" not in str(error):
            raise
        names = ", ".join(STARTUP)
        raise PoolerError(f"{error}: let it have ignore_startup_parameters = {names}.") from error
    try:
        yield conn
    finally:
        conn.terminate()
