"""The routes, commands, options and names that the papers use are those of the code.

Each message names file and line, and what to do.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Final, cast

import pytest
import typer.main
from fastapi import APIRouter
from fastapi.routing import APIRoute
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from app import cli
from app.console.pages import PAGES
from app.contract import CallMeta
from app.edges import guard
from app.edges import http as http_edges
from app.edges.mcp.calls import PATH
from app.edges.parts import Parts
from app.postgres.tables import metadata
from devstack import cli as devstack_cli
from tests.support.papers import FILE, ROOT, Piece, commands, found, sources, spans, told, words

# Routes -----------------------------------------------------------------------------------------

ELSEWHERE: Final = {
    "/proc": "Linux's",
    "/metrics": "prometheus_client's, on a port of its own",
    "/…/jobs/{}/cancel/": "a controller's",
}
METHODS: Final = "GET|POST|PUT|PATCH|DELETE"


@cache
def routes() -> dict[str, set[str]]:
    """The methods of each route, its parameters without names."""
    made: dict[str, set[str]] = {PATH: {"GET", "POST", "DELETE"}}
    for path in (*guard.PUBLIC, guard.METADATA):
        made[path] = {"GET"}
    for page in PAGES:
        made[page.url] = {"GET"}
    made["/console"] = {"GET"}
    made["/console/sign-in/callback"] = {"GET"}
    # No route is called: a router needs its broker only then.
    broker = cast("Parts", SimpleNamespace(database=SimpleNamespace(engine=None)))
    for module in pkgutil.iter_modules(http_edges.__path__):
        edge = importlib.import_module(f"{http_edges.__name__}.{module.name}")
        if hasattr(edge, "router"):
            router: APIRouter = edge.router(broker)
            for route in router.routes:
                assert isinstance(route, APIRoute)
                made.setdefault(bare(route.path), set()).update(route.methods or ())
    return made


def bare(path: str) -> str:
    return re.sub(r"\{\w+\}", "{}", path.partition("?")[0])


def test_each_route_is_served_by_that_method() -> None:
    named = rf"\b({METHODS})\s+(/[\w{{}}./…-]*[\w}}…])"
    places = [(where, match[1], bare(match[2])) for where, match in found(named)]
    wrong = [
        str(where)
        for where, method, path in places
        if "…" not in path and method not in routes().get(path, set())
    ]
    assert len(places) > 30
    assert not wrong, told("`curl …/openapi.json` lists the routes:", wrong)


def test_each_path_of_a_route_is_one_or_the_end_or_beginning_of_one() -> None:
    meta = {f"/{field}" for field in CallMeta.model_fields}
    wrong = [
        str(span)
        for span in spans()
        if re.fullmatch(r"/[a-z.{][\w{}./-]*", span.text)
        and (path := bare(span.text)) not in ELSEWHERE
        and path not in meta
        and not any(
            route == path or route.endswith(path) or (path[-1] == "/" and route.startswith(path))
            for route in routes()
        )
    ]
    assert not wrong, told("`curl …/openapi.json` lists the routes:", wrong)


# Commands ---------------------------------------------------------------------------------------

RELAY: Final = {"": (), "anchors": ("--out",)}
"""relay/__main__.py."""
OTHERS: Final = {
    "--max-concurrent-actions": "ansible-rulebook's",
    "--vars": "ansible-rulebook's",
    "--enable-feature": "Prometheus's",
    "--git-dir": "git's",
    "--body-timeout": "mcp-remote's",
    "--protocol": "mcp-remote's",
}
FORMER: Final = {"broker dev …": "CHANGELOG.md says what it is now"}
PLACEHOLDER: Final = "…"


Command = TyperCommand | TyperGroup


@cache
def tree(program: str) -> Command:
    made = typer.main.get_command(cli.app if program == "broker" else devstack_cli.app)
    assert isinstance(made, TyperGroup)
    return made


def below(group: TyperGroup, name: str) -> Command:
    command = group.commands[name]
    assert isinstance(command, TyperCommand | TyperGroup)
    return command


def fault(argv: list[str], command: Command) -> str | None:
    """What of a command's words the program does not know, if anything."""
    rest = list(argv)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith(("-", PLACEHOLDER)):
        name = rest.pop(0)
        if name not in command.commands:
            return f"there is no command {name!r}"
        command = below(command, name)
    options = {
        flag: one
        for one in command.params
        if isinstance(one, TyperOption)
        for flag in (*one.opts, *one.secondary_opts)
    }
    given = 0
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            given += word != PLACEHOLDER
            continue
        name, equals, _ = word.partition("=")
        if name not in options:
            return f"there is no option {name}"
        if not equals and not options[name].is_flag and rest:
            rest.pop(0)
    arguments = [one for one in command.params if isinstance(one, TyperArgument)]
    if any(one.nargs == -1 for one in arguments) or given <= len(arguments):
        return None
    return f"it takes {len(arguments)} arguments"


