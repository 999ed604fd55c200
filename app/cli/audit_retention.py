"""`broker audit retire-request|retire|hold|release|erase|accept-restore`: what may leave, recorded.

Runs as a member of broker_retention, which can neither read the trail nor seal it. What lets
something go is signed with a retention officer's key, which no database role has.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID, uuid4

import asyncpg
import typer

from app.audit import erasing, keys, restoring
from app.audit.request import Restore, Retire
from app.audit.store import export, retention
from app.cli.audit import Keys, app, load_anchors, load_keys, run
from app.cli.audit_verdict import unchecked
from app.cli.common import database_option, finite
from app.config import PREFIX

BLOCKED: Final = 1
POLL_S: Final = 0.5
LOG: Final = "mcpbroker"
DAY_S: Final = 86_400.0
FORMATS: Final = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S%z"]

DatabaseUrl = Annotated[str, database_option("a member of broker_retention")]
Key = Annotated[
    Path,
    typer.Option("--key", help="The retention officer's private key, of `broker audit keygen`."),
]
LogName = Annotated[
    str, typer.Option("--log", envvar=f"{PREFIX}AUDIT_LOG", help="The broker's name in its log.")
]
Reason = Annotated[
    str, typer.Option("--reason", help="Why; it stays in the trail, so it names no person.")
]


@app.command("retire-request")
def retire_request(
    database_url: DatabaseUrl,
    key: Key,
    reason: Reason,
    before: Annotated[
        datetime, typer.Option(formats=FORMATS, help="The first of a month (UTC): older may go.")
    ],
    log: LogName = LOG,
    wait_s: Annotated[
        float, typer.Option(min=0, max=DAY_S, callback=finite, help="For a relay to seal it.")
    ] = 60,
) -> None:
    """Sign, as a retention officer, that events before a month may go; a relay seals it.

    Exit code 1: the relay refuses, and why. 2: no relay has answered in time; the request stands.
    """

    async def work() -> str | None:
        async with connected(database_url) as conn:
            asked = Retire(
                id=uuid4(), asked_at=await export.now(conn), reason=reason, before=utc(before)
            )
            signed = await keys.sign_request(asked, keys.signer(str(key)), log=log)
            return await answered(conn, await retention.ask(conn, signed), wait_s)

    refusal = run(work())
    if refusal is not None:
        typer.echo(f"refused: {refusal}", err=True)
        raise typer.Exit(BLOCKED)
    typer.echo(f"sealed: events before {utc(before):%Y-%m-%d} may go, by `broker audit retire`")


async def answered(conn: asyncpg.Connection, retirement: int, wait_s: float) -> str | None:
    """Wait until a relay has sealed or refused a request; why it was refused."""
    until = asyncio.get_running_loop().time() + wait_s
    while True:
        sealed, refusal = await retention.outcome(conn, retirement)
        if sealed or refusal is not None:
            return refusal
        if asyncio.get_running_loop().time() > until:
            raise unchecked("no relay has answered in time; the request stands")
        await asyncio.sleep(POLL_S)


@app.command()
def retire(database_url: DatabaseUrl) -> None:
    """Drop the months of events that every log calls retired, oldest first.

    Exit code 1: a month may not go, and why.
    """

    async def work() -> int:
        async with connected(database_url) as conn:
            async for found in retention.drop_retired(conn):
                upto = f"{found.upto.astimezone(UTC):%Y-%m-%d}"
                if not found.dropped:
                    typer.echo(f"{found.partition} (before {upto}) stays: {found.reason}", err=True)
                    return BLOCKED
                typer.echo(f"{found.partition} (before {upto}) is gone: {found.events} events")
            return 0

    raise typer.Exit(run(work()))


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

    try:
        typer.echo(str(run(work())))
    except asyncpg.NoDataFoundError as error:
        raise unchecked(str(error)) from error


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
    key: Key,
    reason: Reason,
    tenant: Annotated[str, typer.Option()],
    user: Annotated[str, typer.Option()],
    log: LogName = LOG,
) -> None:
    """Erase what the trail and ended commands hold of a person; the log stays provable."""

    async def work() -> tuple[int, int, int]:
        events = commands = kept = 0
        async with connected(database_url) as conn:
            signer = keys.signer(str(key))
            async for done in erasing.erase(
                conn, tenant, user, reason=reason, signer=signer, log=log
            ):
                events, commands, kept = events + done.events, commands + done.commands, done.kept
        return events, commands, kept

    events, commands, kept = run(work())
    typer.echo(f"erased from {events} events and {commands} commands")
    if kept:
        typer.echo(
            f"{kept} events are from before erasure was possible: they go by retirement only",
            err=True,
        )


@app.command("accept-restore")
def accept_restore(
    database_url: DatabaseUrl,
    key: Key,
    reason: Reason,
    anchors: Annotated[
        Path, typer.Option(help="NDJSON from `broker-relay anchors`, or an anchor file: all of it.")
    ],
    pinned: Keys = None,
    log: LogName = LOG,
) -> None:
    """Sign that the database was put back, and what of the logs that gives up; relays seal again.

    Published seals that the database has not, or has otherwise, are of the past that is given up.
    Exit code 2: there are none.
    """

    async def work() -> tuple[list[Restore], int]:
        found = load_anchors(anchors)
        known = load_keys(pinned)
        signed = found if known is None else [one for one in found if one.signers(known)]
        async with connected(database_url) as conn:
            signer = keys.signer(str(key))
            made = await restoring.accept(conn, signed, reason=reason, signer=signer, log=log)
            return made, len(found) - len(signed)

    made, unsigned = run(work())
    if unsigned:
        typer.echo(f"{unsigned} anchors are not signed by a known key: passed over", err=True)
    for one in made:
        typer.echo(
            f"tenant {one.tenant_id}: goes on after seal {one.after_seal};"
            f" seals up to {one.lost_seal} of its other past are given up"
        )
    if not made:
        raise unchecked("the database has every seal of these anchors")


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
