"""`broker hold --all-tenants`: a hold a tenant, by the database's owner, placed and released so."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner

from app.cli import app as command_line
from app.commands import holds
from app.edges.parts import Parts
from app.errors import HeldError
from devstack.stack import Dsns
from tests.support.calls import EVE, accept, delete, echo, fetch
from tests.support.stack import wait_for

ROWS = "SELECT * FROM holds ORDER BY id"
HOLD = ("hold", "--all-tenants", "--tool", "probe/echo", "--reason", "a new release")
Broker = Callable[..., Awaitable[str]]


@pytest.fixture
def broker_(database: Dsns) -> Broker:
    env = {"MCP_BROKER_DATABASE_URL": database.owner, "COLUMNS": "200"}

    async def run(*argv: str, code: int = 0, **more: str) -> str:
        done = await asyncio.to_thread(CliRunner().invoke, command_line, argv, env=env | more)
        assert done.exit_code == code, done.output
        assert "Traceback" not in done.output
        return done.output

    return run


@pytest.mark.guarantee("holds:kept")
async def test_the_owner_holds_a_tool_for_every_tenant_and_lets_it_go_again(
    broker: Parts, database: Dsns, broker_: Broker
) -> None:
    await accept(broker, echo("x"))
    own = await holds.place(
        broker.database.engine,
        "demo",
        holds.Which(tool="probe", method="echo"),
        effect="wait",
        reason="mine",
        until=None,
        actor="operator:olga",
    )

    async def told(*argv: str) -> list[dict[str, Any]]:
        return orjson.loads(await broker_(*argv, "--json"))["tenants"]

    would = await told(*HOLD, "--dry-run")
    assert [(one["tenant_id"], one["queued"]) for one in would] == [("demo", 1), ("other", 0)]
    assert len(await fetch(database.owner, ROWS)) == 1, "a dry run does nothing"
    placed = await told(*HOLD, "--effect", "refuse", "--until", "2099-01-31T09:00:00Z")
    assert [(one["tenant_id"], one["state"]) for one in placed] == [
        ("demo", "held"),
        ("other", "held"),
    ]
    again = await told(*HOLD, "--effect", "refuse")
    assert {one["state"] for one in again} == {"was there"}

    async def refused() -> bool:
        try:
            await accept(broker, echo("y"), EVE)
        except HeldError:
            return True
        return False

    await wait_for(refused)
    assert (await accept(broker, delete("z"), EVE)).hold is None
    rows = await fetch(database.owner, ROWS)
    [login] = {row["placed_by"] for row in rows if row["id"] != own.hold.id}
    assert login.startswith("db:")
    listed = orjson.loads(await broker_("holds", "--all-tenants", "--json"))["holds"]
    assert sorted(one["tenant_id"] for one in listed) == ["demo", "demo", "other"]
    assert "a new release" in await broker_("holds", "--all-tenants")
    gone = await told("release", "--all-tenants", "--tool", "probe/echo", "--reason", "done")
    assert [(one["tenant_id"], one["state"]) for one in gone] == [
        ("demo", "released"),
        ("other", "released"),
    ]
    rows = await fetch(database.owner, ROWS)
    kept = [row["id"] for row in rows if row["released_at"] is None]
    assert kept == [own.hold.id], "what an operator holds stays"
    events = await fetch(
        database.owner,
        "SELECT tenant_id, type, actor FROM audit.events WHERE actor = $1 ORDER BY xid, tenant_id",
        login,
    )
    assert [(one["tenant_id"], one["type"]) for one in events] == [
        ("demo", "hold.placed"),
        ("other", "hold.placed"),
        ("demo", "hold.released"),
        ("other", "hold.released"),
    ]


@pytest.mark.guarantee("holds:kept")
async def test_a_tenant_that_has_as_many_as_it_may_keeps_no_other_from_being_held(
    broker: Parts, database: Dsns, broker_: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holds, "HOLDS_MAX", 1)
    await holds.place(
        broker.database.engine,
        "demo",
        holds.Which(tool="git"),
        effect="wait",
        reason="mine",
        until=None,
        actor="operator:olga",
    )
    said = await broker_(*HOLD, code=1)
    assert "refused: There are 1 holds in force" in said
    rows = await fetch(database.owner, ROWS)
    assert sorted(row["tenant_id"] for row in rows) == ["demo", "other"]


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (("hold", "--all-tenants", "--reason", "of nothing"), 1),
        (("hold", "--all-tenants", "--tool", "nowhere", "--reason", "r"), 1),
        (("hold", "--all-tenants", "--tool", "probe", "--until", "soon", "--reason", "r"), 1),
        (("hold", "--all-tenants", "--tool", "probe", "--all-calls", "--reason", "r"), 1),
        (("hold", "--all-tenants", "--arg", "/a//b=1", "--reason", "r"), 1),
        (("hold", "--tool", "probe", "--reason", "r"), 2),
        (("release", "--reason", "r"), 1),
        (("release", "--all-tenants", "--reason", "r"), 1),
        (("release", "--tool", "probe", "--reason", "r"), 1),
        (("holds", "--all-tenants", "--ended"), 1),
    ],
)
async def test_what_names_nothing_is_refused_and_holds_nothing(
    database: Dsns, broker_: Broker, argv: tuple[str, ...], code: int
) -> None:
    await broker_(*argv, code=code, MCP_BROKER_TOKEN="")
    assert await fetch(database.owner, ROWS) == []


async def test_no_other_login_holds_for_every_tenant(database: Dsns) -> None:
    for url in (database.app, database.auditor, database.observer):
        env = {"MCP_BROKER_DATABASE_URL": url}
        done = await asyncio.to_thread(CliRunner().invoke, command_line, HOLD, env=env)
        assert done.exit_code == 1, done.output
        assert "Traceback" not in done.output
    assert await fetch(database.owner, ROWS) == []
