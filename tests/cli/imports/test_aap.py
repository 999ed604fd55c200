"""`broker catalog import aap`: templates as they are become tools to review."""

import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from adapters.contract import Failure, Result
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
    {"type": "password", "variable": "pin", "required": True, "default": ""},
    {"type": "integer", "variable": "size", "min": 1, "max": "8", "default": 2},
    {"type": "float", "variable": "share", "min": 0.5, "max": None, "default": "0.75"},
    {"type": "multiplechoice", "variable": "zone", "choices": "a\nb\n\na", "default": "a"},
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
                asks=["limit", "verbosity", "credential", "labels", "inventory"],
                inventory=None,
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
    assert schema["required"] == ["name", "pin", "inventory"], "it has neither of its own"
    assert schema["properties"] == {
        "name": {
            "type": "string",
            "minLength": 2,
            "maxLength": 60,
            "title": "Its name",
            "description": "As in DNS.",
        },
        "notes": {"type": "string", "default": "none"},
        "secret": {
            "type": "string",
            "format": "password",
            "x-sensitive": True,
            "description": "Left out, the template's own is used.",
        },
        "pin": {"type": "string", "format": "password", "x-sensitive": True},
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
        "inventory": {"type": "integer", "minimum": 1, "description": "Its id."},
        "verbosity": {"type": "integer", "minimum": 0, "maximum": 5},
    }
    adapter = entry["adapter"]
    assert (adapter["kind"], adapter["template"]) == ("aap", 12)
    prompts = {"limit": "launch_limit", "inventory": "inventory", "verbosity": "verbosity"}
    assert adapter["prompts"] == prompts
    assert (adapter["labels"], adapter["stored"]) == (["mcp"], ["secret"])
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
    given = {"name": "web", "pin": "1234", "inventory": 2}
    outcome = await called(path, "Make_a_VM", given | {"secret": "s3cret"})
    assert isinstance(outcome, Result), outcome
    assert controller.labels[0] == "mcp"
    assert len(controller.labels) == 2, "and the command's id"
    variables = {"name": "web", "pin": "1234", "secret": "s3cret"}
    assert controller.jobs[0].extra_vars == variables
    assert controller.jobs[0].launched_with["inventory"] == 2
    assert isinstance(await called(path, "Make_a_VM", given), Result)
    assert controller.jobs[1].extra_vars == variables | {"secret": "$encrypted$"}
    refused = await called(path, "Make_a_VM", given | {"size": 9})
    assert isinstance(refused, Failure)
    assert "too large" in str(refused.details), "the survey has the last word"
    diff = ("catalog", "diff", "--database-url", database.owner)
    assert "changed" not in (await broker(*diff)).stdout
    controller.templates["Flow"].description = "Does otherwise."
    done = await broker(*diff, "--json", code=1)
    assert "changed" in done.stdout
    assert yaml.safe_load(path.read_text())["targets"][0]["kind"] == "aap"


@pytest.mark.guarantee("adapters:reviewed")
async def test_a_template_that_is_not_what_was_reviewed_is_not_launched(
    controller: Controller, tmp_path: Path
) -> None:
    argv = ("catalog", "import", "aap", controller.url, "--bearer", "env:AAP_TOKEN")
    await broker(*argv, "--out", tmp_path)
    path = tmp_path / "aap.yml"
    made = controller.templates["Make a VM"]
    made.survey = [{"type": "text", "variable": "host", "required": True}]
    changed = await called(path, "Make_a_VM", {})
    del controller.templates["Make a VM"]
    gone = await called(path, "Make_a_VM", {})
    controller.away = 1
    away = await called(path, "Make_a_VM", {})
    assert all(isinstance(one, Failure) for one in (changed, gone, away))
    codes = [one.code for one in (changed, gone, away) if isinstance(one, Failure)]
    assert codes == ["target_changed", "target_changed", "target_unavailable"]
    assert isinstance(away, Failure)
    assert away.retryable
    assert controller.jobs == []
    controller.templates["Make a VM"] = made
    await broker(*argv, "--out", tmp_path, "--force")
    assert isinstance(await called(path, "Make_a_VM", {"host": "web1", "inventory": 2}), Result)


async def test_templates_of_one_name_are_told_apart(controller: Controller, tmp_path: Path) -> None:
    """Another organization's, and a workflow's: a controller lets them."""
    for n, organization in enumerate(("Other", "Other", "Default")):
        made = Template("Make a VM", number=20 + n, workflow=n > 0, organization=organization)
        controller.templates[f"other {n}"] = made
    argv = ("catalog", "import", "aap", controller.url, "--bearer", "env:AAP_TOKEN")
    await broker(*argv, "--out", tmp_path)
    found = entries((tmp_path / "aap.yml").read_text())
    assert len(found) == 5
    assert {one["adapter"]["template"] for one in found.values()} == {12, 13, 20, 21, 22}
    await broker("catalog", "check", tmp_path / "aap.yml")


@pytest.mark.guarantee("hostile:documents")
async def test_a_survey_that_cannot_be_read_costs_no_other_template(
    controller: Controller, tmp_path: Path
) -> None:
    for n, least in enumerate(("few", "nan", "-inf", 1e300, 2**70, "²")):
        odd = {"type": "integer", "variable": "size", "min": least}
        controller.templates[f"Odd{n}"] = Template(f"Odd{n}", number=15 + n, survey=[odd])
    for n in range(205):  # more than a page
        controller.templates[f"t{n}"] = Template(f"t{n}", number=100 + n)
    argv = ("catalog", "import", "aap", controller.url, "--bearer", "env:AAP_TOKEN")
    done = await broker(*argv, "--out", tmp_path)
    assert len(entries((tmp_path / "aap.yml").read_text())) == 207
    assert done.stderr.replace("\n", " ").count("its survey cannot be read") == 6