def relay_fault(argv: list[str]) -> str | None:
    command = argv[0] if argv else ""
    if command not in RELAY:
        return f"there is no command {command!r}"
    strange = {word for word in argv if word.startswith("--")} - set(RELAY[command])
    return f"there is no option {strange}" if strange else None


def make_fault(argv: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text()
    for word in argv:
        name, equals, _ = word.partition("=")
        if equals and f"$({name})" not in makefile and f"$(or $({name})," not in makefile:
            return f"no target reads {name}"
        if not equals and not word.startswith("-") and not is_target(word, makefile):
            return f"there is no target {word!r}"
    return None


def is_target(word: str, makefile: str) -> bool:
    return re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE) is not None


def module_fault(argv: list[str]) -> str | None:
    module, *rest = argv
    if module == "devstack":
        return fault(rest, tree("devstack"))
    if module == "pytest":
        paths = [word for word in rest if word.startswith("tests/")]
        gone = [path for path in paths if not (ROOT / path).exists()]
        return f"there is no {gone}" if gone else None
    file = ROOT / module.replace(".", "/")
    if not file.with_suffix(".py").exists() and not (file / "__main__.py").exists():
        return f"there is no module {module}"
    said = (file / "__main__.py" if file.is_dir() else file.with_suffix(".py")).read_text()
    strange = [word for word in rest if word.startswith("--") and f'"{word}"' not in said]
    return f"there is no option {strange}" if strange else None


def what_is_wrong(command: Piece) -> str | None:
    said = words(command.text)
    while said and (re.match(r"[A-Z_]+=", said[0]) or not said[0]):
        said.pop(0)
    program, *argv = said
    match program.removeprefix(".venv/bin/"):
        case "broker":
            return fault(argv, tree("broker"))
        case "broker-relay":
            return relay_fault(argv)
        case "broker-worker":
            return f"it takes no {argv}" if argv else None
        case "make":
            return make_fault(argv)
        case "python":
            return module_fault(argv[1:])
        case _:
            return None


def test_each_command_is_one_and_takes_these_options() -> None:
    named = list(commands())
    wrong = [
        f"{one} — {why}"
        for one in named
        if one.text not in FORMER and (why := what_is_wrong(one)) is not None
    ]
    assert len(named) > 70
    assert not wrong, told("`--help` of the command, or `make help`, lists them:", wrong)


def options(command: Command) -> Iterator[str]:
    for one in command.params:
        yield from (*one.opts, *one.secondary_opts)
    if isinstance(command, TyperGroup):
        for name in command.commands:
            yield from options(below(command, name))


def test_each_option_that_stands_alone_is_a_commands() -> None:
    known = {*options(tree("broker")), *options(tree("devstack")), *RELAY["anchors"], *OTHERS}
    wrong = [
        str(span)
        for span in spans()
        if re.match(r"--\w", span.text) and re.split(r"[ =]", span.text)[0] not in known
    ]
    assert not wrong, told("`--help` of the command lists its options:", wrong)


