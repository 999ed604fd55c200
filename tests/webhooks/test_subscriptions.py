"""MCP clients subscribe by webhook (SEP-3415): verified first, for a while, by their receiver."""

import base64
import secrets
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from app.edges.parts import Parts
from tests.edges.mcp.test_events import poll
from tests.edges.mcp.wire import message, send
from tests.support.calls import ADA, BOB, fetch
from tests.support.stack import wait_for
from tests.webhooks.conftest import Hooks
from tests.webhooks.receivers import OK, Answer, Got, Receiver, receiving, status
from tests.webhooks.test_delivery import ended

MINE = {"name": "command.ended"}


@pytest.fixture
def values(values: dict[str, Any]) -> dict[str, Any]:
    return values | {"mcp_events": True}


def new_secret() -> str:
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


def echoing(after: Answer | None = None) -> Answer:
    """A receiver that wants what it is asked about."""

    async def answer(got: Got) -> bytes | None:
        if got.json.get("type") == "verification":
            return status(200, body=orjson.dumps({"challenge": got.json["challenge"]}))
        return OK if after is None else await after(got)

    return answer


def events(receiver: Receiver) -> list[Got]:
    return [one for one in receiver.got if "type" not in one.json]


async def asked(http: httpx2.AsyncClient, verb: str, url: str, **more: Any) -> Any:
    """The result of events/subscribe or events/unsubscribe, or its error."""
    secret = more.pop("secret", None)
    mode = more.pop("mode", "webhook")
    delivery = {"mode": mode, "url": url} | ({} if secret is None else {"secret": secret})
    answer = message(await send(http, f"events/{verb}", {**MINE, "delivery": delivery, **more}))
    return answer.get("result") or answer["error"]


@pytest.mark.guarantee("mcp:event-webhooks")
async def test_a_subscription_is_verified_and_then_told_of_its_users_own(
    hooks: Hooks, broker: Parts, certificate: Path
) -> None:
    secret = new_secret()
    async with (
        receiving(certificate=certificate) as receiver,
        hooks.relay(),
        hooks.app.client("ada") as http,
    ):
        receiver.answer = echoing()
        listed = message(await send(http, "events/list", {}))["result"]["events"]
        assert all(one["delivery"] == ["poll", "push", "webhook"] for one in listed)
        granted = await asked(http, "subscribe", receiver.url, secret=secret)
        wanted = {"resultType", "id", "refreshBefore", "cursor", "truncated"}
        assert granted.keys() - {"_meta"} == wanted
        [challenge] = receiver.got
        challenge.verified(secret)
        assert challenge.headers["webhook-id"].startswith("msg_verification_")
        assert challenge.headers["X-MCP-Subscription-Id"] == granted["id"]
        await ended(broker, "bob's", who=BOB)
        one = await ended(broker, "ada's", who=ADA)
        await wait_for(lambda: there(receiver, 1))
        [got] = events(receiver)
        assert got.verified(secret)["data"] == {
            "command_id": one,
            "tool": "probe_echo",
            "state": "succeeded",
            "outcome_unknown": False,
        }
        assert set(got.json) == {"eventId", "name", "timestamp", "data", "cursor"}
        assert got.headers["webhook-id"] == got.json["eventId"]
        told = await poll(http, "command.ended", granted["cursor"])
        assert [each["eventId"] for each in told["events"]] == [got.json["eventId"]]
        assert (await poll(http, "command.ended", got.json["cursor"]))["events"] == []
        again = await asked(http, "subscribe", receiver.url, secret=secret)
        assert (again["id"], again["deliveryStatus"]["active"]) == (granted["id"], True)
        assert len(receiver.got) == 2, "it is not asked again"
        await asked(http, "unsubscribe", receiver.url)
        gone = await asked(http, "unsubscribe", receiver.url)
        assert (gone["code"], gone["data"]) == (-32023, {"kind": "subscription"})
        await ended(broker, "unheard", who=ADA)
        await poll_moves(http, told["cursor"])
    assert len(events(receiver)) == 1
    assert await fetch(hooks.dsns.owner, "SELECT 1 FROM webhook_deliveries") == []


