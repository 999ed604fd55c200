"""`broker catalog`: the tools that are offered."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Final

import orjson
import typer

from adapters.targets import Target
from app.catalog import file as catalog_file
from app.catalog import rulebook as rulebooks
from app.catalog import store as catalog_store
from app.catalog.policy import Tool
from app.cli import imports
from app.cli.common import AsJson, DatabaseUrl, database_option, fail, run
from app.cli.http import echo
from app.cli.imports import drift
from app.postgres import migrate

app = typer.Typer(no_args_is_help=True, help=__doc__)
app.add_typer(imports.app, name="import")

TROUBLE: Final = 2


@app.command()
def apply(
    file: Path,
    database_url: DatabaseUrl,
    prune: Annotated[bool, typer.Option(help="Take out of service what the file lacks.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a catalog file in force; running apps follow within seconds."""

    async def work() -> dict[str, list[str]]:
        async with migrate.connected(database_url) as engine:
            return await catalog_file.apply(engine, catalog_file.parse(file), prune=prune)

    done = run(work())
    if as_json:
        typer.echo(orjson.dumps(done).decode())
        return
    typer.echo(f"applied: {', '.join(done['applied']) or 'nothing new'}")
    for what in ("retired", "targets", "removed"):
        if done[what]:
            typer.echo(f"{what}: {', '.join(done[what])}")


@app.command()
def check(file: Path) -> None:
    """Check a catalog file without a database, as far as its targets stand in it, too."""

    async def work() -> tuple[int, int]:
        found = catalog_file.parse(file)
        named = {one.name for one in found.targets}
        here = [one for one in found.tools if one.adapter and one.adapter.target in named]
        catalog_file.check_adapters(here, [one.made() for one in found.targets])
        return len(found.tools), len(found.targets)

    tools, targets = run(work())
    told = f" and {targets} targets" if targets else ""
    typer.echo(f"{tools} tools{told}, all well formed")


@app.command()
def rulebook(
    file: Annotated[
        Path, typer.Argument(help="A catalog; the shipped one.")
    ] = catalog_file.SHIPPED,
    book: Annotated[
        rulebooks.Book, typer.Option("--for", help="Playbooks here, or job templates of AAP.")
    ] = "local",
    out: Annotated[Path | None, typer.Option(help="A file; to standard output.")] = None,
) -> None:
    """Write the rulebook of a catalog: a rule for each tool that EDA has."""

    async def work() -> str:
        tools = [entry.made() for entry in catalog_file.parse(file).tools]
        return rulebooks.render(tools, book)

    if out is None:
        typer.echo(run(work()), nl=False)
    else:
        written = run(work())
        try:
            out.write_text(written, encoding="utf-8")
        except (OSError, ValueError) as error:
            raise fail(f"{out} cannot be written: {error}") from error


@app.command()
def diff(
    file: Annotated[
        Path | None, typer.Argument(help="A catalog file; what is in force in the database.")
    ] = None,
    database_url: Annotated[
        str | None, database_option("a role that is a member of broker_owner")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(help="Its targets, and what {tenant} in a reference is.")
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TARGET=FILE|URL",
            help="Where the source of a target is now, which was imported from a file. Repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask each source again, and say what is not as it was reviewed.

    Exit code 0: nothing; 1: a reviewed tool changed or is gone; 2: a source could not be asked.
    """
    told = {one.partition("=")[0]: one.partition("=")[2] for one in source or ()}
    if not all(told.values()):
        raise fail("--source is TARGET=FILE|URL, such as shop=openapi.yaml")

    async def work() -> list[dict[str, Any]]:
        tools, targets = await _catalog(file, database_url)
        ours = [one for one in targets if tenant is None or one.tenant in (None, tenant)]
        return await drift.findings(tools, ours, tenant, told)

    found = run(work())
    states = Counter(one["state"] for one in found)
    if as_json:
        echo(found)
    else:
        for one in found:
            if one["state"] not in (drift.State.SAME, drift.State.NO_SOURCE):
                _tell(one)
        for name in sorted({one["target"] for one in found if one["state"] == "no_source"}):
            typer.echo(f"no_source: target {name} does not say where: --source {name}=FILE|URL")
        typer.echo(", ".join(f"{count} {state}" for state, count in sorted(states.items())) or "0")
    if any(states[one] for one in drift.DRIFT):
        raise typer.Exit(1)
    if states[drift.State.UNREADABLE]:
        raise typer.Exit(TROUBLE)


def _tell(one: dict[str, Any]) -> None:
    what = f": {', '.join(one['differs'])}" if one["differs"] else ""
    why = f": {one['reason']}" if one["reason"] else ""
    typer.echo(f"{one['state']}: {one['tool']} (target {one['target']}){what}{why}")


async def _catalog(file: Path | None, database_url: str | None) -> tuple[list[Tool], list[Target]]:
    """The tools and targets of a file, or those in force."""
    if file is not None:
        read = catalog_file.parse(file)
        return [one.made() for one in read.tools], [one.made() for one in read.targets]
    if database_url is None:
        raise fail("Name a catalog file, or the database (--database-url).")
    async with migrate.connected(database_url) as engine, engine.connect() as conn:
        tools = [one for one in await catalog_store.tools(conn) if isinstance(one, Tool)]
        return tools, await catalog_store.targets(conn)
