"""`broker commands`: list, look at, wait for and cancel commands.

Talks HTTP to a running app, with a caller's token from MCP_BROKER_TOKEN.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import typer
from rich.console import Console

from app.cli import follow
from app.cli.common import AsJson, Plain, fail, finite
from app.cli.http import LOCAL, Caller, Reason, Token, Url, ask, echo, known
from app.commands.state import OPEN, State

app = typer.Typer(no_args_is_help=True, help=__doc__)

PATH: Final = "/commands"
PAGE: Final = 200
REFUSED: Final = "is not cancelled"
Opened = Literal["queued", "dispatched", "running"]
Tool = Annotated[str | None, typer.Option(help="Of this tool only.")]
Label = Annotated[
    list[str] | None, typer.Option("--label", help="That has this label. Repeatable.")
]
Everyone = Annotated[bool, typer.Option("--everyone", help="Of your tenant; an operator's.")]


@app.command("list")
def list_(
    token: Caller,
    url: Url = LOCAL,
    state: Annotated[list[State] | None, typer.Option(help="In this state. Repeatable.")] = None,
    tool: Tool = None,
    label: Label = None,
    everyone: Everyone = False,
    before: Annotated[UUID | None, typer.Option(help="Go on before this one.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=PAGE)] = 50,
    as_json: AsJson = False,
) -> None:
    """Your commands, newest first."""
    wanted = known(
        state=[str(one) for one in state or ()] or None,
        tool=tool,
        label=label or None,
        everyone=everyone or None,
        before=None if before is None else str(before),
        limit=limit,
    )
    body = ask(url, token, "GET", PATH, params=wanted)
    if as_json:
        echo(body)
        return
    show_commands(body["commands"])
    if body["before"] is not None:
        typer.echo(f"more: --before {body['before']}")


@app.command()
def show(command: UUID, token: Caller, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """One command: where it is, what it waits for, how it ended."""
    body = ask(url, token, "GET", f"{PATH}/{command}")
    if as_json:
        echo(body)
        return
    table = Plain(show_header=False, box=None)
    run = body.pop("run", None)
    for name, value in body.items():
        table.add_row(name, str(value))
    if run is not None:
        table.add_row("run", f"{run['name']} is {run['status']}")
        for name in ("link", "log"):
            table.add_row("", run.get(name, ""))
    Console().print(table)


@app.command()
def watch(command: UUID, token: Caller, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Wait for a command's end, with its progress; exit code 1 for a failure."""
    outcome = follow.ended(url, token, str(command), quiet=as_json)
    raise follow.show(outcome, as_json=as_json)


@app.command()
def cancel(
    token: Caller,
    commands: Annotated[list[UUID] | None, typer.Argument(help="These; else by filter.")] = None,
    url: Url = LOCAL,
    reason: Reason = "cancelled on the command line",
    tool: Tool = None,
    label: Label = None,
    state: Annotated[Opened | None, typer.Option(help="In this state.")] = None,
    older_than_s: Annotated[
        float | None, typer.Option(callback=finite, help="Accepted longer ago.")
    ] = None,
    everyone: Everyone = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else a filter only shows.")] = False,
    as_json: AsJson = False,
) -> None:
    """Cancel commands: those that are named, or those of your own that a filter takes."""
    filtered = tool is not None or bool(label) or state is not None or older_than_s is not None
    if bool(commands) == filtered:
        raise fail("Name commands, or a filter: --tool, --label, --state, --older-than-s.")
    if commands:
        found = [str(one) for one in commands]
    else:
        states = [str(one) for one in OPEN] if state is None else [str(state)]
        wanted = known(
            state=sorted(states), tool=tool, label=label or None, everyone=everyone or None
        )
        chosen: list[dict[str, Any]] = []
        for one in _pages(url, token, wanted):
            if older_than_s is None or _age_s(one) > older_than_s:
                chosen.append(one)
            if len(chosen) == limit:
                break
        if not yes:
            echo(chosen) if as_json else show_commands(chosen)
            typer.echo(f"{len(chosen)} would be cancelled; --yes does it", err=True)
            return
        found = [one["command_id"] for one in chosen]
    told = {one: _cancelled(url, token, one, reason) for one in found}
    if as_json:
        echo(told)
    else:
        for one, how in told.items():
            typer.echo(f"{one} {how}")
    if REFUSED in told.values():
        raise typer.Exit(1)


def approve(command: UUID, reason: Reason, token: Token, url: Url = LOCAL) -> None:
    """Approve a command that waits for it: as an operator, or one of its approvers."""
    _decide(command, reason, token, url, "approve")
    typer.echo("approved")


def deny(command: UUID, reason: Reason, token: Token, url: Url = LOCAL) -> None:
    """End a command that waits for an approval."""
    _decide(command, reason, token, url, "deny")
    typer.echo("denied")


def _decide(command: UUID, reason: str, token: str, url: str, verb: str) -> None:
    ask(url, token, "POST", f"{PATH}/{command}/{verb}", json={"reason": reason})


def show_commands(found: list[dict[str, Any]]) -> None:
    """As a table; ids are never shortened."""
    table = Plain("Tool", "State", "Progress", "Accepted", "Waits for")
    table.add_column("Id", no_wrap=True)
    for one in found:
        percent = "" if one.get("percent") is None else f"{one['percent']} %"
        progress = " ".join(part for part in (percent, one.get("stage", "")) if part)
        cells = (f"{one['tool']}/{one['method']}", one["state"], progress, one["created_at"])
        waits = one.get("waiting_for", "")
        table.add_row(*cells, waits, one["command_id"])
    Console().print(table)


def _pages(url: str, token: str, wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The commands that a filter takes, newest first, as they stand when their page is read."""
    before: dict[str, Any] = {}
    while True:
        params = wanted | before | {"limit": PAGE}
        body = ask(url, token, "GET", PATH, params=params)
        yield from body["commands"]
        if body["before"] is None:
            return
        before = {"before": body["before"]}


def _age_s(command: dict[str, Any]) -> float:
    made = datetime.fromisoformat(command["created_at"])
    return (datetime.now(UTC) - made).total_seconds()


def _cancelled(url: str, token: str, command_id: str, reason: str) -> str:
    """Cancel one; what came of it in a word or two, as others are to be cancelled yet."""
    path = f"{PATH}/{command_id}/cancel"
    try:
        body = ask(url, token, "POST", path, json={"reason": reason})
    except typer.Exit:  # why is on standard error
        return REFUSED
    return "was asked to end" if not body["final"] else f"is {body['state']}"
