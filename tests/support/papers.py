"""The papers, as their tests read them: whole, by what is marked as code, and by its commands."""

import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from app import assets

ROOT: Final = assets.root()
KINDS: Final = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "docs/*.md")
FENCE: Final = re.compile(r"^( *)```(\w*)\n(.*?)^ *```\n", re.MULTILINE | re.DOTALL)
INDENTED: Final = re.compile(r"(?<=\n\n)(?:(?: {4,}[^\n]*)\n)+")
SPAN: Final = re.compile(r"`((?:[^`\n]|\n(?!\n))+)`")
FILE: Final = re.compile(r"[\w.…/-]+\.(?:py|yml|md|sql|toml|sh|svg|cfg)")
SHELL: Final = re.compile(
    r"(?:\.venv/bin/|[A-Z_]+=\S+ )*(broker|broker-relay|make|python -m|curl)(?= |$)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of a paper, and where it begins."""

    page: str
    line: int
    text: str
    language: str = ""

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def pages() -> list[Path]:
    """The papers of today: decisions are history, as the changelog is of what was released."""
    return [path for kind in KINDS for path in sorted(ROOT.glob(kind))]


def deployed() -> list[Path]:
    """What operators take over as it is."""
    shipped = sorted(path for path in (ROOT / "deploy").rglob("*") if path.is_file())
    return [*shipped, ROOT / "compose.yaml", ROOT / "Dockerfile"]


@cache
def text_of(path: Path) -> str:
    """A paper's text; of the changelog what is not released."""
    text = path.read_text(encoding="utf-8")
    if path.name == "CHANGELOG.md":
        heads = [head.start() for head in re.finditer(r"^## ", text, re.MULTILINE)]
        text = text[: heads[1]] if len(heads) > 1 else text
    return text


@cache
def sources(*tops: str) -> str:
    """The text of what is no paper, or of that in these folders."""
    return "\n".join(
        path.read_text(encoding="utf-8", errors="ignore")
        for path in files()
        if path.suffix in {".py", ".yml", ".sql", ".sh", ".toml"}
        if not tops or any(path.is_relative_to(ROOT / top) for top in tops)
    )


@cache
def files() -> tuple[Path, ...]:
    """What is in the repository, and what will be: not what is ignored."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    return tuple(ROOT / one for one in listed.stdout.splitlines() if (ROOT / one).exists())


def told(cure: str, wrong: Iterable[str]) -> str:
    """What is to be done, and where."""
    return "\n".join([cure, *wrong])


def found(pattern: str, *paths: Path) -> Iterator[tuple[Piece, re.Match[str]]]:
    """Each place in the whole text of papers at which a pattern is."""
    for path in paths or pages():
        text = text_of(path)
        for match in re.finditer(pattern, text):
            yield piece(path, text, match.start(), match[0]), match


def piece(path: Path, text: str, start: int, said: str, language: str = "") -> Piece:
    """A piece that begins there."""
    name = path.relative_to(ROOT).as_posix()
    return Piece(page=name, line=text.count("\n", 0, start) + 1, text=said, language=language)


def blocks() -> Iterator[Piece]:
    """The blocks of code, fenced (with their language) or indented."""
    for path in pages():
        text = text_of(path)
        for fence in FENCE.finditer(text):
            code = "".join(line.removeprefix(fence[1]) for line in fence[3].splitlines(True))
            yield piece(path, text, fence.start(3), code, fence[2])
        rest = without_fences(text)
        for block in INDENTED.finditer(rest):
            depth = min(len(line) - len(line.lstrip()) for line in block[0].splitlines())
            code = "".join(line[depth:] for line in block[0].splitlines(True))
            yield piece(path, rest, block.start(), code, "indented")


def without_fences(text: str) -> str:
    """The text with empty lines where its fenced blocks are, so that lines keep their numbers."""
    return FENCE.sub(emptied, text)


def emptied(block: re.Match[str]) -> str:
    """As many empty lines."""
    return "\n" * block[0].count("\n")


def spans() -> Iterator[Piece]:
    """What is marked as code within sentences; one that goes over a line's end is joined."""
    for path in pages():
        text = without_fences(text_of(path))
        rest = INDENTED.sub(emptied, text)
        for match in SPAN.finditer(rest):
            yield piece(path, rest, match.start(), " ".join(match[1].split()))


def scripts() -> Iterator[Piece]:
    """The shell's blocks: of a console's the lines that are typed."""
    for block in blocks():
        if block.language == "console":
            typed = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
            code = "\n".join(typed)
        else:
            code = block.text
        if SHELL.match(code.lstrip()):
            yield Piece(page=block.page, line=block.line, text=code, language="sh")


def commands() -> Iterator[Piece]:
    """Each command that is named, in a sentence or a block."""
    yield from (span for span in spans() if SHELL.match(span.text))
    for script in scripts():
        for n, line in logical_lines(script.text):
            if SHELL.match(line):
                yield Piece(page=script.page, line=script.line + n, text=line)


def logical_lines(code: str) -> Iterator[tuple[int, str]]:
    """A script's lines, those that end in a backslash joined with the next; their numbers too."""
    held, first = "", 0
    for n, line in enumerate(code.splitlines()):
        first = first if held else n
        held += line.removesuffix("\\")
        if not line.endswith("\\"):
            yield first, held.strip()
            held = ""


def words(command: str) -> list[str]:
    """A command's words, without comments and without brackets of what may be left out."""
    return [word.strip("[]") if word != "[]" else word for word in shlex.split(command, True)]


def table(page: str, head: str) -> Iterator[tuple[Piece, list[str]]]:
    """The rows of the table with this head, cell by cell."""
    path = ROOT / page
    lines = text_of(path).splitlines()
    start = lines.index(head)
    for n in range(start + 2, len(lines)):
        if not lines[n].startswith("|"):
            return
        cells = [cell.strip() for cell in lines[n].strip("|").split("|")]
        yield Piece(page=page, line=n + 1, text=lines[n]), cells
