"""`broker call`: one durable call from the terminal."""

import sys
from pathlib import Path
from typing import Annotated, Any, Final, Literal
from uuid import uuid4

import typer

from app import json_values
from app.cli import follow
from app.cli.common import AsJson, fail
from app.cli.http import LOCAL, Caller, Url, ask, echo, known

TRIES: Final = 5
"""Of a call whose answer did not come: its key makes it the same one each time."""

Tier = Literal["low", "normal", "high", "critical"]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--arg", help="NAME=TEXT, or NAME:=JSON for what is no text. Repeatable."),
]
From = Annotated[
    Path | None, typer.Option("--args", help="A JSON object of arguments; - is standard input.")
]


def call(
    tool: Annotated[str, typer.Argument(help="As TOOL/METHOD: git/clone.")],
    token: Caller,
    url: Url = LOCAL,
    arguments: Arguments = None,
    args_from: From = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: repeat it to retry.")] = None,
    ordering_key: Annotated[str | None, typer.Option(help="Run after those of this key.")] = None,
    deadline_s: Annotated[
        float | None, typer.Option(min=0.001, max=1e12, help="Seconds it may take.")
    ] = None,
    priority: Annotated[
        Tier | None, typer.Option(help="Who goes first of those that wait.")
    ] = None,
    not_before: Annotated[
        str | None, typer.Option(help="It starts then at the earliest: 2027-01-31T09:00:00Z.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", help="To find it by. Repeatable.")
    ] = None,
    follow_: Annotated[bool, typer.Option("--follow", help="Wait for its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Call a tool. Prints the result, or where to look for it; exit code 1 for a failure.

    The call goes on whatever becomes of this command: `broker commands watch ID` finds its end.
    """
    name, slash, method = tool.partition("/")
    if not slash:
        raise fail(f"{tool!r} is no TOOL/METHOD. `broker commands list` shows such names.")
    body = known(
        ordering_key=ordering_key,
        deadline_ms=None if deadline_s is None else max(1, round(deadline_s * 1000)),
        priority=priority,
        not_before=not_before,
        labels=label or None,
    )
    body |= {"tool": name, "method": method, "args": given(arguments or [], args_from)}
    headers = {"Idempotency-Key": key or f"cli-{uuid4()}"}
    if follow_:
        headers["Prefer"] = "respond-async"
    answer = ask(url, token, "POST", "/mcp/tools/call", json=body, headers=headers, tries=TRIES)
    if answer["status"] != "accepted":
        raise follow.show(answer, as_json=as_json)
    if follow_:
        if not as_json:
            typer.echo(f"accepted as {answer['command_id']}", err=True)
        outcome = follow.ended(url, token, answer["command_id"], quiet=as_json)
        raise follow.show(outcome, as_json=as_json)
    if as_json:
        echo(answer)
        return
    typer.echo(f"accepted as {answer['command_id']}")
    typer.echo(f"broker commands watch {answer['command_id']}", err=True)


def given(arguments: list[str], args_from: Path | None) -> dict[str, Any]:
    """The arguments of a call: those of a file, then those that are named.

    Raises:
        typer.Exit: what is given is no argument.
    """
    made = {} if args_from is None else _object(args_from)
    for one in arguments:
        name, equals, text = one.partition("=")
        if not equals or not name.removesuffix(":"):
            raise fail(f"--arg {one!r} is no NAME=TEXT or NAME:=JSON.")
        if not name.endswith(":"):
            made[name] = text
            continue
        try:
            made[name.removesuffix(":")] = json_values.loads(text.encode())
        except ValueError as error:
            raise fail(f"--arg {one!r}: {error}") from error
    return made


def _object(path: Path) -> dict[str, Any]:
    """The JSON object in a file, or on standard input."""
    try:
        text = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        read = json_values.loads(text)
    except OSError as error:
        raise fail(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise fail(f"{path}: {error}") from error
    if not isinstance(read, dict):
        raise fail(f"{path} holds no JSON object.")
    return read
