"""Kill -9 everything at random while sagas run; each is completed, or what it did is undone."""

import asyncio
import os
import time
from collections import defaultdict
from pathlib import Path
from random import Random, SystemRandom
from typing import Any

import httpx
import pytest

from devstack.tokens import DevIssuer
from tests.conftest import AUDIENCE
from tests.system.chaos.checks import effects_of, look
from tests.system.chaos.executor import BAD_TEXT
from tests.system.chaos.fleet import AWAY, Fleet, Monkey, open_fleet
from tests.system.chaos.test_chaos import EDA_SECONDS, SETTLE_S

SAGAS = int(os.environ.get("MCP_BROKER_CHAOS_SAGAS", "60"))
AT_ONCE = 8
RAGE_S = float(os.environ.get("MCP_BROKER_CHAOS_SAGA_SECONDS", "15"))

# An undo's command is written when its step may have been done, and only then.
STEPS = """
    SELECT t.saga_id::text AS saga, s.state, t.step, t.state AS step_state, t.done_seq,
           c.state AS did, c.attempts_lost, c.outcome_unknown, c.started_at, c.id::text AS command,
           c.method, u.state AS undid, u.id::text AS undo, u.created_at AS undo_at,
           u.finished_at AS undone_at, c.created_at AS started
      FROM sagas s
      JOIN saga_steps t ON t.saga_id = s.id
      LEFT JOIN commands c ON c.id = t.command_id
      LEFT JOIN commands u ON u.id = t.undo_id
"""
OPEN = """
    SELECT (SELECT count(*) FROM sagas WHERE finished_at IS NULL) AS sagas,
           (SELECT count(*) FROM saga_turns) AS turns,
           (SELECT count(*) FROM commands WHERE finished_at IS NULL) AS commands,
           (SELECT count(*) FROM ordering_heads WHERE saga_id IS NOT NULL) AS keys
"""
WAITS = """
    SELECT s.id::text AS saga, t.step
      FROM sagas s
      JOIN saga_steps t ON t.saga_id = s.id AND t.state = 'compensation_failed'
     WHERE s.state = 'compensation_failed'
"""


def plan(random: Random) -> dict[str, Any]:
    """Three steps, of which one may fail; some sagas share a key with others."""
    key = random.choice([None, None, *(f"key-{n}" for n in range(6))])
    bad = random.choice([None, None, 0, 1, 2])

    def step(number: int) -> dict[str, Any]:
        made: dict[str, Any] = {
            "id": f"s{number}",
            "tool": "trial",
            "method": random.choice(["again", "once", "loose"]),
            "args": {"text": BAD_TEXT if bad == number else "good", "ms": random.choice([0, 50])},
            "compensate": {
                "tool": "trial",
                "method": "again",
                "args": {"text": "good", "ms": 0},
            },
        }
        return made if key is None else made | {"ordering_key": key}

    return {"steps": [step(number) for number in range(3)]}


class SagaCaller:
    """Repeats each saga with its key until it is accepted."""

    def __init__(self, fleet: Fleet, random: Random, count: int) -> None:
        self.count = count
        token = fleet.issuer.token(tenant="demo", user="ada", scopes=["tools", "operator"])
        self.headers = {"Authorization": f"Bearer {token}", "Prefer": "respond-async"}
        self.urls = fleet.urls
        self.random = random
        self.accepted: dict[str, str] = {}

    async def run(self) -> None:
        """Start all of them, some at once."""
        gate = asyncio.Semaphore(AT_ONCE)
        async with httpx.AsyncClient(headers=self.headers, timeout=4, trust_env=False) as http:

            async def one(number: int) -> None:
                body = {"plan": plan(Random(self.random.random()))}
                async with gate:
                    key = f"saga-{number}"
                    for _ in range(2):  # the second time it is found again
                        found = await self.see_through(http, key, body)
                        assert self.accepted.setdefault(key, found) == found

            await asyncio.gather(*(one(number) for number in range(self.count)))

    async def see_through(self, http: httpx.AsyncClient, key: str, body: dict[str, Any]) -> str:
        until = time.monotonic() + SETTLE_S
        while time.monotonic() < until:
            try:
                url = self.random.choice(self.urls) + "/sagas"
                answer = await http.post(url, json=body, headers={"Idempotency-Key": key})
            except httpx.TransportError:
                await asyncio.sleep(0.1)
                continue
            if answer.status_code in {200, 202}:
                return answer.json()["correlation_id"]
            assert answer.status_code in {429, 503}, answer.text
            await asyncio.sleep(0.2)
        raise AssertionError(f"{key} was not accepted in {SETTLE_S} s")

    async def retry_undos(self, waits: list[dict[str, Any]]) -> None:
        """As an operator: an undo that was killed five times is done again."""
        async with httpx.AsyncClient(headers=self.headers, timeout=30, trust_env=False) as http:
            for one in waits:
                path = f"/operator/sagas/{one['saga']}/steps/{one['step']}"
                said = {"verb": "retry", "reason": "chaos"}
                answer = await http.post(self.urls[0] + path, json=said)
                assert answer.status_code in {200, 409}, answer.text


async def settle(fleet: Fleet, caller: SagaCaller) -> tuple[float, int]:
    """Wait until no saga is open; how long it took, and how many undos an operator had to retry."""
    began, retried, left = time.monotonic(), 0, {}
    while time.monotonic() - began < SETTLE_S:
        try:
            [left] = await look(fleet.dsns.owner, OPEN)
            waits = await look(fleet.dsns.owner, WAITS)
        except AWAY:
            await asyncio.sleep(0.3)
            continue
        if not any(left.values()):
            return time.monotonic() - began, retried
        await caller.retry_undos(waits)
        retried += len(waits)
        await asyncio.sleep(0.3)
    raise AssertionError(f"sagas are stuck after {SETTLE_S} s: {left}")


