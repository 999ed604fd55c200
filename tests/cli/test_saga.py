"""`broker saga` against a running app."""

import asyncio
from dataclasses import replace
from pathlib import Path

from typer.testing import CliRunner

from app.cli import app as command_line
from app.edges.parts import Parts
from app.edges.server import build
from devstack.tokens import DevIssuer
from tests.sagas.test_check import EXAMPLE
from tests.support.stack import listening


async def test_the_command_line_registers_lists_shows_and_plans(
    broker: Parts, issuer: DevIssuer, tmp_path: Path
) -> None:
    settings = broker.settings.model_copy(update={"inline_wait_s": 0.1})
    app = build(settings, replace(broker, settings=settings))
    async with listening(app) as port:
        token = issuer.token(tenant="demo", user="olga", scopes=["tools", "operator"])

        async def saga(*argv: str, code: int = 0) -> str:
            env = {"MCP_BROKER_TOKEN": token, "MCP_BROKER_URL": f"http://127.0.0.1:{port}"}
            done = await asyncio.to_thread(
                CliRunner().invoke, command_line, ["saga", *argv], env=env
            )
            assert done.exit_code == code, done.output
            return done.output

        file = tmp_path / "saga.yml"
        file.write_text(EXAMPLE)
        assert "undo provision: service/deprovision" in await saga(
            "plan", str(file), "--input", '{"name": "web"}'
        )
        assert "no saga 'service'" in await saga("plan", "service", code=1)
        assert "service is at version 1" in await saga("register", str(file))
        assert '"version": 1' in await saga("definitions", "--json")
        assert '"deadline_s": 600' in await saga("definition", "service")
        told = await saga("plan", "service", "--input", '{"name": "web"}')
        assert told.index("undo enable") < told.index("undo provision")
        assert '"name" is a required property' in await saga("plan", "service", code=1)
        accepted = await saga("run", "service", "--input", '{"name": "web"}', "--key", "k")
        one = accepted.split()[-1]
        assert accepted == await saga("run", "service", "--input", '{"name": "web"}', "--key", "k")
        assert one in await saga("list", "--state", "running", "--json")
        assert "provision: pending" in await saga("show", one)
        assert "running" in await saga("cancel", one)
        assert "no ad hoc" in await saga("commit", one, code=1)
        settling = ("settle", one, "provision", "skip", "--reason", "r")
        assert "waits for no operator" in await saga(*settling, code=1)
        file.write_text("steps: [")
        assert "neither JSON nor YAML" in await saga("register", str(file), code=1)
        assert "cannot be read" in await saga("register", str(tmp_path / "none.yml"), code=1)
