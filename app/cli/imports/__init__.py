"""`broker catalog import`: catalogs to review, of what is there already.

A source is a module here: `command` is its command line, and makes a `Source` of drafts; `found`
and `key_of` are for `broker catalog diff`, which knows them by the target's kind (`drift.SOURCES`).
Names, policies and the file are the same for all (`entries`, `written`).
"""

from typing import Final

import typer

from app.cli.imports import aap, grpc, mcp, openapi

app: Final = typer.Typer(
    no_args_is_help=True, help="Write the catalog of a source's tools, to review."
)
app.command("aap")(aap.command)
app.command("grpc")(grpc.command)
app.command("mcp")(mcp.command)
app.command("openapi")(openapi.command)
