"""What another writer of the topics could write, as the sources and the collection read it.

Records of any bytes, headers and times: each becomes an event that the rules can read, and what an
adapter takes of an event is a command, or nothing. No EDA runs here.
"""

import asyncio
import json
import os
import runpy
import sys
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Final
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.edges.hostile.values import KINDS, Value
from tests.system.eda.conftest import COLLECTIONS

OURS: Final = COLLECTIONS / "ansible_collections/mcpbroker/eda"
SOURCES: Final = OURS / "extensions/eda/plugins/event_source"
KAFKA: Final = runpy.run_path(str(SOURCES / "kafka.py"))
CONTROL: Final = runpy.run_path(str(SOURCES / "control.py"))
sys.path.append(str(OURS.parents[2]))  # where Ansible finds a collection's modules
RESULTS: Final = vars(
    import_module("ansible_collections.mcpbroker.eda.plugins.module_utils.results")
)
SUPPORT: Final = SOURCES.parent / "support"
BROKER: Final = runpy.run_path(str(SUPPORT / "broker.py"))["Reporter"]({})
CANCEL_JOB: Final = runpy.run_path(str(SUPPORT / "jobs.py"))["cancel_job"]
NAMED: Final = RESULTS["Broker"]({})
VALUES: Final = st.one_of(*KINDS.values())
FIELDS: Final = ("correlation_id", "tenant_id", "tool", "method", "attempt", "adapter", "action")
TIMES: Final = st.sampled_from(
    [0, -1, 1, None, 2**63 - 1, -(2**63), 253402300800000]
) | st.integers(-(2**63), 2**63 - 1)


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A command's envelope with hostile fields; or anything at all."""
    whole = draw(st.integers(0, 3))
    if whole == 0:
        return draw(VALUES).written
    said: dict[str, Value] = draw(st.dictionaries(st.sampled_from(FIELDS), VALUES, min_size=1))
    fields = [json.dumps(name).encode() + b":" + one.written for name, one in said.items()]
    plain = {
        "correlation_id": str(uuid4()),
        "attempt": 1,
        "tenant_id": "demo",
        "tool": "t",
        "method": "m",
        "action": "cancel",
    }
    rest = [
        json.dumps({name: one})[1:-1].encode() for name, one in plain.items() if name not in said
    ]
    return b"{" + b",".join(fields + rest) + b"}"


HEADERS: Final = st.lists(
    st.tuples(st.text(max_size=9) | st.just("message_uuid"), st.binary(max_size=40) | st.none()),
    max_size=4,
)


@pytest.mark.guarantee("eda:hostile")
@given(bodies() | st.binary(max_size=60) | st.none(), HEADERS, TIMES)
def test_any_record_is_an_event_that_each_part_of_the_way_can_read(
    value: bytes | None, headers: list[tuple[str, bytes | None]], timestamp: int | None
) -> None:
    record = SimpleNamespace(
        value=value,
        headers=headers,
        timestamp=timestamp,
        topic="mcp.commands",
        partition=0,
        offset=7,
    )
    event = KAFKA["event_of"](record)
    assert json.loads(json.dumps(event, allow_nan=False)) == event
    assert all(ord(char) < 0x10000 for char in json.dumps(event, ensure_ascii=False))
    said = event["body"]
    command = RESULTS["command_of"](said, NAMED)
    if command is not None:
        assert isinstance(command.attempt, int)
        assert json.dumps(command.named)


@pytest.mark.guarantee("eda:hostile")
@pytest.mark.parametrize("timestamp", [2**63 - 1, -(2**63), -62135596800001, 253402300800000])
def test_a_record_of_a_time_that_is_none_is_an_event_without_it(timestamp: int) -> None:
    record = SimpleNamespace(
        value=b'{"tool": "t"}', headers=[], timestamp=timestamp, topic="t", partition=0, offset=7
    )
    event = KAFKA["event_of"](record)
    assert event["body"] == {"tool": "t"}
    assert "produced_at" not in event["meta"]


@pytest.mark.guarantee("eda:hostile")
@pytest.mark.parametrize("attempt", [float("inf"), float("nan"), -float("inf"), 1e300, "²", [1]])
def test_whatever_an_event_says_of_its_attempt_it_is_a_command_or_none(attempt: Any) -> None:
    said = {"correlation_id": str(uuid4()), "attempt": attempt}
    command = RESULTS["command_of"](said, NAMED)
    assert command is None or isinstance(command.attempt, int)


@pytest.mark.guarantee("eda:hostile")
@given(bodies(), st.sampled_from(["{}", "job:{}:x", f"{os.uname().nodename}:{{}}:{{}}:x"]), VALUES)
def test_no_control_message_ends_the_source_or_another_process(
    value: bytes, adapter: str, named: Value
) -> None:
    body: dict[str, Any] = KAFKA["body_of"](value, "utf-8") or {}
    said = named.bare.decode(errors="replace")
    for one in (body, body | {"action": "cancel", "adapter": adapter.replace("{}", said)}):
        act: Callable[..., Any] = CONTROL["_act"]
        asyncio.run(act(one, BROKER, CANCEL_JOB))
