"""The event filter: what it lets through, by itself and behind upstream's source."""

import json
import runpy
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import Popen
from typing import Any

import dpath
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from devstack.eda import EmbeddedEda
from tests.system.eda.conftest import COLLECTIONS, ROOT, Send, controllers_process, start_play
from tests.system.eda.controller import Controller, Template
from tests.system.eda.results_api import ResultsApi
from tests.system.eda.test_through_eda import ended

INERT = runpy.run_path(
    str(
        COLLECTIONS
        / "ansible_collections/mcpbroker/eda/extensions/eda/plugins/event_filter/inert.py"
    )
)

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
KEYS = st.text() | st.sampled_from(["", "_ansible_x", "args", "tool", "left_out", "a/b", "{{ x }}"])
ANYTHING = st.recursive(SCALARS, lambda one: st.lists(one) | st.dictionaries(KEYS, one))


@given(ANYTHING, ANYTHING)
def test_whatever_comes_the_filter_lets_through_what_each_part_of_the_way_can_read(
    body: Any, meta: Any
) -> None:
    for event in (body, {"body": body, "meta": meta}, {"body": {"tool": body, "args": meta}}):
        made = INERT["main"](event)
        # As rule_set_runner.py does after each event: it walks all of it.
        assert dpath.get(made, "meta/source/name", default=None) is None or isinstance(meta, dict)
        assert yaml.safe_load(yaml.dump(made)) == made == json.loads(json.dumps(made))
        assert all(ord(char) < 0x10000 for char in json.dumps(made, ensure_ascii=False))
        assert "{{" not in str(made)


def test_a_field_is_carried_whole_or_named_as_left_out() -> None:
    body = {"tool": "t", "method": 5, "args": {"a": {"": 1}, "b": 1}, "labels": ["x"], "N": 1}
    assert INERT["main"]({"body": body})["body"] == {
        "tool": "t",
        "labels": ["x"],
        "left_out": ["args", "method"],
    }


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(scope="module")
def controller(api: ResultsApi, home: Path) -> Iterator[Controller]:
    def run(template: str, variables: Mapping[str, Any]) -> Popen[str]:
        playbook = ROOT / "playbooks" / f"{template}.yml"
        workspace = home / "workspace"
        return start_play(playbook, {}, api=api, workspace=workspace, variables=variables)

    with Controller(run) as controller:
        for name in ("mcp_echo_adapter", "mcp_deadletter_adapter"):
            controller.templates[name] = Template(name, asks=["limit"])
        yield controller


@pytest.fixture(scope="module")
def aap(
    kafka_bootstrap: str, topic: str, api: ResultsApi, home: Path, controller: Controller
) -> Iterator[EmbeddedEda]:
    eda = controllers_process(home, kafka_bootstrap, api, topic, controller)
    eda.start()
    yield eda
    eda.stop()


@pytest.mark.eda
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("aap")
@pytest.mark.guarantee("eda:hostile")
async def test_behind_upstreams_source_no_arguments_stop_the_rules(
    api: ResultsApi, send: Send, controller: Controller
) -> None:
    hostile = [{"text": "🎉"}, {"text": "x", "": {}}, {"text": "{{ 1 }}"}]
    commands = [api.command("probe", "echo", args, user_id="𠮷田") for args in hostile]
    other = api.command("probe", "echo", {"text": "ordinary"}, tenant_id="other")
    await send(*commands, b"no json {{ x }}", other)
    for command in (*commands, other):
        assert (await ended(api, command))[-1] == "result"
        assert api.of(command)[-1].body["result"] == {"text": command["args"]["text"]}
    bodies = [job.extra_vars["mcp_command"] for job in controller.jobs]
    without = {name: other[name] for name in other if name != "args"}
    assert without in bodies, "what can be carried is, but for the arguments"
    assert not any("args" in body for body in bodies)
    assert not any("ordinary" in str(job.extra_vars) for job in controller.jobs)
    assert all(job.launched_with["limit"] == "" for job in controller.jobs)
    left_out = [body.get("left_out") for body in bodies if "tool" in body and body != without]
    assert left_out == [["user_id"]] * len(hostile)


@pytest.mark.eda
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("aap")
@pytest.mark.guarantee("traces:jobs")
async def test_a_controllers_job_is_told_whose_trace_it_is_of(
    api: ResultsApi, send: Send, controller: Controller
) -> None:
    traced, hostile, other = [api.command("probe", "echo", {"text": "x"}) for _ in range(3)]
    await send(traced, headers={"traceparent": TRACEPARENT.encode()})
    await send(hostile, headers={"traceparent": b"{{ 1 }}"})
    await send(other)
    for command in (traced, hostile, other):
        assert (await ended(api, command))[-1] == "result"
    told = {
        job.extra_vars["mcp_command"].get("correlation_id"): job.extra_vars["TRACEPARENT"]
        for job in controller.jobs
        if "TRACEPARENT" in job.extra_vars
    }
    ids = [one["correlation_id"] for one in (traced, hostile, other)]
    assert [told[one] for one in ids] == [TRACEPARENT, "", ""]
