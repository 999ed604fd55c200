"""`broker status`: one screen of how the broker does, in figures that name no call."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Final

import asyncpg
import orjson
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from app.cli.common import AsJson, Plain, database_option, finite, run
from app.commands.store import ops

Row = Mapping[str, Any]
ROWS_MAX: Final = 12
"""Of each part on the screen; JSON has them all."""


def age(seconds: float | None) -> str:
    """How long, by the largest unit that fits."""
    if seconds is None:
        return "-"
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.1f} s"


def of(count: int, most: int | None) -> str:
    """How much of what there may be."""
    return str(count) if most is None else f"{count} / {most}"


def share(value: float | None) -> str:
    """As a percentage."""
    return "-" if value is None else f"{100 * value:.1f} %"


def held(row: Row) -> str:
    """What a hold is of: its kind, and its tool if it names one."""
    named = ".".join(filter(None, (row["tool"], row["method"])))
    return f"{row['what']} {named}".strip()


PARTS: Final[Mapping[str, tuple[str, str, Mapping[str, Callable[[Row], str]]]]] = {
    "waiting": (
        "Waiting for a person",
        "nothing",
        {
            "Tenant": lambda row: row["tenant_id"],
            "What": lambda row: row["what"],
            "How many": lambda row: str(row["count"]),
            "Oldest": lambda row: age(row["oldest_s"]),
        },
    ),
    "holds": (
        "Holds",
        "none",
        {
            "Tenant": lambda row: row["tenant_id"],
            "Of": held,
            "Effect": lambda row: row["effect"],
            "Waiting": lambda row: str(row["waiting"]),
            "Since": lambda row: age(row["age_s"]),
            "Ends in": lambda row: age(row["ends_in_s"]),
        },
    ),
    "tenants": (
        "Tenants",
        "none: broker tenant add",
        {
            "Tenant": lambda row: row["tenant_id"],
            "Queued": lambda row: of(row["queued"], row["queued_max"]),
            "Ready since": lambda row: age(row["oldest_ready_s"]),
            "In flight": lambda row: of(row["in_flight"], row["in_flight_max"]),
            "Ended in 1 h": lambda row: str(row["calls_1h"]),
            "Errors": lambda row: share(row["error_rate"]),
            "p95": lambda row: age(row["call_p95_s"]),
        },
    ),
    "executors": (
        "Executors",
        "nothing is dispatched",
        {
            "Executor": lambda row: row["executor"],
            "Tool": lambda row: f"{row['tool']}.{row['method']}",
            "Unclaimed": lambda row: str(row["unclaimed"]),
            "Oldest": lambda row: age(row["oldest_unclaimed_s"]),
            "Running": lambda row: of(row["running"], row["in_flight_max"]),
        },
    ),
    "outbox": (
        "Outbox",
        "empty: all is published",
        {
            "Status": lambda row: row["status"],
            "Rows": lambda row: str(row["count"]),
            "Oldest": lambda row: age(row["oldest_s"]),
        },
    ),
    "webhooks": (
        "Webhooks",
        "none: broker webhook add",
        {
            "Tenant": lambda row: row["tenant_id"],
            "Endpoints": lambda row: str(row["endpoints"]),
            "Disabled": lambda row: str(row["disabled"]),
            "Failing": lambda row: str(row["failing"]),
            "Waiting": lambda row: str(row["waiting"]),
            "Oldest": lambda row: age(row["oldest_s"]),
        },
    ),
    "seals": (
        "Audit seals",
        "none yet",
        {
            "Log": lambda row: row["tenant_id"],
            "Events sealed": lambda row: str(row["events_sealed"]),
            "Newest seal": lambda row: f"{age(row['age_s'])} ago",
        },
    ),
}


def status(
    database_url: Annotated[str, database_option("a member of broker_observer")],
    watch: Annotated[bool, typer.Option("--watch", help="Look again until Ctrl-C.")] = False,
    every_s: Annotated[
        float, typer.Option("--every", min=0.2, callback=finite, help="Seconds between looks.")
    ] = 2,
    as_json: AsJson = False,
) -> None:
    """Queues, windows, relay, seals, and what waits for a person, on one screen."""
    if as_json:
        while True:
            typer.echo(orjson.dumps(run(look(database_url))).decode())
            if not watch:
                return
            time.sleep(every_s)
    found = run(look(database_url))
    if not watch:
        Console().print(screen(found))
        return
    with Live(screen(found), screen=True, auto_refresh=False) as live:
        while True:
            time.sleep(every_s)
            live.update(screen(run(look(database_url))), refresh=True)


async def look(database_url: str) -> dict[str, list[dict[str, Any]]]:
    """All of it, as of one moment."""
    conn = await asyncpg.connect(database_url, timeout=10)
    try:
        async with (
            asyncio.timeout(30),
            conn.transaction(isolation="repeatable_read", readonly=True),
        ):
            return await ops.status(conn)
    finally:
        await conn.close()


def screen(found: Mapping[str, Sequence[Row]]) -> Group:
    """The tables, those that ask for a look on top."""
    return Group(*(table_of(part, found[part]) for part in PARTS))


def table_of(part: str, rows: Sequence[Row]) -> Table | Text:
    """One part; of many rows the first."""
    title, nothing, columns = PARTS[part]
    if not rows:
        return Text(f"{title}: {nothing}\n", style="table.title")
    table = Plain(*columns, title=title, title_justify="left", expand=True)
    for row in rows[:ROWS_MAX]:
        table.add_row(*(cell(row) for cell in columns.values()))
    if len(rows) > ROWS_MAX:
        table.caption = f"{len(rows) - ROWS_MAX} more: --json"
    return table