def test_each_variable_of_make_is_read() -> None:
    makefile = (ROOT / "Makefile").read_text()
    wrong = [
        str(span)
        for span in spans()
        if (match := re.fullmatch(r"([A-Z]+)=\w*", span.text)) and f"$({match[1]})" not in makefile
    ]
    assert not wrong, told("`make help` has the variables:", wrong)


# Names ------------------------------------------------------------------------------------------

POSTGRES: Final = {
    "transaction_timeout",
    "idle_in_transaction_session_timeout",
    "max_connections",
    "max_wal_size",
    "pg_stat_activity",
    "session_replication_role",
    "shared_buffers",
    "statement_timeout",
    "synchronous_commit",
}
GONE: Final = {"commands.words_refused"}
"""What is named because it is gone: CHANGELOG.md says what it is now."""
OTHERS_NAMES: Final = {
    "scrape_classic_histograms": "an option of Prometheus",
    "ansible_eda.event.body": "ansible-rulebook's",
    "ansible_eda.event.body.args": "ansible-rulebook's",
    "ansible.builtin.uri": "Ansible's",
    "cause.code": "of a saga's error",
    "client_session_timeout_seconds": "the OpenAI Agents SDK's",
    "claimed.args": "of a variable that the page registers",
    "experimental.tasks": "the TypeScript SDK's",
    "librechat.yaml": "LibreChat's",
    "mcpbroker.eda": "the collection's, a folder here",
    "pytest.mark.guarantee": "pytest's",
    "read_timeout": "Pydantic AI's",
    "read_timeout_seconds": "the Python SDK's",
    "session_kwargs": "LangChain's",
    "sse_read_timeout": "Google ADK's, and mcp-use's",
    "tool_timeout_sec": "Codex's",
    "x.0": "a place in a result",
}
FILES: Final = (".json", ".pem")


def is_name(name: str, known: set[str]) -> bool:
    """Whether the code has it: as it is, or as a table's column."""
    head, _, column = name.rpartition(".")
    table = metadata.tables.get(head)
    return name in known or (table is not None and column in table.columns)


def test_each_name_with_underscores_or_dots_is_one_of_the_code() -> None:
    """Fields, events, tables, columns, tools, reasons, topics: all are written like that."""
    ours = ("adapters", "app", "relay", "worker")
    text = sources(*ours, "rulebooks", "playbooks", "deploy", "migrations", "tests/support")
    known = {*re.findall(r"\w+", text), *re.findall(r"\w+(?:\.\w+)+", text)}
    known |= {*POSTGRES, *GONE, *OTHERS_NAMES}
    wrong = [
        str(span)
        for span in spans()
        if re.fullmatch(r"[a-z]+(?:[_.][a-z0-9_]+)+", span.text)
        and not span.text.startswith("mcpbroker_")
        and not FILE.fullmatch(span.text)
        and not span.text.endswith(FILES)
        and not is_name(span.text, known)
    ]
    assert not wrong, told("use the name that the code has:", wrong)


def test_each_promise_that_a_page_names_is_one() -> None:
    promises = set(
        re.findall(
            r"^\| `([a-z]+:[a-z-]+)` \|", (ROOT / "docs/GUARANTEES.md").read_text(), re.MULTILINE
        )
    )
    kinds = {one.partition(":")[0] for one in promises}
    wrong = [
        str(span)
        for span in spans()
        if re.fullmatch(r"[a-z]+:[a-z]+(?:-[a-z]+)*", span.text)
        and span.text.partition(":")[0] in kinds
        and span.text not in promises
    ]
    assert not wrong, told("ids are those of docs/GUARANTEES.md:", wrong)


@pytest.mark.parametrize("program", ["broker", "devstack"])
def test_a_command_that_is_not_there_is_found(program: str) -> None:
    assert fault(["nothing-like-it"], tree(program)) is not None
