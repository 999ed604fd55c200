"""What the imports share: options, and what is made of the source that each of them reads."""

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.common import AsJson, fail, run
from app.cli.imports.draft import Source
from app.cli.imports.entries import made
from app.cli.imports.written import given

Name = Annotated[
    str | None,
    typer.Option(help="Of the target, and what its tools' names begin with; the source's own."),
]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Tools of the source by name, as get_*. Repeatable."),
]
Bearer = Annotated[
    str | None,
    typer.Option(
        metavar="REFERENCE",
        help="A token to show, as env:NAME, file:/path or vault:mount/path#field; no secret"
        " itself. The worker looks it up again where it runs.",
    ),
]
Ca = Annotated[
    str | None,
    typer.Option(metavar="REFERENCE", help="Authorities to trust, as file:/path of a PEM text."),
]
Out = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where to write NAME.yml; to standard output."),
]
Force = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]


def importing(read: Callable[..., Coroutine[Any, Any, Source]]) -> Callable[..., None]:
    """The command that reads a source and writes its catalog, with the options of both.

    Typer takes a command's options from its signature, so that is put together here.
    """

    def write(
        name: Name = None,
        only: Only = None,
        out: Out = None,
        force: Force = False,
        as_json: AsJson = False,
        **own: Any,
    ) -> None:
        async def work() -> None:
            source = chosen(await read(**own), only)
            given(made(source, name), out, force=force, as_json=as_json)

        run(work())

    own, both = inspect.signature(read), inspect.signature(write)
    shared = [one for one in both.parameters.values() if one.kind is not one.VAR_KEYWORD]
    options = [*own.parameters.values(), *shared]
    command = wraps(read)(write)
    command.__annotations__ = {one.name: one.annotation for one in options}
    command.__signature__ = own.replace(parameters=options)  # pyright: ignore[reportAttributeAccessIssue] PEP 362's
    return command


def http_target(address: str, bearer: str | None, ca: str | None) -> dict[str, Any]:
    """A target at a URL, or at host:port."""
    target: dict[str, Any] = {"address": address}
    if ca is not None:
        target["tls"] = {"ca": ca}
    if bearer is not None:
        target["credential"] = {"type": "bearer", "token": bearer}
    return target


def chosen(source: Source, only: list[str] | None) -> Source:
    """The tools that are asked for; all where none are."""
    if not only:
        return source
    kept = [one for one in source.found if any(fnmatchcase(one.source, each) for each in only)]
    if not kept:
        known = ", ".join(one.source for one in source.found[:10])
        raise fail(f"--only: no tool is named so; there are {known or 'none'} …")
    return replace(source, found=kept)
