"""Whatever is written in an argument of a command, it ends with a code and words, with no trace."""

import asyncio
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final
from uuid import uuid4
from zlib import crc32

import pytest
import typer
from typer.testing import CliRunner, Result

from app.audit import keys
from app.cli import app as command_line
from app.edges.parts import Parts
from app.edges.server import build
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.hostile.draws import KINDS_A_ROUND
from tests.support.calls import accept, claim, delete, fetch, finish
from tests.support.stack import listening

pytestmark = pytest.mark.thorough

VALUES: Final = (
    "",
    " ",
    "🎉𠮷",
    "a\0b",
    "\udc80",  # a byte that is no UTF-8, as Python reads it from the command line
    "'; DROP TABLE commands; --",
    '"\\$(id)`{{ x }}%s{0}',
    "\x1b[2J\r\n\t\u2028",
    "x" * 100_000,
    "-1",
    "0",
    str(2**31),
    str(2**63),
    str(2**70),
    "9" * 5000,
    "NaN",
    "inf",
    "1e400",
    "1e18",
    "0001-01-01",
    "9999-12-31",
    "[",
    "[/b]{x}[link=file:///etc]",
    "no/such/folder/x",
    "user:=*",
    "user:\udc80=*",
    "/",
    "/proc/self/mem",
    "\ufffe🎉" * 300,
    "00000000-0000-0000-0000-000000000000",
)
NOT_TRIED: Final = {"serve", "dlq"}
"""Runs until it is ended; another name of `dead-letters`."""
ALWAYS: Final = {"url", "wait_s"}
"""Options that are given though none must."""
CODES: Final = {0, 1, 2}


def leaves(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, with the words that name it; typer brings a click of its own."""
    if not hasattr(group, "commands"):
        yield path, group
        return
    for name, one in group.commands.items():
        yield from leaves(one, (*path, name))


COMMANDS: Final = {
    " ".join(path): command
    for path, command in leaves(typer.main.get_command(command_line))
    if path[0] not in NOT_TRIED
}


def tried(name: str, told: Mapping[str, str]) -> Iterator[list[str]]:
    """Command lines with a hostile value each; a parameter has some of them, others have others."""
    turn = itertools.count(crc32(name.encode()))
    count = max(1, min(KINDS_A_ROUND // 4, len(VALUES)))
    params = COMMANDS[name].params
    for hostile in params:
        if getattr(hostile, "is_flag", False):
            continue
        for _ in range(count):
            value = VALUES[next(turn) % len(VALUES)]
            options, words = list[str](), list[str]()
            for param in params:
                if param is not hostile and not param.required and param.name not in ALWAYS:
                    continue
                said = value if param is hostile else told[param.name]
                if param.param_type_name == "argument":
                    words.append(said)
                else:
                    options.append(f"{param.opts[0]}={said}")
            yield [*name.split(), *options, "--", *words]


@pytest.mark.guarantee("hostile:commands")
@pytest.mark.parametrize("group", sorted({name.split()[0] for name in COMMANDS}))
async def test_a_command_ends_with_a_code_and_words_whatever_is_written_in_its_arguments(
    group: str,
    broker: Parts,
    database: Dsns,
    issuer: DevIssuer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token = issuer.token(tenant="demo", user="olga", scopes=["tools", "operator"])
    file = tmp_path / "some.yml"
    file.write_text("tools: []\n")
    key = tmp_path / "key.pem"
    keys.generate(key, tmp_path / "key.pub.pem")
    broken: list[str] = []
    async with listening(build(broker.settings, broker)) as port:
        told = {
            "tenant": "demo",
            "tenant_id": "demo",
            "database_url": database.owner,
            "token": token,
            "url": f"http://127.0.0.1:{port}",
            "file": str(file),
            "tool": "probe/echo",
            "address": f"http://127.0.0.1:{port}",
            "document": str(file),
            "private": str(tmp_path / "new.pem"),
            "wait_s": "0",
            "key": str(key),
            "anchors": str(file),
            "before": "2020-01-01",
            "outcome": "failed",
            "verb": "retry",
            **dict.fromkeys(("command", "hold_id", "saga_id", "webhook"), str(uuid4())),
            **dict.fromkeys(("name", "reason", "user", "step"), "x"),
        }
        monkeypatch.chdir(tmp_path)  # what a value names as a file is made there
        for name in COMMANDS:
            if name.split()[0] != group:
                continue
            for argv in tried(name, told):
                done = await asyncio.to_thread(CliRunner().invoke, command_line, argv)
                if fault := fault_of(done):
                    broken.append(f"{ascii(argv)[:300]}: {fault}")
    assert not broken, "\n".join(broken)


WORDS: Final = "[/b][red]\x1b[2J\x07🎉"
"""Of others, as an operator's screen must not take them."""


@pytest.mark.guarantee("hostile:commands")
async def test_what_others_wrote_is_shown_as_it_is_and_obeyed_by_no_terminal(
    broker: Parts, database: Dsns, issuer: DevIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = (await accept(broker, delete("a"))).written.id
    for attempt in (1, 2, 3):
        await claim(broker, one, attempt=attempt)
        await finish(broker, one, attempt=attempt, error={"code": WORDS, "message": WORDS})
    refused = "UPDATE outbox SET status = 'parked', refusal = $1, refused_at = now()"
    await fetch(database.owner, refused, WORDS)
    token = issuer.token(tenant="demo", user="olga", scopes=["tools", "operator"])
    monkeypatch.setenv("COLUMNS", "300")
    async with listening(build(broker.settings, broker)) as port:
        here = ["--token", token, "--url", f"http://127.0.0.1:{port}"]
        for argv in (
            ["dead-letters", "list", *here],
            ["commands", "show", str(one), *here],
            ["outbox", "list", "--database-url", database.owner],
            ["audit", "export", "demo", "--out", WORDS, "--database-url", database.owner],
        ):
            done = await asyncio.to_thread(CliRunner().invoke, command_line, argv)
            assert fault_of(done) is None, (argv, done.exception)
            assert "[/b][red]" in done.output, argv
            assert not {"\x1b", "\x07"} & set(done.output), argv


def fault_of(done: Result) -> str | None:
    """What is wrong with how a command ended."""
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return f"a trace: {done.exception!r:.300}"
    if done.exit_code not in CODES:
        return f"exit code {done.exit_code}"
    return "no word" if done.exit_code and not done.output.strip() else None
