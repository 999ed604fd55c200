"""`broker outbox`: what Kafka refused, to look at, have go again, or drop.

Connects to PostgreSQL as a role of the relay's rights; the audit trail has that role's name.
"""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Annotated

import orjson
import typer
from rich.console import Console

from app.cli.common import AsJson, Plain, database_option, fail, run
from app.cli.http import Reason
from app.commands.store import parked
from app.commands.store.parked import RefusedRow
from app.contract import instant
from app.postgres.migrate import connected

app = typer.Typer(no_args_is_help=True, help=__doc__)

DatabaseUrl = Annotated[str, database_option("a role that is a member of broker_relay")]
Ids = Annotated[list[int] | None, typer.Argument(help="Rows of the list.")]
Topic = Annotated[str | None, typer.Option(help="Those of this topic.")]
All = Annotated[bool, typer.Option("--all", help="All that are parked.")]


@app.command("list")
def list_(database_url: DatabaseUrl, limit: int = 100, as_json: AsJson = False) -> None:
    """What Kafka refused: `parked` waits for you, `delayed` is tried again by itself."""

    async def work() -> list[RefusedRow]:
        async with connected(database_url) as engine, engine.connect() as conn:
            return await parked.refused(conn, limit=limit)

    found = run(work())
    if as_json:
        typer.echo(orjson.dumps([asdict(one) for one in found]).decode())
        return
    table = Plain("Row", "Status", "Tenant", "Topic", "Command", "Refused", "Reason")
    for one in found:
        command = "" if one.command_id is None else str(one.command_id)
        refused_at = instant(one.refused_at)
        cells = (one.status, one.tenant_id, one.topic, command, refused_at, one.refusal)
        table.add_row(str(one.id), *cells)
    Console().print(table)


@app.command()
def redrive(
    reason: Reason,
    database_url: DatabaseUrl,
    rows: Ids = None,
    topic: Topic = None,
    every: All = False,
) -> None:
    """Have parked rows go to Kafka again, once what refused them is mended."""
    count = _settle(parked.redrive, database_url, rows, topic, every, reason)
    typer.echo(f"{count} go again")


@app.command()
def discard(
    reason: Reason,
    database_url: DatabaseUrl,
    rows: Ids = None,
    topic: Topic = None,
    every: All = False,
) -> None:
    """Drop parked events for good. Commands are not dropped: cancel them."""
    count = _settle(parked.discard, database_url, rows, topic, every, reason)
    typer.echo(f"{count} dropped")


def _settle(
    verb: Callable[..., Awaitable[list[int]]],
    database_url: str,
    rows: list[int] | None,
    topic: str | None,
    every: bool,
    reason: str,
) -> int:
    """Do one thing with the rows that were chosen, in one transaction; how many there were."""
    if sum((bool(rows), topic is not None, every)) != 1:
        raise fail("Name rows, or a --topic, or --all.")

    async def work() -> int:
        async with connected(database_url) as engine, engine.begin() as conn:
            return len(await verb(conn, ids=rows or None, topic=topic, reason=reason))

    return run(work())
