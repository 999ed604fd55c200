"""Processes that stand still, past every lease, and go on as if nothing had been.

A process that was stopped believes that it still has its rows, its attempt, its primary. What it
does then must be fenced: nothing is done twice, nothing out of order, and no end is lost.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Final

import pytest

from devstack.process import descendants
from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE
from tests.system.chaos.fleet import Fleet, Monkey, open_fleet
from tests.system.chaos.test_chaos import EDA_SECONDS, SECONDS, SETTLE_S, ordeal

PAST_LEASES_S: Final = (4.5, 7.0)
"""Longer than the fleet's leases, of rows, attempts and relays."""
EDA_PAST_LEASES_S: Final = (13.0, 18.0)


class Frost(Monkey):
    """Stops processes of ours and of others with all that they have started, and lets them go."""

    past_leases_s = PAST_LEASES_S

    def __init__(self, fleet: Fleet, random: Random, *, slowness: float = 1) -> None:
        super().__init__(fleet, random, slowness=slowness)
        self._moves = {
            "app": self.freeze_app,
            "relay": self.freeze_relay,
            "relays": self.freeze_relays,
            "executor": self.freeze_executor,
            "kafka": self.freeze_kafka,
            "postgres": self.freeze_postgres,
            "a backend": self.freeze_backend,
        }

    async def _freeze(self, name: str, pids: Sequence[int]) -> None:
        if name in self._fleet.down:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        pause_s = self._random.uniform(*self.past_leases_s)
        self._fleet.later(name, pause_s, lambda: thaw(pids))

    async def freeze_app(self) -> None:
        process = self._random.choice(self._fleet.apps).process
        await self._freeze(process.name, below(process.pid))

    async def freeze_relay(self) -> None:
        process = self._random.choice(self._fleet.relays)
        await self._freeze(process.name, below(process.pid))

    async def freeze_relays(self) -> None:
        """All of them, so that nobody takes over what they have."""
        for process in self._fleet.relays:
            await self._freeze(process.name, below(process.pid))

    async def freeze_executor(self) -> None:
        await self._freeze("executor", below(self._fleet.executor.pid))

    async def freeze_kafka(self) -> None:
        await self._freeze("kafka", below(self._fleet.kafka.pid))

    async def freeze_postgres(self) -> None:
        await self._freeze("postgres", below(self._fleet.postgres.pid))

    async def freeze_backend(self) -> None:
        """Sessions that hold what they hold, while the others go on."""
        backends = descendants(self._fleet.postgres.pid)
        chosen = self._random.sample(backends, min(3, len(backends)))
        await self._freeze("a backend", [pid for pid in chosen if is_session(pid)])


def below(pid: int) -> list[int]:
    """A process and what it has started."""
    return [pid, *descendants(pid)]


def is_session(pid: int) -> bool:
    """Whether this is a client's: the checkpointer would hold up all of them."""
    with contextlib.suppress(OSError):
        return b"broker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def thaw(pids: Sequence[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.chaos
@pytest.mark.timeout(int(SECONDS + SETTLE_S + 240))
@pytest.mark.guarantee("chaos:frozen")
async def test_whatever_is_frozen_past_its_leases_every_call_ends_once_in_order(
    home: Path, issuer: DevIssuer, pytestconfig: pytest.Config
) -> None:
    async with open_fleet(home, issuer, AUDIENCE.removesuffix("/mcp")) as fleet:
        try:
            await ordeal(fleet, pytestconfig, seconds=SECONDS, callers=6, harm=Frost)
        finally:
            await asyncio.to_thread(thaw_all, fleet)


class EdaFrost(Frost):
    """Stops ansible-rulebook with its playbooks, past the lease of what they have claimed."""

    past_leases_s = EDA_PAST_LEASES_S

    def __init__(self, fleet: Fleet, random: Random, *, slowness: float = 1) -> None:
        super().__init__(fleet, random, slowness=slowness)
        self._moves = {"executor": self.freeze_executor}


@pytest.mark.chaos
@pytest.mark.eda
@pytest.mark.timeout(int(EDA_SECONDS + SETTLE_S + 300))
@pytest.mark.guarantee("chaos:frozen")
@pytest.mark.skipif(not EDA_SECONDS, reason="long: make chaos, MCP_BROKER_CHAOS_EDA_SECONDS")
async def test_playbooks_that_stand_still_past_their_leases_are_fenced(
    home: Path, issuer: DevIssuer, pytestconfig: pytest.Config
) -> None:
    url = AUDIENCE.removesuffix("/mcp")
    leases = {"LEASE_S": "12", "CLAIM_WAIT_S": "30"}
    async with open_fleet(home, issuer, url, eda=True, settings=leases) as fleet:
        try:
            await ordeal(
                fleet, pytestconfig, seconds=EDA_SECONDS, callers=2, slowness=5, harm=EdaFrost
            )
        finally:
            await asyncio.to_thread(thaw_all, fleet)


def thaw_all(fleet: Fleet) -> None:
    """Nothing stands still any more, so that all can be ended."""
    pids = [one.pid for one in fleet.processes if one.running]
    for pid in [*pids, fleet.kafka.pid, fleet.postgres.pid]:
        thaw(below(pid))
