"""What an MCP client says of its call beside the request: labels, and why its model makes it."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from app.asserted import INVOCATION_META
from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import call
from tests.support.calls import fetch

LABELS = "dev.mcpbroker/labels"
NOW = {"dev.mcpbroker/wait_s": 0}


async def shown(http: Any, command_id: str) -> Any:
    asked = {"command_id": command_id, "wait_s": 0}
    return (await call(http, "command_status", asked))["result"]["structuredContent"]


@pytest.mark.guarantee("asserted:kept")
async def test_a_reason_is_kept_and_shown_as_what_the_caller_asserts(front: Front) -> None:
    said = {
        "invocationReason": "The user asked for {{ it }} \u0007now",
        "model": "m-1",
        "turnId": "t-7",
        "unknown": [1],
    }
    meta = NOW | {INVOCATION_META: said, LABELS: ["INC-17"]}
    async with front.http("why") as http:
        made = await call(http, "probe_echo", {"text": "why"}, meta=meta)
        one = made["result"]["structuredContent"]["command_id"]
        told = await shown(http, one)
        found = await call(http, "command_list", {"label": ["INC-17"]})
        none = await call(http, "command_list", {"label": ["INC-17", "other"]})
    asserted = {
        "invocation_reason": "The user asked for {{ it }} now",
        "model": "m-1",
        "turn_id": "t-7",
    }
    assert (told["asserted_by_caller"], told["labels"]) == (asserted, ["INC-17"])
    assert [row["command_id"] for row in found["result"]["structuredContent"]["commands"]] == [one]
    assert none["result"]["structuredContent"]["commands"] == []
    [row] = await fetch(
        front.dsns.owner,
        "SELECT body::text FROM audit.events WHERE command_id = $1 AND type = 'command.accepted'",
        UUID(one),
    )
    assert orjson.loads(row["body"])["asserted_by_caller"] == asserted


@pytest.mark.guarantee("asserted:kept")
@pytest.mark.parametrize("said", [None, 7, "x", [], {"model": {"deep": [[[]]]}}, {"": None}])
async def test_no_call_is_refused_for_what_it_says_of_its_reason(front: Front, said: Any) -> None:
    async with front.http("odd") as http:
        made = await call(
            http, "probe_echo", {"text": repr(said)}, meta=NOW | {INVOCATION_META: said}
        )
        told = await shown(http, made["result"]["structuredContent"]["command_id"])
    assert "asserted_by_caller" not in told


@pytest.mark.guarantee("labels:searched")
async def test_the_header_adds_labels_to_those_of_meta_and_bad_ones_start_nothing(
    front: Front,
) -> None:
    async with front.http("tags") as http:
        made = await call(
            http,
            "probe_echo",
            {"text": "tags"},
            meta=NOW | {LABELS: ["a"]},
            headers={"Mcp-Broker-Labels": "b, a"},
        )
        told = await shown(http, made["result"]["structuredContent"]["command_id"])
        assert told["labels"] == ["a", "b"]
        for bad in (["x\n"], "x", [7], ["x"] * 11, [{}]):
            refused = (await call(http, "probe_echo", {"text": "no"}, meta=NOW | {LABELS: bad}))[
                "result"
            ]
            assert refused["isError"]
            assert "labels" in refused["content"][0]["text"]
    rows = await fetch(front.dsns.owner, "SELECT 1 FROM commands WHERE user_id = 'tags'")
    assert len(rows) == 1


@pytest.mark.guarantee("later:waits")
async def test_a_model_is_told_that_a_call_starts_later_and_a_saga_cannot(front: Front) -> None:
    at = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    meta = {"dev.mcpbroker/not_before": at}
    async with front.http("later") as http:
        made = (await call(http, "probe_echo", {"text": "later"}, meta=meta))["result"]
        told = await shown(http, made["structuredContent"]["command_id"])
        step = {"id": "a", "tool": "probe_echo", "args": {"text": "x"}, "kind": "readonly"}
        saga = (await call(http, "saga_run", {"plan": {"steps": [step]}}, meta=meta))["result"]
        bad = {"dev.mcpbroker/not_before": 1_800_000_000}
        refused = (await call(http, "probe_echo", {"text": "no"}, meta=bad))["result"]
    assert "it starts not before 20" in made["content"][0]["text"]
    assert made["structuredContent"]["waiting_for"] == told["waiting_for"]
    assert told["waiting_for"].startswith("its start: not before 20")
    assert "starts not before" in told["next_step"]
    assert saga["isError"]
    assert "not_before" in saga["content"][0]["text"]
    assert refused["isError"]
    assert "RFC 3339" in refused["content"][0]["text"]
