"""The command line: what it prints, and how it fails."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from app import assets
from app.catalog import file as catalog_file
from app.cli import app
from app.config import PREFIX, Settings, WorkerSettings
from devstack.stack import Dsns
from tests.support.calls import fetch

ROOT = assets.root()


SET = [name for name in os.environ if name.startswith(PREFIX)]


def broker(*argv: str) -> Result:
    """Run a command in this process; what it does not expect is no answer."""
    done = CliRunner().invoke(app, argv, env=dict.fromkeys(SET))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


async def beside(*argv: str) -> Result:
    """Run it in a thread, as it has an event loop of its own."""
    return await asyncio.to_thread(broker, *argv)


def test_config_lists_every_setting_with_what_it_is_its_unit_and_when_to_change_it() -> None:
    rows = json.loads(broker("config", "--json").stdout)
    named = {row["variable"]: row for row in rows}
    fields = Settings.model_fields | WorkerSettings.model_fields
    assert {PREFIX + name.upper() for name in fields} == set(named)
    assert named["MCP_BROKER_DATABASE_URL"]["default"] is None
    assert named["MCP_BROKER_INLINE_WAIT_S"]["default"] == "45"
    assert named["MCP_BROKER_INLINE_WAIT_S"]["unit"] == "seconds"
    assert named["MCP_BROKER_SEAL_S"]["deployment"] == "relay"
    assert named["MCP_BROKER_WORKER_GRACE_S"]["deployment"] == "worker"
    assert not [row["variable"] for row in rows if not row["meaning"] or not row["change"]]
    units = {"_S": "seconds", "_MS": "milliseconds", "_BYTES_MAX": "bytes"}
    for suffix, unit in units.items():
        wrong = {
            name
            for name, row in named.items()
            if name.endswith(suffix) and not (row["unit"] or "").startswith(unit)
        }
        assert not wrong, unit


def test_config_for_people_is_grouped_by_deployment() -> None:
    shown = broker("config").stdout
    titles = ("App and relay", "The app", "The relay", "The worker")
    places = [shown.index(title) for title in titles]
    assert places == sorted(places)
    assert "MCP_BROKER_KAFKA_BOOTSTRAP" in shown[places[2] :]


def test_serve_without_settings_says_which_one_is_missing() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "app", "serve"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in SET},
        timeout=60,
    )
    assert done.returncode == 1
    assert "database_url" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_catalog_is_refused_with_its_place(tmp_path: Path) -> None:
    bad = tmp_path / "catalog.yml"
    bad.write_text("tools: [{tool: a, method: b, description: x, input_schema: {type: array}}]")
    done = broker("catalog", "check", str(bad))
    assert done.exit_code == 1
    assert "tools.0" in done.stderr
    assert "type: object" in done.stderr


async def test_catalog_and_tenant_are_applied_and_an_unchanged_catalog_is_nothing_new(
    database: Dsns, tmp_path: Path
) -> None:
    shipped = str(catalog_file.SHIPPED)
    url = ["--database-url", database.owner]
    done = await beside("catalog", "apply", shipped, *url)
    assert done.stdout.strip() == "applied: nothing new"
    one = tmp_path / "catalog.yml"
    one.write_text("tools: [{tool: a, method: b, description: x, input_schema: {type: object}}]")
    done = await beside("catalog", "apply", str(one), "--prune", "--json", *url)
    names = {entry.made().name for entry in catalog_file.parse(Path(shipped)).tools}
    told = json.loads(done.stdout)
    assert told["applied"] == ["a_b"]
    assert set(told["retired"]) == names
    changes = await fetch(database.owner, CHANGES)
    assert {(row["tenant_id"], row["type"]) for row in changes} == {("_broker", "tool.changed")}
    by_tool = {row["tool"]: row for row in changes}
    assert json.loads(by_tool["a"]["after"])["description"] == "x"
    assert json.loads(by_tool["git"]["before"]) == {"retired_at": None}
    assert len(changes) == 1 + len(names)


CHANGES = """
    SELECT tenant_id, type, actor, user_id, tool, body ->> 'change' AS change,
           body ->> 'before' AS before, body ->> 'after' AS after
      FROM audit.events
     ORDER BY xid, occurred_at, event_id
"""


async def test_a_tenant_changes_only_in_what_is_given_and_each_change_is_audited(
    database: Dsns,
) -> None:
    async def tenant(verb: str, *options: str, code: int = 0) -> str:
        done = await beside("tenant", verb, "acme", "--database-url", database.owner, *options)
        assert done.exit_code == code, done.output
        return done.stdout + done.stderr

    async def last() -> tuple[str, Any, Any]:
        row = (await fetch(database.owner, CHANGES))[-1]
        assert row["tenant_id"] == "acme"
        assert row["actor"].startswith("db:")
        return row["change"], json.loads(row["before"]), json.loads(row["after"])

    assert "no tenant 'acme'" in await tenant("grant", "--allow", "git/*", code=1)
    assert "made" in await tenant("put", "--weight", "3", "--rate-per-s", "5", "--title", "Acme")
    change, before, after = await last()
    assert (change, before, after["weight"], after["rate_per_s"]) == ("insert", {}, 3, 5)
    await tenant("grant", "--allow", "a/*", "--deny", "user:bob=a/b", "--allow", "group:ops=*")
    assert "1 grants added, 1 were there" in await tenant(
        "grant", "--allow", "a/*", "--deny", "*/x"
    )
    await tenant("put", "--suspended")
    assert await last() == ("update", {"state": "active"}, {"state": "suspended"})
    seen = len(await fetch(database.owner, CHANGES))
    await tenant("put", "--suspended", "--weight", "3")
    assert len(await fetch(database.owner, CHANGES)) == seen, "nothing changed"
    await tenant("put", "--active", "--unset", "rate_per_s")
    assert (await last())[1:] == (
        {"state": "suspended", "rate_per_s": 5},
        {"state": "active", "rate_per_s": None},
    )
    shown = json.loads(await tenant("show", "--json"))
    assert (shown["weight"], shown["state"], shown["rate_per_s"]) == (3, "active", None)
    assert len(shown["grants"]) == 4
    await tenant("revoke", "--deny", "user:bob=a/b")
    assert (await last())[1]["subject"] == "bob"
    [granted, revoked] = [row for row in await fetch(database.owner, CHANGES) if row["user_id"]]
    assert (granted["change"], revoked["change"], revoked["user_id"]) == ("insert", "delete", "bob")
    assert "1 were not there" in await tenant("revoke", "--deny", "user:bob=a/b", code=1)
    for wrong in (["--weight", "0"], ["--unset", "weight"], ["--unset", "rate_per_s"]):
        more = ["--rate-per-s", "1"] if wrong[1] == "rate_per_s" else []
        assert await tenant("put", *wrong, *more, code=2 if wrong[0] == "--weight" else 1)
    assert "write PATTERN" in await tenant("grant", "--deny", "user:bob", code=1)
    nowhere = f"{database.owner}-not"
    away = await beside("tenant", "show", "acme", "--database-url", nowhere)
    assert away.exit_code == 1
    assert "does not exist" in away.stderr
    named = await beside("tenant", "put", "Not One", "--database-url", database.owner)
    assert named.exit_code == 1


def test_the_plan_of_an_up_to_date_database_is_empty(database: Dsns) -> None:
    assert broker("migrate", "--plan", "--database-url", database.owner).stdout == ""


def test_the_command_line_starts_without_what_only_servers_and_imports_need() -> None:
    slow = {"fastapi", "grpc", "mcp", "starlette"}
    program = f"import app.cli, sys; print(*{slow} & set(sys.modules))"
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
