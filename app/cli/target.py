"""`broker target`: where adapters work; `broker catalog apply` writes them, from its file."""

from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from app.catalog import store as catalog_store
from app.cli.common import AsJson, DatabaseUrl, Plain, fail, run
from app.postgres.migrate import connected

app = typer.Typer(no_args_is_help=True, help=__doc__)

Tenant = Annotated[str | None, typer.Option(help="Whose it is; every tenant's by default.")]


@app.command("list")
def list_(database_url: DatabaseUrl, as_json: AsJson = False) -> None:
    """Every target, with the references to its credentials; there are no secrets here."""

    async def work() -> list[dict[str, Any]]:
        async with connected(database_url) as engine, engine.connect() as conn:
            return [one.written() for one in await catalog_store.targets(conn)]

    found = run(work())
    if as_json:
        typer.echo(orjson.dumps(found).decode())
        return
    table = Plain("Target", "Tenant", "Kind", "Address", "Credential")
    for one in found:
        credential = "-" if one["credential"] is None else orjson.dumps(one["credential"]).decode()
        row = (one["name"], one["tenant"] or "(every)", one["kind"], one["address"], credential)
        table.add_row(*row)
    Console().print(table)


@app.command()
def remove(name: str, database_url: DatabaseUrl, tenant: Tenant = None) -> None:
    """Take a target away that no tool in service needs; running apps follow within seconds."""

    async def work() -> None:
        async with connected(database_url) as engine, engine.begin() as conn:
            if not await catalog_store.remove_target(conn, name, tenant):
                raise fail(f"there is no such target {name!r}; `broker target list` lists them")
            users = await catalog_store.used_by(conn, name)
            if users and not await catalog_store.targets(conn, name):
                raise fail(f"target {name!r} is needed by {', '.join(users)}")
            await catalog_store.announce(conn)

    run(work())
    typer.echo(f"target {name}: removed")
