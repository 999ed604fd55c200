"""What a real ansible-playbook tells of itself to whoever traces it."""

import sys
import time
from pathlib import Path
from typing import Any

import pytest

from app.traces import file
from app.traces.file import ReadSpan
from tests.adapters.command.programs import script
from tests.system.eda.conftest import ROOT, play
from tests.system.eda.results_api import ResultsApi

EVERY_KIND = ROOT / "playbooks" / "mcp_adapter.yml"
FIXTURES = Path(__file__).with_name("fixtures")
TRACE = "0af7651916cd43dd8448eb211c80319c"
ATTEMPT = "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "workspace").mkdir()
    return tmp_path / "workspace"


def ran(
    playbook: str | Path,
    workspace: Path,
    api: ResultsApi,
    variables: dict[str, Any],
    **env: str,
) -> list[ReadSpan]:
    """The spans of a run that had these extra variables."""
    spans = workspace.parent / "spans.jsonl"
    env = {"MCP_BROKER_TRACE_PATH": str(spans)} | env
    play(FIXTURES / playbook, {}, api=api, workspace=workspace, variables=variables, **env)
    return list(file.read(spans)) if spans.exists() else []


@pytest.mark.guarantee("traces:playbooks")
def test_tasks_are_below_their_playbook_and_tell_how_they_ended_and_no_values(
    api: ResultsApi, workspace: Path
) -> None:
    spans = ran("spans.yml", workspace, api, {"TRACEPARENT": TRACEPARENT})
    playbook, *tasks = spans
    assert (playbook.name, playbook.parent_id) == ("playbook spans.yml", "b7ad6b7169203331")
    assert not playbook.failed, "what was rescued is no failure of the whole"
    assert {one.parent_id for one in tasks} == {playbook.span_id}
    assert {one.trace_id for one in spans} == {TRACE}
    results = {one.name: one.attributes["ansible.task.result"] for one in tasks}
    assert results == {
        "task ansible.builtin.debug": "ok",
        "task Skip": "skipped",
        "task Fail and go on": "ok",
        "task Fail": "failed",
        "task Mend": "ok",
    }
    assert [one.name for one in spans if one.failed] == ["task Fail"]
    assert all(playbook.start_ns <= one.start_ns <= one.end_ns <= playbook.end_ns for one in tasks)
    assert "not to be seen" not in str(spans)


@pytest.mark.guarantee("traces:playbooks")
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"TRACEPARENT": ""},
        {"TRACEPARENT": TRACEPARENT[:-1] + "0"},
        {"TRACEPARENT": {"a": [1]}},
        {"ansible_eda": {"event": {"meta": {"headers": {"traceparent": "00-zz"}}}}},
        {"ansible_eda": {"event": {"meta": {"headers": "🎉"}}}},
    ],
    ids=["none", "empty", "unsampled", "object", "odd", "hostile"],
)
def test_a_run_of_no_trace_tells_nothing(
    api: ResultsApi, workspace: Path, variables: dict[str, Any]
) -> None:
    assert ran("spans.yml", workspace, api, variables) == []


@pytest.mark.guarantee("traces:playbooks")
def test_the_event_says_rule_trace_and_where_asked_for_the_command(
    api: ResultsApi, workspace: Path
) -> None:
    meta = {"headers": {"traceparent": TRACEPARENT}, "received_at": "2026-01-02T03:04:05.5Z"}
    body = api.command("probe", "echo", {"text": "not to be seen"})
    event = {"ruleset": "set", "rule": "probe_echo", "event": {"body": body, "meta": meta}}
    rule, playbook, *_ = ran(
        ROOT / "playbooks" / "mcp_echo_adapter.yml",
        workspace,
        api,
        {"ansible_eda": event, "TRACEPARENT": "another"},
        MCP_BROKER_TRACE_ATTRIBUTES='["correlation_id"]',
    )
    assert (rule.name, rule.parent_id) == ("rule probe_echo", "b7ad6b7169203331")
    assert rule.start_ns == 1767323045_500_000_000
    assert playbook.parent_id == rule.span_id
    assert rule.attributes["mcp_broker.correlation_id"] == body["correlation_id"]
    assert "mcp_broker.tenant_id" not in rule.attributes


def test_a_collector_that_does_not_answer_holds_no_playbook_up(
    api: ResultsApi, workspace: Path
) -> None:
    began = time.monotonic()
    ran(
        "spans.yml",
        workspace,
        api,
        {"TRACEPARENT": TRACEPARENT},
        OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1",
    )
    assert time.monotonic() - began < 20


