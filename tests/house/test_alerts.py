"""The shipped alerting rules speak of figures that there are."""

import re
import subprocess
import sys
from typing import Any

import yaml
from prometheus_client import REGISTRY

from app import assets, errors, metrics
from app.traces import tracing
from worker import metrics as of_workers

ROOT = assets.root()
RULES = ROOT / "deploy" / "alerts.yml"
WORDS = {"max", "sum", "by", "why", "rate", "increase", "time", "or", "and"}
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
DURATION = r"([0-9]+[smhd])+"


def rules() -> list[dict[str, Any]]:
    found = yaml.safe_load(RULES.read_text())
    return [rule for group in found["groups"] for rule in group["rules"]]


def exported() -> set[str]:
    """The names of our samples, those of figures without any value yet included."""
    assert metrics.SEALER
    assert tracing.DROPPED
    assert of_workers.BUILD
    return {
        family.name + suffix
        for family in REGISTRY.collect()
        if family.name.startswith("mcpbroker_")
        for suffix in SUFFIXES[family.type]
    }


def at_start() -> str:
    """What a process tells that has counted nothing yet."""
    program = "import app.metrics, prometheus_client as p; print(p.generate_latest().decode())"
    argv = [sys.executable, "-c", program]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def named(expression: str) -> set[str]:
    """The figures in an expression: its words, but for selectors, ranges and the language's own."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", " ", expression)
    return set(re.findall(r"[A-Za-z_:][\w:]*", bare)) - WORDS


def test_every_figure_of_ours_carries_the_products_prefix() -> None:
    assert metrics.BUILD
    others = ("python_", "process_")
    ours = {one.name for one in REGISTRY.collect() if not one.name.startswith(others)}
    assert ours
    assert not {name for name in ours if not name.startswith("mcpbroker_")}


def test_each_rule_is_whole_and_speaks_of_figures_that_are_exported() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found) > 0
    for rule in found:
        assert named(rule["expr"]), rule
        assert named(rule["expr"]) <= exported(), rule
        assert re.fullmatch(DURATION, str(rule["for"])), rule
        assert rule["annotations"]["summary"], rule
        assert rule["labels"]["severity"] in {"warning", "critical"}, rule


def test_each_refusal_that_a_rule_waits_for_is_counted_from_the_start_of_a_process() -> None:
    """Prometheus sees no rise of a figure that was not there before its first time."""
    codes = {
        code
        for rule in rules()
        for said in re.findall(r'code=~?"([^"]*)"', rule["expr"])
        for code in said.split("|")
    }
    known = {
        kind.code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.BrokerError)
    }
    assert codes
    assert codes <= known
    told = at_start()
    for code in codes:
        assert f'mcpbroker_refused_requests_total{{code="{code}"}} 0.0' in told
