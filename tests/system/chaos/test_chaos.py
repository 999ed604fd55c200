"""Kill -9 everything at random under load; then every promise must have been kept."""

import asyncio
import os
import time
from collections import Counter
from pathlib import Path
from random import Random, SystemRandom

import pytest

from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE
from tests.system.chaos.checks import LEFT, STUCK, look, violations
from tests.system.chaos.fleet import AWAY, Fleet, Monkey, open_fleet
from tests.system.chaos.load import Caller, Operator

SECONDS = float(os.environ.get("MCP_BROKER_CHAOS_SECONDS", "25"))
only_for_long = pytest.mark.skipif(
    "MCP_BROKER_CHAOS_SECONDS" not in os.environ, reason="minutes of load: make chaos"
)
EDA_SECONDS = float(os.environ.get("MCP_BROKER_CHAOS_EDA_SECONDS", "0"))
SETTLE_S = float(os.environ.get("MCP_BROKER_CHAOS_SETTLE", "180"))


async def settle(fleet: Fleet) -> float:
    """Wait until nothing is open or unpublished; how long it took."""
    began, left = time.monotonic(), {"open": -1}
    while time.monotonic() - began < SETTLE_S:
        try:
            [left] = await look(fleet.dsns.owner, LEFT)
        except AWAY:
            left = {"open": -1}
        if not any(left.values()):
            return time.monotonic() - began
        await asyncio.sleep(0.3)
    stuck = await look(fleet.dsns.owner, STUCK)
    stuck += [{"dead": one.name, "log": one.tail()} for one in fleet.processes if not one.running]
    raise AssertionError(f"not settled in {SETTLE_S} s: {left}\n" + "\n".join(map(str, stuck)))


@pytest.mark.chaos
@pytest.mark.timeout(int(SECONDS + SETTLE_S + 240))
@pytest.mark.guarantee("chaos:conservation")
async def test_whatever_is_killed_every_call_ends_once_in_order_with_one_effect(
    home: Path, issuer: DevIssuer, pytestconfig: pytest.Config
) -> None:
    async with open_fleet(home, issuer, AUDIENCE.removesuffix("/mcp"), workers=2) as fleet:
        await ordeal(fleet, pytestconfig, seconds=SECONDS, callers=8)


@pytest.mark.chaos
@pytest.mark.eda
@pytest.mark.timeout(int(EDA_SECONDS + SETTLE_S + 300))
@pytest.mark.guarantee("chaos:conservation")
@pytest.mark.skipif(not EDA_SECONDS, reason="long: make chaos, MCP_BROKER_CHAOS_EDA_SECONDS")
async def test_the_same_holds_where_ansible_runs_the_commands_and_is_killed_too(
    home: Path, issuer: DevIssuer, pytestconfig: pytest.Config
) -> None:
    async with open_fleet(home, issuer, AUDIENCE.removesuffix("/mcp"), eda=True) as fleet:
        await ordeal(fleet, pytestconfig, seconds=EDA_SECONDS, callers=2, slowness=10)


async def ordeal(
    fleet: Fleet,
    config: pytest.Config,
    *,
    seconds: float,
    callers: int,
    slowness: float = 1,
    harm: type[Monkey] = Monkey,
    clocks_move: bool = False,
) -> None:
    """Load, harm, and what must be true after them; prints the seed and the counts."""
    chosen = int(os.environ.get("MCP_BROKER_CHAOS_SEED") or SystemRandom().randrange(1 << 32))
    say = config.get_terminal_writer().line
    say(f"\nchaos: MCP_BROKER_CHAOS_SEED={chosen} for {seconds:g} s")
    random = Random(chosen)
    calling = [
        Caller(
            number,
            fleet.urls,
            fleet.issuer.token(tenant="demo", user=f"user-{number}", scopes=["tools"]),
            Random(random.random()),
            tools=fleet.tools,
            slowness=slowness,
        )
        for number in range(callers)
    ]
    operator = Operator(
        fleet.urls,
        fleet.issuer.token(tenant="demo", user="olga", scopes=["operator"]),
        Random(random.random()),
        tools=fleet.tools,
    )
    monkey = harm(fleet, Random(random.random()), slowness=slowness)
    until = time.monotonic() + seconds
    async with asyncio.TaskGroup() as group:
        for caller in calling:
            group.create_task(caller.run(until))
        group.create_task(operator.run(until))
        group.create_task(monkey.rage(seconds))
    await fleet.whole()
    settled_s = await settle(fleet)
    await operator.redrive_all()
    await settle(fleet)
    promised = {key: one for caller in calling for key, one in caller.accepted.items()}
    wrong, counts = await violations(fleet, promised, clocks_move=clocks_move)
    wrong += [problem for caller in calling for problem in caller.wrong] + operator.wrong
    answers = sum((caller.counts for caller in calling), start=Counter[str]())
    say(f"chaos: harm {dict(monkey.done)}")
    say(f"chaos: answers {dict(answers)}; settled in {settled_s:.1f} s")
    say(f"chaos: operator {dict(operator.counts)}")
    say(f"chaos: {counts}")
    assert promised, "the load was accepted"
    assert counts["effects of workers"] or not fleet.workers, "they had a part in it"
    assert not wrong, f"seed {chosen}:\n" + "\n".join(wrong)
