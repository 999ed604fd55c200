"""`broker hold`, `holds` and `release` against a running app, and `broker status` beside it."""

import asyncio
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from app.cli import app as command_line
from app.edges.parts import Parts
from app.edges.server import build
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.cli.test_status import as_json, status
from tests.support.calls import accept, echo
from tests.support.stack import listening


@pytest.mark.guarantee("holds:kept")
async def test_the_command_line_previews_places_lists_and_releases(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    await accept(broker, echo("x"))
    async with listening(build(broker.settings, broker)) as port:
        token = issuer.token(tenant="demo", user="olga", scopes=["operator"])
        env = {"MCP_BROKER_TOKEN": token, "MCP_BROKER_URL": f"http://127.0.0.1:{port}"}

        async def broker_(*argv: str, code: int = 0) -> str:
            done = await asyncio.to_thread(
                CliRunner().invoke, command_line, argv, env=env | {"COLUMNS": "200"}
            )
            assert done.exit_code == code, done.output
            return done.output

        async def told(*argv: str) -> Any:
            return orjson.loads(await broker_(*argv, "--json"))

        asked = ("hold", "--tool", "probe/echo", "--arg", "/text=x", "--reason", "mending")
        assert "1 calls would wait; 0 are past it" in await broker_(*asked, "--dry-run")
        assert (await told("holds"))["holds"] == []
        placed = await told(*asked, "--until", "2099-01-31T09:00:00Z")
        assert (placed["queued"], placed["leaving"]) == (1, 0)
        shown = await broker_("holds")
        assert "probe/echo, /text = 'x'" in shown
        assert placed["hold_id"] in shown
        assert "argument probe.echo" in " ".join((await status(database.observer)).output.split())
        [row] = (await as_json(database))["holds"]
        assert (row["hold_id"], row["waiting"], row["effect"]) == (placed["hold_id"], 1, "wait")
        assert "released" in await broker_("release", placed["hold_id"], "--reason", "mended")
        assert (await told("holds"))["holds"] == []
        [ended] = (await told("holds", "--ended"))["holds"]
        assert ended["released_by"] == "operator:olga"
        many = ("hold", "--all-calls", "--effect", "refuse", "--reason", "cutover")
        assert len((await broker_(*many)).split()[0]) == 36
        for bad in (
            ("hold", "--reason", "of nothing"),
            ("hold", "--arg", "text=x", "--reason", "r"),
            ("hold", "--arg", "/text:=nonsense", "--reason", "r"),
            ("hold", "--tool", "nowhere", "--reason", "r"),
            ("release", placed["hold_id"], "--reason", "again"),
        ):
            assert "Traceback" not in await broker_(*bad, code=1)
