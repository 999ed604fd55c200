"""Holds of every tenant at once: one a tenant, placed, listed and released together.

No token speaks for more than its own tenant, so this is the database owner's, who connects to
PostgreSQL. The holds and their audit events have the login's name, and each is its tenant's own: it
counts among the tenant's, and its operators may release it.
"""

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.catalog import store as catalog
from app.catalog.policy import Tool
from app.cli.common import fail, run
from app.commands import holds
from app.commands.holds import LEAVE_S, Which
from app.commands.store import holds as hold_rows
from app.commands.store.holds import Hold
from app.errors import BrokerError
from app.postgres.migrate import connected

if TYPE_CHECKING:
    from app.edges.holds import Wanted

LOGIN: Final = "db:"
"""Begins the name of whom a hold was placed by that no operator placed."""
Each = Callable[[AsyncEngine, str, str], Awaitable[list[dict[str, Any]]]]
"""What is done for one tenant, in a login's name."""


def place(
    database_url: str, body: dict[str, Any], *, reason: str, dry_run: bool
) -> list[dict[str, Any]]:
    """Hold calls of each tenant; a row for each. One that has the same of a login keeps that.

    Raises:
        typer.Exit: what is asked for is no hold, or no tool in service.
    """
    wanted = wanted_of(body)
    which = wanted.which

    async def each(engine: AsyncEngine, tenant_id: str, actor: str) -> list[dict[str, Any]]:
        if dry_run:
            queued, in_flight = await holds.preview(engine, tenant_id, which)
            return [{"state": "would be held", "queued": queued, "in_flight": in_flight}]
        there = [
            one for one in await _theirs(engine, tenant_id, which) if one.effect == wanted.effect
        ]
        if there:
            return [{"state": "was there", "hold_id": str(there[0].id)}]
        made = await holds.place(
            engine,
            tenant_id,
            which,
            effect=wanted.effect,
            reason=reason,
            until=wanted.until,
            actor=actor,
            leave_s=0,
        )
        told = {"hold_id": str(made.hold.id), "queued": made.queued, "in_flight": made.in_flight}
        return [{"state": "held", "leaving": made.leaving, **told}]

    async def work() -> list[dict[str, Any]]:
        async with connected(database_url) as engine:
            await _known(engine, which)
            rows = await _of_each(engine, each)
            # What relays had taken of them all is waited for together.
            until = time.monotonic() + LEAVE_S
            for row in rows:
                if row.get("leaving"):
                    left_s = max(0, until - time.monotonic())
                    tenant_id, hold_id = row["tenant_id"], row["hold_id"]
                    row["leaving"] = await holds.left(engine, tenant_id, hold_id, left_s)
            return rows

    return run(work())


def wanted_of(body: dict[str, Any]) -> "Wanted":
    """What is asked for, checked as the API does.

    Raises:
        typer.Exit: it is no hold.
    """
    from app.edges.holds import Wanted  # noqa: PLC0415 the CLI starts fast without it

    try:
        return Wanted.model_validate(body)
    except ValidationError as error:
        said = [f"/{'/'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise fail("; ".join(said)) from error


def release(database_url: str, which: Which, *, reason: str) -> list[dict[str, Any]]:
    """Release what `place` has placed of these calls; what operators hold stays."""

    async def each(engine: AsyncEngine, tenant_id: str, actor: str) -> list[dict[str, Any]]:
        found = await _theirs(engine, tenant_id, which)
        for one in found:
            await holds.release(engine, tenant_id, one.id, actor=actor, reason=reason)
        return [{"state": "released", "hold_id": str(one.id)} for one in found]

    return _run(database_url, each)


def in_force(database_url: str) -> list[tuple[str, Hold]]:
    """The holds of every tenant, whoever placed them."""

    async def work() -> list[tuple[str, Hold]]:
        async with connected(database_url) as engine:
            return [
                (tenant_id, one)
                for tenant_id in await _tenants(engine)
                for one in await holds.in_force(engine, tenant_id)
            ]

    return run(work())


def _run(database_url: str, each: Each) -> list[dict[str, Any]]:
    async def work() -> list[dict[str, Any]]:
        async with connected(database_url) as engine:
            return await _of_each(engine, each)

    return run(work())


async def _of_each(engine: AsyncEngine, each: Each) -> list[dict[str, Any]]:
    """Do it for each tenant, one after another; what one refuses is told, and the next follows."""
    async with engine.connect() as conn:
        actor = f"{LOGIN}{await hold_rows.login(conn)}"
    rows: list[dict[str, Any]] = []
    for tenant_id in await _tenants(engine):
        try:
            found = await each(engine, tenant_id, actor)
        except BrokerError as error:
            found = [{"state": "refused", "why": error.detail}]
        rows += [{"tenant_id": tenant_id, **one} for one in found]
    return rows


async def _tenants(engine: AsyncEngine) -> Sequence[str]:
    async with engine.connect() as conn:
        found = await catalog.tenant_ids(conn)
    if not found:  # row-level security shows another login none
        raise fail("This login sees no tenant: it must be a member of broker_owner.")
    return found


async def _theirs(engine: AsyncEngine, tenant_id: str, which: Which) -> list[Hold]:
    """A tenant's holds of just these calls that a login of the database has placed."""
    found = await holds.in_force(engine, tenant_id)
    return [one for one in found if one.placed_by.startswith(LOGIN) and holds.is_of(one, which)]


async def _known(engine: AsyncEngine, which: Which) -> None:
    if which.tool is None:
        return
    async with engine.connect() as conn:
        found = await catalog.tools(conn)
    which.check((one.tool, one.method) for one in found if isinstance(one, Tool))
