"""The shipped rules, judged by Prometheus's own tool, on made series and on a real run's."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import assets
from tests.system.observability.conftest import Stormy

HERE = Path(__file__).parent
DEPLOY = assets.root() / "deploy"
SCRAPED = '{__name__=~"mcpbroker_.*", __name__!~".*_(created|sum)"}[10m]'
FIRED = """
    max by (alertname, slo) (max_over_time(
        ALERTS{alertstate="firing", severity="critical", alertname=~"Broker.*Burns?"}[10h]))
"""

pytestmark = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not here (Debian has it in `prometheus`)"
)


def promtool(*argv: str | Path) -> str:
    """What it says; a failure of it is one of the test."""
    done = subprocess.run(["promtool", *argv], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.mark.parametrize("name", ["alerts.yml", "slo.yml"])
def test_prometheus_takes_each_file_of_rules(name: str) -> None:
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", DEPLOY / name)


def test_prometheus_takes_the_configuration_of_compose() -> None:
    assert "SUCCESS" in promtool("check", "config", DEPLOY / "prometheus.yml")


@pytest.mark.guarantee("slo:burns")
def test_a_budget_that_burns_calls_a_person_and_one_that_does_not_calls_nobody() -> None:
    assert "SUCCESS" in promtool("test", "rules", HERE / "slo_test.yml")


@pytest.mark.guarantee("alerts:storms")
def test_a_storm_of_retries_and_spans_that_are_dropped_are_told() -> None:
    assert "SUCCESS" in promtool("test", "rules", HERE / "alerts_test.yml")


def replayed(found: list[dict[str, Any]], samples: int) -> list[dict[str, str]]:
    """What was scraped, a minute a sample; before a series began it was not there either."""
    made: list[dict[str, str]] = []
    for one in found:
        labels = dict(one["metric"])
        name = labels.pop("__name__")
        inside = ", ".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        values = [value for _, value in one["values"]][-samples:]
        missing = ["_"] * (samples - len(values))
        made.append({"series": f"{name}{{{inside}}}", "values": " ".join([*missing, *values])})
    return made


@pytest.mark.guarantee("slo:burns")
async def test_the_series_of_a_real_storm_fire_the_alerts_that_they_should(
    storm: Stormy, tmp_path: Path
) -> None:
    found = await storm.ask(SCRAPED)
    samples = max(len(one["values"]) for one in found)
    assert samples > 10
    names = {one["metric"]["__name__"] for one in found}
    assert {"mcpbroker_ended_calls_total", "mcpbroker_dispatch_seconds_bucket"} <= names
    alerts = (("BrokerDeadLettersBurn", "dead_letters"), ("BrokerDeadlinesBurn", "deadlines"))
    expected = [
        {"labels": f'{{alertname="{alert}", slo="{slo}"}}', "value": 1} for alert, slo in alerts
    ]
    whole = {
        "rule_files": [str(DEPLOY / "slo.yml"), str(DEPLOY / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": replayed(found, samples),
                "promql_expr_test": [
                    {"expr": FIRED, "eval_time": f"{samples}m", "exp_samples": expected},
                    {"expr": FIRED, "eval_time": "1m", "exp_samples": []},
                ],
            }
        ],
    }
    path = tmp_path / "real.yml"
    path.write_text(yaml.safe_dump(whole))
    assert "SUCCESS" in promtool("test", "rules", path)
