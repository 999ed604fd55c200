"""Relays that tell by webhook are killed in the middle, and what they had begun is told.

Real processes, killed by SIGKILL; Kafka is away all the time, which webhooks need not.
"""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.edges.parts import Parts
from devstack.process import Process
from devstack.stack import relay_process
from tests.support.calls import fetch
from tests.support.stack import wait_for
from tests.webhooks.conftest import KEY, Hooks, authority, hooks, settings, values
from tests.webhooks.receivers import OK, Got, Receiver, receiving
from tests.webhooks.test_delivery import ended

__all__ = ["authority", "hooks", "settings", "values"]

pytestmark = pytest.mark.chaos


def relay_of(made: Hooks, home: Path, name: str) -> Process:
    env = {
        "MCP_BROKER_DATABASE_URL": made.dsns.relay,
        "MCP_BROKER_KAFKA_BOOTSTRAP": "127.0.0.1:9",
        "MCP_BROKER_WEBHOOK_KEYS": json.dumps([KEY]),
        "MCP_BROKER_WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
        "MCP_BROKER_WEBHOOK_TIMEOUT_S": "3",
        "MCP_BROKER_POLL_S": "0.05",
        "MCP_BROKER_PUBLIC_URL": "http://testserver",
    }
    return relay_process(home=home, env=env, name=name)


@pytest.mark.guarantee("webhooks:at-least-once")
async def test_a_delivery_whose_relay_is_killed_in_the_middle_is_anothers(
    hooks: Hooks, broker: Parts, tmp_path: Path
) -> None:
    async with receiving() as receiver:
        receiver.says(None)
        made = await hooks.add(receiver.url)
        first = relay_of(hooks, tmp_path, "first")
        first.start()
        second = relay_of(hooks, tmp_path, "second")
        try:
            one = await ended(broker)
            await receiver.receives(within_s=30)
            first.kill()
            receiver.says(OK)
            second.start()
            _, again = await receiver.receives(2, within_s=40)
        finally:
            first.kill()
            second.stop()
    assert again.headers["webhook-id"] == receiver.got[0].headers["webhook-id"]
    assert again.verified(made["secret"])["data"]["command_id"] == one
    [row] = await fetch(hooks.dsns.owner, "SELECT state, attempts FROM webhook_deliveries")
    assert (row["state"], row["attempts"]) == ("delivered", 1)


@pytest.mark.guarantee("webhooks:at-least-once")
@pytest.mark.thorough
async def test_relays_that_are_killed_at_any_time_lose_nothing(
    hooks: Hooks, broker: Parts, tmp_path: Path
) -> None:
    random = Random(20261201)
    ids: set[str] = set()
    async with receiving() as receiver:
        await hooks.add(receiver.url)
        for number in range(4):
            receiver.answer = killing_after(receiver, random.randrange(1, 12))
            relay = relay_of(hooks, tmp_path, f"r{number}")
            relay.start()
            try:
                before = len(receiver.got)
                for n in range(12):
                    ids.add(await ended(broker, f"{number}.{n}"))
                await receiver.receives(before + 1, within_s=30)
            finally:
                relay.kill()
        receiver.says(OK)
        last = relay_of(hooks, tmp_path, "last")
        last.start()
        try:

            async def all_told() -> bool:
                return {got.json["data"]["command_id"] for got in receiver.got} == ids

            assert await wait_for(all_told, 60)
        finally:
            last.stop()
    told: dict[str, set[Any]] = {}
    for got in receiver.got:
        told.setdefault(got.json["data"]["command_id"], set()).add(got.headers["webhook-id"])
    assert {len(messages) for messages in told.values()} == {1}, "one message of an event"


def killing_after(receiver: Receiver, count: int) -> Callable[[Got], Awaitable[bytes | None]]:
    """Takes so many, and then is silent, so that the relay is killed with some in the middle."""
    until = len(receiver.got) + count

    async def answer(_: Got) -> bytes | None:
        return OK if len(receiver.got) <= until else None

    return answer
