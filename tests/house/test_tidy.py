"""House rules that no linter holds. Each message names the cure."""

import ast
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from app import assets

ROOT = assets.root()
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 400
COLUMNS_MAX = 100
DIRECTIVE = re.compile(r"  # (noqa|pyright|type): .*")
DEPLOYED = ("adapters", "app", "relay", "worker")

SQL = re.compile(
    r"\s*(SELECT|INSERT INTO|UPDATE \w+|DELETE FROM|WITH \w+ AS|LISTEN|LOCK|NOTIFY|CREATE|ALTER)\s"
)
# Where SQL is besides the stores, and why.
SQL_HERE = {
    "app/postgres/": "the tables, and what every statement runs on: roles, leases, wakeups",
    "app/intake/batches.py": "names the tenants of its batch, in the transaction that it opens",
    "relay/clock.py": "calls two functions of the schema by name",
}
ASSERTS = {"wait_for", "raises", "fail"}
"""Calls that fail a test by themselves."""
SLEEPS_HERE = {"tests/system/chaos/fleet.py": "in a thread, while a killed server's port is held"}


@cache
def files(*kinds: str) -> list[Path]:
    """What is in the repository, and what will be: not what is ignored."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *kinds]
    listed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / one for one in listed.stdout.splitlines() if (ROOT / one).exists()]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def ours(*tops: str) -> Iterator[Path]:
    """Our Python, or that of these folders; a migration that was released is not edited."""
    for path in files("*.py"):
        top = name(path).partition("/")[0]
        if not name(path).startswith("migrations/versions/") and (not tops or top in tops):
            yield path


def told(cure: str, found: list[str]) -> str:
    return "\n".join([cure, *found])


def test_a_function_is_read_without_scrolling() -> None:
    found = [
        f"{name(path)}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for path in ours()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert not found, told("keep the decisions, and give each piece of plain work a name:", found)


def test_a_file_has_one_subject() -> None:
    lengths = {
        path: len(path.read_text().splitlines())
        for path in [*ours(), *files("app/*.sql", "relay/*.sql")]
    }
    found = [f"{name(path)} has {n} lines" for path, n in lengths.items() if n > FILE_LINES_MAX]
    assert not found, told("split by subject, each part with a sentence on its place:", found)


def test_a_line_is_read_without_scrolling() -> None:
    """Python's and Markdown's; a linter's directive at its end does not count."""
    found = [
        f"{name(path)}:{n} has {len(DIRECTIVE.sub('', line))} columns"
        for path in [*ours(), *files("*.md")]
        for n, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(DIRECTIVE.sub("", line)) > COLUMNS_MAX
    ]
    assert not found, told(
        "wrap it; a docstring's first line is a shorter sentence, a wide table is a list:", found
    )


def test_sql_is_in_the_stores() -> None:
    found = [
        f"{name(path)}:{node.lineno} {node.value.strip()[:60]}"
        for path in ours(*DEPLOYED)
        if not may_hold_sql(path)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.match(node.value)
    ]
    found += [name(path) for path in files("app/*.sql", "relay/*.sql") if not may_hold_sql(path)]
    assert not found, told(
        "move the statement to the package's store, with its function right below:", found
    )


def may_hold_sql(path: Path) -> bool:
    return "store" in (*path.relative_to(ROOT).parent.parts, path.stem) or any(
        name(path).startswith(place) for place in SQL_HERE
    )


def test_what_may_hold_sql_exists() -> None:
    gone = [place for place in SQL_HERE if not (ROOT / place).exists()]
    assert not gone, told("take it out of SQL_HERE:", gone)


def test_no_number_from_outside_is_told_by_isdigit() -> None:
    found = [
        f"{name(path)}:{node.lineno}"
        for path in ours()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and node.attr == "isdigit"
    ]
    assert not found, told(
        "ask app.edges.bodies.number: '²' is a digit, and int() raises at it:", found
    )


def test_no_test_sleeps() -> None:
    found = [
        f"{name(path)}:{node.lineno}"
        for path in ours("tests")
        if name(path) not in SLEEPS_HERE
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep"
    ]
    assert not found, told("wait on what you wait for: tests.support.stack.wait_for", found)


MUTABLE = (ast.Dict, ast.List, ast.Set, ast.DictComp, ast.ListComp, ast.SetComp)
MAKERS = {"dict", "list", "set", "defaultdict", "deque", "Counter", "OrderedDict"}


def test_no_module_holds_state() -> None:
    found = [
        f"{name(path)}:{node.lineno} {ast.unparse(node)[:60]}"
        for path in ours(*DEPLOYED)
        for node in tree(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_state(node)
    ]
    assert not found, told(
        "pass it as an argument; what never changes is Final, with a name in capitals:", found
    )


def is_state(node: ast.Assign | ast.AnnAssign) -> bool:
    target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
    if not isinstance(target, ast.Name) or target.id.startswith("__"):
        return False
    value = node.value
    made = isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] in MAKERS
    final = isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).startswith("Final")
    return (made or isinstance(value, MUTABLE)) and not (final and target.id.isupper())


def test_every_test_asserts() -> None:
    """By itself, or by a function or class of the tests that it names."""
    bodies = [
        (path, node)
        for path in ours("tests")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    asserting, before = set(ASSERTS), 0
    while len(asserting) > before:
        before = len(asserting)
        asserting |= {node.name for _, node in bodies if asserts(node, asserting)}
    found = [
        f"{name(path)}:{node.lineno} {node.name}"
        for path, node in bodies
        if node.name.startswith("test_") and node.name not in asserting
    ]
    assert not found, told("say what must hold, with `assert`:", found)


def asserts(node: ast.AST, asserting: set[str]) -> bool:
    for one in ast.walk(node):
        match one:
            case ast.Assert():
                return True
            case ast.Raise(exc=ast.Call(func=ast.Name("AssertionError"))):
                return True
            case ast.Name(id=used) | ast.Attribute(attr=used) if used in asserting:
                return True
            case _:
                pass
    return False
