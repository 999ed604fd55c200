"""The shipped dashboards ask for figures and columns that there are, of a source one can choose."""

import re
from typing import Any

from app import assets
from tests.house.test_alerts import exported
from tests.house.test_service_levels import OURS, recorded
from tests.support.dashboards import boards, panels

SUBJECTS = {
    "broker.json": (
        "Deadline violations",
        "Retry storms",
        "Age of the oldest",
        "Workers:",
        "Webhooks",
        "Seals",
    ),
    "tenants.json": (
        *("Throughput", "Deadline violations", "Retry storms", "Queue depth and age"),
        *("Saturation", "Sagas", "Newest seal"),
    ),
}
SOURCES = {"broker.json": "${prometheus}", "tenants.json": "${postgres}"}


def test_each_board_has_its_subjects_and_every_panel_a_place_of_its_own() -> None:
    assert boards().keys() == SUBJECTS.keys()
    for name, board in boards().items():
        titles = [panel["title"] for panel in board["panels"]]
        assert len(set(titles)) == len(titles)
        for subject in SUBJECTS[name]:
            assert any(title.startswith(subject) for title in titles), (name, subject)
        assert len({panel["id"] for panel in board["panels"]}) == len(titles)
        taken = [cell for panel in board["panels"] for cell in cells(panel["gridPos"])]
        assert len(set(taken)) == len(taken), f"{name}: one panel lies on another"


def cells(place: dict[str, int]) -> list[tuple[int, int]]:
    assert place["x"] + place["w"] <= 24
    rows, columns = range(place["h"]), range(place["w"])
    return [(place["x"] + column, place["y"] + row) for row in rows for column in columns]


def test_every_panel_asks_the_source_that_its_board_lets_one_choose() -> None:
    for name, board in boards().items():
        chosen = [one for one in board["templating"]["list"] if one["type"] == "datasource"]
        assert [f"${{{one['name']}}}" for one in chosen] == [SOURCES[name]]
        asking: list[dict[str, Any]] = [
            *(panel for panel in board["panels"] if panel["type"] != "row"),
            *(one for one in board["templating"]["list"] if one["type"] == "query"),
        ]
        assert len(asking) > 10
        assert {one["datasource"]["uid"] for one in asking} == {SOURCES[name]}


def test_each_figure_and_column_that_a_panel_names_exists() -> None:
    known = exported() | {name for name, _ in recorded()}
    schema = (assets.root() / "schema.sql").read_text()
    shown = set(re.findall(r"^CREATE (?:VIEW|FUNCTION) ops\.(\w+)", schema, re.MULTILINE))
    for panel in panels():
        assert panel.expressions or panel.statements, panel
        for expression in panel.expressions:
            named = set(OURS.findall(expression))
            assert named <= known, panel
            assert named or "ALERTS" in expression, panel
        for statement in panel.statements:
            used = set(re.findall(r"\b(?:FROM|JOIN) (\S+?)(?:\(|\s|$)", statement))
            assert {name.removeprefix("ops.") for name in used} <= shown, panel


def test_every_figure_that_is_exported_is_on_a_board_or_in_the_papers_only() -> None:
    """What nobody looks at need not be counted: a new figure gets its panel."""
    asked = {name for panel in panels() for one in panel.expressions for name in OURS.findall(one)}
    base = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked}
    missing = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported()} - base
    assert missing == {"mcpbroker_gauges_read_timestamp_seconds"}, "an alert's only"
