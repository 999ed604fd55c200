"""`make guarantees`: docs/GUARANTEES.md, of tests/guarantees.yml and the tests with its ids."""

import ast
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from app import assets

ROOT: Final = assets.root()
TESTS: Final = ROOT / "tests"
PAGE: Final = ROOT / "docs" / "GUARANTEES.md"
SOURCE: Final = TESTS / "guarantees.yml"
COLUMNS: Final = 100

HEAD: Final = """\
# Guarantees

Each promise has an id, a sentence, and tests that carry the id (`pytest.mark.guarantee`). This page
is made of tests/guarantees.yml and those tests by `make guarantees`, and a test holds the three in
step. "Accepted" means that `tools/call` or `POST /mcp/tools/call` gave a command's id, or that a
retry with the same key would.
"""


def promised() -> list[tuple[str, str, str]]:
    """Each promise's section, id and sentence."""
    return [
        (section["title"], one["id"], one["promise"])
        for section in _source()["sections"]
        for one in section["promises"]
    ]


def tested() -> dict[str, list[str]]:
    """Which tests carry each id, as `file::function`."""
    found: dict[str, list[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                for name in _marks(node):
                    where = f"{path.relative_to(ROOT).as_posix()}::{node.name}"
                    found.setdefault(name, []).append(where)
    return found


def page() -> str:
    """The page as it must be."""
    tests = tested()
    lines: list[str] = []
    title = ""
    for section, name, sentence in promised():
        if section != title:
            title = section
            lines += ["", f"## {title}", ""]
        files = dict.fromkeys(one.partition("::")[0] for one in tests.get(name, []))
        links = ", ".join(f"[{Path(one).name}](../{one})" for one in files)
        lines += _wrapped(f"- `{name}`: {sentence}") + _wrapped(f"  {links}")
    return "\n".join([HEAD.rstrip(), *lines, "", "## Not promised", "", _source()["not_promised"]])


def _source() -> Any:
    return yaml.safe_load(SOURCE.read_text(encoding="utf-8"))


def _marks(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> Iterator[str]:
    for one in node.decorator_list:
        match one:
            case ast.Call(func=ast.Attribute(attr="guarantee"), args=[ast.Constant(str(name))]):
                yield name
            case _:
                pass


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(
        text, COLUMNS, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
