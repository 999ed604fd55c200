"""The commands that the papers show with a placeholder, each with a value that is there."""

import asyncio
import re
import shlex
from typing import Final
from uuid import UUID, uuid4

import pytest
from typer.testing import CliRunner

from app.cli import app as command_line
from app.commands import holds
from app.edges.server import build
from app.intake.prepare import CallRequest
from devstack.tokens import DevIssuer
from tests.edges.http.test_dead_letters import doubtful
from tests.edges.mcp.conftest import offer
from tests.sagas.lab import Lab
from tests.sagas.test_runs import CHAIN, FAILED
from tests.support.calls import accept, echo
from tests.support.papers import ROOT, Piece, commands
from tests.support.stack import listening

PAGES: Final = {"docs/OPERATORS.md", "docs/SAGAS.md", "docs/SECURITY.md"}
"""AUDITORS.md has a test of its own."""
ELSEWHERE: Final = {"audit accept-restore"}
"""It wants a database that was put back: tests/audit/test_restore.py."""
PLACEHOLDER: Final = re.compile(r"(?<!\w)…|\b[A-Z]{2,}\b")
PARK: Final = """
    UPDATE outbox SET status = 'parked', refusal = 'too large', refused_at = now()
     WHERE command_id = $1
    RETURNING id
"""


def shown() -> dict[str, Piece]:
    """By the command's name; where two pages show one, they show the same."""
    found = [one for one in commands() if one.page in PAGES and PLACEHOLDER.search(one.text)]
    told = {name_of(one): one for one in found if one.text.startswith("broker ")}
    others = [one for one in found if name_of(one) in told and told[name_of(one)].text != one.text]
    assert not others, f"say it as it is said elsewhere: {others}"
    return {name: one for name, one in told.items() if name not in ELSEWHERE}


def name_of(one: Piece) -> str:
    return " ".join(one.text.split()[1:3])


async def undone_in_part(lab: Lab) -> UUID:
    """A saga whose undo of step b failed, which waits for an operator."""
    saga_id = await lab.run(CHAIN)
    await lab.do(saga_id, "a")
    await lab.do(saga_id, "b")
    await lab.do(saga_id, "c", **FAILED)
    await lab.do(saga_id, "undo b", **FAILED)
    return saga_id


async def waiting(lab: Lab) -> str:
    """A command that waits for an operator's approval."""
    request = CallRequest(tool="policy", method="operated", args={}, idempotency_key=str(uuid4()))
    return str((await accept(lab.broker, request)).written.id)


async def filled(lab: Lab) -> dict[str, list[list[tuple[str, str]]]]:
    """What to put in place of what, for each run of each command."""
    blocked = await doubtful(lab.broker, lab.dsns, ordering_key="k")
    call = (await accept(lab.broker, echo("large"))).written.id
    row = await lab.owner.fetchval(PARK, call)
    await offer(lab.dsns.owner, ROOT / "tests/edges/mcp/tools.yml")
    saga = str(await undone_in_part(lab))
    held = await holds.place(
        lab.broker.database.engine,
        "demo",
        holds.Which(ordering_key="none"),
        effect="wait",
        reason="r",
        until=None,
        actor="operator:olga",
    )
    settled = [(verb, str(await undone_in_part(lab))) for verb in ("retry", "skip", "resolve")]
    return {
        "migrate --database-url": [[("…", lab.dsns.owner)]],
        "approve ID": [[("ID", await waiting(lab))]],
        "deny ID": [[("ID", await waiting(lab))]],
        "dead-letters resolve": [[("ID", str(blocked))]],
        "outbox redrive": [[("ROW…", str(row)), ("…", "mended")]],
        "release ID": [[("ID", str(held.hold.id))]],
        "saga register": [[("FILE", "examples/service_saga.yml")]],
        "saga show": [[("ID", saga)]],
        "saga settle": [
            [
                ("ID", one),
                ("STEP", "b"),
                ("retry|skip|resolve", verb),
                ("[--outcome …]", "--outcome compensated" if verb == "resolve" else ""),
                ("…", "seen"),
            ]
            for verb, one in settled
        ],
        "tenant grant": [[("ID", "demo"), ("NAME", "bob")]],
        "tenant put": [[("ID", "demo")]],
    }


async def test_the_commands_with_placeholders_are_taken_once_these_are_filled(
    lab: Lab, issuer: DevIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # the pages name files from there
    told, values = shown(), await filled(lab)
    assert told.keys() == values.keys(), "say above what is to be filled in"
    async with listening(build(lab.broker.settings, lab.broker)) as port:
        env = {
            "MCP_BROKER_DATABASE_URL": lab.dsns.owner,
            "MCP_BROKER_TOKEN": issuer.token(
                tenant="demo", user="olga", scopes=["tools", "operator"]
            ),
            "MCP_BROKER_URL": f"http://127.0.0.1:{port}",
        }
        for name, runs in values.items():
            for run in runs:
                line = told[name].text
                for placeholder, value in run:
                    assert placeholder in line, f"{told[name]}: {placeholder}"
                    line = line.replace(placeholder, value)
                argv = shlex.split(line)[1:]
                done = await asyncio.to_thread(CliRunner().invoke, command_line, argv, env=env)
                assert done.exit_code == 0, f"{told[name]}: {line}: {done.output}"
