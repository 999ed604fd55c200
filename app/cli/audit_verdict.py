"""What `broker audit verify` and `verify-bundle` say of what they found, and their exit codes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import typer
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from app.audit.proof import Fault, Report
from app.cli.common import shown

FAULT: Final = 1
UNCHECKED: Final = 2


def need_anchors(path: Path | None, report: Report) -> None:
    """Anchors that were asked for and are not there must not pass for anchors that agree."""
    if path is not None and report.anchors == 0 and report.fault is None:
        raise unchecked(
            f"{path} has no anchor of this log that a known key has signed"
            f" ({report.anchors_unsigned} others)"
        )


def conclude(
    tenant: str,
    report: Report,
    fault: Fault | None,
    *,
    pinned: bool,
    as_json: bool,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Say what was found; leaves with 1 where there is a fault."""
    found: dict[str, Any] = {
        "ok": fault is None and not report.unshown,
        "tenant_id": tenant,
        "events": report.events,
        "seals": report.seals,
        "size": report.size,
        "root": report.root.hex(),
        "retired": report.retired,
        "retired_before": report.retired_before,
        "erased": report.erased,
        "late": report.late,
        "out_of_time": report.out_of_time,
        "unshown": report.unshown,
        "keys_pinned": pinned,
        "signed_by": report.signed_by,
        "anchors": report.anchors,
        "anchors_unsigned": report.anchors_unsigned,
        **(more or {}),
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
    if report.unshown:
        raise typer.Exit(UNCHECKED)


def _print(found: Mapping[str, Any]) -> None:
    console = Console(highlight=False)
    fault = found["fault"]
    log = escape(shown(found["tenant_id"]))  # of a bundle, whoever made it
    if fault is None:
        verdict = "[green]ok[/green]" if found["ok"] else "[yellow]not shown[/yellow]"
        console.print(
            f"{verdict} {log}: {found['events']} events in {found['seals']} seals,"
            f" {found['anchors']} anchors compared"
        )
        console.print(f"size {found['size']} root {found['root']}")
        if found["retired_before"] is not None:
            console.print(
                f"{found['retired']} of the events are gone: a signed request said that those"
                f" before {found['retired_before']} may be; their leaves are there"
            )
        for words in found["unshown"]:
            console.print(
                f"[yellow]Not shown: {words}. It takes --retention-keys and the whole log.[/yellow]"
            )
        if found.get("unsealed"):
            console.print(
                f"{found['unsealed']} events since {found['unsealed_from']} are not sealed yet:"
                " nobody vouches for them"
            )
        if found["late"]:
            console.print(f"{found['late']} of the events were sealed late: see audit.sealed_late")
        if found["out_of_time"]:
            console.print(
                f"{found['out_of_time']} of the events bear a time over a minute before the event"
                " before them: see audit.out_of_time"
            )
        if found["erased"]:
            console.print(f"{found['erased']} of the events have had a person's data erased")
    else:
        console.print(f"[red]FAULT[/red] {log}: {escape(shown(fault['reason']))}")
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
    Console(stderr=True).print(Text(shown(message), "red"), soft_wrap=True)
    return typer.Exit(UNCHECKED)
