"""The command line: what it prints, and how it fails."""

import json
import subprocess
import sys
from pathlib import Path

from app import catalog_file
from app.devstack.stack import Dsns
from tests.kernel.calls import fetch

ROOT = Path(__file__).resolve().parents[1]


def broker(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "app", *argv], capture_output=True, text=True, check=False, cwd=ROOT
    )


def test_config_lists_every_setting_with_its_meaning() -> None:
    rows = json.loads(broker("config", "--json").stdout)
    named = {row["variable"]: row for row in rows}
    assert named["MCP_BROKER_DATABASE_URL"]["default"] is None
    assert named["MCP_BROKER_INLINE_WAIT_S"]["default"] == "45"
    assert all(row["meaning"] for row in rows), [r["variable"] for r in rows if not r["meaning"]]


def test_serve_without_settings_says_which_one_is_missing() -> None:
    done = broker("serve")
    assert done.returncode == 1
    assert "database_url" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_catalog_is_refused_with_its_place(tmp_path: Path) -> None:
    bad = tmp_path / "catalog.yml"
    bad.write_text("tools: [{tool: a, method: b, description: x, input_schema: {type: array}}]")
    done = broker("catalog", "check", str(bad))
    assert done.returncode == 1
    assert "tools.0" in done.stderr
    assert "type: object" in done.stderr


async def test_catalog_and_tenant_are_applied_and_an_unchanged_catalog_is_nothing_new(
    database: Dsns, tmp_path: Path
) -> None:
    shipped = str(ROOT / "app" / "catalog.yml")
    url = ["--database-url", database.owner]
    assert broker("catalog", "apply", shipped, *url).stdout.strip() == "applied: nothing new"
    one = tmp_path / "catalog.yml"
    one.write_text("tools: [{tool: a, method: b, description: x, input_schema: {type: object}}]")
    done = broker("catalog", "apply", str(one), "--prune", "--json", *url)
    names = {entry.made().name for entry in catalog_file.parse(Path(shipped)).tools}
    told = json.loads(done.stdout)
    assert told["applied"] == ["a_b"]
    assert set(told["retired"]) == names
    done = broker("tenant", "put", "acme", *url, "--allow", "a/*", "--deny", "user:bob=a/b")
    assert done.returncode == 0, done.stderr
    rows = await fetch(database.owner, "SELECT * FROM grants WHERE tenant_id = 'acme'")
    assert {(row["subject_kind"], row["subject"], row["effect"]) for row in rows} == {
        ("tenant", "*", "allow"),
        ("user", "bob", "deny"),
    }


def test_the_plan_of_an_up_to_date_database_is_empty(database: Dsns) -> None:
    assert broker("migrate", "--plan", "--database-url", database.owner).stdout == ""
