"""`broker hold`, `broker release`, `broker holds`: keep calls from going out, and let them go.

Talks HTTP to a running app, with an operator's token from MCP_BROKER_TOKEN.
"""

from typing import Annotated, Any, Final, Literal
from uuid import UUID

import typer
from rich.console import Console

from app import json_values
from app.cli.common import AsJson, Plain, fail
from app.cli.http import LOCAL, Reason, Token, Url, ask, echo, known

PATH: Final = "/operator/holds"
Effect = Literal["wait", "refuse"]


def hold(
    reason: Reason,
    token: Token,
    url: Url = LOCAL,
    tool: Annotated[
        str | None, typer.Option(help="Calls of this tool, or of TOOL/METHOD only.")
    ] = None,
    ordering_key: Annotated[str | None, typer.Option(help="Calls of this ordering key.")] = None,
    arg: Annotated[
        str | None,
        typer.Option(help="Calls with this argument: /PATH=TEXT, or /PATH:=JSON."),
    ] = None,
    all_calls: Annotated[bool, typer.Option("--all-calls", help="Every call.")] = False,
    effect: Annotated[Effect, typer.Option(help="They wait, or are refused.")] = "wait",
    until: Annotated[
        str | None, typer.Option(help="It ends then by itself: 2027-01-31T09:00:00Z.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say how many calls it would be of.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Hold calls of your tenant that fit all that is given: nothing of them is dispatched."""
    name, _, method = (tool or "").partition("/")
    body = known(
        tool=name or None,
        method=method or None,
        ordering_key=ordering_key,
        argument=None if arg is None else argument(arg),
        all_calls=all_calls or None,
        until=until,
        dry_run=dry_run or None,
    )
    told = ask(url, token, "POST", PATH, json=body | {"reason": reason, "effect": effect})
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


def release(hold_id: UUID, reason: Reason, token: Token, url: Url = LOCAL) -> None:
    """End a hold: what waits for it goes on."""
    ask(url, token, "POST", f"{PATH}/{hold_id}/release", json={"reason": reason})
    typer.echo("released")


def holds(
    token: Token,
    url: Url = LOCAL,
    ended: Annotated[bool, typer.Option("--ended", help="Those that have ended, too.")] = False,
    before: Annotated[UUID | None, typer.Option(help="Of those, go on before this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="Of those.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Your tenant's holds that are in force."""
    asked = known(ended=ended or None, before=None if before is None else str(before), limit=limit)
    body = ask(url, token, "GET", PATH, params=asked)
    if as_json:
        echo(body)
        return
    table = Plain("Of", "Effect", "Why", "Placed", "Ends")
    table.add_column("Id", no_wrap=True)
    for one in body["holds"]:
        ends = one.get("released_at") or one.get("until") or "when it is released"
        placed = f"{one['placed_at']} {one['placed_by']}"
        cells = (of(one), one["effect"], one["reason"], placed, ends)
        table.add_row(*cells, one["hold_id"])
    Console().print(table)
    if body["before"] is not None:
        typer.echo(f"more: --before {body['before']}")


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
