"""`broker audit`: check the audit trail, take it along, make the keys that seal it.

Exit codes: 0 the log is as it was sealed; 1 it is not, and the first bad place is named; 2 nothing
could be checked.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypeVar

import asyncpg
import orjson
import typer
from rich.console import Console

from app.audit import bundle, keys, note
from app.audit.bundle import BundleError, EndLine, HeaderLine, KeyLine, MemberLine
from app.audit.proof import Anchor, Check, Fault, Report, SignedSeal
from app.audit.store import export as audit_export
from app.cli.common import AsJson, database_option
from app.postgres.engine import AWAY

app = typer.Typer(no_args_is_help=True, help=__doc__)

FAULT: Final = 1
UNCHECKED: Final = 2
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
    as_json: AsJson = False,
) -> None:
    """Check a tenant's log: in the database, then again here, with signatures and anchors."""

    async def work() -> tuple[audit_export.Verified, Report | None]:
        async with reading(database_url) as conn:
            verified = await audit_export.verify(conn, tenant)
            if verified.ok is None:
                return verified, None
            known = load_keys(pinned) or await audit_export.keys(conn)
            seen = await audit_export.overview(conn, tenant)
            check = Check(
                tenant,
                keys=known,
                anchors=load_anchors(anchors),
                pinned=pinned is not None,
                retired_before=seen.retired_before,
            )
            async for line in audit_export.log(conn, tenant):
                check.add(line)
            return verified, check.report()

    verified, report = run(work())
    if report is None:
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
    conclude(tenant, report, fault, pinned=pinned is not None, as_json=as_json)


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
    typer.echo(f"{seals} seals, {members} events", err=True)
    if seals == 0:
        raise unchecked("there is nothing to export: you can see no seal of this tenant")


async def write_bundle(
    conn: asyncpg.Connection, file: BinaryIO, tenant: str, *, first: int, last: int
) -> tuple[int, int]:
    """Write the whole bundle; how many seals and members it has."""

    def put(line: bundle.Line) -> None:
        file.write(line.model_dump_json().encode() + b"\n")

    seen = await audit_export.overview(conn, tenant)
    put(
        HeaderLine(
            tenant_id=tenant,
            exported_at=seen.now,
            retired_before=seen.retired_before,
            whole=first == 1 and last == audit_export.SEQ_MAX,
        )
    )
    for key_id, public_key in (await audit_export.keys(conn)).items():
        put(KeyLine(key_id=key_id, public_key=public_key))
    base = await audit_export.seal(conn, tenant, first - 1)
    if base is not None:
        put(bundle.seal_line(base, base=True))
    seals = members = 0
    async for line in audit_export.log(conn, tenant, first=first, last=last):
        if isinstance(line, SignedSeal):
            put(bundle.seal_line(line))
            seals += 1
        else:
            put(MemberLine.model_validate(line))
            members += 1
    put(EndLine(seals=seals, members=members))
    return seals, members


@app.command("verify-bundle")
def verify_bundle(
    file: Path, pinned: Keys = None, anchors: Anchors = None, as_json: AsJson = False
) -> None:
    """Check an exported log; needs no database."""

    async def work() -> tuple[HeaderLine, Report]:
        with file.open("rb") as lines:
            return bundle.check(
                bundle.parse(lines), keys=load_keys(pinned), anchors=load_anchors(anchors)
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
    """Make a key that seals: the private half for the relay, the public half for auditors."""

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


def need_anchors(path: Path | None, report: Report) -> None:
    """Anchors that were asked for and are not there must not pass for anchors that agree."""
    if path is not None and report.anchors == 0 and report.fault is None:
        raise unchecked(
            f"{path} has no anchor of this log that a known key has signed"
            f" ({report.anchors_unsigned} others)"
        )


def conclude(
    tenant: str, report: Report, fault: Fault | None, *, pinned: bool, as_json: bool
) -> None:
    """Say what was found; leaves with 1 where there is a fault."""
    found: dict[str, Any] = {
        "ok": fault is None,
        "tenant_id": tenant,
        "events": report.events,
        "seals": report.seals,
        "size": report.size,
        "root": report.root.hex(),
        "retired": report.retired,
        "retired_before": report.retired_before,
        "erased": report.erased,
        "keys_pinned": pinned,
        "signed_by": report.signed_by,
        "anchors": report.anchors,
        "anchors_unsigned": report.anchors_unsigned,
        "fault": None
        if fault is None
        else {
            "reason": fault.reason,
            "seal_no": fault.seal_no,
            "seq": fault.seq,
            "event_id": None if fault.event_id is None else str(fault.event_id),
        },
    }
    if as_json:
        typer.echo(orjson.dumps(found).decode())
    else:
        _print(found)
    if fault is not None:
        raise typer.Exit(FAULT)


def _print(found: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    fault = found["fault"]
    if fault is None:
        console.print(
            f"[green]ok[/green] {found['tenant_id']}: {found['events']} events in"
            f" {found['seals']} seals, {found['anchors']} anchors compared"
        )
        console.print(f"size {found['size']} root {found['root']}")
        if found["retired_before"] is not None:
            console.print(
                f"{found['retired']} of the events are gone: a signed seal said that those before"
                f" {found['retired_before']} may be; their leaves are there"
            )
        if found["erased"]:
            console.print(f"{found['erased']} of the events have had a person's data erased")
    else:
        console.print(f"[red]FAULT[/red] {found['tenant_id']}: {fault['reason']}")
        console.print(
            f"seal {fault['seal_no']} seq {fault['seq']} event {fault['event_id']}",
        )
    if not found["keys_pinned"]:
        console.print(
            "[yellow]The log's own keys were believed: a log that was rewritten and signed anew"
            " passes. Pin yours with --keys.[/yellow]"
        )
    if found["anchors_unsigned"]:
        console.print(f"{found['anchors_unsigned']} anchors are not signed by a known key.")


def unchecked(message: str) -> typer.Exit:
    """Say why nothing was checked; leaves with 2."""
    Console(stderr=True).print(f"[red]{message}[/red]", highlight=False)
    return typer.Exit(UNCHECKED)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; what keeps it from checking is a message, not a trace."""
    try:
        return asyncio.run(work)
    except (ValueError, BundleError, *AWAY) as error:
        raise unchecked(str(error)) from error
