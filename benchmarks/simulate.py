"""A model of intake that must first tell what this machine does, before it tells of others.

`python -m benchmarks.simulate` measures what a call costs (Python's processor time, a batch's time
in PostgreSQL by its size), lets the model predict the rate at 1, 16, 64 and 256 callers, measures
those rates, prints both, and only then extrapolates to more processors and replicas.

The model: closed-loop callers; each app replica is one thread that takes `python_s` a call and
`python_batch_s` a batch and has two batches in flight, which share the calls; a batch costs
`batch_s + row_s * calls` of a processor and then `sync_s` of waiting for the disk. All share the
machine's processors, evenly. Not in it: the network, Kafka, and what PostgreSQL's own locks cost
when many processors write (measure before you trust 16).
"""

import heapq
import itertools
import statistics
import sys
import time
from collections import deque
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Final
from uuid import uuid4

import asyncpg
import uvloop
from rich.console import Console
from rich.table import Table

from app.edges.parts import Parts
from app.intake import store as intake_store
from app.postgres.batcher import BATCH_MIN, BATCHES_IN_FLIGHT
from benchmarks.intake import accept_for
from benchmarks.servers import ADA, Servers, echo

CALLERS: Final = (1, 16, 64, 256)
BATCH_MAX: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Seconds, measured on one machine."""

    python_s: float
    python_batch_s: float
    batch_s: float
    row_s: float
    sync_s: float


@dataclass(slots=True)
class Job:
    """Work for a processor, and what follows it."""

    left_s: float
    then: "tuple[str, int, int]"


@dataclass(slots=True)
class Replica:
    """One app process: calls that wait for its thread, calls that wait for a batch."""

    thread: deque[float] = field(default_factory=deque[float])  # seconds each
    busy: bool = False
    waiting: int = 0
    in_flight: int = 0
    flying: int = 0  # calls in those batches


class Machine:
    """Processors that all running jobs share evenly, and replicas under closed-loop callers."""

    def __init__(self, costs: Costs, *, processors: int, replicas: int, callers: int) -> None:
        self._costs = costs
        self._processors = processors
        self._replicas = [Replica() for _ in range(replicas)]
        self._jobs: list[Job] = []
        self._later: list[tuple[float, int, int, int]] = []  # batches that wait for the disk
        self._order = itertools.count()
        self._now = 0.0
        self._done = 0
        for n in range(callers):
            self._replicas[n % replicas].thread.append(costs.python_s)

    def rate(self, seconds: float) -> float:
        """Calls a second, after a tenth of the time to settle."""
        settled = 0
        while self._now < seconds:
            for n in range(len(self._replicas)):
                self._start(n)
            self._advance()
            if self._now < seconds / 10:
                settled = self._done
        return (self._done - settled) / (seconds * 0.9)

    def _start(self, n: int) -> None:
        one = self._replicas[n]
        if not one.busy and one.thread:
            one.busy = True
            self._jobs.append(Job(one.thread.popleft(), ("prepared", n, 1)))
        # A batch is taken when the thread has no call at hand, as in the event loop's next turn.
        while one.waiting and one.in_flight < BATCHES_IN_FLIGHT and not one.thread:
            share = ceil((one.waiting + one.flying) / BATCHES_IN_FLIGHT)
            size = min(one.waiting, BATCH_MAX, max(share, BATCH_MIN))
            one.waiting -= size
            one.flying += size
            one.in_flight += 1
            cost = self._costs.batch_s + self._costs.row_s * size
            self._jobs.append(Job(cost, ("written", n, size)))

    def _advance(self) -> None:
        """To the next end of a job or of a wait for the disk."""
        share = min(1.0, self._processors / len(self._jobs)) if self._jobs else 1.0
        least = min((job.left_s for job in self._jobs), default=float("inf")) / share
        disk = self._later[0][0] - self._now if self._later else float("inf")
        step = min(least, disk)
        assert step < float("inf"), "somebody is always about to do something"
        self._now += step
        for job in self._jobs:
            job.left_s -= step * share
        ended = [job for job in self._jobs if job.left_s <= 1e-12]
        self._jobs = [job for job in self._jobs if job.left_s > 1e-12]
        for job in ended:
            what, n, size = job.then
            if what == "prepared":
                self._replicas[n].busy = False
                self._replicas[n].waiting += 1
            else:
                due = self._now + self._costs.sync_s
                heapq.heappush(self._later, (due, next(self._order), n, size))
        while self._later and self._later[0][0] <= self._now + 1e-12:
            _, _, n, size = heapq.heappop(self._later)
            self._replicas[n].in_flight -= 1
            self._replicas[n].flying -= size
            again = [self._costs.python_s] * size
            again[0] += self._costs.python_batch_s
            self._replicas[n].thread.extend(again)
            self._done += size


def predicted(costs: Costs, *, callers: int, processors: int, replicas: int = 1) -> float:
    """Calls a second by the model."""
    machine = Machine(costs, processors=processors, replicas=replicas, callers=callers)
    return machine.rate(4)


async def batch_times(conn: asyncpg.Connection, broker: Parts, size: int, turns: int) -> float:
    """The median time of a batch of that size, in seconds."""
    spent: list[float] = []
    for _ in range(turns):
        calls = [(await broker.preparer.prepare(ADA, echo(uuid4())))[0] for _ in range(size)]
        at = time.perf_counter()
        await intake_store.write(conn, calls)
        spent.append(time.perf_counter() - at)
    return statistics.median(spent)


async def python_cost(broker: Parts, callers: int, *, seconds: float) -> float:
    """Seconds of this process' processor time a call, at so many callers."""
    at = time.process_time()
    rate = await accept_for(broker, callers=callers, seconds=seconds)
    return (time.process_time() - at) / (rate * seconds)


