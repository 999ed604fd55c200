"""`broker catalog import aap`: templates as they are become tools to review."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.contract import Result
from devstack.stack import Dsns
from tests.cli.imports.reviewed import applied, broker, called, entries
from tests.system.eda.controller import TOKEN, Controller, Template

SURVEY: list[dict[str, Any]] = [
    {
        "type": "text",
        "variable": "name",
        "question_name": "Its name",
        "question_description": "As in DNS.",
        "required": True,
        "min": 2,
        "max": 60,
        "default": "",
    },
    {"type": "textarea", "variable": "notes", "required": False, "default": "none"},
    {"type": "password", "variable": "secret", "required": True, "default": "$encrypted$"},
    {"type": "integer", "variable": "size", "min": 1, "max": "8", "default": 2},
    {"type": "float", "variable": "share", "min": 0.5, "max": None, "default": "0.75"},
    {"type": "multiplechoice", "variable": "zone", "choices": "a\nb\n", "default": "a"},
    {"type": "multiselect", "variable": "parts", "choices": ["x", "y"], "default": "x\ny"},
    {"type": "text", "variable": "limit"},
]


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> Iterator[Controller]:
    def run(_template: str, _variables: Mapping[str, Any]) -> subprocess.Popen[str]:
        return subprocess.Popen(["true"], text=True)

    monkeypatch.setenv("AAP_TOKEN", TOKEN)
    with Controller(run) as controller:
        for one in (
            Template(
                "Make a VM",
                number=12,
                survey=SURVEY,
                ask_variables=False,
                asks=["limit", "verbosity", "credential", "labels"],
                description="Makes one.",
                labels=["cloud"],
            ),
            Template("Flow", number=13, workflow=True),
            Template("Not ours", number=14, may_start=False),
        ):
            controller.templates[one.name] = one
        yield controller


async def test_surveys_and_prompts_become_arguments(controller: Controller, tmp_path: Path) -> None:
    argv = ("catalog", "import", "aap", controller.url, "--bearer", "env:AAP_TOKEN")
    done = await broker(*argv, "--out", tmp_path)
    assert "nothing is in force" in done.stderr
    text = (tmp_path / "aap.yml").read_text()
    found = entries(text)
    assert set(found) == {"Make_a_VM", "Flow"}, "what the token may execute"
    entry = found["Make_a_VM"]
    assert entry["description"] == "Makes one. Labels: cloud."
    schema = entry["input_schema"]
    assert schema["required"] == ["name", "secret"]
    assert schema["properties"] == {
        "name": {
            "type": "string",
            "minLength": 2,
            "maxLength": 60,
            "title": "Its name",
            "description": "As in DNS.",
        },
        "notes": {"type": "string", "default": "none"},
        "secret": {"type": "string", "x-sensitive": True},
        "size": {"type": "integer", "minimum": 1, "maximum": 8, "default": 2},
        "share": {"type": "number", "minimum": 0.5, "default": 0.75},
        "zone": {"type": "string", "enum": ["a", "b"], "default": "a"},
        "parts": {
            "type": "array",
            "items": {"type": "string", "enum": ["x", "y"]},
            "uniqueItems": True,
            "default": ["x", "y"],
        },
        "limit": {"type": "string"},
        "launch_limit": {"type": "string", "description": "Which hosts of the inventory."},
        "verbosity": {"type": "integer", "minimum": 0, "maximum": 5},
    }
    adapter = entry["adapter"]
    assert (adapter["kind"], adapter["template"]) == ("aap", 12)
    assert adapter["prompts"] == {"limit": "launch_limit", "verbosity": "verbosity"}
    assert adapter["labels"] == ["mcp"]
    assert entry["policy"]["approval"] == "ask"
    assert "credential" in done.stderr
    assert found["Flow"]["adapter"]["workflow"] is True
    assert TOKEN not in text


async def test_what_was_imported_is_put_in_force_called_and_compared(
    controller: Controller, database: Dsns, tmp_path: Path
) -> None:
    argv = ("catalog", "import", "aap", controller.url, "--bearer", "env:AAP_TOKEN")
    await broker(*argv, "--out", tmp_path)
    path = tmp_path / "aap.yml"
    await applied(path, database.owner)
    outcome = await called(path, "Make_a_VM", {"name": "web", "secret": "s3cret"})
    assert isinstance(outcome, Result), outcome
    assert controller.labels[0] == "mcp"
    assert len(controller.labels) == 2, "and the command's id"
    assert controller.jobs[0].extra_vars == {"name": "web", "secret": "s3cret"}
    diff = ("catalog", "diff", "--database-url", database.owner)
    assert "changed" not in (await broker(*diff)).stdout
    controller.templates["Flow"].description = "Does otherwise."
    done = await broker(*diff, "--json", code=1)
    assert "changed" in done.stdout
    assert yaml.safe_load(path.read_text())["targets"][0]["kind"] == "aap"
