"""`broker trace`: a waterfall of a file that tracing has written."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli import app as command_line
from app.cli.trace import bar, in_order
from app.traces import file
from app.traces.otlp import INTERNAL, Attributes, Span
from app.traces.tracing import opened

COMMAND = "01939c3e-7c1d-7a5b-8000-0123456789ab"
SECOND = 10**9


class Settings:
    trace_attributes = frozenset({"correlation_id"})

    def __init__(self, path: Path) -> None:
        self.trace_path = path


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A trace of three spans and one of another, by a process of a deployment."""
    path = tmp_path / "spans.jsonl"
    tracing = opened(Settings(path), service="relay")
    assert tracing is not None
    front = tracing.serve(None).at
    whole, part = front.command(COMMAND), front.attempt(COMMAND, 1)
    who: Attributes = tracing.who(correlation_id=COMMAND)
    outcome = (("mcp_broker.attempt", 2), ("mcp_broker.outcome", "failed"))
    spans = [
        Span(part, whole.span_id, "process [x]", INTERNAL, SECOND, 2 * SECOND, outcome, who, True),
        Span(whole, front.span_id, "command kind.echo", INTERNAL, 0, 2 * SECOND, (), who),
        Span(front, None, "POST /mcp", INTERNAL, 0, SECOND // 2),
        Span(tracing.serve(None).at, None, "another", INTERNAL, 0, SECOND),
    ]
    for one in spans:
        tracing.record(one)
    tracing.close()
    return path


def shown(path: Path, name: str, *options: str) -> tuple[int, str]:
    argv = ["trace", name, "--file", str(path), *options]
    done = CliRunner(env={"COLUMNS": "160"}).invoke(command_line, argv)
    return done.exit_code, done.output


def test_a_trace_is_drawn_by_its_commands_id_or_its_own(written: Path) -> None:
    code, output = shown(written, COMMAND)
    assert code == 0, output
    title, _, *lines = [line.rstrip() for line in output.splitlines() if line.strip()]
    trace_id, whole = re.fullmatch(r"\s*([0-9a-f]{32})  (.*)", title).groups()  # pyright: ignore[reportOptionalMemberAccess]
    assert whole == "2,000.0 ms"
    told = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert [row[0] for row in told] == ["POST /mcp", "command kind.echo", "process [x]"]
    indents = [len(line) - len(line.lstrip()) for line in lines]
    assert [one - indents[0] for one in indents] == [0, 2, 4]
    assert told[2][1:4] == ["relay", "1,000.0", "1,000.0"]
    assert [line.count("━") for line in lines] == [10, 40, 20]
    assert lines[2].endswith("attempt=2 outcome=failed")
    assert "another" not in output
    assert shown(written, trace_id.upper()) == (code, output)
    assert '"name": "process [x]"' in shown(written, COMMAND, "--json")[1]


def test_what_is_not_there_or_no_file_of_spans_is_told(written: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("{}\nno json\n")
    for path, name, words in (
        (written, "f" * 32, "No span of"),
        (written, "x", "neither a trace nor a command"),
        (tmp_path / "none", COMMAND, "cannot be read"),
        (other, COMMAND, "is no file of spans"),
    ):
        code, output = shown(path, name)
        assert code == 1
        assert words in output.replace("\n", " ")


def test_a_line_that_is_being_written_is_left_for_later(written: Path) -> None:
    before = list(file.read(written))
    with written.open("ab") as more:
        more.write(b'{"resourceSpans":[')
    assert list(file.read(written)) == before


def test_spans_that_name_each_other_as_parents_do_not_keep_it_busy(written: Path) -> None:
    first, second, *_ = file.read(written)
    circle = [replace(first, parent_id=second.span_id), replace(second, parent_id=first.span_id)]
    assert list(in_order(circle)) == []
    assert bar(0, 0, 1) == "━"
    assert bar(0, 1, 1) == "━" * 40
    assert bar(10, 0, 10) == " " * 39 + "━"