def may_be_done(row: dict[str, Any]) -> bool:
    """Whether a step was done, or nobody knows."""
    if row["did"] in {None, "succeeded"}:
        return row["did"] is not None
    cut = row["did"] in {"cancelled", "timed_out"} and row["started_at"] is not None
    return bool(row["outcome_unknown"] or row["attempts_lost"] or cut)


def violations(rows: list[dict[str, Any]], effects: dict[str, int]) -> list[str]:
    """Every broken promise, in words."""
    wrong: list[str] = []
    sagas = defaultdict[str, list[dict[str, Any]]](list)
    for row in rows:
        sagas[row["saga"]].append(row)
        if row["did"] == "succeeded" and not effects[row["command"]]:
            wrong.append(f"{row['saga']} {row['step']}: done without an effect")
        if row["method"] in {"once", "loose"} and effects[row["command"]] > 1:
            wrong.append(f"{row['saga']} {row['step']}: {effects[row['command']]} effects")
        if row["undid"] == "succeeded" and not effects[row["undo"]]:
            wrong.append(f"{row['saga']} {row['step']}: undone without an effect")
    for saga, steps in sagas.items():
        if steps[0]["state"] == "completed":
            wrong += [
                f"{saga}: completed with {s['step']} {s['did']}"
                for s in steps
                if s["did"] != "succeeded"
            ]
            wrong += [f"{saga}: completed and {s['step']} undone" for s in steps if s["undo"]]
            continue
        wrong += [
            f"{saga} {one['step']}: {one['did']} and {one['undid']}"
            for one in steps
            if may_be_done(one) != (one["undid"] == "succeeded")
        ]
        undone = sorted((s for s in steps if s["undo"]), key=lambda s: s["done_seq"], reverse=True)
        ends = [one["undone_at"] for one in undone]
        if ends != sorted(ends):
            wrong.append(f"{saga}: undone in another order than the reverse of completion")
        first = min((one["undo_at"] for one in undone), default=None)
        late = [s["step"] for s in steps if first and s["started"] and s["started"] > first]
        wrong += [f"{saga}: {step} began after an undo" for step in late]
    return wrong


@pytest.mark.chaos
@pytest.mark.timeout(int(RAGE_S + 2 * SETTLE_S + 240))
@pytest.mark.guarantee("saga:chaos")
async def test_whatever_is_killed_every_saga_is_completed_or_undone(
    home: Path, issuer: DevIssuer, pytestconfig: pytest.Config
) -> None:
    async with open_fleet(home, issuer, AUDIENCE.removesuffix("/mcp")) as fleet:
        await ordeal(fleet, pytestconfig, count=SAGAS, rage_s=RAGE_S)


@pytest.mark.chaos
@pytest.mark.eda
@pytest.mark.timeout(int(EDA_SECONDS + 2 * SETTLE_S + 300))
@pytest.mark.guarantee("saga:chaos")
@pytest.mark.skipif(not EDA_SECONDS, reason="long: make chaos, MCP_BROKER_CHAOS_EDA_SECONDS")
async def test_the_same_holds_where_ansible_runs_the_steps_and_is_killed_too(
    home: Path, issuer: DevIssuer, pytestconfig: pytest.Config
) -> None:
    async with open_fleet(home, issuer, AUDIENCE.removesuffix("/mcp"), eda=True) as fleet:
        count = max(4, int(EDA_SECONDS / 6))
        await ordeal(fleet, pytestconfig, count=count, rage_s=EDA_SECONDS, slowness=10)


async def ordeal(
    fleet: Fleet, config: pytest.Config, *, count: int, rage_s: float, slowness: float = 1
) -> None:
    """Sagas, harm, and what must be true after them; prints the seed and the counts."""
    chosen = int(os.environ.get("MCP_BROKER_CHAOS_SEED") or SystemRandom().randrange(1 << 32))
    say = config.get_terminal_writer().line
    say(f"\nchaos: MCP_BROKER_CHAOS_SEED={chosen}, {count} sagas")
    random = Random(chosen)
    caller = SagaCaller(fleet, Random(random.random()), count)
    monkey = Monkey(fleet, Random(random.random()), slowness=slowness)
    async with asyncio.TaskGroup() as group:
        group.create_task(caller.run())
        group.create_task(monkey.rage(rage_s))
    await fleet.whole()
    settled_s, retried = await settle(fleet, caller)
    rows = await look(fleet.dsns.owner, STEPS)
    effects = defaultdict[str, int](int)
    for one in effects_of(fleet.effects):
        effects[one["id"]] += 1
    states = defaultdict[str, set[str]](set)
    for row in rows:
        states[row["state"]].add(row["saga"])
    wrong = violations(rows, effects)
    say(f"chaos: kills {dict(monkey.done)}; settled in {settled_s:.1f} s")
    say(
        f"chaos: sagas { ({state: len(ids) for state, ids in states.items()}) },"
        f" {sum(bool(row['undo']) for row in rows)} undos, {retried} retried by hand,"
        f" {len(wrong)} violations"
    )
    assert len({*caller.accepted.values()}) == count
    assert {row["saga"] for row in rows} == {*caller.accepted.values()}
    assert not wrong, f"seed {chosen}:\n" + "\n".join(wrong)
