"""Every panel shows something of a storm: its queries run as Grafana would run them."""

import math
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from tests.support.dashboards import Panel, panels
from tests.system.observability.conftest import DEADLINE_MS, FLAKY, NOISY, SLOW, TRACE, Stormy


def of_prometheus(expression: str) -> str:
    for name, value in (("$__rate_interval", "5m"), ("$tool", ".*")):
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def of_postgres(statement: str) -> str:
    now = datetime.now(UTC)
    values = {
        "$__timeFrom()": f"'{(now - timedelta(hours=3)).isoformat()}'",
        "$__timeTo()": f"'{(now + timedelta(minutes=1)).isoformat()}'",
        "$tenant": "'demo','other'",
    }
    for name, value in values.items():
        statement = statement.replace(name, value)
    assert "$" not in statement, statement
    return statement


@pytest.mark.guarantee("dashboards:whole")
@pytest.mark.parametrize("panel", [one for one in panels() if one.expressions], ids=str)
async def test_a_panel_of_prometheus_has_series(panel: Panel, storm: Stormy) -> None:
    for expression in panel.expressions:
        found = await storm.ask(of_prometheus(expression))
        assert found, expression
        values = [float(series["value"][1]) for series in found]
        assert not all(map(math.isnan, values)), expression


@pytest.mark.guarantee("dashboards:whole")
@pytest.mark.parametrize("panel", [one for one in panels() if one.statements], ids=str)
async def test_a_panel_of_postgres_has_rows_for_who_observes(panel: Panel, storm: Stormy) -> None:
    conn = await asyncpg.connect(storm.dsns.observer)
    try:
        for statement in panel.statements:
            rows = await conn.fetch(of_postgres(statement))
            assert rows, statement
            if " AS metric" in statement:
                assert {"demo", "other"} >= {row["metric"] for row in rows}
                assert all(row["value"] is not None for row in rows)
    finally:
        await conn.close()


@pytest.mark.guarantee("dashboards:whole")
async def test_the_storm_is_what_the_figures_tell(storm: Stormy) -> None:
    ended = "sum(mcpbroker_ended_calls_total{{outcome='{}'}})"
    assert await storm.value(ended.format("dead_lettered")) == 2 * FLAKY
    assert await storm.value(ended.format("timed_out")) == 2 * SLOW
    assert await storm.value("sum(mcpbroker_retries_total)") == 2 * FLAKY * 2
    assert await storm.value("sum(mcpbroker_deadline_misses_total)") == 2 * SLOW
    late = "sum(mcpbroker_call_seconds_{}{{method='slow'}})"
    mean_s = await storm.value(f"{late.format('sum')} / {late.format('count')}")
    assert mean_s >= DEADLINE_MS / 1000
    conn = await asyncpg.connect(storm.dsns.observer)
    try:
        [noisy] = await conn.fetch(
            "SELECT * FROM ops.tenants WHERE period = '1h' AND tenant_id = 'other'"
        )
        tools = await conn.fetch("SELECT * FROM ops.tools WHERE period = '1h' AND tool = 'storm'")
    finally:
        await conn.close()
    assert (noisy["calls"], noisy["succeeded"], noisy["error_rate"]) == (2 * NOISY, 2 * NOISY, 0)
    by_method = {row["method"]: row for row in tools}
    assert by_method["flaky"]["retries"] == 2 * FLAKY * 2
    assert by_method["slow"]["timeout_rate"] == 1
    assert by_method["slow"]["deadline_misses"] == 2 * SLOW


async def test_prometheus_keeps_the_trace_of_a_call_beside_its_time(storm: Stormy) -> None:
    now = datetime.now(UTC)
    asked = {
        "query": "mcpbroker_call_seconds_bucket",
        "start": (now - timedelta(minutes=30)).isoformat(),
        "end": now.isoformat(),
    }
    url = f"{storm.prometheus}/api/v1/query_exemplars"
    answer = (await storm.http.get(url, params=asked)).json()
    traces = {one["labels"]["trace_id"] for found in answer["data"] for one in found["exemplars"]}
    assert traces == {TRACE}
