"""`broker`: serve, migrate, catalog, tenant, audit, config, dev, dlq, saga."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import orjson
import typer
import uvloop
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table
from sqlalchemy.ext.asyncio import create_async_engine

from app import catalog_file, config, logs
from app.cli import audit_retention, dev, dlq, saga
from app.config import PREFIX, Settings
from app.db import catalog, migrate
from app.db.catalog import Tenant
from app.errors import BrokerError
from app.policy import Grant

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)
catalogs = typer.Typer(no_args_is_help=True, help="The tools that are offered.")
tenants = typer.Typer(no_args_is_help=True, help="Tenants, their limits and grants.")
app.add_typer(catalogs, name="catalog")
app.add_typer(tenants, name="tenant")
app.add_typer(audit_retention.app, name="audit")
app.add_typer(dev.app, name="dev")
app.add_typer(dlq.app, name="dlq")
app.command("dev-token")(dev.token)
app.add_typer(saga.app, name="saga")

T = TypeVar("T")

DatabaseUrl = Annotated[
    str,
    typer.Option(
        "--database-url",
        envvar=f"{PREFIX}DATABASE_URL",
        help="PostgreSQL, as a role that is a member of broker_owner.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def fail(message: str) -> typer.Exit:
    """Say what is wrong, on standard error, and leave with 1."""
    Console(stderr=True).print(f"[red]{message}[/red]", highlight=False)
    return typer.Exit(1)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; a deliberate error is a message, not a trace."""
    try:
        return asyncio.run(work)
    except (BrokerError, OSError) as error:
        raise fail(str(error)) from error


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


@app.command("config")
def config_(as_json: AsJson = False) -> None:
    """Every setting: its variable, default and meaning. `<VARIABLE>_FILE` reads it from a file."""
    rows = [
        {
            "variable": PREFIX + name.upper(),
            "default": None
            if field.is_required()
            else str(field.get_default(call_default_factory=True)),
            "meaning": field.description or "",
        }
        for name, field in Settings.model_fields.items()
    ]
    if as_json:
        typer.echo(orjson.dumps(rows).decode())
        return
    table = Table("Variable", "Default", "Meaning")
    for row in rows:
        table.add_row(row["variable"], row["default"] or "(required)", row["meaning"])
    Console().print(table)


@catalogs.command("apply")
def catalog_apply(
    file: Path,
    database_url: DatabaseUrl,
    prune: Annotated[bool, typer.Option(help="Take out of service what the file lacks.")] = False,
    as_json: AsJson = False,
) -> None:
    """Put a catalog file in force; running apps follow within seconds."""

    async def work() -> dict[str, list[str]]:
        engine = create_async_engine(migrate.async_url(database_url))
        try:
            return await catalog_file.apply(engine, catalog_file.parse(file), prune=prune)
        finally:
            await engine.dispose()

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


@tenants.command("put")
def tenant_put(
    tenant_id: str,
    database_url: DatabaseUrl,
    title: str = "",
    weight: int = 1,
    rate_per_s: float | None = None,
    rate_burst: int = 100,
    in_flight_max: int = 100,
    queued_max: int = 100_000,
    inline_wait_s: float | None = None,
    suspended: Annotated[bool, typer.Option(help="Refuse its calls.")] = False,
    allow: Annotated[
        list[str] | None, typer.Option(help="[user:U=|group:G=]tool/method pattern; repeatable.")
    ] = None,
    deny: Annotated[list[str] | None, typer.Option(help="As --allow; deny wins.")] = None,
) -> None:
    """Make or change a tenant; with --allow or --deny its grants are replaced."""
    grants = [grant(text, "allow") for text in allow or ()]
    grants += [grant(text, "deny") for text in deny or ()]
    made = Tenant(
        tenant_id=tenant_id,
        state="suspended" if suspended else "active",
        weight=weight,
        rate_per_s=rate_per_s,
        rate_burst=rate_burst,
        in_flight_max=in_flight_max,
        queued_max=queued_max,
        inline_wait_s=inline_wait_s,
    )

    async def work() -> None:
        engine = create_async_engine(migrate.async_url(database_url))
        try:
            async with engine.begin() as conn:
                await catalog.put_tenant(conn, made, title=title)
                if grants:
                    await catalog.put_grants(conn, tenant_id, grants)
                await catalog.announce(conn)
        finally:
            await engine.dispose()

    run(work())
    typer.echo(f"tenant {tenant_id}: {len(grants) or 'unchanged'} grants")


def grant(text: str, effect: str) -> Grant:
    """`pattern`, `user:U=pattern` or `group:G=pattern`."""
    who, found, pattern = text.rpartition("=")
    kind, _, subject = who.partition(":")
    if not found:
        return Grant(subject_kind="tenant", subject="*", pattern=pattern, effect=effect)
    if kind not in {"user", "group"} or not subject:
        raise fail(f"{text!r}: write PATTERN, user:NAME=PATTERN or group:NAME=PATTERN")
    return Grant(subject_kind=kind, subject=subject, pattern=pattern, effect=effect)


def main() -> None:
    """The console script."""
    app()
