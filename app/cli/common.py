"""What the commands share: where the database is, how they end, and say what went wrong."""

import asyncio
import math
from collections.abc import Coroutine
from typing import Annotated, Any, TypeVar

import typer

from app.config import PREFIX
from app.errors import BrokerError
from app.postgres.engine import AWAY

T = TypeVar("T")


def database_option(role: str) -> Any:
    """Where PostgreSQL is, for an option of a command that connects as that role."""
    return typer.Option(
        "--database-url", envvar=f"{PREFIX}DATABASE_URL", help=f"PostgreSQL, as {role}."
    )


DatabaseUrl = Annotated[str, database_option("a role that is a member of broker_owner")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def finite(value: float | None) -> float | None:
    """A number that bounds something; NaN and infinity, which floats may be, bound nothing."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


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
    except AWAY as error:  # it lets nobody in, or refuses a statement
        raise fail(f"PostgreSQL: {getattr(error, 'orig', error)}") from error
