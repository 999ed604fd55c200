"""What the commands share: where the database is, how they end, and say what went wrong."""

import asyncio
import math
from collections.abc import Coroutine
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import RenderableType
from rich.style import StyleType
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from app.config import PREFIX
from app.errors import BrokerError
from app.postgres.engine import AWAY

T = TypeVar("T")
NAME_CHARS_MAX: Final = 200


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


class Commands(TyperGroup):
    """All commands: what the system says of a text or file of the command line is no trace."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the command line apart; what no system hands to a program is refused."""
        if any("\0" in one for one in args):
            raise fail("An argument has a NUL in it.")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Do what the command line says."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # of who reads us: they end it without a word
            raise
        except UnicodeEncodeError as error:  # bytes are no text, and a file's name may be such
            part = shown(error.object[:NAME_CHARS_MAX])
            raise fail(f"What is not UTF-8 can be no text: {part}") from error
        except OSError as error:
            named = f"{str(error.filename)[:NAME_CHARS_MAX]}: " if error.filename else ""
            raise fail(f"{named}{error.strerror or error}") from error


class Plain(Table):
    """A table that shows its cells as they are: no markup in them counts, nor a terminal's codes.

    Who has written an error's text, or a key, would write on an operator's screen otherwise, or
    keep the whole list from being shown.
    """

    def add_row(
        self,
        *renderables: RenderableType | None,
        style: StyleType | None = None,
        end_section: bool = False,
    ) -> None:
        """Add a row of texts."""
        cells = (Text(shown(one)) if isinstance(one, str) else one for one in renderables)
        super().add_row(*cells, style=style, end_section=end_section)


def shown(text: str) -> str:
    """A text with a mark for each character that a terminal would not show but obey."""
    return "".join(one if one.isprintable() or one == "\n" else "\ufffd" for one in text)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; a deliberate error, or the database's, is a message, not a trace."""
    try:
        return asyncio.run(work)
    except (BrokerError, OSError) as error:
        raise fail(str(error)) from error
    except AWAY as error:  # it lets nobody in, or refuses a statement
        raise fail(f"PostgreSQL: {getattr(error, 'orig', error)}") from error
