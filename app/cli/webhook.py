"""`broker webhook`: who is told of what happens, by signed webhooks, and what became of it.

Talks HTTP to a running app, with an operator's token from MCP_BROKER_TOKEN.
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import typer
from rich.console import Console

from app.cli.common import AsJson, Plain, fail, finite
from app.cli.http import LOCAL, Reason, Token, Url, ask, echo, known
from app.cli.saga import parsed, read
from app.webhooks.kind import Kind

app = typer.Typer(no_args_is_help=True, help=__doc__)

PATH: Final = "/operator/webhooks"
DAY_S: Final = 86_400.0


def show_secret(body: dict[str, Any]) -> None:
    """A secret that is shown once."""
    typer.echo(f"webhook {body['webhook_id']}")
    typer.echo(f"secret  {body['secret']}   (shown now only)")


@app.command()
def add(
    address: Annotated[str, typer.Argument(help="https://… of the receiver.")],
    token: Token,
    url: Url = LOCAL,
    event: Annotated[list[Kind] | None, typer.Option(help="Repeatable; all by default.")] = None,
    tool: Annotated[str | None, typer.Option(help="Only of this tool's calls.")] = None,
    method: Annotated[str | None, typer.Option(help="Of the tool.")] = None,
    template: Annotated[
        Path | None, typer.Option(help="A file with a body of your own: JSON or YAML.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Tell a receiver from now on; prints the secret that signs."""
    body: dict[str, Any] = {"url": address, "events": event or list(Kind)}
    body |= known(tool=tool, method=method)
    if template is not None:
        body["template"] = parsed(read(template), str(template))
    made = ask(url, token, "POST", PATH, json=body)
    echo(made) if as_json else show_secret(made)


def state_of(one: dict[str, Any]) -> str:
    """An endpoint's state in a word or some."""
    if not one["enabled"]:
        return f"disabled: {one['reason']}"
    if one["failing_since"] is not None:
        return f"failing since {one['failing_since']}: {one['last_error']}"
    return "enabled"


@app.command("list")
def list_(token: Token, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Your tenant's endpoints."""
    body = ask(url, token, "GET", PATH)
    if as_json:
        echo(body)
        return
    table = Plain("Webhook", "Address", "Events", "State", "Waiting")
    for one in body["webhooks"]:
        events, waiting = ", ".join(one["events"]), str(one["waiting"])
        table.add_row(one["webhook_id"], one["url"], events, state_of(one), waiting)
    Console().print(table)


@app.command()
def show(webhook: UUID, token: Token, url: Url = LOCAL) -> None:
    """One endpoint, as JSON."""
    echo(ask(url, token, "GET", f"{PATH}/{webhook}"))


@app.command("test")
def ping(webhook: UUID, token: Token, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Have a signed ping sent, and see the answer; exit code 1 where it was not taken."""
    body = ask(url, token, "POST", f"{PATH}/{webhook}/test")
    if as_json:
        echo(body)
    elif body["state"] == "waiting":
        typer.echo("no relay sent it yet: does one run, with webhook_keys?")
    else:
        status = "no answer" if body["status"] is None else f"status {body['status']}"
        typer.echo(f"{body['state']}: {status}. {body['error'] or ''}".rstrip())
        typer.echo(body["answer"] or "")
    if body["state"] != "delivered":
        raise typer.Exit(1)


@app.command()
def rotate(
    webhook: UUID,
    token: Token,
    url: Url = LOCAL,
    keep_s: Annotated[
        float, typer.Option(callback=finite, help="Seconds that the old one signs, too.")
    ] = DAY_S,
    as_json: AsJson = False,
) -> None:
    """A new secret, shown once; the old one signs beside it for a day."""
    body = ask(url, token, "POST", f"{PATH}/{webhook}/rotate", json={"keep_s": keep_s})
    echo(body) if as_json else show_secret(body)


@app.command()
def enable(
    webhook: UUID, reason: Reason, token: Token, url: Url = LOCAL, as_json: AsJson = False
) -> None:
    """Tell it again: of what happens from now on, and of what waited."""
    body = ask(url, token, "POST", f"{PATH}/{webhook}/enable", json={"reason": reason})
    echo(body) if as_json else typer.echo("enabled")


@app.command()
def disable(
    webhook: UUID, reason: Reason, token: Token, url: Url = LOCAL, as_json: AsJson = False
) -> None:
    """Tell it nothing until it is enabled."""
    body = ask(url, token, "POST", f"{PATH}/{webhook}/disable", json={"reason": reason})
    echo(body) if as_json else typer.echo("disabled")


@app.command()
def remove(webhook: UUID, token: Token, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Forget an endpoint, and what it was to be told."""
    body = ask(url, token, "DELETE", f"{PATH}/{webhook}")
    echo(body) if as_json else typer.echo("removed")


@app.command()
def deliveries(
    webhook: UUID,
    token: Token,
    url: Url = LOCAL,
    state: Annotated[
        str | None, typer.Option(help="waiting, delivered or abandoned; all by default.")
    ] = None,
    before: Annotated[UUID | None, typer.Option(help="Go on after this one.")] = None,
    limit: int = 50,
    as_json: AsJson = False,
) -> None:
    """What it was told, and is to be told, newest first."""
    wanted = known(state=state, limit=limit, before=None if before is None else str(before))
    body = ask(url, token, "GET", f"{PATH}/{webhook}/deliveries", params=wanted)
    if as_json:
        echo(body)
        return
    table = Plain("Delivery", "Event", "Of", "State", "Attempts", "Last")
    for one in body["deliveries"]:
        of = one["data"].get("command_id") or one["data"].get("saga_id") or ""
        last = one["error"] or ("" if one["status"] is None else str(one["status"]))
        attempts = str(one["attempts"])
        table.add_row(one["delivery_id"], one["event"], of, one["state"], attempts, last)
    Console().print(table)
    if body["before"] is not None:
        typer.echo(f"more: --before {body['before']}")


@app.command()
def redeliver(
    webhook: UUID,
    token: Token,
    delivery: Annotated[UUID | None, typer.Argument(help="One; else --since.")] = None,
    url: Url = LOCAL,
    since: Annotated[
        datetime | None, typer.Option(help="All from this time on (UTC), missed ones too.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send one delivery again, or all of a time: what was told, given up, or never told."""
    if (delivery is None) == (since is None):
        raise fail("Name one delivery, or a time by --since.")
    if delivery is not None:
        path = f"{PATH}/{webhook}/deliveries/{delivery}/redeliver"
        body = ask(url, token, "POST", path)
        echo(body) if as_json else typer.echo(body["state"])
        return
    assert since is not None
    wanted = {"since": f"{since.isoformat()}Z"}
    body = ask(url, token, "POST", f"{PATH}/{webhook}/redeliver", json=wanted)
    echo(body) if as_json else typer.echo(f"{body['deliveries']} deliveries")
