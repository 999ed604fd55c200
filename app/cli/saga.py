"""`broker saga`: register definitions of sagas, look at them, and try them out dry.

Talks HTTP to a running app, with a token from MCP_BROKER_TOKEN: an operator's to register, a
caller's for the rest.
"""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.table import Table

from app.cli.dlq import LOCAL, AsJson, Url, ask, echo, fail, known
from app.errors import InvalidDefinitionError
from app.saga_parse import load

app = typer.Typer(no_args_is_help=True, help=__doc__)

Token = Annotated[
    str, typer.Option("--token", envvar="MCP_BROKER_TOKEN", help="Yours.", show_default=False)
]
Version = Annotated[int | None, typer.Option(help="The newest by default.")]


def read(file: Path) -> bytes:
    """A file's bytes; what cannot be read is a message and exit code 1."""
    try:
        return file.read_bytes()
    except OSError as error:
        raise fail(f"{file} cannot be read: {error.strerror}") from error


def parsed(text: str | bytes, source: str) -> Any:
    """JSON or YAML as data; what is neither is a message and exit code 1."""
    try:
        return load(text)
    except InvalidDefinitionError as error:
        raise fail(f"{source}: {error.detail}") from error


@app.command()
def register(file: Path, token: Token, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Register a definition, YAML or JSON; a changed one becomes a new version."""
    body = ask(url, token, "POST", "/sagas/definitions", content=read(file))
    echo(body) if as_json else typer.echo(f"{body['name']} is at version {body['version']}")


@app.command()
def definitions(
    token: Token,
    url: Url = LOCAL,
    after: Annotated[str | None, typer.Option(help="Go on after this name.")] = None,
    limit: int = 50,
    as_json: AsJson = False,
) -> None:
    """The newest version of each definition."""
    body = ask(url, token, "GET", "/sagas/definitions", params=known(after=after, limit=limit))
    if as_json:
        echo(body)
        return
    table = Table("Name", "Version", "By", "Registered", "Description")
    for one in body["definitions"]:
        version, by = str(one["version"]), one["registered_by"]
        table.add_row(one["name"], version, by, one["registered_at"], one["description"])
    Console().print(table)
    if body["after"] is not None:
        typer.echo(f"more: --after {body['after']}")


@app.command()
def definition(name: str, token: Token, url: Url = LOCAL, version: Version = None) -> None:
    """One definition, as JSON."""
    path = f"/sagas/definitions/{name}"
    echo(ask(url, token, "GET", path, params=known(version=version)))


@app.command()
def plan(
    name: Annotated[str, typer.Argument(help="Of a registered saga, or a definition's file.")],
    token: Token,
    url: Url = LOCAL,
    given: Annotated[str, typer.Option("--input", help="The run's input, as JSON.")] = "{}",
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """What a run would do, and how it would be undone; nothing is started."""
    file = Path(name)
    body: dict[str, Any] = {"input": parsed(given, "--input")}
    if file.suffix or file.exists():
        body["plan"] = parsed(read(file), name)
    else:
        body |= known(name=name, version=version)
    told = ask(url, token, "POST", "/sagas/dry-run", json=body)
    if as_json:
        echo(told)
        return
    for number, wave in enumerate(told["plan"], 1):
        for step in wave:
            typer.echo(f"{number}. {said(step)}  [{step['kind']}]")
    for step in told["undo_plan"]:
        typer.echo(f"undo {step['undoes']}: {said(step)}")
    typer.echo(told["note"])


def said(call: dict[str, Any]) -> str:
    """A call in a line."""
    label = f"{call['id']}: " if "id" in call else ""
    return f"{label}{call['tool']}/{call['method']} {orjson.dumps(call['args']).decode()}"
