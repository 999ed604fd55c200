"""Rulebooks are rendered from the catalog; the shipped ones are the shipped catalog's."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from app.catalog import rulebook
from app.cli import app
from tests.support.offers import ECHO, MIRROR


@pytest.mark.parametrize("book", ["local", "aap"])
def test_the_shipped_rulebooks_are_what_the_command_writes(book: rulebook.Book) -> None:
    done = CliRunner().invoke(app, ["catalog", "rulebook", "--for", book])
    assert done.exit_code == 0, done.output
    assert done.stdout == rulebook.shipped(book), "broker catalog rulebook --for … > rulebooks/…"


def test_each_tool_that_eda_has_gets_its_rule_and_the_workers_get_none(home: Path) -> None:
    eda = {"kind": "echo", "target": "mirror", "runs_on": "eda"}
    named = {"kind": "playbook", "playbook": "any_name"}
    tools: list[dict[str, Any]] = [
        ECHO | {"method": "worker"},
        ECHO | {"method": "eda", "adapter": eda},
        ECHO | {"method": "named", "adapter": named},
        {name: value for name, value in ECHO.items() if name != "adapter"} | {"method": "plain"},
    ]
    path = home / "catalog.yml"
    path.write_text(yaml.safe_dump({"tools": tools, "targets": [MIRROR]}))
    done = CliRunner().invoke(app, ["catalog", "rulebook", str(path)])
    assert done.exit_code == 0, done.output
    *_, one, two, three, rest = yaml.safe_load(done.stdout)[0]["rules"]
    assert [rule["name"] for rule in (one, two, three)] == ["kind_eda", "kind_named", "kind_plain"]
    named_by = [rule["action"]["run_playbook"]["name"] for rule in (one, two, three)]
    assert [name.removeprefix("{{ playbooks }}/") for name in named_by] == [
        "mcp_adapter.yml",
        "any_name.yml",
        "mcp_kind_plain_adapter.yml",
    ]
    for rule in (one, two, three):
        leaves = rule["condition"].replace("==", "!=").replace(" and ", " or ")
        assert f"({leaves})" in rest["condition"], "what a rule takes is no dead letter"
    assert '"worker"' not in done.stdout


def test_a_catalog_without_tools_leaves_all_to_the_dead_letters(home: Path) -> None:
    path = home / "catalog.yml"
    path.write_text("tools: []")
    done = CliRunner().invoke(app, ["catalog", "rulebook", str(path), "--for", "aap"])
    rules = yaml.safe_load(done.stdout)[0]["rules"]
    assert [rule["name"] for rule in rules] == ["watchdog", "watchdog_answer", "default_deadletter"]
    assert rules[-1]["condition"] == "event.body is defined"


def test_how_a_controller_launches_a_tool_stands_in_its_rule(home: Path) -> None:
    launches: list[dict[str, Any]] = [
        {},
        {"job_template": "Any name: 1", "limit": "web", "verbosity": 2, "job_tags": "on"},
        {"inventory": 7, "execution_environment": 3, "instance_groups": [1, 2], "labels": ["mcp"]},
        {"workflow_template": "flow", "organization": "Ops"},
    ]
    tools = [
        ECHO
        | {"method": f"m{n}", "adapter": {"kind": "playbook", "playbook": "own_name", "aap": aap}}
        for n, aap in enumerate(launches)
    ]
    path = home / "catalog.yml"
    path.write_text(yaml.safe_dump({"tools": tools}))
    done = CliRunner().invoke(app, ["catalog", "rulebook", str(path), "--for", "aap"])
    assert done.exit_code == 0, done.output
    plain, named, placed, flow = (
        rule["action"] for rule in yaml.safe_load(done.stdout)[0]["rules"][2:-1]
    )
    trace = "{{ event.meta.headers.traceparent | default('') }}"
    variables = {"extra_vars": {"mcp_command": "{{ event.body }}", "TRACEPARENT": trace}}
    assert plain["run_job_template"] == {
        "name": "own_name",
        "organization": "Default",
        "job_args": {"limit": ""} | variables,
    }
    assert named["run_job_template"]["name"] == "Any name: 1"
    args = {"limit": "web", "verbosity": 2, "job_tags": "on"}
    assert named["run_job_template"]["job_args"] == args | variables
    args = {"limit": "", "inventory": 7, "execution_environment": 3}
    args |= {"instance_groups": [1, 2]}
    assert placed["run_job_template"]["job_args"] == args | variables
    labels = ["mcp", "{{ event.body.correlation_id }}"]
    assert placed["run_job_template"]["labels"] == labels, "a job is found by its command"
    assert flow["run_workflow_template"]["name"] == "flow"
    assert flow["run_workflow_template"]["organization"] == "Ops"


@pytest.mark.parametrize(
    "aap",
    [
        {"job_template": "a", "workflow_template": "b"},
        {"workflow_template": "b", "verbosity": 1},
        {"inventory": "by name"},
        {"limit": '{{ lookup("pipe", "id") }}'},
        {"labels": ["a\nb"]},
        {"other": 1},
    ],
)
def test_what_no_controller_takes_is_refused_in_the_catalog(
    aap: dict[str, Any], home: Path
) -> None:
    adapter = {"kind": "playbook", "playbook": "x", "aap": aap}
    path = home / "catalog.yml"
    path.write_text(yaml.safe_dump({"tools": [ECHO | {"adapter": adapter}]}))
    done = CliRunner().invoke(app, ["catalog", "check", str(path)])
    assert done.exit_code != 0, done.output
