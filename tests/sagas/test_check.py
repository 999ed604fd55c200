"""A definition against the tools: what is found before anything runs."""

from typing import Any

import pytest

from app import assets
from app.catalog import file as catalog_file
from app.errors import InvalidArgumentsError, InvalidDefinitionError
from app.sagas.check import Tools, named, prepared_input, problems
from app.sagas.parse import load, parse
from app.sagas.registry import dry_run

ROOT = assets.root()
EXAMPLE = (ROOT / "examples" / "service_saga.yml").read_text()
SHIPPED = [entry.made() for entry in catalog_file.parse(catalog_file.SHIPPED).tools]
SETTINGS = 'settings: "{{ input.settings }}"'


def found(text: str, tools: list[Any] = SHIPPED) -> dict[str, str]:
    return dict(problems(parse(load(text)), Tools.of(tools)))


def test_the_shipped_example_fits_the_shipped_tools() -> None:
    assert found(EXAMPLE) == {}


def test_a_tool_may_go_by_its_name_on_the_wire() -> None:
    text = EXAMPLE.replace("tool: service\n    method: enable\n", "tool: service_enable\n")
    assert text != EXAMPLE
    tools = Tools.of(SHIPPED)
    assert named(parse(load(text)), tools) == named(parse(load(EXAMPLE)), tools)
    assert found(text) == {}


@pytest.mark.parametrize(
    ("old", "new", "at", "problem"),
    [
        ("method: enable\n", "method: enabel\n", "steps[2].tool", "no tool 'service/enabel'"),
        ("method: restore", "method: x", "steps[1].compensate.tool", "no tool 'service/x'"),
        (SETTINGS, "settings: 3", "steps[1].args.settings", 'is not of type "object"'),
        (SETTINGS, "", "steps[1].args", '"settings" is a required property'),
        (SETTINGS, f"{SETTINGS}\n      nam: x", "steps[1].args", "'nam' was unexpected"),
        (
            SETTINGS,
            'settings: "{{ input.name }}"',
            "steps[1].args.settings",
            "{{ input.name }} is string; service_configure takes object",
        ),
        (
            SETTINGS,
            'settings: "{{ steps.provision.result.head }}"',
            "steps[1].args.settings",
            "is string; service_configure takes object",
        ),
        (
            SETTINGS,
            'settings: "it is {{ input.settings }}"',
            "steps[1].args.settings",
            "is string; service_configure takes object",
        ),
        (SETTINGS, 'settings: "{{ input.x }}"', "steps[1].args.settings", "has no 'x'"),
        (", default: {}}", "}", "steps[1].args.settings", "may be missing"),
        ("type: object\n  prop", "type: obj\n  prop", "input", "type: object"),
        ('"^[a-z]', '"(?=x)[a-z]', "input", "it is no JSON Schema"),
        (
            'name: {type: string, pattern: "^[a-z][a-z0-9-]{0,40}$"}',
            "name: {$ref: 'http://127.0.0.1:9/x'}",
            "input",
            "refers to itself only",
        ),
    ],
)
def test_what_does_not_fit_is_named_by_its_place(old: str, new: str, at: str, problem: str) -> None:
    assert old in EXAMPLE
    assert problem in found(EXAMPLE.replace(old, new))[at]


def test_a_tool_that_is_not_granted_is_no_tool() -> None:
    some = [tool for tool in SHIPPED if tool.method != "disable"]
    assert list(found(EXAMPLE, some)) == ["steps[2].compensate.tool"]


def test_a_tool_that_changes_things_is_no_readonly_step_and_no_reconcile() -> None:
    call = "{id: a, tool: git_delete, args: {dest: x}, kind: readonly}"
    assert "changes things" in found(f"steps: [{call}]")["steps[0]"]
    echo = "{id: a, tool: probe_echo, args: {text: x}, kind: readonly,"
    reconcile = f"{echo} reconcile: {{tool: git_delete, args: {{dest: x}}}}}}"
    assert "changes things" in found(f"steps: [{reconcile}]")["steps[0].reconcile"]


def test_input_is_filled_up_with_defaults_and_checked() -> None:
    read = parse(load(EXAMPLE))
    assert prepared_input(read, {"name": "web"}) == {
        "name": "web",
        "settings": {},
        "fail_at": "nothing",
    }
    with pytest.raises(InvalidDefinitionError, match="NUL"):
        prepared_input(read, {"name": "web", "settings": {"x": "\0"}})
    for bad in ({}, {"name": "A B"}, {"name": "web", "x": 1}, {"name": "web", "fail_at": "x"}):
        with pytest.raises(InvalidArgumentsError, match="Nothing was started"):
            prepared_input(read, bad)


def test_without_a_schema_each_reference_to_input_must_find_something() -> None:
    read = parse(load("steps: [{id: a, tool: t, kind: readonly, args: {x: '{{ input.x.y }}'}}]"))
    assert prepared_input(read, {"x": {"y": 1}}) == {"x": {"y": 1}}
    with pytest.raises(InvalidArgumentsError, match=r"steps\[0\].args.x: .* no input.x.y"):
        prepared_input(read, {"x": {}})


def test_a_dry_run_tells_the_waves_and_the_undo_in_reverse() -> None:
    told = dry_run(parse(load(EXAMPLE)), {"name": "web"})
    assert [[step["id"] for step in wave] for wave in told["plan"]] == [
        ["provision"],
        ["configure"],
        ["enable"],
    ]
    assert told["plan"][0][0]["args"]["name"] == "web"
    assert [(one["undoes"], one["method"]) for one in told["undo_plan"]] == [
        ("enable", "disable"),
        ("configure", "restore"),
        ("provision", "deprovision"),
    ]
    assert told["undo_plan"][0]["args"] == {"name": "web", "owner": "{{ saga.id }}"}
