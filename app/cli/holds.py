"""`broker hold`, `broker release`, `broker holds`: keep calls from going out, and let them go.

Talks HTTP to a running app, with an operator's token from MCP_BROKER_TOKEN, about that token's own
tenant; with --all-tenants to PostgreSQL, as its owner, about each.
"""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

import typer
from rich.console import Console

from app import json_values
from app.cli import everywhere
from app.cli.common import AsJson, Plain, database_option, fail
from app.cli.http import LOCAL, Reason, Url, ask, echo, known

PATH: Final = "/operator/holds"
Effect = Literal["wait", "refuse"]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="MCP_BROKER_TOKEN", help="An operator's.", show_default=False),
]
Tool = Annotated[str | None, typer.Option(help="Calls of this tool, or of TOOL/METHOD only.")]
OrderingKey = Annotated[str | None, typer.Option(help="Calls of this ordering key.")]
Arg = Annotated[
    str | None, typer.Option(help="Calls with this argument: /PATH=TEXT, or /PATH:=JSON.")
]
AllCalls = Annotated[bool, typer.Option("--all-calls", help="Every call.")]
AllTenants = Annotated[
    bool, typer.Option("--all-tenants", help="Of every tenant; the database owner's.")
]
DatabaseUrl = Annotated[str | None, database_option("a member of broker_owner, for --all-tenants")]


