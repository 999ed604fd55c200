"""`broker trace`: a call's spans as a waterfall, of the file that they were written to."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.common import AsJson, fail
from app.config import PREFIX
from app.traces import file
from app.traces.file import ReadSpan

STACK: Final = Path(".broker") / "spans.jsonl"
"""Where `make up OBSERVE=1` has them written."""
CORRELATION: Final = "mcp_broker.correlation_id"
BAR_COLUMNS: Final = 40
TRACE_ID_CHARS: Final = 32
DETAILS: Final = ("mcp_broker.attempt", "mcp_broker.outcome", "mcp_broker.state", "error.type")

Spans = Annotated[
    Path, typer.Option("--file", envvar=f"{PREFIX}TRACE_PATH", help="The file of spans.")
]


def trace(
    name: Annotated[
        str,
        typer.Argument(metavar="ID", help="Of a trace; or of a command, where its spans name it."),
    ],
    path: Spans = STACK,
    as_json: AsJson = False,
) -> None:
    """Show a call's trace: what it waited for, and what it did, in time."""
    try:
        found = spans_of(list(file.read(path)), name)
    except OSError as error:
        raise fail(f"{path} cannot be read: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise fail(f"{path} is no file of spans: {error}") from error
    if not found:
        raise fail(
            f"No span of {name} is in {path}. A command is found by its id where its spans name it:"
            f" {PREFIX}TRACE_ATTRIBUTES."
        )
    if as_json:
        typer.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
        return
    console = Console()
    for trace_id in dict.fromkeys(one.trace_id for one in found):
        console.print(waterfall([one for one in found if one.trace_id == trace_id]))


def spans_of(spans: Sequence[ReadSpan], name: str) -> list[ReadSpan]:
    """Those of the trace, or of each trace that has a span of the command of this id."""
    name = name.lower()
    traces = {name}
    if len(name) != TRACE_ID_CHARS:
        try:
            command = str(UUID(name))
        except ValueError as error:
            raise fail(f"{name!r} is the id of neither a trace nor a command.") from error
        traces = {one.trace_id for one in spans if one.attributes.get(CORRELATION) == command}
    return [one for one in spans if one.trace_id in traces]


def waterfall(spans: Sequence[ReadSpan]) -> Table:
    """A trace, its spans below their parents; each with its time as a bar."""
    begin = min(one.start_ns for one in spans)
    whole = max(max(one.end_ns for one in spans) - begin, 1)
    title = f"{spans[0].trace_id}  {whole / 1e6:,.1f} ms"
    table = Table("span", "by", "at ms", "ms", "", "", box=None, title=title, title_justify="left")
    for column in (2, 3):
        table.columns[column].justify = "right"
    table.columns[4].no_wrap = True
    for depth, one in in_order(spans):
        start, length = one.start_ns - begin, one.end_ns - one.start_ns
        style = "red" if one.failed else ""
        table.add_row(
            Text("  " * depth + one.name, style),
            one.service.removeprefix("mcp-broker-"),
            f"{start / 1e6:,.1f}",
            f"{length / 1e6:,.1f}",
            Text(bar(start, length, whole), style or "cyan"),
            Text(details(one)),
        )
    return table


def bar(start: int, length: int, whole: int) -> str:
    """A part of a whole, in columns; at least one."""
    first = min(start * BAR_COLUMNS // whole, BAR_COLUMNS - 1)
    last = max(first + 1, -(-(start + length) * BAR_COLUMNS // whole))
    return " " * first + "━" * (min(last, BAR_COLUMNS) - first)


def details(span: ReadSpan) -> str:
    """What else there is to know of it."""
    told: dict[str, Any] = {name: span.attributes.get(name) for name in DETAILS}
    return " ".join(f"{name.rpartition('.')[2]}={one}" for name, one in told.items() if one)


def in_order(spans: Sequence[ReadSpan]) -> Iterator[tuple[int, ReadSpan]]:
    """Each span behind its parent, the earliest first; one whose parent is not there is a root."""
    known = {one.span_id for one in spans}
    below: dict[str | None, list[ReadSpan]] = {}
    for one in sorted(spans, key=lambda one: (one.start_ns, -one.end_ns)):
        below.setdefault(one.parent_id if one.parent_id in known else None, []).append(one)
    waiting = [(0, one) for one in reversed(below.pop(None, []))]
    while waiting:
        depth, one = waiting.pop()
        yield depth, one
        waiting += [(depth + 1, child) for child in reversed(below.pop(one.span_id, []))]
