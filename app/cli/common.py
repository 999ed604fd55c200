"""What the commands share: where the database is, how they end, and how they say what went wrong."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.config import PREFIX
from app.db import migrate
from app.errors import BrokerError

T = TypeVar("T")

DatabaseUrl = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar=f"{PREFIX}DATABASE_URL",
        help="PostgreSQL, as a role that is a member of broker_owner.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fail(message: str) -> typer.Exit:
    """Say what is wrong, on standard error, and leave with 1."""
    typer.secho(message, fg=typer.colors.RED, err=True)
    return typer.Exit(1)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; a deliberate error, or the database's, is a message, not a trace."""
    try:
        return asyncio.run(work)
    except (BrokerError, OSError) as error:
        raise fail(str(error)) from error
    except DBAPIError as error:
        raise fail(f"PostgreSQL: {error.orig}") from error
    except asyncpg.PostgresError as error:  # it lets nobody in
        raise fail(f"PostgreSQL: {error}") from error


@asynccontextmanager
async def connected(database_url: str) -> AsyncGenerator[AsyncEngine]:
    """An engine for the block."""
    engine = create_async_engine(migrate.async_url(database_url))
    try:
        yield engine
    finally:
        await engine.dispose()
