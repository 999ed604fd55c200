"""`broker catalog import mcp`: the tools of another MCP server."""

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import typer

from adapters.contract import Opening
from app.cli.common import fail
from app.cli.imports.draft import Draft, Skipped, Source
from app.cli.imports.opening import undeclared
from app.cli.imports.options import Bearer, Ca, http_target, importing

STDIO: Final = "stdio:"
"""As adapters.mcp.checks has it: a command line that asks no server starts without MCP's SDK."""
OWN_WORDS: Final = re.compile(
    r"(^(mcp[-_.])?(server[-_.])?)|([-_.]mcp)?([-_.]server)?$", re.IGNORECASE
)

Url = Annotated[str | None, typer.Argument(help="Of a server on streamable HTTP.")]
Stdio = Annotated[
    str | None,
    typer.Option("--stdio", metavar="CMD", help="A program that serves on stdio, and its options."),
]
Inherit = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A variable that the program inherits. Repeatable."),
]
Secret = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=REFERENCE",
        help="A variable of the program's, by reference (env:, file:, vault:). Repeatable.",
    ),
]


@importing
async def command(
    url: Url = None,
    stdio: Stdio = None,
    inherit: Inherit = None,
    secret: Secret = None,
    bearer: Bearer = None,
    ca: Ca = None,
) -> Source:
    """Write the catalog of another MCP server's tools, to review; nothing is put in force.

    Each entry pins a digest of the tool as it is now, description and all: when the server tells
    of it otherwise later, calls of it are refused (target_changed) until it is reviewed again.
    """
    if (url is None) == (stdio is None):
        raise fail("Name the server's URL, or a program with --stdio.")
    if url is not None:
        if inherit or secret:
            raise fail("--inherit and --secret are for a program, with --stdio.")
        target = {"kind": "mcp", **http_target(url, bearer, ca)}
    else:
        if bearer or ca:
            raise fail("--bearer and --ca are for a server at a URL.")
        target = _program(str(stdio), inherit or [], secret or [])
    async with undeclared(target) as opening:
        return await source(opening, target)


async def source(opening: Opening, target: Mapping[str, Any]) -> Source:
    """The server as it is now."""
    from adapters.mcp.listing import listed  # noqa: PLC0415 the CLI starts fast without it

    found = await listed(opening)
    address = str(target["address"])
    notes = []
    if address.startswith(STDIO):
        notes.append("The program is started by the worker, as that path on its machine.")
    if not address.startswith((STDIO, "https:")) and urlsplit(address).hostname != "127.0.0.1":
        notes.append("The server is asked without TLS.")
    return Source(
        told=f"MCP server {found.server or 'without a name'} {found.version}".strip(),
        name=OWN_WORDS.sub("", found.server) or found.server,
        target=target,
        found=[_draft(one) for one in found.tools],
        notes=tuple(notes),
    )


async def found(opening: Opening, told: str | None) -> list[Draft | Skipped]:  # noqa: ARG001
    """The server's tools as they are now: it is its own source."""
    from adapters.mcp.listing import listed  # noqa: PLC0415 as above

    return [_draft(one) for one in (await listed(opening)).tools]


def key_of(mapping: Mapping[str, Any]) -> str:
    """By what a reviewed entry is found again."""
    return str(mapping.get("tool"))


def _draft(tool: Mapping[str, Any]) -> Draft:
    from adapters.mcp.digests import digest  # noqa: PLC0415 as above

    hints: Mapping[str, Any] = tool.get("annotations") or {}
    read_only = hints.get("readOnlyHint") is True and hints.get("destructiveHint") is not True
    notes: list[str] = []
    if not any(one in hints for one in ("readOnlyHint", "destructiveHint")):
        notes.append("The server does not say whether it changes anything, so it asks first.")
    return Draft(
        source=tool["name"],
        key=tool["name"],
        title=tool.get("title") or hints.get("title") or "",
        description=tool.get("description", ""),
        input_schema=tool["inputSchema"],
        output_schema=tool.get("outputSchema"),
        mapping={"tool": tool["name"], "digest": digest(tool)},
        read_only=read_only,
        idempotent=hints.get("idempotentHint") is True,
        destructive=not read_only and hints.get("destructiveHint") is not False,
        annotations=hints,
        notes=tuple(notes),
    )


def _program(line: str, inherit: list[str], secret: list[str]) -> dict[str, Any]:
    try:
        argv = shlex.split(line)
    except ValueError as error:
        raise fail(f"--stdio: {error}") from error
    path = shutil.which(argv[0]) if argv else None
    if path is None:
        raise fail(f"--stdio: there is no program {argv[0] if argv else ''!r} to run")
    values = {one.partition("=")[0]: one.partition("=")[2] for one in secret}
    if not all(values.values()):
        raise fail("--secret is NAME=REFERENCE, such as API_KEY=env:API_KEY")
    options: dict[str, Any] = {}
    if argv[1:]:
        options["args"] = [_absolute(one) for one in argv[1:]]
    if inherit:
        options["inherit"] = inherit
    target: dict[str, Any] = {"kind": "mcp", "address": STDIO + str(Path(path).absolute())}
    if options:
        target["options"] = options
    if values:
        target["credential"] = {"type": "env", "values": values}
    return target


def _absolute(one: str) -> str:
    """A file that is named from here, by its whole path: the program starts elsewhere."""
    return str(Path(one).absolute()) if "/" in one and Path(one).exists() else one
