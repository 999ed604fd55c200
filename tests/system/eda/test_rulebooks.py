"""The rulebooks are valid, in step with the catalog, and leave no command without a rule."""

import json
import os
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from app import assets
from app.catalog import file as catalog_file

ROOT = assets.root()
BOOKS = ["rulebook_mcp.yml", "rulebook_mcp_aap.yml"]
PAIR = re.compile(r'event\.body\.tool == "(\w+)" and event\.body\.method == "(\w+)"')
OTHER = re.compile(r'event\.body\.tool != "(\w+)" or event\.body\.method != "(\w+)"')


def load(book: str) -> Any:
    return yaml.safe_load((ROOT / "rulebooks" / book).read_text())


@pytest.mark.parametrize("book", BOOKS)
def test_a_rulebook_is_valid_by_ansible_rulebooks_own_schema(book: str) -> None:
    schema = json.loads(
        resources.files("ansible_rulebook").joinpath("schema/ruleset_schema.json").read_text()
    )
    validator = jsonschema_rs.validator_for(schema)
    assert [error.message for error in validator.iter_errors(load(book))] == []
    assert not validator.is_valid([{"name": "x", "rules": []}]), "the schema refuses something"


@pytest.mark.parametrize("book", BOOKS)
def test_every_tool_has_one_rule_and_the_rest_goes_to_the_dead_letters(book: str) -> None:
    rules = load(book)[0]["rules"]
    watchdog, named, last = rules[:2], rules[2:-1], rules[-1]
    probes = ["event.mcp_probe is defined", "event.mcp_alive is defined"]
    assert [rule["condition"] for rule in watchdog] == probes
    pairs = [PAIR.findall(rule["condition"]) for rule in named]
    assert all(len(pair) == 1 for pair in pairs)
    taken = [pair[0] for pair in pairs]
    assert len(set(taken)) == len(taken)
    assert last["name"] == "default_deadletter"
    # Without the first two, a record that has no tool or method would be taken by no rule at all.
    # A probe of the watchdog, and what is set by it, has no body.
    lacking = "event.body is defined and (event.body.tool is not defined"
    lacking += " or event.body.method is not defined or ("
    assert last["condition"].startswith(lacking)
    assert OTHER.findall(last["condition"]) == taken
    shipped = catalog_file.parse(catalog_file.SHIPPED)
    assert {(tool.tool, tool.method) for tool in shipped.tools} == set(taken)
    assert load(book)[0]["execution_strategy"] == "parallel"


def test_every_rule_names_a_playbook_that_exists_and_parses() -> None:
    names = [rule["action"]["run_playbook"]["name"] for rule in load(BOOKS[0])[0]["rules"][2:]]
    paths = [ROOT / name.replace("{{ playbooks }}", "playbooks") for name in names]
    env = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "rulebooks" / "collections"),
        "ANSIBLE_LOCALHOST_WARNING": "false",
    }
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            "--syntax-check",
            "-i",
            ROOT / "rulebooks" / "inventory.yml",
            *paths,
        ],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    templates = [
        rule["action"]["run_job_template"]["name"] for rule in load(BOOKS[1])[0]["rules"][2:]
    ]
    assert templates == [path.stem for path in paths], "AAP's job templates are the playbooks"


def test_every_adapter_keeps_its_claim_out_of_the_log() -> None:
    for path in (ROOT / "playbooks").glob("*.yml"):
        for play in yaml.safe_load(path.read_text()):
            for task in play["tasks"]:
                if task.get("mcpbroker.eda.broker", {}).get("op") == "claim":
                    assert task["no_log"] is True, path.name


def test_no_adapter_takes_a_template_from_the_event() -> None:
    # Ansible trusts extra variables as templates; a claim's answer is data, whatever is in it.
    for path in (ROOT / "playbooks").rglob("*.yml"):
        assert not re.search(r"ansible_eda|mcp_command", path.read_text()), path.name
