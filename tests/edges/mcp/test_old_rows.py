"""What an earlier release kept and none would take now breaks no answer that has it in it."""

import json
from typing import Any

import pytest

from app.json_values import DEPTH_MAX, SHOWN_DEPTH_MAX, read, showable
from tests.edges.mcp.conftest import ERAS, Front
from tests.edges.mcp.wire import call
from tests.support.calls import fetch

DEEP = (250, 300, 3000)
"""Levels that were taken once, that no writer of JSON takes, and that no reader takes."""

READ_MAX = 1024

TOLD = """
    INSERT INTO audit.events (tenant_id, type, actor, user_id, command_id, tool, method, body)
    SELECT tenant_id, 'result.late', 'adapter:eda', user_id, id, tool, method, $2::json
      FROM commands
     WHERE id = $1::uuid
"""


def nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


async def old_row(front: Front, user: str, levels: int, **said: Any) -> str:
    """A command that ended with a value of so many levels."""
    text = f"{user} {levels} {json.dumps(said)}"
    async with front.http(user) as http:
        body = {"tool": "probe", "method": "echo", "args": {"text": text}, "idempotency_key": text}
        made = await http.post("/mcp/tools/call", json=body, headers={"Prefer": "respond-async"})
    one: str = made.json()["command_id"]
    for attempt in (1, 2, 3) if said["status"] == "error" else (1,):
        await front.say(one, "", attempt=attempt, **said)
    column = "error" if said["status"] == "error" else "result"
    value = nested(levels)
    if column == "error":
        value = f'{{"code": "broken", "message": "It broke.", "cause": {value}}}'
    await fetch(
        front.dsns.owner,
        f"UPDATE commands SET {column} = $2::jsonb WHERE id = $1::uuid",
        one,
        value,
    )
    await fetch(front.dsns.owner, TOLD, one, value)
    return one


OK: dict[str, Any] = {"status": "ok", "result": {"text": "x"}}
FAILED: dict[str, Any] = {"status": "error", "error": {"code": "broken"}}


@pytest.mark.guarantee("read:old-rows")
@pytest.mark.parametrize("levels", DEEP)
async def test_every_reader_over_http_shows_the_row_without_its_value(
    front: Front, levels: int
) -> None:
    user = f"old-{levels}"
    done = await old_row(front, user, levels, **OK)
    dead = await old_row(front, user, levels, **FAILED)
    repeated = {"tool": "probe", "method": "echo"}
    async with front.http(user, "tools", "operator", "auditor") as http:
        found = (await http.get("/commands")).json()["commands"]
        assert {one["command_id"] for one in found} == {done, dead}
        for path in (
            f"/commands/{done}",
            f"/commands/{dead}",
            f"/commands/{dead}/events",
            "/operator/dead-letters",
            f"/operator/dead-letters/{dead}",
            "/auditor/events",
            f"/auditor/commands/{done}",
        ):
            answer = await http.get(path)
            assert (answer.status_code, "not_shown" in answer.text) == (200, True), path
        shown = (await http.get(f"/commands/{dead}")).json()["error"]
        readable = {name: shown.get(name) for name in ("code", "message")}
        told = {"code": "broken", "message": "It broke."} if levels < READ_MAX else {}
        assert readable == {"code": None, "message": None} | told
        [key] = [one["idempotency_key"] for one in found if one["command_id"] == done]
        body = repeated | {"args": {"text": key}, "idempotency_key": key}
        again = await http.post("/mcp/tools/call", json=body)
        assert (again.status_code, again.json()["state"]) == (200, "succeeded"), again.text
        assert "not_shown" in again.json()["result"]


@pytest.mark.guarantee("read:old-rows")
@pytest.mark.parametrize("mode", ERAS)
async def test_every_reader_over_mcp_shows_the_row_without_its_value(
    front: Front, mode: str
) -> None:
    user = f"old-{mode}"
    done = await old_row(front, user, DEEP[0], **OK)
    async with front.client(user, mode=mode) as client:
        status = await client.call_tool("command_status", {"command_id": done})
        assert "not_shown" in status.structured_content["result"]
        listed = (await client.call_tool("command_list", {})).structured_content
        assert [one["command_id"] for one in listed["commands"]] == [done]
        resource = await client.read_resource(f"command://{done}")
        assert "not_shown" in str(resource.contents[0])
    async with front.http(user) as http:
        key = listed["commands"][0]["idempotency_key"]
        meta = {"dev.mcpbroker/idempotency_key": key}
        again = (await call(http, "probe_echo", {"text": key}, meta=meta))["result"]
    assert "not_shown" in json.dumps(again)
    assert not again.get("isError")


@pytest.mark.parametrize("levels", [1, DEPTH_MAX, SHOWN_DEPTH_MAX])
def test_what_may_be_kept_is_shown_as_it_is(levels: int) -> None:
    value = read(nested(levels))
    crowded = [value, "[[[" * 100, '\\"{' * 100, {str(n): [n] for n in range(200)}]
    assert showable(value) is value
    if levels < SHOWN_DEPTH_MAX:
        assert showable(crowded) is crowded


def test_one_level_more_is_not_shown() -> None:
    assert "not_shown" in showable(read(nested(SHOWN_DEPTH_MAX + 1)))
    assert "not_shown" in showable([{"b": [read(nested(SHOWN_DEPTH_MAX - 1))]}, []])