async def there(receiver: Receiver, count: int) -> bool:
    return len(events(receiver)) >= count


async def poll_moves(http: httpx2.AsyncClient, cursor: str) -> None:
    async def found() -> bool:
        return bool((await poll(http, "command.ended", cursor))["events"])

    await wait_for(found)


@pytest.mark.guarantee("mcp:event-webhooks")
@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (status(200, body=b'{"challenge": "other"}'), "challenge_failed"),
        (status(200, body=b'{"challenge": 7}'), "challenge_failed"),
        (status(200, body=b"[" * 9000), "challenge_failed"),
        (status(204), "challenge_failed"),
        (status(302, "Location: https://example.org/"), "challenge_failed"),
        (status(404), "http_4xx"),
        (status(500), "http_5xx"),
        (None, "timeout"),
        (b"", "connection_refused"),
    ],
)
async def test_a_receiver_that_does_not_echo_is_told_nothing(
    hooks: Hooks, broker: Parts, certificate: Path, said: bytes | None, reason: str
) -> None:
    async with (
        receiving(certificate=certificate) as receiver,
        hooks.relay(webhook_timeout_s=0.5),
        hooks.app.client("ada") as http,
    ):
        receiver.says(said)
        error = await asked(http, "subscribe", receiver.url, secret=new_secret())
        assert (error["code"], error["data"]) == (-32027, {"reason": reason})
        await ended(broker, who=ADA)
        count = "SELECT count(*) AS n FROM webhook_deliveries WHERE kind <> 'verification'"
        assert (await fetch(hooks.dsns.owner, count))[0]["n"] == 0
    assert len(receiver.got) == 1


@pytest.mark.guarantee("mcp:event-webhooks")
async def test_a_cursor_brings_what_was_missed_and_410_ends_one_delivery(
    hooks: Hooks, broker: Parts, certificate: Path
) -> None:
    async with (
        receiving(certificate=certificate) as receiver,
        hooks.app.client("ada") as http,
    ):
        cursor = (await poll(http, "command.ended", None))["cursor"]
        missed = [await ended(broker, f"m{n}", who=ADA) for n in range(3)]
        await poll_moves(http, cursor)
        refused: list[str] = []

        async def gone_once(got: Got) -> bytes | None:
            if not refused:
                refused.append(got.json["data"]["command_id"])
                return status(410)
            return OK

        receiver.answer = echoing(gone_once)
        async with hooks.relay((0.05,)):
            granted = await asked(
                http, "subscribe", receiver.url, secret=new_secret(), cursor=cursor
            )
            assert granted["truncated"] is False
            await wait_for(lambda: there(receiver, 3))
            later = await ended(broker, "later", who=ADA)
            await wait_for(lambda: there(receiver, 4))
            told = [one.json["data"]["command_id"] for one in events(receiver)]
            assert sorted(told[:3]) == sorted(missed)
            assert told[3] == later, "410 is of one delivery, which is not sent again"
            states = "SELECT state, count(*) AS n FROM webhook_deliveries GROUP BY 1 ORDER BY 1"

            async def settled() -> bool:
                rows = await fetch(hooks.dsns.owner, states)
                return [(row["state"], row["n"]) for row in rows] == [
                    ("abandoned", 1),
                    ("delivered", 4),
                ]

            await wait_for(settled)


async def test_a_secret_that_is_replaced_signs_for_a_while_and_the_end_is_granted_anew(
    hooks: Hooks, broker: Parts, certificate: Path
) -> None:
    old, new = new_secret(), new_secret()
    async with (
        receiving(certificate=certificate) as receiver,
        hooks.relay(),
        hooks.app.client("ada") as http,
    ):
        receiver.answer = echoing()
        first = await asked(http, "subscribe", receiver.url, secret=old, ttlMs=1)
        forever = await asked(http, "subscribe", receiver.url, secret=new, ttlMs=None)
        assert first["refreshBefore"] < forever["refreshBefore"], "a day, as never is not granted"
        await ended(broker, who=ADA)
        await wait_for(lambda: there(receiver, 1))
        [got] = events(receiver)
        assert got.verified(old) == got.verified(new)


