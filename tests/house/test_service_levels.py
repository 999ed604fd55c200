"""Service levels, their alerts and what the papers say of them are in step with the code."""

import re
from typing import Any

import yaml

from app import assets
from tests.house.test_alerts import exported
from tests.support.papers import ROOT, table

RULES = ROOT / "deploy" / "slo.yml"
WINDOWS = ("5m", "30m", "1h", "6h", "3d")
ERRORS = "mcpbroker:slo_errors:ratio_rate"
BUDGET = "mcpbroker:slo_budget:ratio"
OURS = re.compile(r"\bmcpbroker[\w:]+")


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load(RULES.read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def recorded() -> dict[tuple[str, str], str]:
    """(name, slo) -> its expression."""
    return {
        (rule["record"], rule["labels"]["slo"]): str(rule["expr"])
        for rule in rules()
        if "record" in rule
    }


def budgets() -> dict[str, float]:
    return {slo: float(said) for (name, slo), said in recorded().items() if name == BUDGET}


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def test_each_rule_is_made_of_what_is_exported_or_recorded() -> None:
    known = exported() | {name for name, _ in recorded()}
    for rule in rules():
        named = set(OURS.findall(str(rule["expr"])))
        assert named <= known, rule
        assert named or rule.get("record") == BUDGET, rule


def test_each_level_is_recorded_over_every_window_in_the_same_words() -> None:
    assert len(budgets()) == 4
    for slo, budget in budgets().items():
        assert 0 < budget < 0.1
        said = {
            recorded()[f"{ERRORS}{window}", slo].replace(f"[{window}]", "[w]") for window in WINDOWS
        }
        assert len(said) == 1, slo


def test_each_level_has_an_alert_on_a_fast_and_on_a_slow_burn_with_its_runbook() -> None:
    text = (ROOT / "docs" / "OPERATORS.md").read_text()
    sections = dict(re.findall(r"^### (Broker\w+)\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL))
    seen: dict[tuple[str, str], str] = {}
    for rule in alerts():
        [slo] = set(re.findall(r'slo="(\w+)"', rule["expr"]))
        seen[slo, rule["labels"]["severity"]] = rule["alert"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (page, anchor) == ("docs/OPERATORS.md", rule["alert"].lower())
        assert len(sections[rule["alert"]].split()) > 30, "what it means, and what to do"
        assert rule["annotations"]["summary"]
    assert seen.keys() == {(slo, how) for slo in budgets() for how in ("critical", "warning")}


def test_the_papers_tell_each_objective_as_it_is() -> None:
    rows = list(table("docs/OBSERVABILITY.md", "| `slo` | objective, over 30 days | alert |"))
    names = {rule["alert"] for rule in alerts()}
    told = {cells[0].strip("`"): (cells[1], cells[2].strip("`")) for _, cells in rows}
    assert told.keys() == budgets().keys()
    for slo, (objective, alert) in told.items():
        [share] = re.findall(r"^([\d.]+) %", objective)
        assert round(1 - float(share) / 100, 6) == budgets()[slo], slo
        assert alert in names


def test_each_indicator_is_a_column_of_its_view_and_a_figure_that_is_exported() -> None:
    schema = (assets.root() / "schema.sql").read_text()
    views = dict(
        re.findall(r"^CREATE VIEW ops\.(\w+) AS\n(.*?);$", schema, re.MULTILINE | re.DOTALL)
    )
    rows = list(table("docs/OBSERVABILITY.md", "| indicator | Prometheus | SQL, schema `ops` |"))
    assert len(rows) == 8
    for where, cells in rows:
        said = re.findall(r"`(\w+)`: `(\w+)`", cells[2])
        assert said or "same" in cells[1], where
        for view, column in said:
            assert re.search(rf"\b{column}\b", views[view]), f"{where}: {view}.{column}"
        assert set(OURS.findall(cells[1])) <= exported(), where
