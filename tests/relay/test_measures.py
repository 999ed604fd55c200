"""What is counted of a call: once, after the commit, by its tool, whoever ended it."""

import httpx
import pytest
from prometheus_client import REGISTRY, CollectorRegistry

from app import exposition
from app.commands.report import Kind
from app.edges.commands import cancel
from app.edges.parts import Parts
from app.histograms import Histogram
from app.metrics import ByTool
from devstack.postgres import free_port
from devstack.stack import Dsns
from relay.clock import Clock
from tests.commands.test_reports import report
from tests.support.calls import ADA, accept, claim, delete, echo, fetch, finish

TRACE = "0af7651916cd43dd8448eb211c80319c"
SAMPLED = f"00-{TRACE}-b7ad6b7169203331-03"
OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}
LATE = "UPDATE commands SET deadline_at = now() - interval '1 second' WHERE id = $1"
NAMES = {
    "ended": "mcpbroker_ended_calls_total",
    "call": "mcpbroker_call_seconds_count",
    "run": "mcpbroker_run_seconds_count",
    "accept": "mcpbroker_accept_seconds_count",
    "retries": "mcpbroker_retries_total",
    "misses": "mcpbroker_deadline_misses_total",
}


class Counted:
    """What was counted since it was made, over all labels."""

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        values = dict.fromkeys(NAMES, 0.0)
        names = {name: short for short, name in NAMES.items()}
        for family in REGISTRY.collect():
            for sample in family.samples:
                if sample.name in names:
                    values[names[sample.name]] += sample.value
        return values

    def __call__(self) -> dict[str, float]:
        now = self._now()
        return {name: now[name] - was for name, was in self._before.items() if now[name] != was}


def of_echo(name: str, outcome: str) -> float:
    labels = {"tool": "probe", "method": "echo", "outcome": outcome}
    return REGISTRY.get_sample_value(f"mcpbroker_{name}_seconds_count", labels) or 0


@pytest.mark.guarantee("metrics:once")
async def test_an_end_is_counted_once_however_often_it_is_told(broker: Parts) -> None:
    counted, before = Counted(), of_echo("call", "succeeded")
    one = (await accept(broker, echo(idempotency_key="k"))).written.id
    await accept(broker, echo(idempotency_key="k"))
    assert counted() == {"accept": 2}
    await claim(broker, one)
    for _ in range(2):
        await finish(broker, one, result={"text": "hi"})
    assert counted() == {"accept": 2, "ended": 1, "call": 1, "run": 1}
    assert of_echo("call", "succeeded") == before + 1


@pytest.mark.guarantee("metrics:once")
async def test_reports_that_share_a_transaction_are_counted_each(broker: Parts) -> None:
    counted = Counted()
    one = (await accept(broker, echo())).written.id
    await broker.reports.report(report(Kind.CLAIM, one))
    for _ in range(2):
        await broker.reports.report(report(Kind.RESULT, one, result={"text": "hi"}))
    assert counted() == {"accept": 1, "ended": 1, "call": 1, "run": 1}


@pytest.mark.guarantee("metrics:once")
async def test_a_retry_is_no_end_and_a_cancel_of_what_never_ran_is_no_run(broker: Parts) -> None:
    counted = Counted()
    one = (await accept(broker, delete())).written.id
    await claim(broker, one)
    await finish(broker, one, error={"message": "the host is away"})
    assert counted() == {"accept": 1, "retries": 1}
    await cancel(broker, ADA, one, reason="enough")
    assert counted() == {"accept": 1, "retries": 1, "ended": 1, "call": 1}


@pytest.mark.guarantee("metrics:once")
async def test_a_missed_deadline_is_counted_once_whether_or_not_it_ends_the_call(
    broker: Parts, clock: Clock, database: Dsns
) -> None:
    counted = Counted()
    for text, waits in (("a", False), ("b", True)):
        one = (await accept(broker, echo(text, accept_async=waits))).written.id
        await fetch(database.owner, LATE, one)
    for _ in range(2):
        await clock.tick()
    assert counted() == {"accept": 2, "misses": 2, "ended": 1, "call": 1}


def test_tools_beyond_a_number_share_one_series() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("seconds", "", ["tool", "method", "outcome"], registry=registry)
    by_tool = ByTool(histogram, tools_max=2)
    for n in range(5):
        for outcome in ("succeeded", "failed"):
            by_tool.observe(-0.1, "tool", f"method-{n}", outcome)
    found = {
        (one.labels["method"], one.labels["outcome"]): one.value
        for family in registry.collect()
        for one in family.samples
        if one.name == "seconds_count"
    }
    alone = {(f"method-{n}", how): 1 for n in (0, 1) for how in ("succeeded", "failed")}
    assert found == alone | {("_other", "succeeded"): 3, ("_other", "failed"): 3}
    assert not [one for family in registry.collect() for one in family.samples if one.value < 0]


async def test_a_sampled_trace_is_an_exemplar_to_who_accepts_openmetrics(broker: Parts) -> None:
    hidden = SAMPLED.replace(TRACE, TRACE[::-1])[:-2] + "02"
    for text, trace in (("a", SAMPLED), ("b", hidden)):
        one = (await accept(broker, echo(text, traceparent=trace))).written.id
        await finish(broker, one, result={"text": text})
    port = free_port()
    with exposition.served("127.0.0.1", port):
        async with httpx.AsyncClient(trust_env=False) as http:
            url = f"http://127.0.0.1:{port}/metrics"
            rich = (await http.get(url, headers=OPENMETRICS)).text
            plain = (await http.get(url)).text
    assert rich.endswith("# EOF\n")
    told = [line for line in rich.splitlines() if f'# {{trace_id="{TRACE}"}}' in line]
    names = {line.partition("{")[0] for line in told}
    assert names == {"mcpbroker_accept_seconds_bucket", "mcpbroker_call_seconds_bucket"}
    assert TRACE not in plain
    assert TRACE[::-1] not in rich, "nobody keeps a trace that was not sampled"
