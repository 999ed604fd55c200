"""`broker saga`: register definitions of sagas, try them dry, run them, settle those that wait.

Talks HTTP to a running app, with a token from MCP_BROKER_TOKEN: an operator's to register, a
caller's for the rest but `settle`.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from app.cli.common import AsJson, Plain, fail
from app.cli.http import LOCAL, Caller, Url, ask, echo, known
from app.errors import InvalidDefinitionError
from app.sagas.parse import load

app = typer.Typer(no_args_is_help=True, help=__doc__)


class Verb(StrEnum):
    """What an operator may do with a step."""

    RETRY = "retry"
    SKIP = "skip"
    RESOLVE = "resolve"


class Outcome(StrEnum):
    """What was found out of a step."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    COMPENSATED = "compensated"


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
def register(file: Path, token: Caller, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Register a definition, YAML or JSON; a changed one becomes a new version."""
    body = ask(url, token, "POST", "/sagas/definitions", content=read(file))
    echo(body) if as_json else typer.echo(f"{body['name']} is at version {body['version']}")


@app.command()
def definitions(
    token: Caller,
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
    table = Plain("Name", "Version", "By", "Registered", "Description")
    for one in body["definitions"]:
        version, by = str(one["version"]), one["registered_by"]
        table.add_row(one["name"], version, by, one["registered_at"], one["description"])
    Console().print(table)
    if body["after"] is not None:
        typer.echo(f"more: --after {body['after']}")


@app.command()
def definition(name: str, token: Caller, url: Url = LOCAL, version: Version = None) -> None:
    """One definition, as JSON."""
    path = f"/sagas/definitions/{name}"
    echo(ask(url, token, "GET", path, params=known(version=version)))


@app.command()
def plan(
    name: Annotated[str, typer.Argument(help="Of a registered saga, or a definition's file.")],
    token: Caller,
    url: Url = LOCAL,
    given: Annotated[str, typer.Option("--input", help="The run's input, as JSON.")] = "{}",
    version: Version = None,
    as_json: AsJson = False,
) -> None:
    """What a run would do, and how it would be undone; nothing is started."""
    answer = ask(url, token, "POST", "/sagas/dry-run", json=which(name, given, version))
    if as_json:
        echo(answer)
        return
    for number, wave in enumerate(answer["plan"], 1):
        for step in wave:
            typer.echo(f"{number}. {said(step)}  [{step['kind']}]")
    for step in answer["undo_plan"]:
        typer.echo(f"undo {step['undoes']}: {said(step)}")
    typer.echo(answer["note"])


def which(name: str, given: str, version: int | None) -> dict[str, Any]:
    """The body that names a saga: a registered one, or a definition in a file."""
    file = Path(name)
    body: dict[str, Any] = {"input": parsed(given, "--input")}
    if file.suffix or file.exists():
        return body | {"plan": parsed(read(file), name)}
    return body | known(name=name, version=version)


def said(call: dict[str, Any]) -> str:
    """A call in a line."""
    label = f"{call['id']}: " if "id" in call else ""
    return f"{label}{call['tool']}/{call['method']} {orjson.dumps(call['args']).decode()}"


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="Of a registered saga, or a definition's file.")],
    token: Caller,
    url: Url = LOCAL,
    given: Annotated[str, typer.Option("--input", help="The run's input, as JSON.")] = "{}",
    version: Version = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a saga and wait for its outcome for a while."""
    body = which(name, given, version)
    headers = {} if key is None else {"Idempotency-Key": key}
    answer = ask(url, token, "POST", "/sagas", json=body, headers=headers)
    if as_json:
        echo(answer)
    elif answer.get("status") == "accepted":
        typer.echo(f"accepted, still running: broker saga show {answer['command_id']}")
    else:
        typer.echo(f"{answer['command_id']} ended {answer['state']}")
        echo(answer["result"] if answer["error"] is None else answer["error"])


@app.command("list")
def list_(
    token: Caller,
    url: Url = LOCAL,
    state: Annotated[list[str] | None, typer.Option(help="Only these; repeatable.")] = None,
    everyone: Annotated[bool, typer.Option(help="The whole tenant's, as an operator.")] = False,
    before: Annotated[str | None, typer.Option(help="Go on after this id.")] = None,
    limit: int = 50,
    as_json: AsJson = False,
) -> None:
    """Sagas, newest first."""
    params = known(before=before, limit=limit) | {"everyone": everyone, "state": state or []}
    body = ask(url, token, "GET", "/sagas", params=params)
    if as_json:
        echo(body)
        return
    table = Plain("Saga", "Name", "State", "Since", "Why")
    for one in body["sagas"]:
        why = one.get("reason", {}).get("message", "")
        table.add_row(one["saga_id"], one.get("name", ""), one["state"], one["created_at"], why)
    Console().print(table)
    if body["before"] is not None:
        typer.echo(f"more: --before {body['before']}")


@app.command()
def show(saga_id: str, token: Caller, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """One saga with its steps."""
    body = ask(url, token, "GET", f"/sagas/{saga_id}")
    echo_saga(body, as_json=as_json)


@app.command()
def cancel(
    saga_id: str,
    token: Caller,
    reason: Annotated[str, typer.Option(help="For the audit trail.")] = "cancelled by the caller",
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Stop a saga and have what it did undone."""
    body = ask(url, token, "POST", f"/sagas/{saga_id}/cancel", json={"reason": reason})
    echo_saga(body, as_json=as_json)


@app.command()
def commit(saga_id: str, token: Caller, url: Url = LOCAL, as_json: AsJson = False) -> None:
    """Say that an ad hoc saga has all its steps."""
    body = ask(url, token, "POST", f"/sagas/{saga_id}/commit")
    echo_saga(body, as_json=as_json)


@app.command()
def settle(
    saga_id: str,
    step: str,
    verb: Annotated[Verb, typer.Argument(help="What is to become of the step.")],
    token: Caller,
    reason: Annotated[str, typer.Option(help="For the audit trail.")],
    outcome: Annotated[Outcome | None, typer.Option(help="What resolve found out.")] = None,
    url: Url = LOCAL,
    as_json: AsJson = False,
) -> None:
    """Retry, skip or resolve a step that a saga waits for."""
    path = f"/operator/sagas/{saga_id}/steps/{step}"
    request = known(outcome=outcome) | {"verb": verb, "reason": reason}
    body = ask(url, token, "POST", path, json=request)
    echo_saga(body, as_json=as_json)


def echo_saga(saga: dict[str, Any], *, as_json: bool) -> None:
    """A saga as JSON, or for people."""
    if as_json:
        echo(saga)
        return
    why = saga.get("reason", {}).get("message")
    typer.echo(f"{saga['saga_id']} {saga['state']}" + (f": {why}" if why else ""))
    for one in saga["steps"]:
        reason = f"  ({one['reason']})" if "reason" in one else ""
        typer.echo(f"  {one['step']}: {one['state']}{reason}")
