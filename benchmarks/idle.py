"""What a stack costs that nobody calls: its timers, polls and seals."""

import asyncio
import os
from pathlib import Path
from typing import Final

from benchmarks.measure import Figure, Stopwatch, at_most
from benchmarks.servers import Servers
from relay.kafka import create_topics

SETTLE_S: Final = 5
"""What a start leaves to do: the first reads, the first seal."""

SHARE_MAX: Final = 1.0
"""Percent of one processor, as Kafka's is another's business."""


async def idle(servers: Servers) -> list[Figure]:
    """The processor time of app, relay and PostgreSQL without a call, in percent of one."""
    seconds = servers.pick(20, 2)
    await servers.kafka()
    spent: list[float] = []
    async with servers.database() as dsns:
        await create_topics(servers.settings(dsns.relay))
        async with (
            servers.relay(dsns.relay, name="relay-idle") as relay,
            servers.app(dsns.app) as app,
        ):
            await asyncio.sleep(servers.pick(SETTLE_S, 1))
            pids = [relay, app.process.pid]
            if servers.postgres_pid is not None:
                pids.append(servers.postgres_pid)
            for _ in range(servers.repeats):
                watch, before = Stopwatch(), sum(map(processor_s, pids))
                await asyncio.sleep(seconds / servers.repeats)
                spent.append(100 * (sum(map(processor_s, pids)) - before) / watch.s)
    return [
        at_most(
            1,
            name="processor time of an idle stack (app, relay, PostgreSQL)",
            unit="%",
            subject=spent,
            baseline=[SHARE_MAX] * len(spent),
            against="a hundredth of a processor",
        )
    ]


def processor_s(root: int) -> float:
    """Processor seconds of a process and its children, those that have ended included."""
    seconds, children = 0.0, dict[int, list[int]]()
    spent: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        pid = int(folder.name)
        children.setdefault(int(fields[1]), []).append(pid)
        spent[pid] = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    left = [root]
    while left:
        pid = left.pop()
        seconds += spent.get(pid, 0)
        left += children.get(pid, [])
    return seconds
