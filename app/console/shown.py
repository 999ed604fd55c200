"""What of a call is shown to whom, by the rules of the JSON routes."""

from typing import Any, Final
from urllib.parse import urlsplit

from app.catalog.cache import Catalog
from app.catalog.redaction import redact
from app.commands.store.commands import Command
from app.commands.view import waiting_for
from app.edges import sagas

UNKNOWN: Final = "not shown: the tool is out of service, so nobody knows what in them is secret"


async def arguments(catalog: Catalog, command: Command) -> Any:
    """A command's arguments without what its tool's schema marks; None where they were purged."""
    if command.args is None:
        return None
    if (command.tool, command.method) == (sagas.RUN.tool, sagas.RUN.method):
        return redact(command.args, sagas.RUN.input_schema)
    tool = await catalog.tool(command.tool, command.method)
    return UNKNOWN if tool is None else redact(command.args, tool.input_schema)


def told(command: Command) -> str:
    """A line on where a command stands: what it waits for, does, or ended with."""
    if command.final:
        error = command.error or {}
        return str(error.get("message") or error.get("code") or "")
    if (waits := waiting_for(command)) is not None:
        return f"waits for {waits}"
    said = [command.stage, command.message]
    return ": ".join(one for one in said if one)


def seconds(command: Command) -> float | None:
    """From its acceptance to its end."""
    if command.finished_at is None:
        return None
    return max(0, (command.finished_at - command.created_at).total_seconds())


def link(url: object) -> str | None:
    """A link that leads somewhere, and runs nothing."""
    if not isinstance(url, str):
        return None
    try:
        parts = urlsplit(url)
    except ValueError:
        return None
    return url if parts.scheme in {"http", "https"} and parts.netloc else None


def output(command: Command) -> str | None:
    """The end of what a controller's job has written: of one that has failed its error has it."""
    found = (command.run or {}).get("log")
    if found is None and command.run is not None:
        details = (command.error or {}).get("details")
        found = details.get("output") if isinstance(details, dict) else None
    return found if isinstance(found, str) and found else None