def offered(api: ResultsApi, **more: Any) -> dict[str, Any]:
    """A command of kind `command` that waits for EDA, whose event and claim are of the trace."""
    command = api.command("any", "tool", {"text": "not to be seen"})
    says = script("print(5)", stdin="none")
    api.claims[command["correlation_id"]] = {
        "correlation_id": command["correlation_id"],
        "user_id": "ada",
        "traceparent": f"00-{TRACE}-{ATTEMPT}-01",
        "idempotent": True,
        "left_s": 60.0,
        "adapter": {"kind": "command", "target": "python", "runs_on": "eda"} | says,
        "target": {"name": "python", "kind": "command", "address": sys.executable},
    } | more
    return command


def event_of(command: dict[str, Any], traceparent: str = TRACEPARENT) -> dict[str, Any]:
    meta = {"headers": {"traceparent": traceparent}, "received_at": "2026-01-02T03:04:05.5Z"}
    return {"ansible_eda": {"ruleset": "set", "event": {"body": command, "meta": meta}}}


@pytest.mark.guarantee("traces:asked")
def test_what_a_call_asks_the_broker_is_below_its_task_and_what_it_asks_of_its_target_too(
    api: ResultsApi, workspace: Path
) -> None:
    command = offered(api)
    api.failing = 1
    spans = ran(EVERY_KIND, workspace, api, event_of(command))
    [task] = [one for one in spans if one.name.startswith("task ")]
    asked = [one for one in spans if "/results/" in one.name]
    claim, result = asked
    assert claim.name == "POST /results/{correlation_id}/claim"
    assert result.name == "POST /results/{correlation_id}"
    assert {one.parent_id for one in asked} == {task.span_id}
    assert all(task.start_ns <= one.start_ns <= one.end_ns <= task.end_ns for one in asked)
    assert claim.attributes["http.request.resend_count"] == "1", "the first try had a 503"
    assert claim.attributes["http.response.status_code"] == "200"
    heard = [trace for path, trace in api.heard if command["correlation_id"] in path]
    assert heard == [f"00-{TRACE}-{one.span_id}-01" for one in (claim, claim, result)], (
        "the app's own span is below it"
    )
    [work] = [one for one in spans if one.name == "run command"]
    assert work.parent_id == ATTEMPT
    assert not any(one.failed for one in spans)
    assert len({one.span_id for one in spans}) == len(spans)
    assert command["correlation_id"] not in str(spans)
    assert "not to be seen" not in str(spans)


@pytest.mark.guarantee("traces:asked")
def test_a_claim_that_is_refused_is_told_as_such(api: ResultsApi, workspace: Path) -> None:
    command = offered(api)
    api.refused[command["correlation_id"]] = "ended_succeeded"
    spans = ran(EVERY_KIND, workspace, api, event_of(command))
    [claim] = [one for one in spans if "/results/" in one.name]
    assert claim.failed
    assert claim.attributes["error.type"] == "409"
    assert not [one for one in spans if one.name == "run command"]


@pytest.mark.guarantee("traces:asked")
@pytest.mark.parametrize(
    ("traceparent", "env"),
    [
        (TRACEPARENT[:-1] + "0", {}),
        ("00-zz", {}),
        (TRACEPARENT, {"MCP_BROKER_TRACE_PATH": ""}),
    ],
    ids=["unsampled", "odd", "off"],
)
def test_a_call_of_no_trace_is_worked_on_and_tells_nothing(
    api: ResultsApi, workspace: Path, traceparent: str, env: dict[str, str]
) -> None:
    command = offered(api, traceparent=None)
    assert ran(EVERY_KIND, workspace, api, event_of(command, traceparent), **env) == []
    assert api.words(command) == ["claim", "result"]
    heard = [trace for path, trace in api.heard if command["correlation_id"] in path]
    assert heard == [None, None]


@pytest.mark.guarantee("traces:asked")
def test_spans_that_nobody_can_send_cost_no_call(api: ResultsApi, workspace: Path) -> None:
    command = offered(api)
    began = time.monotonic()
    variables, nowhere = event_of(command), str(workspace / "no" / "such" / "folder")
    ran(EVERY_KIND, workspace, api, variables, MCP_BROKER_TRACE_PATH=nowhere)
    assert api.words(command) == ["claim", "result"]
    assert time.monotonic() - began < 20
