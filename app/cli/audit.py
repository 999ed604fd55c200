"""`broker audit`: check the audit trail, take it along, make the keys that seal it.

Exit codes: 0 the log is as it was sealed; 1 it is not, and the first bad place is named; 2 nothing
could be checked.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypeVar

import asyncpg
import typer

from app.audit import bundle, keys, note
from app.audit.anchoring import Anchor
from app.audit.bundle import BundleError, EndLine, HeaderLine
from app.audit.proof import Check, Fault, Report, SignedSeal
from app.audit.reading import lines as bundle_lines
from app.audit.store import export as audit_export
from app.audit.store import shape
from app.cli.audit_verdict import conclude, need_anchors, unchecked
from app.cli.common import NAME_CHARS_MAX, AsJson, database_option, finite
from app.postgres import migrate
from app.postgres.engine import AWAY

app = typer.Typer(no_args_is_help=True, help=__doc__)

DAY_S: Final = 86400
SETTINGS: Final = {"default_transaction_read_only": "on", "jit": "off"}

T = TypeVar("T")

DatabaseUrl = Annotated[str, database_option("an auditor's role or the owner's")]
Keys = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        help="PEM file of the public keys that you trust. Without it the log's own keys are"
        " believed, and a log that was rewritten and signed anew passes.",
    ),
]
RetentionKeys = Annotated[
    Path | None,
    typer.Option(
        "--retention-keys",
        help="PEM file of the retention officers' public keys. Without it nobody can tell whether"
        " what is gone or erased may be: exit code 2 where something is.",
    ),
]
KeptDays = Annotated[
    float,
    typer.Option(
        "--kept-days", min=0, callback=finite, help="No retirement of younger events counts."
    ),
]
Anchors = Annotated[
    Path | None,
    typer.Option("--anchors", help="NDJSON from `broker-relay anchors` or an anchor file."),
]


@app.command()
def verify(
    tenant: str,
    database_url: DatabaseUrl,
    pinned: Keys = None,
    anchors: Anchors = None,
    retention_keys: RetentionKeys = None,
    kept_days: KeptDays = 0,
    as_json: AsJson = False,
) -> None:
    """Check a tenant's log: in the database, then again here, with signatures and anchors."""

    async def work() -> tuple[audit_export.Verified, Report]:
        async with reading(database_url) as conn:
            verified = await its_own_word(conn, tenant)
            known = load_keys(pinned) or await audit_export.keys(conn)
            check = Check(
                tenant,
                keys=known,
                anchors=load_anchors(anchors),
                pinned=pinned is not None,
                retention_keys=load_keys(retention_keys),
                kept_s=kept_days * DAY_S,
            )
            await feed(check, conn, tenant)
            report = check.report()
            if report.fault is None and check.log is not None:
                report = replace(report, fault=await shape_fault(conn, known, log=check.log))
            return verified, report

    verified, report = run(work())
    # A log of which nothing is left is what an emptied one looks like: its anchors come first.
    if verified.ok is None and report.fault is None:
        raise unchecked(verified.reason or "nothing to verify")
    if verified.ok:
        need_anchors(anchors, report)
    fault = report.fault
    if fault is None and not verified.ok:
        fault = Fault(
            reason=verified.reason or "",
            seal_no=verified.seal_no,
            seq=verified.seq,
            event_id=verified.event_id,
        )
    open_ = {"unsealed": verified.unsealed, "unsealed_from": verified.unsealed_from}
    conclude(tenant, report, fault, pinned=pinned is not None, as_json=as_json, more=open_)


async def its_own_word(conn: asyncpg.Connection, tenant: str) -> audit_export.Verified:
    """What the database says; a function of its that fails is a finding, and no reason to stop."""
    try:
        async with conn.transaction():
            return await audit_export.verify(conn, tenant)
    except asyncpg.PostgresError as error:
        return audit_export.failed(f"audit.verify failed: {error}")


async def shape_fault(
    conn: asyncpg.Connection, known: Mapping[str, bytes], *, log: str
) -> Fault | None:
    """What of schema audit is not as a relay has signed it, or not this release's."""
    found, signed = await shape.now(conn), await shape.signed(conn)
    if signed is None:
        return Fault(reason="no relay has signed the shape of schema audit")
    reason = None
    if not signed.signers(known, log=log):
        reason = "the shape of schema audit is not signed by a known key"
    elif found.lines != signed.shape.lines:
        reason = f"{found.differs(signed.shape)} is not as it was signed"
    elif found.known is False and found.revision in {migrate.head(), *migrate.older()}:
        reason = "schema audit was signed, and is not this release's"
    return None if reason is None else Fault(reason=reason)


