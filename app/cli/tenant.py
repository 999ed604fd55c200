"""`broker tenant`: tenants, their limits, and who of them may call what.

What is not given stays as it is. Every change is in the tenant's audit trail, in the name of the
database role that made it: give each administrator a login role of their own.
"""

from dataclasses import asdict, replace
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console

from app.catalog import store as catalog_store
from app.catalog.policy import Grant
from app.catalog.rules import Rule, RuleError
from app.catalog.store import UNSETTABLE, Limits
from app.cli.common import AsJson, DatabaseUrl, Plain, fail, finite, run
from app.postgres.migrate import connected

app = typer.Typer(no_args_is_help=True, help=__doc__)

Patterns = list[str] | None
Allow = Annotated[
    Patterns,
    typer.Option(
        help="[user:U=|group:G=]tool/method; * and ? match, and nothing else is"
        " special; repeatable."
    ),
]
Deny = Annotated[Patterns, typer.Option(help="As --allow; deny wins.")]
When = Annotated[
    str | None,
    typer.Option(help="CEL: of which calls these grants speak, as 'args.amount <= 1000'."),
]


@app.command()
def put(
    tenant_id: str,
    database_url: DatabaseUrl,
    title: str | None = None,
    weight: Annotated[
        int | None, typer.Option(min=1, max=1000, help="Its share of dispatches; 1 if new.")
    ] = None,
    rate_per_s: Annotated[
        float | None,
        typer.Option(min=0.001, callback=finite, help="Dispatches a second; no limit if new."),
    ] = None,
    rate_burst: Annotated[int | None, typer.Option(min=1, help="100 if new.")] = None,
    in_flight_max: Annotated[int | None, typer.Option(min=1, help="100 if new.")] = None,
    queued_max: Annotated[int | None, typer.Option(min=1, help="100000 if new.")] = None,
    inline_wait_s: Annotated[
        float | None,
        typer.Option(min=0, callback=finite, help="How long its calls wait; the app's if new."),
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option(help=f"To have no value: {', '.join(UNSETTABLE)}.")
    ] = None,
    suspended: Annotated[
        bool | None, typer.Option("--suspended/--active", help="Refuse its calls, or no longer.")
    ] = None,
) -> None:
    """Make a tenant, or change what is given of it; running apps follow within seconds."""
    given = {"rate_per_s": rate_per_s, "inline_wait_s": inline_wait_s}
    for name in unset or ():
        if name not in UNSETTABLE or given[name] is not None:
            raise fail(f"--unset {name}: give one of {', '.join(UNSETTABLE)}, and no value with it")
    limits = Limits(
        title=title,
        state=None if suspended is None else ("suspended" if suspended else "active"),
        weight=weight,
        rate_burst=rate_burst,
        in_flight_max=in_flight_max,
        queued_max=queued_max,
        unset=tuple(unset or ()),
        **given,
    )

    async def work() -> bool:
        async with connected(database_url) as engine, engine.begin() as conn:
            made = await catalog_store.put_tenant(conn, tenant_id, limits)
            await catalog_store.announce(conn)
            return made

    typer.echo(f"tenant {tenant_id}: {'made, without grants' if run(work()) else 'changed'}")


@app.command()
def grant(
    tenant_id: str,
    database_url: DatabaseUrl,
    allow: Allow = None,
    deny: Deny = None,
    when: When = None,
) -> None:
    """Add grants; those that are there stay. `--deny 'user:bob=*'` shuts one user out at once.

    One that is there with another condition gets this one, or none without --when.
    """
    made = [replace(one, when=condition(when)) for one in parsed(allow, deny, new=True)]
    changed = run(granted(database_url, tenant_id, made, add=True))
    typer.echo(f"tenant {tenant_id}: {changed} grants added, {len(made) - changed} were there")


@app.command()
def revoke(
    tenant_id: str, database_url: DatabaseUrl, allow: Allow = None, deny: Deny = None
) -> None:
    """Take grants away, each as it was written."""
    lost = parsed(allow, deny, new=False)
    changed = run(granted(database_url, tenant_id, lost, add=False))
    typer.echo(f"tenant {tenant_id}: {changed} grants gone")
    if changed < len(lost):
        raise fail(f"{len(lost) - changed} were not there; `broker tenant show` lists them")


@app.command()
def show(tenant_id: str, database_url: DatabaseUrl, as_json: AsJson = False) -> None:
    """A tenant's limits and grants."""

    async def work() -> dict[str, Any]:
        async with connected(database_url) as engine, engine.connect() as conn:
            found = await catalog_store.tenant(conn, tenant_id)
            if found is None:
                raise unknown(tenant_id)
            grants = await catalog_store.grants(conn, tenant_id)
        listed = [asdict(one) for one in grants]
        return asdict(found) | {"grants": sorted(listed, key=lambda one: tuple(one.values()))}

    tenant = run(work())
    if as_json:
        typer.echo(orjson.dumps(tenant).decode())
        return
    table = Plain("Limit or grant", "Value")
    for name, value in tenant.items():
        if name != "grants":
            table.add_row(name, "-" if value is None else str(value))
    for one in tenant["grants"]:
        when = f" when {one['when']}" if one["when"] else ""
        named = f"{one['effect']} {one['subject_kind']}:{one['subject']}"
        table.add_row(named, f"{one['pattern']}{when}")
    Console().print(table)


async def granted(database_url: str, tenant_id: str, grants: list[Grant], *, add: bool) -> int:
    """Add or take away, in one transaction."""
    async with connected(database_url) as engine, engine.begin() as conn:
        if await catalog_store.tenant(conn, tenant_id) is None:
            raise unknown(tenant_id)
        change = catalog_store.grant if add else catalog_store.revoke
        changed = await change(conn, tenant_id, grants)
        await catalog_store.announce(conn)
        return changed


def condition(when: str | None) -> str:
    """A condition as grants have it; checked."""
    try:
        return "" if when is None else Rule.compile(when).text
    except RuleError as error:
        raise fail(f"--when: {error}") from error


def unknown(tenant_id: str) -> typer.Exit:
    """There is no such tenant."""
    return fail(f"There is no tenant {tenant_id!r}; `broker tenant put {tenant_id}` makes it.")


def parsed(allow: Patterns, deny: Patterns, *, new: bool) -> list[Grant]:
    """The grants that both options name, at least one."""
    grants = [written(text, "allow", new=new) for text in allow or ()]
    grants += [written(text, "deny", new=new) for text in deny or ()]
    if not grants:
        raise fail("give --allow or --deny")
    return grants


def written(text: str, effect: str, *, new: bool) -> Grant:
    """`pattern`, `user:U=pattern` or `group:G=pattern`; one that is there may be of before."""
    who, found, pattern = text.rpartition("=")
    kind, _, subject = who.partition(":")
    named = found or text.startswith(("user:", "group:"))
    if not pattern or (named and (kind not in {"user", "group"} or not subject)):
        raise fail(f"{text!r}: write PATTERN, user:NAME=PATTERN or group:NAME=PATTERN")
    if new and "[" in pattern:
        raise fail(f"{text!r}: no tool's name has a [; in a pattern * and ? are special")
    if not found:
        return Grant(subject_kind="tenant", subject="*", pattern=pattern, effect=effect)
    return Grant(subject_kind=kind, subject=subject, pattern=pattern, effect=effect)
