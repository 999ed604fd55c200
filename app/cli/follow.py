"""How the command line waits for a command's end: by its event stream, with a progress bar."""

import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, Final

import httpx2
import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from app.cli.common import fail
from app.cli.http import LATER, echo, refusal

PAUSES_S: Final = (0.2, 1, 2, 5, 10)
"""Between two tries to be heard, the last one again and again; a stream that speaks starts anew."""
AWAY_MAX_S: Final = 300.0
"""For how long an app may be away before nobody waits for it any more."""
UNSEEN_MAX_S: Final = 5.0
"""The same for one that was never there: its address may be wrong."""
AWAY: Final = (httpx2.NetworkError, httpx2.TimeoutException, httpx2.RemoteProtocolError)
SILENCE_MAX_S: Final = 90.0
"""Heartbeats come at least every `MCP_BROKER_HEARTBEAT_S`; a stream without any is broken."""
INTERRUPTED: Final = 130
"""The exit code of a program that Ctrl-C ended, as shells have it."""


def ended(url: str, token: str, command_id: str, *, quiet: bool) -> dict[str, Any]:
    """Wait for a command's end, however often the connection breaks; its outcome.

    Ctrl-C stops the waiting and not the command.
    """
    try:
        with _told(quiet=quiet) as tell:
            for name, data in _events(url.rstrip("/"), token, command_id):
                if name == "result":
                    return data
                tell(data)
    except KeyboardInterrupt:
        typer.echo(f"it goes on: broker commands watch {command_id}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    raise AssertionError("the events end with a result, or with an error")


def show(outcome: dict[str, Any], *, as_json: bool) -> typer.Exit:
    """Print how a command ended; the exit code that says so, 0 for success."""
    succeeded = outcome.get("status") == "ok"
    if as_json:
        echo(outcome)
    elif succeeded:
        echo(outcome.get("result"))
    else:
        error = outcome.get("error") or {}
        words = error.get("message") or error.get("code") or "no reason was recorded"
        typer.secho(f"{outcome.get('state', 'failed')}: {words}", fg=typer.colors.RED, err=True)
        if outcome.get("outcome_unknown"):
            typer.secho("Nobody knows what it did: look before you call again.", err=True)
    return typer.Exit(0 if succeeded else 1)


def _events(url: str, token: str, command_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events of a command, each once, over as many connections as it takes."""
    headers = {"Authorization": f"Bearer {token}"}
    heard_at, tries, patience_s = time.monotonic(), 0, UNSEEN_MAX_S
    with httpx2.Client(timeout=httpx2.Timeout(10, read=SILENCE_MAX_S)) as client:
        while True:
            try:
                with client.stream(
                    "GET", f"{url}/commands/{command_id}/events", headers=headers
                ) as answer:
                    _check(answer)
                    patience_s = AWAY_MAX_S
                    for one in httpx2.EventSource(answer, max_event_size=None):
                        heard_at, tries = time.monotonic(), 0
                        headers["Last-Event-ID"] = one.id
                        yield one.event, orjson.loads(one.data)
                        if one.event == "result":
                            return
            except AWAY as error:
                if time.monotonic() - heard_at > patience_s:
                    raise fail(f"{url}: {error}; the command goes on") from error
            except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
                raise fail(f"{url}: {error}") from error
            time.sleep(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
            tries += 1


def _check(answer: httpx2.Response) -> None:
    """End where the app refuses; "not now" is a broken connection like any other."""
    if answer.status_code in LATER:
        raise httpx2.RemoteProtocolError(f"{answer.status_code} {answer.reason_phrase}")
    if answer.is_error:
        answer.read()
        try:
            words = refusal(answer.json())
        except ValueError:
            words = f"{answer.status_code} {answer.reason_phrase}"
        raise fail(words)


@contextmanager
def _told(*, quiet: bool) -> Generator[Callable[[dict[str, Any]], None]]:
    """What shows one progress event: a bar on a terminal, else a line each; on standard error."""
    if quiet:
        yield lambda _: None
        return
    if not sys.stderr.isatty():
        yield lambda data: typer.echo(_words(data), err=True)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("waiting", total=None)

        def tell(data: dict[str, Any]) -> None:
            percent = data.get("percent")
            total = None if percent is None else 100
            bar.update(task, description=_words(data), total=total, completed=percent)

        yield tell


def _words(data: dict[str, Any]) -> str:
    """One line; what an adapter says is nothing that a terminal should obey."""
    percent = data.get("percent")
    parts = [None if percent is None else f"{percent} %", data.get("stage"), data.get("message")]
    said = " · ".join(str(part) for part in parts if part)
    return "".join(letter if letter.isprintable() else "�" for letter in said)
