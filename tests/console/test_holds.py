"""Holds in the console: placed and released by operators only, with a preview and a reason."""

import html
import re
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.edges.parts import Parts
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.console.conftest import send, signed_in
from tests.support.calls import accept, delete, echo, fetch

TOOLS = "/console/tools"
EVIL = "<script>document.title='owned'</script>{{ 7*7 }}'\"\u2028"
KEY = EVIL.removesuffix("\u2028")
HOLD: dict[str, Any] = {"tool": "git/delete", "effect": "wait"}
ROWS = "SELECT * FROM holds ORDER BY id"


async def place(client: httpx.AsyncClient, **fields: Any) -> str:
    """Preview, then place it, with the fields that the preview's form has; what came of it."""
    shown = await send(client, f"{TOOLS}/hold/preview", **fields)
    assert shown.status_code == 200, shown.text
    form = shown.text.partition('action="/console/tools/hold"')[2]
    hidden = re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', form)
    carried = {name: html.unescape(value) for name, value in hidden if name != "csrf"}
    done = await send(client, f"{TOOLS}/hold", **carried, reason="mending 🙂")
    assert done.status_code == 200, done.text
    return html.unescape(done.text)


async def release(client: httpx.AsyncClient, hold_id: UUID) -> httpx.Response:
    path = f"{TOOLS}/holds/{hold_id}"
    assert (await send(client, f"{path}/preview")).status_code == 200
    return await send(client, f"{path}/release", reason="mended")


