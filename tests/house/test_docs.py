"""What the papers name exists, and the figures that they give are those of the code.

Each message names file and line, and what to do. What is history (decisions, released versions)
is left as it was.
"""

import ast
import re
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import DefaultClause

from app import errors
from app.config import PREFIX, Settings, WorkerSettings
from app.edges import streams
from app.postgres.tables import metadata
from tests.support.papers import (
    FILE,
    ROOT,
    Piece,
    deployed,
    files,
    found,
    pages,
    sources,
    table,
    text_of,
    told,
)

FORMER: Final = {
    "docs/SCALING.md": "CHANGELOG.md says where it went",
}
"""What is named because it is gone."""

# Paths ------------------------------------------------------------------------------------------


def tops() -> set[str]:
    return {path.relative_to(ROOT).parts[0] for path in files() if path.parent != ROOT}


def exists(page: str, name: str) -> bool:
    """A path from the root or from the page; a bare file's name is one of ours somewhere."""
    pattern = name.rstrip("/").replace("…", "*")
    if any(any(base.glob(pattern)) for base in (ROOT, (ROOT / page).parent)):
        return True
    return "/" not in name and any(path.name == name for path in files())


def test_each_path_exists() -> None:
    folders = "|".join(map(re.escape, sorted(tops())))
    below = rf"(?:(?<![\w./$…-])|(?<=\$assets/))(?:{folders})/[\w.…/-]*[\w/…]"
    named = [where for where, _ in found(below, *pages(), *deployed())]
    named += [where for where, _ in found(rf"(?<![\w./$:…-]){FILE.pattern}(?!\w)")]
    wrong = [
        str(where)
        for where in named
        if where.text not in FORMER and not exists(where.page, where.text)
    ]
    assert len(named) > 100
    assert not wrong, told("name the path as it is now, or take the sentence out:", wrong)


