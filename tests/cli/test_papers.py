"""The commands and calls that the papers show, against a running app."""

import asyncio
import re
import subprocess
from dataclasses import replace

import httpx2
import pytest
from typer.testing import CliRunner

from app.cli import app as command_line
from app.edges.parts import Parts
from app.edges.server import build
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.support.papers import ROOT, Piece, blocks, commands, words
from tests.support.stack import listening

FAMILIES = {"catalog", "tenant", "outbox", "dead-letters", "saga"}
READS = {"list", "definitions", "blocked"}
PLACEHOLDER = re.compile(r"…|\||^[A-Z]+$")


def shown(page: str) -> list[Piece]:
    """The page's commands that are whole, in its order: one may build on those before it."""
    return [
        one
        for one in sorted(commands(), key=lambda one: one.line)
        if one.page == page and is_whole(words(one.text))
    ]


def is_whole(said: list[str]) -> bool:
    if len(said) < 3 or said[0] != "broker" or said[1] not in FAMILIES:
        return False
    if said[1:3] == ["saga", "show"]:
        return said[3] != "ID"
    return not any(map(PLACEHOLDER.search, said)) and (len(said) > 3 or said[2] in READS)


async def test_the_commands_of_operators_and_of_authors_of_sagas_are_taken(
    broker: Parts, database: Dsns, issuer: DevIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)  # the pages name files from there
    settings = broker.settings.model_copy(update={"inline_wait_s": 0.1})
    async with listening(build(settings, replace(broker, settings=settings))) as port:
        env = {
            "MCP_BROKER_DATABASE_URL": database.owner,
            "MCP_BROKER_TOKEN": issuer.token(
                tenant="demo", user="olga", scopes=["tools", "operator"]
            ),
            "MCP_BROKER_URL": f"http://127.0.0.1:{port}",
        }
        told = [*shown("docs/OPERATORS.md"), *shown("docs/SAGAS.md")]
        assert len(told) > 12
        last = ""
        for one in told:
            argv = [last if word == "019f…" else word for word in words(one.text)[1:]]
            done = await asyncio.to_thread(CliRunner().invoke, command_line, argv, env=env)
            assert done.exit_code == 0, f"{one}: {done.output}"
            last = done.output.split()[-1] if done.output.split() else ""


async def test_the_calls_over_plain_http_are_accepted(broker: Parts, issuer: DevIssuer) -> None:
    settings = broker.settings.model_copy(update={"inline_wait_s": 0.1})
    token = issuer.token(tenant="demo", user="ada", scopes=["tools"])
    async with listening(build(settings, replace(broker, settings=settings))) as port:
        here = f"http://127.0.0.1:{port}"
        [body] = [one.text for one in blocks() if one.text.startswith('{"tool"')]
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        async with httpx2.AsyncClient(headers=headers) as client:
            answer = await client.post(f"{here}/mcp/tools/call", content=body)
        assert answer.status_code == 202, f"docs/CLIENTS.md: {answer.text}"
        [curl] = [one.text for one in commands() if one.text.startswith("curl ")]
        typed = curl.replace("$(make -s token)", token).replace("http://127.0.0.1:8080", here)
        assert here in typed
        assert token in typed
        argv = ["bash", "-c", typed]
        done = await asyncio.to_thread(
            subprocess.run, argv, capture_output=True, text=True, check=False
        )
        assert '"status":"accepted"' in done.stdout.replace(" ", ""), f"CONTRIBUTING.md: {done}"
