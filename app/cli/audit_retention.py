"""`broker audit retire|hold|release|erase`: what may leave the audit trail; never unrecorded.

Runs as a member of broker_retention, which can neither read the trail nor sign for it.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, Final
from uuid import UUID

import asyncpg
import typer

from app.audit.store import retention
from app.cli.audit import app, run, unchecked
from app.cli.common import database_option

BLOCKED: Final = 1
POLL_S: Final = 0.5
FORMATS: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%z"]

DatabaseUrl = Annotated[str, database_option("a member of broker_retention")]
Reason = Annotated[
    str, typer.Option("--reason", help="Why; it stays in the trail, so it names no person.")
]


@app.command()
def retire(
    database_url: DatabaseUrl,
    reason: Reason = "policy",
    before: Annotated[
        datetime | None,
        typer.Option(formats=FORMATS, help="Ask for the retirement of events before it (UTC)."),
    ] = None,
    wait_s: Annotated[float, typer.Option(min=0, help="For a relay to sign.")] = 60,
) -> None:
    """Drop the months of events that every log calls retired; with --before, ask for it first.

    Exit code 1: a month may not go, and why.
    """

    async def work() -> int:
        async with connected(database_url) as conn:
            if before is not None and not await signed(conn, utc(before), reason, wait_s):
                raise unchecked("no relay has signed in time; the request stands, run this again")
            async for found in retention.drop_retired(conn):
                upto = f"{found.upto.astimezone(UTC):%Y-%m-%d}"
                if not found.dropped:
                    typer.echo(f"{found.partition} (before {upto}) stays: {found.reason}", err=True)
                    return BLOCKED
                typer.echo(f"{found.partition} (before {upto}) is gone: {found.events} events")
            return 0

    raise typer.Exit(run(work()))


async def signed(conn: asyncpg.Connection, before: datetime, reason: str, wait_s: float) -> bool:
    """Ask for a retirement and wait until a relay has signed it; False: not in time."""
    request = await retention.ask(conn, before, reason=reason)
    until = asyncio.get_running_loop().time() + wait_s
    while not (done := await retention.is_signed(conn, request)):
        if asyncio.get_running_loop().time() > until:
            break
        await asyncio.sleep(POLL_S)
    return done


@app.command()
def hold(
    tenant: str,
    database_url: DatabaseUrl,
    reason: Reason,
    from_: Annotated[datetime | None, typer.Option("--from", formats=FORMATS)] = None,
    to: Annotated[datetime | None, typer.Option("--to", formats=FORMATS)] = None,
) -> None:
    """Keep all of a tenant's events and commands, or those of a time, until it is released."""

    async def work() -> UUID:
        async with connected(database_url) as conn:
            return await retention.hold(
                conn,
                tenant,
                reason=reason,
                from_at=None if from_ is None else utc(from_),
                to_at=None if to is None else utc(to),
            )

    typer.echo(str(run(work())))


@app.command()
def release(hold_id: UUID, database_url: DatabaseUrl, reason: Reason) -> None:
    """Release a legal hold."""

    async def work() -> str | None:
        async with connected(database_url) as conn:
            return await retention.release(conn, hold_id, reason=reason)

    tenant = run(work())
    if tenant is None:
        raise unchecked(f"there is no hold {hold_id}, or it is released already")
    typer.echo(f"tenant {tenant}: released")


@app.command()
def erase(
    database_url: DatabaseUrl,
    reason: Reason,
    tenant: Annotated[str, typer.Option()],
    user: Annotated[str, typer.Option()],
) -> None:
    """Erase what the trail and ended commands hold of a person; the log stays provable."""

    async def work() -> tuple[int, int, int]:
        events = commands = kept = 0
        async with connected(database_url) as conn:
            async for done in retention.erase(conn, tenant, user, reason=reason):
                events, commands, kept = events + done.events, commands + done.commands, done.kept
        return events, commands, kept

    events, commands, kept = run(work())
    typer.echo(f"erased from {events} events and {commands} commands")
    if kept:
        typer.echo(
            f"{kept} events are from before erasure was possible: they go by retirement only",
            err=True,
        )


def utc(at: datetime) -> datetime:
    """The instant; without an offset it is UTC."""
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


@asynccontextmanager
async def connected(database_url: str) -> AsyncGenerator[asyncpg.Connection]:
    """A connection whose statements take as long as they need."""
    conn = await asyncpg.connect(database_url, server_settings={"jit": "off"})
    try:
        yield conn
    finally:
        await conn.close()
