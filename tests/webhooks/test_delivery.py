"""What happened is told, signed, at least once, and one endpoint's trouble is its own."""

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from app.edges.parts import Parts
from tests.support.calls import EVE, accept, claim, delete, echo, fetch, finish
from tests.support.stack import wait_for
from tests.webhooks.conftest import Hooks
from tests.webhooks.receivers import OK, Receiver, receiving, status


async def ended(broker: Parts, text: str = "hi", **who: Any) -> str:
    """A call that has ended well."""
    one = (await accept(broker, echo(text), **who)).written.id
    await finish(broker, one, result={"text": text})
    return str(one)


async def deliveries(hooks: Hooks, one: dict[str, Any], **params: Any) -> list[dict[str, Any]]:
    answer = await hooks.asked("GET", f"/{one['webhook_id']}/deliveries", params=params)
    return answer["deliveries"]


async def settled(hooks: Hooks, one: dict[str, Any], state: str, count: int = 1) -> None:
    """Once so many deliveries are in a state."""

    async def there() -> bool:
        return len(await deliveries(hooks, one, state=state)) >= count

    assert await wait_for(there, 10), await deliveries(hooks, one)


@pytest.mark.guarantee("webhooks:signed")
async def test_an_end_is_told_signed_and_thin(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    made = await hooks.add(receiver.url)
    async with hooks.relay():
        one = await ended(broker, "the argument")
        [got] = await receiver.receives()
        await settled(hooks, made, "delivered")
    told = got.verified(made["secret"])
    assert told["type"] == "command.ended"
    assert told["data"] == {
        "command_id": one,
        "tool": "probe",
        "method": "echo",
        "state": "succeeded",
        "outcome_unknown": False,
        "link": f"http://testserver/commands/{one}",
    }
    assert b"the argument" not in got.body
    assert got.headers["webhook-id"].startswith("msg_")
    assert "." not in got.headers["webhook-id"]
    assert abs(int(got.headers["webhook-timestamp"]) - time.time()) < 60


@pytest.mark.guarantee("webhooks:at-least-once")
async def test_what_happens_while_no_relay_runs_is_told_by_the_next_one(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    await ended(broker, "before there was an endpoint")
    await hooks.add(receiver.url)
    ids = [await ended(broker, f"e{n}") for n in range(5)]
    async with hooks.relay(), hooks.relay():
        await receiver.receives(5)
    assert sorted(one.json["data"]["command_id"] for one in receiver.got) == sorted(ids)


@pytest.mark.guarantee("webhooks:at-least-once")
async def test_a_delivery_is_tried_again_by_its_id_signed_anew(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    receiver.says(status(500), status(302, "Location: http://127.0.0.1:1/"), status(429), OK)
    made = await hooks.add(receiver.url)
    async with hooks.relay((0.05,) * 9):
        await ended(broker)
        got = await receiver.receives(4)
        await settled(hooks, made, "delivered")
    assert len({one.headers["webhook-id"] for one in got}) == 1
    assert {one.path for one in got} == {"/hook"}, "no redirect is followed"
    for one in got:
        one.verified(made["secret"])
    [shown] = await deliveries(hooks, made)
    assert (shown["attempts"], shown["status"]) == (4, 204)
    assert (await hooks.asked("GET", f"/{made['webhook_id']}"))["failing_since"] is None


@pytest.mark.guarantee("webhooks:at-least-once")
async def test_after_the_last_attempt_a_delivery_is_given_up_and_can_be_sent_again(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    receiver.says(status(503))
    made = await hooks.add(receiver.url)
    path = f"/{made['webhook_id']}"
    async with hooks.relay((0.02, 0.02)):
        await ended(broker)
        await settled(hooks, made, "abandoned")
        assert len(receiver.got) == 3
        [shown] = await deliveries(hooks, made)
        receiver.says(OK)
        again = f"{path}/deliveries/{shown['delivery_id']}/redeliver"
        assert (await hooks.asked("POST", again))["state"] == "waiting"
        await settled(hooks, made, "delivered")
    assert len({one.headers["webhook-id"] for one in receiver.got}) == 1


async def test_retry_after_is_obeyed(hooks: Hooks, broker: Parts, receiver: Receiver) -> None:
    receiver.says(status(503, "Retry-After: 7200"))
    made = await hooks.add(receiver.url)
    async with hooks.relay():
        await ended(broker)
        await receiver.receives()

        async def recorded() -> bool:
            return (await deliveries(hooks, made))[0]["attempts"] == 1

        assert await wait_for(recorded)
    [row] = await fetch(
        hooks.dsns.owner,
        "SELECT extract(epoch FROM due_at - now())::float8 AS s FROM webhook_deliveries",
    )
    assert 7100 < row["s"] <= 7200


@pytest.mark.guarantee("webhooks:disabled")
async def test_410_disables_an_endpoint_at_once_and_what_waits_goes_when_it_is_enabled(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    receiver.says(status(410))
    made = await hooks.add(receiver.url)
    path = f"/{made['webhook_id']}"

    async def off() -> bool:
        return not (await hooks.asked("GET", path))["enabled"]

    async with hooks.relay():
        await ended(broker)
        assert await wait_for(off)
        shown = await hooks.asked("GET", path)
        assert shown["reason"] == "gone"
        missed = await ended(broker, "while it is disabled")
        receiver.says(OK)
        count = len(receiver.got)
        await hooks.asked("POST", f"{path}/enable", json={"reason": "it is back"})
        after = await ended(broker, "after")
        await receiver.receives(count + 1)
        assert receiver.got[count].json["data"]["command_id"] == after
        since = made["created_at"]
        told = await hooks.asked("POST", f"{path}/redeliver", json={"since": since})
        assert told == {"deliveries": 3}
        await receiver.receives(count + 4)
    assert missed in {one.json["data"]["command_id"] for one in receiver.got}
    events = await fetch(
        hooks.dsns.owner,
        "SELECT type, actor, body::jsonb ->> 'reason' AS reason FROM audit.events"
        " WHERE type LIKE 'webhook.%' ORDER BY occurred_at",
    )
    assert [(row["type"], row["actor"], row["reason"]) for row in events] == [
        ("webhook.added", "operator:olga", None),
        ("webhook.disabled", "relay:webhooks", "gone"),
        ("webhook.enabled", "operator:olga", "it is back"),
        ("webhook.redelivered", "operator:olga", None),
    ]


@pytest.mark.guarantee("webhooks:disabled")
async def test_an_endpoint_that_fails_for_days_is_disabled_and_seen(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    receiver.says(status(500))
    made = await hooks.add(receiver.url)

    async def off() -> bool:
        return not (await hooks.asked("GET", f"/{made['webhook_id']}"))["enabled"]

    async with hooks.relay((0.05,) * 9, webhook_disable_after_s=0.1):
        await ended(broker)
        assert await wait_for(off)
    assert (await hooks.asked("GET", f"/{made['webhook_id']}"))["reason"] == "failing"
    [seen] = await fetch(hooks.dsns.observer, "SELECT * FROM ops.webhooks")
    assert (seen["tenant_id"], seen["endpoints"], seen["disabled"]) == ("demo", 1, 1)


@pytest.mark.guarantee("webhooks:apart")
async def test_a_slow_endpoint_and_one_that_never_answers_hold_up_no_other(
    hooks: Hooks, broker: Parts
) -> None:
    async with receiving() as silent, receiving() as quick:
        silent.says(None)
        await hooks.add(silent.url)
        await hooks.add(quick.url)
        async with hooks.relay(webhook_timeout_s=30, webhook_slots_max=8):
            for n in range(20):
                await ended(broker, f"e{n}")
            await quick.receives(20)
            assert silent.most_open == 4, "so many of its own, and no more"


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (None, "no answer within 0.5 s"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "the answer's headers have more than"),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "the answer is no HTTP"),
        (b"", "the connection was closed without an answer"),
    ],
    ids=["silent", "endless head", "no http", "closed"],
)
async def test_what_is_no_answer_is_a_failure_with_its_reason(
    hooks: Hooks, broker: Parts, receiver: Receiver, said: bytes | None, outcome: str
) -> None:
    receiver.says(said)
    made = await hooks.add(receiver.url)
    async with hooks.relay(webhook_timeout_s=0.5):
        await ended(broker)

        async def recorded() -> str | None:
            found = await deliveries(hooks, made)
            return found[0]["error"] if found else None

        error = await wait_for(recorded)
    assert error is not None
    assert error.startswith(outcome)


async def test_a_giant_answer_is_not_read(hooks: Hooks, broker: Parts, receiver: Receiver) -> None:
    receiver.says(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n" + b"x" * 1_000_000)
    made = await hooks.add(receiver.url)
    async with hooks.relay(webhook_timeout_s=10):
        began = time.monotonic()
        await ended(broker)
        await settled(hooks, made, "delivered")
        told = await hooks.asked("POST", f"/{made['webhook_id']}/test")
        assert time.monotonic() - began < 8
    assert (told["state"], len(told["answer"])) == ("delivered", 1000)


@pytest.mark.guarantee("webhooks:tenant")
async def test_a_tenant_is_told_of_its_own_only(hooks: Hooks, broker: Parts) -> None:
    async with receiving() as ours, receiving() as theirs:
        mine = await hooks.add(ours.url)
        await hooks.add(theirs.url, tenant="other")
        async with hooks.relay():
            one, other = await ended(broker, "demo's"), await ended(broker, "other's", who=EVE)
            await asyncio.gather(ours.receives(), theirs.receives())
        [made] = await fetch(hooks.dsns.owner, "SELECT count(*) AS n FROM webhook_deliveries")
        assert made["n"] == 2, "one of each tenant"
        assert [got.json["data"]["command_id"] for got in ours.got] == [one]
        assert [got.json["data"]["command_id"] for got in theirs.got] == [other]
        async with hooks.operator("other") as http:
            for method, path in (
                ("GET", ""),
                ("DELETE", ""),
                ("POST", "/test"),
                ("GET", "/deliveries"),
            ):
                theirs_too = f"/operator/webhooks/{mine['webhook_id']}{path}"
                assert (await http.request(method, theirs_too)).status_code == 404, path


async def test_labels_are_told(hooks: Hooks, broker: Parts, receiver: Receiver) -> None:
    await hooks.add(receiver.url)
    async with hooks.relay():
        one = (await accept(broker, echo("x", labels=("INC-1", "🙂")))).written.id
        await finish(broker, one, result={})
        [got] = await receiver.receives()
    assert got.json["data"]["labels"] == ["INC-1", "🙂"]


async def test_only_wanted_kinds_and_tools_are_told(hooks: Hooks, broker: Parts) -> None:
    async with receiving() as dead, receiving() as echoes:
        await hooks.add(dead.url, "dead_letter")
        await hooks.add(echoes.url, "command.ended", tool="probe", method="echo")
        async with hooks.relay():
            lost = (await accept(broker, delete("a"))).written.id
            for attempt in (1, 2, 3):
                await claim(broker, lost, attempt=attempt)
                await finish(broker, lost, attempt=attempt, error={"message": "away"})
            one = await ended(broker)
            await asyncio.gather(dead.receives(), echoes.receives())
        assert [(g.json["type"], g.json["data"]["command_id"]) for g in dead.got] == [
            ("dead_letter", str(lost))
        ]
        assert [got.json["data"]["command_id"] for got in echoes.got] == [one]


@pytest.mark.guarantee("webhooks:at-least-once")
async def test_what_commits_late_is_told_and_what_came_after_it_waits_for_it(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    await hooks.add(receiver.url)
    owner = await asyncpg.connect(hooks.dsns.owner)
    late = str((await accept(broker, echo("late"))).written.id)
    try:
        async with hooks.relay() as relay:
            async with owner.transaction():
                await owner.execute(
                    "INSERT INTO audit.events (tenant_id, type, actor, user_id, command_id, tool,"
                    " method, state_from, state_to) VALUES ('demo', 'command.succeeded', 'test',"
                    " 'ada', $1, 'probe', 'echo', 'running', 'succeeded')",
                    late,
                )
                later = await ended(broker, "later")
                for _ in range(3):
                    await relay.tell()
                assert receiver.got == [], "a position behind it would have lost it"
            await receiver.receives(2)
    finally:
        await owner.close()
    assert {one.json["data"]["command_id"] for one in receiver.got} == {late, later}


@pytest.mark.guarantee("webhooks:at-least-once")
async def test_an_endpoint_that_is_added_while_much_happens_misses_nothing_of_after(
    hooks: Hooks, broker: Parts, receiver: Receiver
) -> None:
    """The reader cannot be past the endpoint's own transaction before that has ended."""
    async with hooks.relay():
        before = asyncio.create_task(many(broker, "before", 30))
        await hooks.add(receiver.url)
        after = [await ended(broker, f"after{n}") for n in range(10)]
        await before

        async def all_there() -> bool:
            return set(after) <= {one.json["data"]["command_id"] for one in receiver.got}

        await wait_for(all_there)


async def many(broker: Parts, text: str, count: int) -> None:
    for n in range(count):
        await ended(broker, f"{text}{n}")
