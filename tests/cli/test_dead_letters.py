"""`broker dead-letters` against a running app."""

import asyncio
from uuid import UUID

from typer.testing import CliRunner

from app.cli import app as command_line
from app.edges.parts import Parts
from app.edges.server import build
from devstack.tokens import DevIssuer
from tests.support.calls import accept, echo, finish
from tests.support.stack import listening


async def dead(broker: Parts, text: str) -> UUID:
    one = (await accept(broker, echo(text))).written.id
    for attempt in (1, 2, 3):
        await finish(broker, one, attempt=attempt, error={"code": "boom", "message": "no"})
    return one


async def test_the_command_line_lists_shows_redrives_and_discards(
    broker: Parts, issuer: DevIssuer
) -> None:
    one, two = await dead(broker, "a"), await dead(broker, "b")
    async with listening(build(broker.settings, broker)) as port:
        token = issuer.token(tenant="demo", user="olga", scopes=["operator"])

        async def dlq(*argv: str) -> str:
            env = {"MCP_BROKER_TOKEN": token, "MCP_BROKER_URL": f"http://127.0.0.1:{port}"}
            done = await asyncio.to_thread(
                CliRunner().invoke, command_line, ["dead-letters", *argv], env=env
            )
            assert done.exit_code == 0, done.output
            return done.output

        assert str(two) in await dlq("list", "--json")
        assert "command.dead_lettered" in await dlq("show", str(one), "--json")
        assert str(one) not in await dlq("list", "--json", "--code", "other")
        assert '"keys": []' in await dlq("blocked", "--json")
        assert "2 would be redriven" in await dlq("redrive", "--tool", "probe", "--per-s", "1")
        assert "attempt 4" in await dlq("redrive", str(one), "--reason", "again")
        assert "discarded" in await dlq("discard", str(two), "--reason", "useless")
        assert "0 redriven" in await dlq("redrive", "--yes", "--reason", "again")