def hold(
    reason: Reason,
    token: Token = None,
    url: Url = LOCAL,
    tool: Tool = None,
    ordering_key: OrderingKey = None,
    arg: Arg = None,
    all_calls: AllCalls = False,
    effect: Annotated[Effect, typer.Option(help="They wait, or are refused.")] = "wait",
    until: Annotated[
        str | None, typer.Option(help="It ends then by itself: 2027-01-31T09:00:00Z.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many calls it would be of.")
    ] = False,
    all_tenants: AllTenants = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Hold calls of your tenant that fit all that is given: nothing of them is dispatched."""
    body = selected(tool, ordering_key, arg, all_calls=all_calls) | {"effect": effect}
    body |= known(until=until)
    if all_tenants:
        rows = everywhere.place(owners(database_url), body, reason=reason, dry_run=dry_run)
        show_each(rows, as_json=as_json)
        return
    asked = body | {"reason": reason} | known(dry_run=dry_run or None)
    told = ask(url, operators(token), "POST", PATH, json=asked)
    if as_json:
        echo(told)
        return
    counted = {
        part: f"{told[part]}+" if told[part] == told["counted_up_to"] else str(told[part])
        for part in ("queued", "in_flight")
    }
    if dry_run:
        typer.echo(f"{counted['queued']} calls would wait; {counted['in_flight']} are past it")
        return
    typer.echo(told["hold_id"])
    typer.echo(f"{counted['queued']} calls wait; {counted['in_flight']} are past it", err=True)
    if told["leaving"]:
        typer.echo(f"{told['leaving']} are with a relay still and may go out", err=True)


def release(
    reason: Reason,
    hold_id: Annotated[UUID | None, typer.Argument(help="Of your tenant's.")] = None,
    token: Token = None,
    url: Url = LOCAL,
    tool: Tool = None,
    ordering_key: OrderingKey = None,
    arg: Arg = None,
    all_calls: AllCalls = False,
    all_tenants: AllTenants = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """End a hold: what waits for it goes on. With --all-tenants, those placed so of these calls."""
    body = selected(tool, ordering_key, arg, all_calls=all_calls)
    if all_tenants != (hold_id is None) or bool(body) != all_tenants:
        raise fail("Name a hold, or --all-tenants with what was held: --tool, --all-calls, …")
    if all_tenants:
        which = everywhere.wanted_of(body).which
        rows = everywhere.release(owners(database_url), which, reason=reason)
        show_each(rows, as_json=as_json)
        return
    told = ask(url, operators(token), "POST", f"{PATH}/{hold_id}/release", json={"reason": reason})
    echo(told) if as_json else typer.echo("released")


def holds(
    token: Token = None,
    url: Url = LOCAL,
    ended: Annotated[bool, typer.Option("--ended", help="Those that have ended, too.")] = False,
    before: Annotated[UUID | None, typer.Option(help="Of those, go on before this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Of those.")] = 50,
    all_tenants: AllTenants = False,
    database_url: DatabaseUrl = None,
    as_json: AsJson = False,
) -> None:
    """Your tenant's holds that are in force."""
    if all_tenants:
        from app.edges.holds import shown  # noqa: PLC0415 the CLI starts fast without it

        if ended:
            raise fail("--all-tenants shows those in force; --ended is a tenant's.")
        found = everywhere.in_force(owners(database_url))
        listed = [{"tenant_id": tenant_id, **shown(one)} for tenant_id, one in found]
        body: dict[str, Any] = {"holds": listed, "before": None}
    else:
        asked = known(
            ended=ended or None, before=None if before is None else str(before), limit=limit
        )
        body = ask(url, operators(token), "GET", PATH, params=asked)
    if as_json:
        echo(body)
        return
    table = Plain(*(("Tenant",) if all_tenants else ()), "Of", "Effect", "Why", "Placed", "Ends")
    table.add_column("Id", no_wrap=True)
    for one in body["holds"]:
        ends = one.get("released_at") or one.get("until") or "when it is released"
        placed = f"{one['placed_at']} {one['placed_by']}"
        cells = [of(one), one["effect"], one["reason"], placed, ends]
        cells = [one["tenant_id"], *cells] if all_tenants else cells
        table.add_row(*cells, one["hold_id"])
    Console().print(table)
    if body["before"] is not None:
        typer.echo(f"more: --before {body['before']}")


def operators(token: str | None) -> str:
    """The token, which all but --all-tenants needs."""
    if token is None:
        raise typer.BadParameter(
            "Missing: an operator's, or MCP_BROKER_TOKEN.", param_hint="--token"
        )
    return token


def owners(database_url: str | None) -> str:
    """The database, which --all-tenants needs."""
    if database_url is None:
        raise typer.BadParameter("Missing: --all-tenants asks it.", param_hint="--database-url")
    return database_url


def selected(
    tool: str | None, ordering_key: str | None, arg: str | None, *, all_calls: bool
) -> dict[str, Any]:
    """Which calls, as the API takes it."""
    name, _, method = (tool or "").partition("/")
    return known(
        tool=name or None,
        method=method or None,
        ordering_key=ordering_key,
        argument=None if arg is None else argument(arg),
        all_calls=all_calls or None,
    )


def show_each(rows: list[dict[str, Any]], *, as_json: bool) -> None:
    """What came of each tenant; exit code 1 where one refused."""
    if as_json:
        echo({"tenants": rows})
    else:
        table = Plain("Tenant", "What", "Wait", "In flight", "With a relay")
        table.add_column("Hold", no_wrap=True)
        for row in rows:
            said = f"{row['state']}: {row['why']}" if "why" in row else row["state"]
            counts = (str(row.get(name, "")) for name in ("queued", "in_flight", "leaving"))
            table.add_row(row["tenant_id"], said, *counts, row.get("hold_id", ""))
        Console().print(table)
    if any("why" in row for row in rows):
        raise typer.Exit(1)


def of(one: dict[str, Any]) -> str:
    """Which calls a hold is of, in a few words."""
    said = [
        "/".join(filter(None, (one.get("tool"), one.get("method")))),
        f"key {one['ordering_key']}" if "ordering_key" in one else "",
        f"{one['argument']['path']} = {one['argument']['value']!r}" if "argument" in one else "",
    ]
    return ", ".join(filter(None, said)) or "all calls"


def argument(given: str) -> dict[str, Any]:
    """An argument as it is asked for.

    Raises:
        typer.Exit: what is given is none.
    """
    path, equals, text = given.partition("=")
    if not equals or not path.startswith("/"):
        raise fail(f"--arg {given!r} is no /PATH=TEXT or /PATH:=JSON.")
    if not path.endswith(":"):
        return {"path": path, "value": text}
    try:
        return {"path": path.removesuffix(":"), "value": json_values.loads(text.encode())}
    except ValueError as error:
        raise fail(f"--arg {given!r}: {error}") from error
