"""`broker`: serve and migrate; call, commands, approve, deny; and what operators administer."""

from typing import Annotated

import typer
import uvloop
from alembic.util import CommandError
from pydantic import ValidationError
from pydantic_settings import SettingsError

from app import config, logs
from app.cli import (
    audit_retention,
    call,
    catalog,
    commands,
    dead_letters,
    holds,
    outbox,
    saga,
    status,
    target,
    tenant,
    trace,
    webhook,
)
from app.cli import settings as settings_
from app.cli.common import Commands, DatabaseUrl, fail, run
from app.postgres import migrate
from app.postgres.pooler import PoolerError
from app.traces.exports import exported
from app.traces.tracing import ExtraMissingError

app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(catalog.app, name="catalog")
app.add_typer(tenant.app, name="tenant")
app.add_typer(target.app, name="target")
app.add_typer(audit_retention.app, name="audit")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(dead_letters.app, name="dlq", hidden=True)  # its earlier name
app.add_typer(outbox.app, name="outbox")
app.add_typer(saga.app, name="saga")
app.add_typer(commands.app, name="commands")
app.add_typer(webhook.app, name="webhook")
app.command("config")(settings_.show)
app.command()(call.call)
app.command()(commands.approve)
app.command()(commands.deny)
app.command()(holds.hold)
app.command()(holds.release)
app.command()(holds.holds)
app.command()(trace.trace)
app.command()(status.status)


@app.command()
def serve() -> None:
    """Run the app: MCP, plain HTTP and the results API. `broker config` lists its settings."""
    from app.edges.server import serve as serve_app  # noqa: PLC0415 the CLI starts fast without it

    try:
        settings = config.load()
    except (ValidationError, SettingsError) as error:
        raise fail(f"settings: {error}") from error
    logs.configure(level=settings.log_level, json=settings.log_json)
    try:
        with exported("app"):
            uvloop.run(serve_app(settings))
    except (PoolerError, ExtraMissingError) as error:
        raise fail(f"{error.title}. {error}") from error


@app.command("migrate")
def migrate_(
    database_url: DatabaseUrl,
    revision: str = "head",
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would be done.")] = False,
) -> None:
    """Bring the database to this release's schema."""
    if not database_url or not revision:
        raise fail("Say which database, and which revision.")
    if plan:
        for line in run(migrate.plan(database_url)):
            typer.echo(line)
        return
    try:
        run(migrate.upgrade(database_url, revision))
    except CommandError as error:  # there is no such revision
        raise fail(f"--revision: {error}") from error
    typer.echo(f"schema is at {revision if revision != 'head' else migrate.head()}")


def main() -> None:
    """The console script."""
    app()