@pytest.mark.guarantee("mcp:event-webhooks")
async def test_what_is_over_is_told_no_more(hooks: Hooks, broker: Parts, certificate: Path) -> None:
    async with (
        receiving(certificate=certificate) as receiver,
        hooks.app.client("ada") as http,
    ):
        receiver.answer = echoing()
        async with hooks.relay():
            await asked(http, "subscribe", receiver.url, secret=new_secret())
        over = "UPDATE webhook_endpoints SET expires_at = now() - interval '1 second'"
        await fetch(hooks.dsns.owner, over)
        await ended(broker, who=ADA)
        async with hooks.relay():

            async def gone() -> bool:
                return await fetch(hooks.dsns.owner, "SELECT 1 FROM webhook_endpoints") == []

            await wait_for(gone)
    assert events(receiver) == []


def controls(receiver: Receiver, kind: str) -> list[Got]:
    return [one for one in receiver.got if one.json.get("type") == kind]


@pytest.mark.guarantee("mcp:events-end")
@pytest.mark.parametrize("retired", [False, True])
async def test_who_may_no_longer_be_told_is_told_so_signed_until_it_is_taken_and_then_nothing(
    hooks: Hooks, broker: Parts, certificate: Path, retired: bool
) -> None:
    secret, narrowed = new_secret(), {"arguments": {"tool": "probe_echo"}}
    lost = "UPDATE tenants SET state = 'suspended' WHERE tenant_id = 'demo'"
    if retired:
        lost = "UPDATE tools SET retired_at = now() WHERE name = 'probe_echo'"
    refused = [status(503)]

    async def second(got: Got) -> bytes | None:
        ends = got.json.get("type") == "terminated" and refused
        return refused.pop() if ends else OK

    async with (
        receiving(certificate=certificate) as receiver,
        hooks.app.client("ada") as http,
    ):
        receiver.answer = echoing(second)
        async with hooks.relay():
            granted = await asked(http, "subscribe", receiver.url, secret=secret, **narrowed)
        await fetch(hooks.dsns.owner, lost)
        broker.catalog.forget()
        async with hooks.relay((0.05,)):

            async def told() -> bool:
                return len(controls(receiver, "terminated")) == 2

            await wait_for(told)

            async def gone() -> bool:
                return await fetch(hooks.dsns.owner, "SELECT 1 FROM webhook_endpoints") == []

            await wait_for(gone)
        first, again = controls(receiver, "terminated")
        assert first.verified(secret) == {
            "type": "terminated",
            "error": {
                "code": -32024,
                "message": "Forbidden",
                "data": {"reason": "Access revoked"},
            },
        }
        assert first.headers["X-MCP-Subscription-Id"] == granted["id"]
        assert first.headers["webhook-id"].startswith("msg_terminated_")
        assert again.headers["webhook-id"] == first.headers["webhook-id"]
        gone_now = await asked(http, "unsubscribe", receiver.url, **narrowed)
        assert gone_now["code"] in {-32023, -32602}
        if not retired:
            error = await asked(http, "subscribe", receiver.url, secret=secret)
            assert error["code"] == -32024
    assert events(receiver) == []