def test_each_link_leads_somewhere() -> None:
    links = list(found(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)"))
    wrong = [
        str(where)
        for where, link in links
        if not ((ROOT / where.page).parent / link[1]).exists()
        or (link[2] and link[2] not in anchors((ROOT / where.page).parent / link[1]))
    ]
    assert len(links) > 30
    assert not wrong, told("links are from the page's own folder:", wrong)


def anchors(path: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


# Settings ---------------------------------------------------------------------------------------

FIELDS: Final = WorkerSettings.model_fields | Settings.model_fields
"""Every setting of every deployment."""
OF_PROGRAMS: Final = ("rulebooks", "playbooks", "scripts", "devstack", "deploy", "tests", "app/cli")


def is_variable(name: str) -> bool:
    bare = name.removeprefix(PREFIX).lower()
    if {bare, bare.removesuffix("_file")} & {*FIELDS, "x"}:
        return True
    return bool(re.search(rf"\b{name}\b", sources(*OF_PROGRAMS)))


def test_each_environment_variable_is_read() -> None:
    named = [
        (where, match[0].replace("…_", PREFIX))
        for where, match in found(
            r"\bMCP_[A-Z][A-Z_]*[A-Z]\b|…_[A-Z_]+[A-Z]", *pages(), *deployed()
        )
    ]
    wrong = [str(where) for where, name in named if not is_variable(name)]
    assert len(named) > 50
    assert not wrong, told("`broker config` lists the settings, ADAPTERS.md the executor's:", wrong)


UNITS: Final = {
    "s": 1, "seconds": 1, "minutes": 60, "hours": 3600, "hour": 3600, "day": 86400, "days": 86400,
    "ms": 1, "KiB": 1 << 10, "MiB": 1 << 20, "bytes": 1, "": 1,
}  # fmt: skip
NUMBERS: Final = {"a": 1, "an": 1, "one": 1, "twice": 2, "ten": 10, "five": 5}
FIGURE: Final = (
    r"(a|an|one|five|ten|\d[\d,]*)(?![\d.])[ \n]?"
    r"(s|seconds|minutes|hours?|days?|ms|[KM]iB|bytes)?\b"
)

TOLD: Final = (
    ("docs/CLIENTS.md", r"waits for up to {}", "inline_wait_s"),
    ("docs/CLIENTS.md", r"over the limit \({} by default", "result_inline_bytes_max"),
    ("docs/CLIENTS.md", r"a heartbeat at least every {}", "heartbeat_s"),
    ("docs/CLIENTS.md", r"`requestState` \(valid for {}", "approval_wait_s"),
    ("docs/CLIENTS.md", r"has room for {} streams", "listen_streams_max"),
    ("docs/CLIENTS.md", r"a\s+user for {} of them", "listen_streams_per_user_max"),
    ("docs/CLIENTS.md", r"as its wait, {} by default", "inline_wait_s"),
    ("docs/CLIENTS.md", r"Let bodies of {} through", "body_bytes_max"),
    ("docs/CLIENTS.md", r"and of {} and a little", "result_bytes_max"),
    ("docs/SECURITY.md", r"line and headers have {}", "head_bytes_max"),
    ("docs/SECURITY.md", r"and {} to come", "head_s"),
    ("docs/SECURITY.md", r"its body {} and", "body_bytes_max"),
    ("docs/SECURITY.md", r"and {} \(`…_BODY_S`", "body_s"),
    ("docs/SECURITY.md", r"a process {} connections", "connections_max"),
    ("docs/SECURITY.md", r"a user {} event streams", "listen_streams_per_user_max"),
)
"""A default that a sentence tells: where, how, and of which setting."""


def default(name: str) -> Any:
    return FIELDS[name].get_default()


def amount(number: str, unit: str | None) -> float:
    bare = NUMBERS.get(number) or float(number.replace(",", ""))
    return bare * UNITS[unit or ""]


@pytest.mark.parametrize(("page", "sentence", "name"), TOLD)
def test_each_default_that_a_sentence_tells_is_the_settings(
    page: str, sentence: str, name: str
) -> None:
    places = list(found(sentence.replace("{}", FIGURE).replace(" ", r"\s+"), ROOT / page))
    assert places, f"{page}: no sentence is like {sentence!r} any more; mend or remove its row"
    for where, match in places:
        assert amount(match[1], match[2]) == default(name), f"{where}: `{name}` is {default(name)}"


def test_each_figure_beside_a_settings_name_is_its_default() -> None:
    named = [
        (where, amount(match[2], match[3]), default(name))
        for where, match in found(r"`(?:MCP_BROKER_)?([A-Za-z_]+)`,?\s\(?" + FIGURE)
        if (name := match[1].lower()) in FIELDS
        if isinstance(default(name), int | float)
    ]
    wrong = [f"{where} — it is {right}" for where, said, right in named if said != right]
    assert len(named) > 10
    assert not wrong, told("tell the default that `broker config` shows:", wrong)


def test_each_limit_of_a_tenant_is_what_a_new_one_gets() -> None:
    [(_, said)] = found(r"a tenant's `in_flight_max` \((\d+)\)", ROOT / "docs" / "OPERATORS.md")
    column = metadata.tables["tenants"].columns["in_flight_max"]
    assert isinstance(column.server_default, DefaultClause)
    assert said[1] == str(column.server_default.arg), "docs/OPERATORS.md, Sizes"


def test_the_connections_of_each_deployment_add_up() -> None:
    text = " ".join(text_of(ROOT / "docs" / "OPERATORS.md").split())
    sums = re.findall(r"`(\w+)` \+ `(\w+)` \+ 1 \((\d+)\)", text)
    assert len(sums) == 2, "docs/OPERATORS.md: write sums as `one` + `other` + 1 (14)"
    for one, other, total in sums:
        right = default(one) + default(other) + 1
        assert int(total) == right, f"docs/OPERATORS.md: {one} + {other} + 1 is {right}"


# Metrics and alerts -----------------------------------------------------------------------------


COUNTED: Final = ("app/metrics.py", "app/traces/tracing.py", "worker/metrics.py")


@cache
def metrics() -> dict[str, set[str]]:
    """Each metric's sample name, and its labels."""
    made: dict[str, set[str]] = {}
    trees = [ast.parse((ROOT / one).read_text()) for one in COUNTED]
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {
            "Counter",
            "Gauge",
            "Histogram",
        }:
            name = ast.literal_eval(node.args[0])
            labels = ast.literal_eval(node.args[2]) if len(node.args) > 2 else []
            suffix = "_total" if ast.unparse(node.func) == "Counter" else ""
            made[name + suffix] = set(labels)
    return made


def test_each_metric_is_exported_with_these_labels() -> None:
    named = r"(?<!\w)(mcpbroker_[a-z_]*[a-z])(?:\{([a-z_,]+)\})?"
    wrong = [
        str(where)
        for where, match in found(named, *pages(), *deployed())
        if (labels := metrics().get(re.sub(r"_(bucket|count|sum)$", "", match[1]))) is None
        or (match[2] is not None and not set(match[2].split(",")) <= labels)
    ]
    assert not wrong, told(f"name and labels are those of {', '.join(COUNTED)}:", wrong)


def test_each_metric_and_each_alert_is_explained_to_operators() -> None:
    text = text_of(ROOT / "docs" / "OPERATORS.md")
    rules = [(ROOT / "deploy" / one).read_text() for one in ("alerts.yml", "slo.yml")]
    alerts = re.findall(r"alert: (\w+)", "".join(rules))
    missing = [
        name
        for name in (*metrics(), *alerts)
        if not re.search(rf"`{name}(?:\{{[a-z,]+\}})?`|^#+ {name}$", text, re.MULTILINE)
    ]
    assert not missing, told("docs/OPERATORS.md: say what it tells, and what to do:", missing)
    gone = [
        str(where)
        for where, match in found(r"`(Broker[A-Z]\w+)`", ROOT / "docs" / "OPERATORS.md")
        if match[1] not in alerts
    ]
    assert not gone, told("alerts are those of deploy/alerts.yml and deploy/slo.yml:", gone)


# Problem codes ----------------------------------------------------------------------------------


@cache
def codes() -> dict[str, int]:
    assert streams
    kinds: list[type[errors.BrokerError]] = [errors.BrokerError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
    return {kind.code: kind.status for kind in kinds}


def test_each_problem_code_has_its_status() -> None:
    told_: list[tuple[Piece, str, int]] = []
    for where, cells in table("docs/CLIENTS.md", "| code | status | what to do |"):
        statuses = [int(one) for one in cells[1].split(", ")]
        names = cells[0].split(", ")
        told_ += zip([where] * len(names), names, statuses * len(names), strict=False)
    assert len(told_) > 10
    wrong = [str(where) for where, code, status in told_ if codes().get(code) != status]
    for where, match in found(r"\b([45]\d\d)\s`(\w+)`|`(\w+)`,\s([45]\d\d)\b"):
        code, status = match[2] or match[3], int(match[1] or match[4])
        if code in codes() and codes()[code] != status:
            wrong.append(str(where))
    assert not wrong, told("code and status are those of app/errors.py:", wrong)


def test_each_value_of_a_label_that_is_a_problem_code_is_one() -> None:
    text = " ".join(text_of(ROOT / "docs" / "OPERATORS.md").split())
    said = re.search(r"refused_requests_total\{code\}`: by problem code: (.*?)…", text)
    assert said is not None
    wrong = set(re.findall(r"`(\w+)`", said[1])) - set(codes())
    assert not wrong, f"docs/OPERATORS.md: no problem has the code {wrong}"
