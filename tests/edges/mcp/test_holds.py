"""What a model is told of an operator's hold: in the list, in the answer, in the status."""

import pytest

from tests.edges.mcp.conftest import Front
from tests.edges.mcp.wire import call, message, send

META = {"dev.mcpbroker/wait_s": 0}


@pytest.mark.guarantee("holds:kept")
async def test_a_model_is_told_of_a_hold_before_and_after_it_calls(front: Front) -> None:
    await front.allow("held")
    async with (
        front.http("olga", "tools", "operator", tenant="held") as olga,
        front.http("ada", tenant="held") as http,
    ):
        before = await described(http)
        body = {"tool": "probe", "reason": "the host is being mended"}
        hold = (await olga.post("/operator/holds", json=body)).json()["hold_id"]
        told = await described(http)
        made = (await call(http, "probe_echo", {"text": "x"}, meta=META))["result"]
        asked = {"command_id": made["structuredContent"]["command_id"], "wait_s": 0}
        status = (await call(http, "command_status", asked))["result"]["structuredContent"]
        refuse = {"all_calls": True, "effect": "refuse", "reason": "the cutover"}
        await olga.post("/operator/holds", json=refuse)
        refused = (await call(http, "probe_echo", {"text": "y"}, meta=META))["result"]
        step = {"id": "a", "tool": "probe_echo", "args": {"text": "x"}, "kind": "readonly"}
        asked = {"plan": {"steps": [step]}}
        no_saga = (await call(http, "saga_run", asked, meta=META))["result"]
        for one in (await olga.get("/operator/holds")).json()["holds"]:
            path = f"/operator/holds/{one['hold_id']}/release"
            assert (await olga.post(path, json={"reason": "mended"})).status_code == 200
        after = await described(http)
    held = "held by an operator until it is released: the host is being mended"
    assert told == f"{before}\n\nNow {held}. Calls are accepted and wait."
    assert after == before
    assert made["content"][0]["text"].startswith(f"Accepted; it is {held}. Tell the user")
    assert made["structuredContent"]["waiting_for"] == status["waiting_for"] == held
    assert status["hold"]["hold_id"] == hold
    assert held in status["next_step"]
    for answer in (refused, no_saga):
        assert answer["structuredContent"]["error"]["code"] == "held"
        assert "the cutover" in answer["content"][0]["text"]
        assert "do not try again" in answer["structuredContent"]["next_step"]


async def described(http: object) -> str:
    listed = message(await send(http, "tools/list", {}))  # pyright: ignore[reportArgumentType]
    [tool] = [one for one in listed["result"]["tools"] if one["name"] == "probe_echo"]
    return tool["description"]
