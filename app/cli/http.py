"""How the command line asks a running app."""

import time
from typing import Annotated, Any, Final

import httpx
import orjson
import typer

from app.cli.common import fail

TIMEOUT_S: Final = 60.0
PAUSE_S: Final = 0.5
"""Before the second try; each further one waits that much longer."""
AWAY: Final = (httpx.NetworkError, httpx.TimeoutException, httpx.RemoteProtocolError)
LATER: Final = frozenset({429, 502, 503, 504})
"""Answers that say "not now"."""

Url = Annotated[str, typer.Option("--url", envvar="MCP_BROKER_URL", help="Of the app.")]
Token = Annotated[
    str,
    typer.Option("--token", envvar="MCP_BROKER_TOKEN", help="An operator's.", show_default=False),
]
Caller = Annotated[
    str, typer.Option("--token", envvar="MCP_BROKER_TOKEN", help="Yours.", show_default=False)
]
Reason = Annotated[str, typer.Option("--reason", help="For the audit trail.")]

LOCAL: Final = "http://127.0.0.1:8080"


def ask(
    url: str, token: str, method: str, path: str, *, tries: int = 1, **parts: Any
) -> dict[str, Any]:
    """One request; a refusal is its detail on standard error, and exit code 1.

    With more than one try it is sent again where no answer came, or one that says "not now": for
    what is the same however often it is sent.
    """
    headers = {"Authorization": f"Bearer {token}"} | parts.pop("headers", {})
    for tried in range(1, tries + 1):
        try:
            answer = httpx.request(
                method, url.rstrip("/") + path, headers=headers, timeout=TIMEOUT_S, **parts
            )
            if tried == tries or answer.status_code not in LATER:
                body = answer.json()
                break
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            if tried == tries or not isinstance(error, AWAY):
                raise fail(f"{url}: {error}") from error
        time.sleep(PAUSE_S * tried)
    else:
        raise AssertionError("the last try answers or fails")
    if answer.is_error:
        raise fail(refusal(body))
    return body


def refusal(problem: dict[str, Any]) -> str:
    """What a problem document (RFC 9457) says."""
    return str(problem.get("detail") or problem.get("title") or problem)


def known(**values: Any) -> dict[str, Any]:
    """What was given."""
    return {name: value for name, value in values.items() if value is not None}


def echo(body: Any) -> None:
    """As JSON."""
    typer.echo(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
