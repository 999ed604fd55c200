"""Calls and approvals from the terminal, against a running app; the test is the adapter."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from typer.testing import CliRunner, Result

from app.cli import app as command_line
from app.cli import follow
from app.cli.follow import INTERRUPTED
from app.commands import results
from app.commands.report import Kind, Report
from app.config import Settings
from app.edges.parts import Parts
from app.edges.server import build
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.edges.mcp.conftest import offer
from tests.support.calls import ADAPTER, claim, fetch, finish, policy_of
from tests.support.stack import listening, wait_for

TOOLS = Path(__file__).parent.parent / "edges" / "mcp" / "tools.yml"


STARTED_S = 60
"""In which a process has begun, on a busy machine too."""


class Cut:
    """The app, whose first event streams each break after their first event."""

    def __init__(self, app: ASGIApp, *, cuts: int) -> None:
        self.app = app
        self.cuts = cuts
        self.resumed: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not scope.get("path", "").endswith("/events"):
            await self.app(scope, receive, send)
            return
        self.resumed += [value for name, value in scope["headers"] if name == b"last-event-id"]

        async def sent(message: Message) -> None:
            await send(message)
            if self.cuts and b"event:" in message.get("body", b""):
                self.cuts -= 1
                raise ConnectionResetError("cut on purpose")

        await self.app(scope, receive, sent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """The command line beside a running app."""

    broker: Parts
    port: int
    issuer: DevIssuer
    cut: Cut

    def env(self, *scopes: str, user: str) -> dict[str, str]:
        token = self.issuer.token(tenant="demo", user=user, scopes=scopes or ("tools",))
        return {
            "MCP_BROKER_TOKEN": token,
            "MCP_BROKER_URL": f"http://127.0.0.1:{self.port}",
            "COLUMNS": "300",
        }

    async def typed(self, *argv: str, scope: str = "tools", text: str = "") -> Result:
        env = self.env(scope, user="ada" if scope == "tools" else "olga")
        return await asyncio.to_thread(
            CliRunner().invoke, command_line, list(argv), env=env, input=text
        )

    async def said(self, *argv: str, scope: str = "tools", text: str = "") -> str:
        done = await self.typed(*argv, scope=scope, text=text)
        assert done.exit_code == 0, done.output
        return done.stdout


@pytest.fixture
def settings(database: Dsns, issuer: DevIssuer) -> Settings:
    """An app that waits for nothing unless it is asked to."""
    return settings_of(database.app, issuer, inline_wait_s=0.01)


@pytest.fixture
async def terminal(broker: Parts, issuer: DevIssuer, database: Dsns) -> AsyncIterator[Terminal]:
    await offer(database.owner, TOOLS)
    cut = Cut(build(broker.settings, broker), cuts=0)
    async with listening(cut) as port:
        yield Terminal(broker=broker, port=port, issuer=issuer, cut=cut)


async def newest(dsns: Dsns) -> UUID:
    """The newest command, once there is one."""

    async def look() -> list[Any]:
        return await fetch(dsns.owner, "SELECT id FROM commands ORDER BY id DESC LIMIT 1")

    [row] = await wait_for(look, STARTED_S)
    return row["id"]


async def progress(broker: Parts, command_id: UUID, stage: str, percent: float) -> None:
    await results.progress(
        broker.database.engine,
        adapter=ADAPTER,
        policy=await policy_of(broker, command_id),
        command_id=command_id,
        attempt=1,
        stage=stage,
        percent=percent,
        message=None,
        leases=broker.leases,
    )


ECHO = ("call", "probe/echo", "--arg", "text=hi")


@pytest.mark.parametrize("cuts", [0, 2])
async def test_a_followed_call_tells_its_progress_and_result_over_broken_connections(
    terminal: Terminal, database: Dsns, cuts: int
) -> None:
    terminal.cut.cuts = cuts
    calling = asyncio.create_task(terminal.typed(*ECHO, "--follow"))
    one = await newest(database)
    await claim(terminal.broker, one)
    for stage, percent in (("half\x1b[2J", 50), ("nearly", 90)):
        await progress(terminal.broker, one, stage, percent)
    await finish(terminal.broker, one, result={"text": "hi 🎉"})
    done = await calling
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"text": "hi 🎉"}
    assert f"accepted as {one}" in done.stderr
    assert done.stderr.count("90.0 % · nearly") == 1, "each event is told once"
    assert "\x1b" not in done.stderr
    assert len(terminal.cut.resumed) == cuts, "it went on after what it had heard"


async def test_a_failure_is_words_and_an_exit_code(terminal: Terminal, database: Dsns) -> None:
    calling = asyncio.create_task(terminal.typed(*ECHO, "--follow"))
    one = await newest(database)
    await claim(terminal.broker, one)
    error = {"code": "full", "message": "no room", "retryable": False}
    await finish(terminal.broker, one, error=error)
    done = await calling
    assert (done.exit_code, done.stdout) == (1, "")
    assert "failed: no room" in done.stderr
    again = await terminal.typed("commands", "watch", str(one), "--json")
    assert again.exit_code == 1
    assert json.loads(again.stdout)["error"]["code"] == "full"


def test_an_unknown_outcome_is_told_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = {"status": "error", "state": "timed_out", "outcome_unknown": True}
    assert follow.show(outcome, as_json=False).exit_code == 1
    assert "Nobody knows what it did" in capsys.readouterr().err


async def test_arguments_come_by_name_as_json_or_from_a_file(
    terminal: Terminal, database: Dsns
) -> None:
    said = await terminal.said(
        "call", "git/clone", "--args", "-", "--key", "k",
        "--arg", "depth:=1", "--arg", "repo=/r?a=b",
        text='{"repo": "/r", "dest": "x"}',
    )  # fmt: skip
    one = await newest(database)
    assert said == f"accepted as {one}\n"
    [row] = await fetch(database.owner, "SELECT args, idempotency_key FROM commands")
    assert json.loads(row["args"]) == {"repo": "/r?a=b", "dest": "x", "depth": 1}
    assert row["idempotency_key"] == "k"
    again = json.loads(
        await terminal.said(
            "call", "git/clone", "--key", "k", "--json",
            "--args", "-", text='{"repo": "/r?a=b", "dest": "x", "depth": 1}',
        )
    )  # fmt: skip
    assert again["command_id"] == str(one)


@pytest.mark.parametrize(
    ("argv", "text", "said"),
    [
        (["call", "probe_echo"], "", "is no TOOL/METHOD"),
        (["call", "probe/echo", "--arg", "text"], "", "is no NAME=TEXT"),
        (["call", "probe/echo", "--arg", ":={}"], "", "is no NAME=TEXT"),
        (["call", "probe/echo", "--arg", "text:={"], "", "is not JSON"),
        (["call", "probe/echo", "--args", "-"], "[1]", "no JSON object"),
        (["call", "probe/echo", "--args", "-"], '{"n": NaN}', "NaN"),
        (["call", "probe/echo", "--args", "/nowhere"], "", "cannot be read"),
        (["call", "probe/echo", "--arg", "text:=5"], "", "is not of type"),
        (["call", "nope/nope"], "", "nope"),
        (["call", "probe/echo", "--arg", "text=x", "--key", "🎉"], "", "ascii"),
        (["commands", "cancel"], "", "Name commands, or a filter"),
        (["commands", "show", str(UUID(int=1))], "", "You have no command"),
        (["commands", "watch", str(UUID(int=1))], "", "You have no command"),
    ],
)
async def test_what_is_wrong_is_said_in_a_sentence(
    terminal: Terminal, argv: list[str], text: str, said: str
) -> None:
    done = await terminal.typed(*argv, text=text)
    assert done.exit_code == 1, done.output
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert len(done.stderr) < 500


async def test_commands_are_listed_shown_and_cancelled_by_name_or_by_filter(
    terminal: Terminal, database: Dsns
) -> None:
    for text in ("a", "b", "c"):
        await terminal.said("call", "probe/echo", "--arg", f"text={text}", "--ordering-key", "[k]")
    found = json.loads(await terminal.said("commands", "list", "--json"))["commands"]
    assert len(found) == 3
    told = await terminal.said("commands", "list", "--state", "queued", "--limit", "2")
    assert f"more: --before {found[1]['command_id']}" in told
    link = "https://aap.example/#/jobs/playbook/7"
    await terminal.broker.reports.report(
        Report(
            kind=Kind.RUN,
            adapter=ADAPTER,
            command_id=UUID(found[0]["command_id"]),
            attempt=1,
            run="job:7",
            status="pending",
            link=link,
        )
    )
    shown = await terminal.said("commands", "show", found[0]["command_id"])
    assert all(words in shown for words in ("[k]", "job:7 is pending", link))

    first = await terminal.said("commands", "cancel", found[0]["command_id"])
    assert first == f"{found[0]['command_id']} is cancelled\n"
    seen = await terminal.typed("commands", "cancel", "--tool", "probe")
    assert "2 would be cancelled" in seen.stderr
    assert json.loads(await terminal.said("commands", "list", "--state", "queued", "--json"))[
        "commands"
    ]
    none = await terminal.said("commands", "cancel", "--older-than-s", "3600", "--yes", "--json")
    assert json.loads(none) == {}
    done = await terminal.said("commands", "cancel", "--tool", "probe", "--yes", "--json")
    assert set(json.loads(done).values()) == {"is cancelled"}
    refused = await terminal.typed("commands", "cancel", str(UUID(int=1)), found[0]["command_id"])
    assert refused.exit_code == 1
    assert (
        f"{UUID(int=1)} is not cancelled\n{found[0]['command_id']} is cancelled" in refused.stdout
    )


async def test_an_operator_lets_a_command_go_or_ends_it(terminal: Terminal, database: Dsns) -> None:
    for verb, said, state in (("approve", "approved", "queued"), ("deny", "denied", "cancelled")):
        await terminal.said("call", "policy/operated")
        one = await newest(database)
        shown = json.loads(await terminal.said("commands", "show", str(one), "--json"))
        assert shown["waiting_for"] == "approval by an operator"
        argv = (verb, str(one), "--reason", "seen")
        assert await terminal.said(*argv, scope="operator") == f"{said}\n"
        shown = json.loads(await terminal.said("commands", "show", str(one), "--json"))
        assert (shown["state"], shown.get("waiting_for")) != ("queued", "approval by an operator")
        assert shown["state"] == state
        refused = await terminal.typed(*argv)
        assert refused.exit_code == 1, "a caller is no operator"


async def test_ctrl_c_ends_the_waiting_and_not_the_command(
    terminal: Terminal, database: Dsns
) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "app", *ECHO, "--follow"),
        env=terminal.env(user="ada"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    one = await newest(database)
    await claim(terminal.broker, one)
    await progress(terminal.broker, one, "half", 50)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        while b"half" not in (line := await process.stderr.readline()):
            assert line, "it ended by itself"
        process.send_signal(signal.SIGINT)
        _, told = await process.communicate()
    assert process.returncode == INTERRUPTED
    assert told.decode() == f"it goes on: broker commands watch {one}\n"
    await finish(terminal.broker, one, result={"text": "hi"})
    assert json.loads(await terminal.said("commands", "watch", str(one))) == {"text": "hi"}


async def test_a_bound_is_a_finite_number(terminal: Terminal) -> None:
    done = await terminal.typed("commands", "cancel", "--older-than-s", "nan", "--yes")
    assert done.exit_code == 2
    assert "is no finite number" in done.stderr
