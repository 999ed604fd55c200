"""`broker`: serve, migrate, catalog, tenant, audit, config, dead-letters, outbox, saga."""

from pathlib import Path
from typing import Annotated

import orjson
import typer
import uvloop
from pydantic import ValidationError

from app import config, logs
from app.catalog import file as catalog_file
from app.cli import audit_retention, dead_letters, outbox, saga, tenant
from app.cli import settings as settings_
from app.cli.common import AsJson, DatabaseUrl, fail, run
from app.postgres import migrate

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
catalogs = typer.Typer(no_args_is_help=True, help="The tools that are offered.")
app.add_typer(catalogs, name="catalog")
app.add_typer(tenant.app, name="tenant")
app.add_typer(audit_retention.app, name="audit")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(dead_letters.app, name="dlq", hidden=True)  # its earlier name
app.add_typer(outbox.app, name="outbox")
app.add_typer(saga.app, name="saga")
app.command("config")(settings_.show)


@app.command()
def serve() -> None:
    """Run the app: MCP, plain HTTP and the results API. `broker config` lists its settings."""
    from app.edges.server import serve as serve_app  # noqa: PLC0415 the CLI starts fast without it

    try:
        settings = config.load()
    except ValidationError as error:
        raise fail(f"settings: {error}") from error
    logs.configure(level=settings.log_level, json=settings.log_json)
    uvloop.run(serve_app(settings))


@app.command("migrate")
def migrate_(
    database_url: DatabaseUrl,
    revision: str = "head",
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be done.")] = False,
) -> None:
    """Bring the database to this release's schema."""
    if plan:
        for line in run(migrate.plan(database_url)):
            typer.echo(line)
        return
    run(migrate.upgrade(database_url, revision))
    typer.echo(f"schema is at {revision if revision != 'head' else migrate.head()}")


@catalogs.command("apply")
def catalog_apply(
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
    if done["retired"]:
        typer.echo(f"retired: {', '.join(done['retired'])}")


@catalogs.command("check")
def catalog_check(file: Path) -> None:
    """Check a catalog file without a database."""

    async def work() -> int:
        return len(catalog_file.parse(file).tools)

    typer.echo(f"{run(work())} tools, all well formed")


def main() -> None:
    """The console script."""
    app()