async def feed(check: Check, conn: asyncpg.Connection, tenant: str) -> None:
    """Hand a tenant's whole log to a check."""
    granted = await audit_export.retirement(conn, tenant)
    if isinstance(granted, SignedSeal):
        check.grant(granted)
    elif granted is not None:
        check.add(granted)
    async for line in audit_export.log(conn, tenant):
        check.add(line)


@app.command()
def export(
    tenant: str,
    database_url: DatabaseUrl,
    out: Annotated[
        Path | None, typer.Option(help="A new file; standard output if not given.")
    ] = None,
    first: Annotated[int, typer.Option("--from-seal", min=1, help="Start with this seal.")] = 1,
    last: Annotated[int | None, typer.Option("--to-seal", min=1, help="End with it.")] = None,
) -> None:
    """Write a tenant's log to a file that `verify-bundle` checks without a database."""

    async def work(file: BinaryIO) -> tuple[int, int]:
        async with reading(database_url) as conn:
            return await write_bundle(
                conn, file, tenant, first=first, last=last or audit_export.SEQ_MAX
            )

    if out is None:
        seals, members = run(work(sys.stdout.buffer))
    else:
        try:
            with out.open("xb") as file:
                seals, members = run(work(file))
        except FileExistsError as error:
            raise unchecked(f"{out} exists already") from error
        except OSError as error:
            name = str(out)[:NAME_CHARS_MAX]
            raise unchecked(f"{name} cannot be written: {error.strerror}") from error
    typer.echo(f"{seals} seals, {members} events", err=True)
    if seals == 0:
        raise unchecked("there is nothing to export: you can see no seal of this tenant")


async def write_bundle(
    conn: asyncpg.Connection, file: BinaryIO, tenant: str, *, first: int, last: int
) -> tuple[int, int]:
    """Write the whole bundle; how many seals and members it has."""
    seals = members = 0
    async for line in bundle_lines(conn, tenant, first=first, last=last):
        file.write(line.model_dump_json().encode() + b"\n")
        if isinstance(line, EndLine):
            seals, members = line.seals, line.members
    return seals, members


@app.command("verify-bundle")
def verify_bundle(
    file: Path,
    pinned: Keys = None,
    anchors: Anchors = None,
    retention_keys: RetentionKeys = None,
    kept_days: KeptDays = 0,
    as_json: AsJson = False,
) -> None:
    """Check an exported log; needs no database."""

    async def work() -> tuple[HeaderLine, Report]:
        with file.open("rb") as lines:
            return bundle.check(
                bundle.parse(lines),
                keys=load_keys(pinned),
                anchors=load_anchors(anchors),
                retention_keys=load_keys(retention_keys),
                kept_s=kept_days * DAY_S,
            )

    header, report = run(work())
    if report.seals == 0 and report.fault is None:
        raise unchecked("the bundle has no seal")
    need_anchors(anchors, report)
    conclude(header.tenant_id, report, report.fault, pinned=pinned is not None, as_json=as_json)


@app.command()
def keygen(
    private: Annotated[Path, typer.Argument(help="Where the private key goes: a new PEM file.")],
    public: Annotated[
        Path | None, typer.Option(help="Where the public key goes; beside it if not given.")
    ] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="An origin, LOG/TENANT: print the key as its witnesses take it."),
    ] = None,
) -> None:
    """Make a key that seals, for the relay, or one that signs requests, for a retention officer."""

    async def work() -> bytes:
        return keys.generate(private, public or private.with_suffix(".pub.pem"))

    made = run(work())
    typer.echo(f"key {note.key_id_of(made)}")
    for one in name or ():
        typer.echo(note.verifier_key(one, made))


@asynccontextmanager
async def reading(database_url: str) -> AsyncGenerator[asyncpg.Connection]:
    """A connection in one read-only snapshot: sealing goes on meanwhile."""
    conn = await asyncpg.connect(database_url, server_settings=SETTINGS)
    try:
        async with conn.transaction(isolation="repeatable_read", readonly=True):
            yield conn
    finally:
        await conn.close()


def load_keys(pinned: Path | None) -> Mapping[str, bytes] | None:
    """The reader's own keys, by key id."""
    if pinned is None:
        return None
    return {note.key_id_of(key): key for key in keys.load_public(pinned)}


def load_anchors(path: Path | None) -> list[Anchor]:
    """The reader's own anchors."""
    if path is None:
        return []
    with path.open("rb") as lines:
        return list(bundle.parse_anchors(lines))


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what keeps it from checking is a message, not a trace."""
    try:
        return asyncio.run(work)
    except (ValueError, BundleError, *AWAY) as error:
        raise unchecked(str(error)) from error