@pytest.mark.guarantee("holds:kept")
async def test_an_operator_places_a_hold_and_releases_it_each_after_a_preview(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    call = (await accept(broker, delete("a"))).written.id
    async with signed_in(broker, issuer) as client:
        shown = await send(client, f"{TOOLS}/hold/preview", **HOLD)
        assert "nothing is held yet" in shown.text
        assert "<dd>1</dd>" in shown.text, "the call that waits"
        assert await fetch(database.owner, ROWS) == []
        done = await place(client, **HOLD)
        assert "1 waited for it when it began; 0 were in flight" in done
        [row] = await fetch(database.owner, ROWS)
        kept = (row["tool"], row["method"], row["effect"], row["reason"], row["placed_by"])
        assert kept == ("git", "delete", "wait", "mending 🙂", "operator:olga")
        assert "held by an operator" in (await client.get(f"/console/calls/{call}")).text
        assert f"release-{row['id']}" in (await client.get(TOOLS)).text
        ending = await send(client, f"{TOOLS}/holds/{row['id']}/preview")
        assert "<dt>Go on when it ends</dt><dd>1</dd>" in ending.text
        [row] = await fetch(database.owner, ROWS)
        assert row["released_at"] is None, "a preview does nothing"
        assert (await release(client, row["id"])).headers["location"] == TOOLS
        [row] = await fetch(database.owner, ROWS)
        assert row["released_by"] == "operator:olga"
        assert "Holds in force" not in (await client.get(TOOLS)).text
        assert (await send(client, f"{TOOLS}/holds/{row['id']}/preview")).status_code == 404
    events = await fetch(
        database.owner,
        "SELECT type, actor, body::jsonb ->> 'reason' AS reason FROM audit.events"
        " WHERE type LIKE 'hold.%' ORDER BY xid, occurred_at",
    )
    assert [tuple(one) for one in events] == [
        ("hold.placed", "operator:olga", "mending 🙂"),
        ("hold.released", "operator:olga", "mended"),
    ]


@pytest.mark.guarantee("holds:kept")
async def test_a_hold_is_of_a_key_a_value_or_all_and_refuses_where_it_is_to(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    await accept(broker, echo("x"))
    async with signed_in(broker, issuer) as client:
        await place(client, key=KEY, effect="wait", until="2099-01-31T09:00")
        await place(client, path="/text", value="x", effect="refuse")
        await place(client, tool="git", path="/a~1b/0", value=' {"b": [1.0]} ', as_json="on",
                    effect="wait")  # fmt: skip
        await place(client, all_calls="on", effect="refuse")
        page = (await client.get(TOOLS)).text
        assert "<script>document" not in page
    rows = await fetch(database.owner, ROWS)
    keyed, text, json, every = rows
    assert (keyed["ordering_key"], str(keyed["until"])[:16]) == (KEY, "2099-01-31 09:00")
    assert (text["args_path"], text["args_value"], text["effect"]) == (["text"], '"x"', "refuse")
    assert (json["tool"], json["args_path"]) == ("git", ["a/b", "0"])
    assert json["args_value"] == '{"b": [1]}'
    assert [every[name] for name in ("tool", "method", "ordering_key", "args_path")] == [None] * 4


@pytest.mark.guarantee("tenancy:walk")
async def test_nobody_holds_or_releases_for_another_tenant_or_without_the_scope(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    async with (
        signed_in(broker, issuer) as olga,
        signed_in(broker, issuer, "adam", "admin", "tools", "auditor") as adam,
        signed_in(broker, issuer, "eve", tenant="other") as eve,
    ):
        await place(olga, **HOLD)
        [row] = await fetch(database.owner, ROWS)
        paths = ("hold/preview", "hold", *(f"holds/{row['id']}/{one}" for one in PREVIEWED))
        for path in paths:
            answer = await send(adam, f"{TOOLS}/{path}", **HOLD, reason="mine")
            assert answer.status_code == 403, path
        assert (await adam.get(f"{TOOLS}/hold")).status_code == 403
        assert "Holds in force" not in (await adam.get(TOOLS)).text
        assert str(row["id"]) not in (await eve.get(TOOLS)).text
        for one in PREVIEWED:
            answer = await send(eve, f"{TOOLS}/holds/{row['id']}/{one}", reason="mine")
            assert answer.status_code == 404
        await place(eve, **HOLD)
    rows = await fetch(database.owner, ROWS)
    assert [one["tenant_id"] for one in rows] == ["demo", "other"]
    assert rows[0]["released_at"] is None


PREVIEWED = ("preview", "release")


@pytest.mark.guarantee("console:forged")
async def test_no_hold_is_placed_or_released_by_a_form_of_another_session(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    async with signed_in(broker, issuer) as client:
        await place(client, **HOLD)
        [row] = await fetch(database.owner, ROWS)
        for path in ("hold/preview", "hold", *(f"holds/{row['id']}/{one}" for one in PREVIEWED)):
            for csrf in ("", "0" * 64):
                fields = HOLD | {"reason": "r", "csrf": csrf}
                assert (await send(client, f"{TOOLS}/{path}", **fields)).status_code == 403, path
    [row] = await fetch(database.owner, ROWS)
    assert row["released_at"] is None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"tool": "nowhere"},
        {"tool": "git/nothing"},
        {"tool": "/delete"},
        {"tool": "git\x00"},
        {"tool": "git", "all_calls": "on"},
        {"tool": "git", "effect": "burn"},
        {"tool": "git", "until": "2020-01-01T00:00"},
        {"tool": "git", "until": "soon"},
        {"tool": "git", "until": "99999-01-01T00:00"},
        {"tool": "git", "until": "0001-01-01T00:00:00+14:00"},
        {"tool": "git", "path": "repo", "value": "x"},
        {"tool": "git", "value": "x"},
        {"tool": "git", "path": "/a//b", "value": "x"},
        {"tool": "git", "path": "/a/-1", "value": "x"},
        {"tool": "git", "path": "/a", "value": "x" * 2000},
        {"tool": "git", "path": "/a", "value": "NaN", "as_json": "on"},
        {"tool": "git", "path": "/a", "value": "18446744073709551616", "as_json": "on"},
        {"tool": "git", "path": "/a", "value": '"\\ud800"', "as_json": "on"},
        {"tool": "git", "path": "/a", "value": "[" * 300 + "]" * 300, "as_json": "on"},
        {"tool": "git", "path": "/a", "value": "", "as_json": "on"},
        {"key": "k" * 300},
    ],
)
async def test_a_form_that_describes_no_hold_is_shown_again_with_what_is_wrong(
    broker: Parts, issuer: DevIssuer, database: Dsns, fields: dict[str, Any]
) -> None:
    sent = {"effect": "wait"} | fields
    async with signed_in(broker, issuer) as client:
        shown = await send(client, f"{TOOLS}/hold/preview", **sent)
        assert shown.status_code in {400, 404, 422}, shown.text
        if fields.get("tool") != "git\x00":
            assert 'role="alert"' in shown.text
            for name in ("tool", "path", "value", "key"):
                value = html.escape(fields.get(name, "")).replace("&quot;", "&#34;")
                assert f'name="{name}" value="{value}"' in shown.text
        done = await send(client, f"{TOOLS}/hold", **sent, reason="r")
        assert done.status_code in {400, 404, 422}, done.text
    assert await fetch(database.owner, ROWS) == []


@pytest.mark.parametrize("reason", ["", " ", "x" * 501, "a\x00"])
async def test_no_hold_is_placed_without_a_reason(
    broker: Parts, issuer: DevIssuer, database: Dsns, reason: str
) -> None:
    async with signed_in(broker, issuer) as client:
        answer = await send(client, f"{TOOLS}/hold", **HOLD, reason=reason)
        assert answer.status_code == 400
        gone = f"{TOOLS}/holds/{uuid4()}/release"
        assert (await send(client, gone, reason=reason)).status_code == 400
        assert (await send(client, gone, reason="r")).status_code == 404
    assert await fetch(database.owner, ROWS) == []