async def measured_costs(dsn: str, broker: Parts, *, turns: int) -> Costs:
    """What a call costs here."""
    await accept_for(broker, callers=64, seconds=1)
    small, large = [await python_cost(broker, n, seconds=turns / 20) for n in (64, 256)]
    batch_s = max(0.0, (small - large) / (BATCHES_IN_FLIGHT / 64 - BATCHES_IN_FLIGHT / 256))
    python_s = small - batch_s * BATCHES_IN_FLIGHT / 64
    conn = await asyncpg.connect(dsn, server_settings={"jit": "off"})
    try:
        for size in (1, 64):
            await batch_times(conn, broker, size, turns)
        small, large = [await batch_times(conn, broker, n, turns) for n in (1, 64)]
        await conn.execute("SET synchronous_commit = off")  # to tell the disk's part, here only
        unsynced = await batch_times(conn, broker, 1, turns)
    finally:
        await conn.close()
    row_s = (large - small) / 63
    return Costs(
        python_s=python_s,
        python_batch_s=batch_s,
        batch_s=max(0.0, unsynced - row_s),
        row_s=row_s,
        sync_s=max(0.0, small - unsynced),
    )


async def run(console: Console, *, quick: bool, processors: int) -> list[tuple[int, float, float]]:
    """Measure, predict, compare, extrapolate; returns callers, predicted and measured rates."""
    turns = 10 if quick else 60
    async with (
        Servers(quick=quick) as servers,
        servers.database() as dsns,
        servers.broker(dsns.app) as broker,
    ):
        costs = await measured_costs(dsns.app, broker, turns=turns)
        console.print(
            f"Python {costs.python_s * 1e6:.0f} us a call and {costs.python_batch_s * 1e6:.0f} us a"
            f" batch; a batch {costs.batch_s * 1e3:.2f} ms"
            f" + {costs.row_s * 1e6:.0f} us a call, then {costs.sync_s * 1e3:.2f} ms of disk"
        )
        found: list[tuple[int, float, float]] = []
        for callers in CALLERS:
            rates = [await accept_for(broker, callers=callers, seconds=turns / 30) for _ in "123"]
            told = predicted(costs, callers=callers, processors=processors)
            found.append((callers, told, statistics.median(rates)))
    table = Table("callers", "model", "measured", "model / measured")
    for callers, told, seen in found:
        table.add_row(str(callers), f"{told:,.0f}", f"{seen:,.0f}", f"{told / seen:.2f}")
    console.print(table)
    table = Table("processors", "replicas", "callers", "calls/s by the model")
    for more, replicas in ((2, 1), (2, 2), (4, 2), (8, 4), (16, 8)):
        callers = 64 * replicas
        rate = predicted(costs, callers=callers, processors=more, replicas=replicas)
        table.add_row(str(more), str(replicas), str(callers), f"{rate:,.0f}")
    console.print(table)
    slow = replace(costs, sync_s=0.005)
    rate = predicted(slow, callers=256, processors=8, replicas=4)
    console.print(f"8 processors, 4 replicas, 256 callers, a disk of 5 ms: {rate:,.0f} calls/s")
    return found


def main() -> None:
    """The command line."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    uvloop.run(run(console, quick="--quick" in sys.argv, processors=2))


if __name__ == "__main__":
    main()
