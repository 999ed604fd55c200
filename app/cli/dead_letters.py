"""`broker dead-letters`: look at dead letters, redrive, discard or resolve them.

Talks HTTP to a running app, with an operator's token from MCP_BROKER_TOKEN.
"""

from enum import StrEnum
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
import typer
from rich.console import Console

from app.cli.common import AsJson, Plain, fail, finite
from app.cli.http import LOCAL, Reason, Token, Url, ask, echo, known

app = typer.Typer(no_args_is_help=True, help=__doc__)

PATH: Final = "/operator/dead-letters"
Tool = Annotated[str | None, typer.Option(help="Of this tool only.")]
Method = Annotated[str | None, typer.Option(help="Of this method only.")]
Code = Annotated[str | None, typer.Option(help="With this error code only.")]
Unknown = Annotated[
    bool | None,
    typer.Option("--unknown/--known", help="Whose outcome is unknown, or is not."),
]
Older = Annotated[
    float | None,
    typer.Option(callback=finite, help="Given up longer ago than this, in seconds."),
]
Newer = Annotated[
    float | None, typer.Option(callback=finite, help="Given up since so many seconds.")
]


def show_letters(found: list[dict[str, Any]]) -> None:
    """As a table."""
    table = Plain("Id", "Tool", "Attempts", "Error", "Given up")
    for one in found:
        error = one.get("error") or {}
        reason = error.get("code") or error.get("message") or ""
        table.add_row(
            one["command_id"],
            f"{one['tool']}/{one['method']}",
            str(one["attempt"]),
            f"{reason}{' (outcome unknown)' if one.get('outcome_unknown') else ''}",
            one.get("finished_at", ""),
        )
    Console().print(table)


@app.command("list")
def list_(
    token: Token,
    url: Url = LOCAL,
    tool: Tool = None,
    method: Method = None,
    code: Code = None,
    unknown: Unknown = None,
    older_than_s: Older = None,
    newer_than_s: Newer = None,
    after: Annotated[UUID | None, typer.Option(help="Go on after this one.")] = None,
    limit: int = 50,
    as_json: AsJson = False,
) -> None:
    """Your tenant's dead letters, oldest first."""
    wanted = known(
        tool=tool,
        method=method,
        code=code,
        outcome_unknown=unknown,
        older_than_s=older_than_s,
        newer_than_s=newer_than_s,
        after=None if after is None else str(after),
        limit=limit,
    )
    body = ask(url, token, "GET", PATH, params=wanted)
    if as_json:
        echo(body)
        return
    show_letters(body["dead_letters"])
    if body["after"] is not None:
        typer.echo(f"more: --after {body['after']}")


@app.command()
def show(command: UUID, token: Token, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """One command and the history of its attempts."""
    body = ask(url, token, "GET", f"{PATH}/{command}")
    if as_json:
        echo(body)
        return
    show_letters([body])
    for one in body["history"]:
        typer.echo(orjson.dumps(one).decode())


@app.command()
def redrive(
    token: Token,
    command: Annotated[UUID | None, typer.Argument(help="One; else by filter.")] = None,
    url: Url = LOCAL,
    reason: Annotated[str | None, typer.Option(help="For the audit trail.")] = None,
    tool: Tool = None,
    method: Method = None,
    code: Code = None,
    unknown: Unknown = None,
    older_than_s: Older = None,
    newer_than_s: Newer = None,
    limit: int = 100,
    per_s: Annotated[
        float | None, typer.Option(callback=finite, help="At most so many a second.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else a dry run.")] = False,
    as_json: AsJson = False,
) -> None:
    """Give one dead letter, or those that a filter takes, a new attempt."""
    wanted = known(
        tool=tool,
        method=method,
        code=code,
        outcome_unknown=unknown,
        older_than_s=older_than_s,
        newer_than_s=newer_than_s,
        per_s=per_s,
    )
    if reason is None and (yes or command is not None):
        raise fail("It takes a --reason.")
    if command is not None:
        if wanted:
            raise fail("One command takes no filter and no --per-s.")
        body = ask(url, token, "POST", f"{PATH}/{command}/redrive", json={"reason": reason})
        echo(body) if as_json else typer.echo(f"queued: attempt {body['attempt']}")
        return
    many = {"dry_run": not yes, "limit": limit, "reason": reason or "dry run"}
    body = ask(url, token, "POST", f"{PATH}/redrive", json=wanted | many)
    if as_json:
        echo(body)
        return
    for one in body["commands"]:
        typer.echo(one)
    for one, why in body["refused"].items():
        typer.echo(f"{one} refused: {why}")
    done = "redriven" if yes else "would be redriven; --yes --reason … does it"
    typer.echo(f"{len(body['commands'])} {done}")


@app.command()
def discard(
    command: UUID, reason: Reason, token: Token, url: Url = LOCAL, as_json: AsJson = False
) -> None:
    """Take a dead letter off the list for good."""
    body = ask(url, token, "POST", f"{PATH}/{command}/discard", json={"reason": reason})
    echo(body) if as_json else typer.echo("discarded")


class Outcome(StrEnum):
    """What an operator found out."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


@app.command()
def resolve(
    command: UUID,
    outcome: Outcome,
    reason: Reason,
    token: Token,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Say what a command did that ended in doubt; its ordering key goes on."""
    path = f"/operator/commands/{command}/resolve"
    body = ask(url, token, "POST", path, json={"reason": reason, "outcome": outcome})
    echo(body) if as_json else typer.echo(f"resolved: {outcome}")


@app.command()
def blocked(
    token: Token,
    url: Url = LOCAL,
    after: Annotated[str | None, typer.Option(help="Go on after this key.")] = None,
    limit: int = 50,
    as_json: AsJson = False,
) -> None:
    """Ordering keys that wait to know what a command did."""
    wanted = known(after=after, limit=limit)
    body = ask(url, token, "GET", "/operator/keys/blocked", params=wanted)
    if as_json:
        echo(body)
        return
    table = Plain("Key", "Waits for", "Since", "Commands behind it")
    for one in body["keys"]:
        since, behind = one["blocked_at"], str(one["waiting"])
        table.add_row(one["ordering_key"], one["command_id"], since, behind)
    Console().print(table)
    if body["after"] is not None:
        typer.echo(f"more: --after {body['after']}")