@pytest.mark.guarantee("mcp:events-end")
async def test_one_that_was_ended_is_subscribed_to_anew_as_if_it_had_never_been(
    hooks: Hooks, broker: Parts, certificate: Path
) -> None:
    """Before its receiver could be told of the end, too."""
    async with (
        receiving(certificate=certificate) as receiver,
        hooks.app.client("ada") as http,
    ):
        receiver.answer = echoing()
        async with hooks.relay():
            await asked(http, "subscribe", receiver.url, secret=new_secret())
            ended_now = "UPDATE webhook_endpoints SET enabled = false, reason = 'terminated'"
            await fetch(hooks.dsns.owner, ended_now)
            gone_now = await asked(http, "unsubscribe", receiver.url)
            assert gone_now["code"] == -32023
            again = await asked(http, "subscribe", receiver.url, secret=new_secret())
            assert "deliveryStatus" not in again
            assert len(controls(receiver, "verification")) == 2
            await ended(broker, who=ADA)
            await wait_for(lambda: there(receiver, 1))


@pytest.mark.guarantee("mcp:events-end")
async def test_where_the_trail_is_of_another_database_each_subscription_is_told_of_the_gap(
    hooks: Hooks, broker: Parts, certificate: Path
) -> None:
    """A dump that was put into another cluster: positions are higher than any number there."""
    secret = new_secret()
    async with (
        receiving(certificate=certificate) as receiver,
        hooks.app.client("ada") as http,
    ):
        receiver.answer = echoing()
        async with hooks.relay():
            await asked(http, "subscribe", receiver.url, secret=secret)
        far = "UPDATE {} = CAST('999999999999' AS xid8)"
        await fetch(hooks.dsns.owner, far.format("webhook_position SET xid"))
        await fetch(hooks.dsns.owner, far.format("webhook_endpoints SET from_xid"))
        async with hooks.relay():

            async def told() -> bool:
                return bool(controls(receiver, "gap"))

            await wait_for(told)
            [gap] = controls(receiver, "gap")
            assert set(gap.verified(secret)) == {"type", "cursor"}
            assert gap.headers["webhook-id"].startswith("msg_gap_")
            one = await ended(broker, "after", who=ADA)
            await wait_for(lambda: there(receiver, 1))
        found = await poll(http, "command.ended", gap.json["cursor"])
        assert not found["truncated"]
        assert [each["data"]["command_id"] for each in found["events"]] == [one]
    assert [got.json["data"]["command_id"] for got in events(receiver)] == [one]


async def test_what_cannot_be_subscribed_to_is_refused_by_its_code_and_leaves_nothing(
    hooks: Hooks, broker: Parts
) -> None:
    good = "https://127.0.0.1:9/hook"
    async with hooks.app.client("ada") as http:
        for url in ("http://127.0.0.1:9/", "https://10.0.0.1/", "https://a b/", "x", ""):
            error = await asked(http, "subscribe", url, secret=new_secret())
            assert error["code"] == -32602, url
        for secret in ("", "whsec_", "whsec_AAAA", "hunter2", None):
            error = await asked(http, "subscribe", good, secret=secret)
            assert error["code"] == -32602, secret
        error = await asked(http, "subscribe", good, secret=new_secret(), mode="push")
        assert (error["code"], error["data"]["feature"]) == (-32026, "deliveryMode")
        error = await asked(http, "subscribe", good, secret=new_secret(), name="no.such")
        assert (error["code"], error["data"]) == (-32023, {"kind": "event"})
        error = await asked(http, "subscribe", good, secret=new_secret(), arguments={"tool": "x"})
        assert error["code"] == -32602
    assert await fetch(hooks.dsns.owner, "SELECT 1 FROM webhook_endpoints") == []


async def test_a_user_has_so_many_challenges_a_minute(hooks: Hooks, certificate: Path) -> None:
    async with (
        receiving(certificate=certificate) as receiver,
        hooks.relay(),
        hooks.app.client("ada") as http,
    ):
        receiver.says(status(404))
        for n in range(10):
            error = await asked(http, "subscribe", f"{receiver.url}/{n}", secret=new_secret())
            assert error["code"] == -32027
        error = await asked(http, "subscribe", f"{receiver.url}/x", secret=new_secret())
        assert (error["code"], error["data"]) == (-32025, {"limit": "challenges", "max": 10})
    assert len(receiver.got) == 10
