"""`broker status` on real tables, as the role that reads figures and nothing else."""

import asyncio
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from app.cli import app as command_line
from app.cli.status import age
from app.edges.parts import Parts
from devstack.stack import Dsns
from tests.support.calls import EVE, accept, claim, delete, echo, finish


async def status(dsn: str, *argv: str) -> Result:
    env = {"MCP_BROKER_DATABASE_URL": dsn, "COLUMNS": "120"}
    return await asyncio.to_thread(CliRunner().invoke, command_line, ["status", *argv], env=env)


async def test_one_screen_tells_of_queue_window_executor_and_what_waits_for_a_person(
    broker: Parts, database: Dsns
) -> None:
    one = (await accept(broker, echo("a"))).written.id
    for attempt in (1, 2, 3):
        await claim(broker, one, attempt=attempt)
        await finish(broker, one, attempt=attempt, error={"code": "boom", "message": "hunter2"})
    two = (await accept(broker, delete("b"))).written.id
    await claim(broker, two)
    await accept(broker, echo("c"), who=EVE)
    shown = await status(database.observer)
    assert shown.exit_code == 0, shown.output
    lines = {" ".join(line.replace("│", " ").split()) for line in shown.output.splitlines()}
    assert "Waiting for a person" in lines
    assert any(line.startswith("demo dead letter 1 ") for line in lines)
    assert any(line.startswith("eda git.delete 0 ") for line in lines)
    assert "Audit seals: none yet" in lines
    assert "hunter2" not in shown.output
    found = await as_json(database)
    tenants = {row["tenant_id"]: row for row in found["tenants"]}
    demo, other = tenants["demo"], tenants["other"]
    assert (demo["calls_1h"], demo["error_rate"], demo["in_flight"]) == (1, 1.0, 1)
    assert (other["queued"], other["in_flight"], other["calls_1h"]) == (1, 0, 0)
    assert {row["status"] for row in found["outbox"]} >= {"ready"}


async def as_json(database: Dsns) -> dict[str, Any]:
    done = await status(database.observer, "--json")
    assert done.exit_code == 0, done.output
    return orjson.loads(done.stdout)


async def test_an_empty_broker_has_a_screen_too(database: Dsns) -> None:
    shown = await status(database.observer)
    assert shown.exit_code == 0, shown.output
    for words in ("Waiting for a person: nothing", "Outbox: empty", "Executors: nothing"):
        assert words in shown.output


@pytest.mark.parametrize("dsn", ["nonsense", "postgresql://127.0.0.1:1/none"])
async def test_what_keeps_it_from_looking_is_said_without_a_trace(dsn: str) -> None:
    refused = await status(dsn)
    assert refused.exit_code == 1
    assert "Traceback" not in refused.output
    assert refused.stderr.strip()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(None, "-"), (-3, "0.0 s"), (0.25, "0.2 s"), (59.9, "59.9 s"), (60, "1 min"), (7200, "2 h")],
)
def test_an_age_has_the_largest_unit_that_fits(seconds: float | None, told: str) -> None:
    assert age(seconds) == told
