"""A call through everything: HTTP, Postgres, Kafka, ansible-rulebook, a playbook, and back."""

import asyncio
from itertools import pairwise
from statistics import median
from typing import Any
from uuid import uuid4

import httpx2

from benchmarks.measure import Figure, Stopwatch
from benchmarks.servers import Servers, fetch
from devstack.eda import EmbeddedEda
from devstack.stack import Stack

TRAIL = """
    SELECT command_id, type, extract(epoch FROM occurred_at)::float8 AS at
      FROM audit.events
     WHERE command_id = ANY ($1::uuid[])
     ORDER BY command_id, occurred_at
"""
PATH = "/mcp/tools/call"


async def through_eda(servers: Servers) -> list[Figure]:
    """One call after the other, by stage; then many at once through one process, or two."""
    stack = Stack(servers.home / "eda", say=lambda _: None)
    await asyncio.to_thread(stack.start)
    try:
        return await measured(servers, stack)
    finally:
        await asyncio.to_thread(stack.stop)


async def measured(servers: Servers, stack: Stack) -> list[Figure]:
    single, many = servers.pick(6, 1), servers.pick(12, 2)
    assert stack.dsns is not None
    headers = {"Authorization": f"Bearer {stack.user_token()}"}
    async with httpx2.AsyncClient(base_url=stack.url, headers=headers, timeout=120) as http:
        await called(http)  # the first pays for what is cold
        whole = [await called(http) for _ in range(single)]
        trail = await fetch(stack.dsns.owner, TRAIL, [one for one, _ in whole])
        stages = by_stage([dict(row) for row in trail])
        adapter = sum(s for name, s in stages.items() if not name.startswith(OURS))
        alone = await at_once(http, many)
        second = another(stack)
        await asyncio.to_thread(second.start)
        try:
            both = await at_once(http, many)
        finally:
            await asyncio.to_thread(second.stop)
    waterfall = "; ".join(f"{name}: {s * 1000:.0f} ms" for name, s in stages.items())
    return [
        Figure(
            name="a call through EDA, one at a time",
            unit="s",
            subject=[s for _, s in whole],
            baseline=[adapter] * len(whole),
            against="EDA's and the adapter's part of it",
            note=waterfall,
        ),
        Figure(
            name=f"{many} calls at once through two rulebook processes of a group",
            unit="calls/s",
            subject=[both],
            baseline=[alone],
            against="one rulebook process",
        ),
    ]


OURS = ("command.accepted -> command.dispatched",)


def by_stage(trail: list[dict[str, Any]]) -> dict[str, float]:
    """The median seconds between a command's events, in order."""
    spent: dict[str, list[float]] = {}
    for one, following in pairwise(trail):
        if one["command_id"] == following["command_id"]:
            stage = f"{one['type']} -> {following['type']}"
            spent.setdefault(stage, []).append(following["at"] - one["at"])
    return {stage: median(values) for stage, values in spent.items()}


async def called(http: httpx2.AsyncClient) -> tuple[str, float]:
    """A call and its result: its command and the seconds that its caller waited."""
    body = {
        "tool": "probe",
        "method": "echo",
        "args": {"text": "hi"},
        "idempotency_key": str(uuid4()),
    }
    watch = Stopwatch()
    answer = await http.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["correlation_id"], watch.s


async def at_once(http: httpx2.AsyncClient, count: int) -> float:
    """Calls a second of so many at once."""
    watch = Stopwatch()
    await asyncio.gather(*(called(http) for _ in range(count)))
    return count / watch.s


def another(stack: Stack) -> EmbeddedEda:
    """A second rulebook process in the same consumer group."""
    return EmbeddedEda(
        home=stack.home / "eda-2",
        kafka=stack.kafka.bootstrap,
        broker_url=stack.url,
        token=stack.issuer.token(tenant="adapters", user="eda", scopes=["results:write"]),
        workspace=stack.workspace,
    )
