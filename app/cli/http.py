"""How the command line asks a running app."""

from typing import Annotated, Any, Final

import httpx
import orjson
import typer

from app.cli.common import fail

TIMEOUT_S: Final = 60.0

Url = Annotated[str, typer.Option("--url", envvar="MCP_BROKER_URL", help="Of the app.")]
Token = Annotated[
    str,
    typer.Option("--token", envvar="MCP_BROKER_TOKEN", help="An operator's.", show_default=False),
]
Reason = Annotated[str, typer.Option("--reason", help="For the audit trail.")]

LOCAL: Final = "http://127.0.0.1:8080"


def ask(url: str, token: str, method: str, path: str, **parts: Any) -> dict[str, Any]:
    """One request; a refusal is its detail on standard error, and exit code 1."""
    headers = {"Authorization": f"Bearer {token}"} | parts.pop("headers", {})
    try:
        answer = httpx.request(
            method, url.rstrip("/") + path, headers=headers, timeout=TIMEOUT_S, **parts
        )
        body = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise fail(f"{url}: {error}") from error
    if answer.is_error:
        raise fail(str(body.get("detail") or body.get("title") or body))
    return body


def known(**values: Any) -> dict[str, Any]:
    """What was given."""
    return {name: value for name, value in values.items() if value is not None}


def echo(body: Any) -> None:
    """As JSON."""
    typer.echo(orjson.dumps(body, option=orjson.OPT_INDENT_2).decode())
