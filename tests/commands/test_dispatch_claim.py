"""What the claim takes, held against the order as it is described, worked out in Python."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from itertools import count

import asyncpg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.commands.store.dispatch_claim import SPARED, lease_commands
from devstack.stack import Dsns
from tests.support.examples import examples

AGING_S = 60
TENANTS = ("acme", "beta", "gamma")
TOOLS = ("hammer", "saw")


@dataclass(frozen=True)
class Waiting:
    """A ready command of the world below."""

    tenant: int
    tool: int
    priority: int
    minutes: int
    undo: bool


@dataclass(frozen=True)
class World:
    """Tenants (weight, in_flight_max, rate_burst or None, active), tools (window), commands."""

    tenants: tuple[tuple[int, int, int | None, bool], ...]
    windows: tuple[int, ...]
    in_flight: tuple[tuple[int, int], ...]
    waiting: tuple[Waiting, ...]
    batch_max: int
    top_only: bool = False


def worlds() -> st.SearchStrategy[World]:
    tenant = st.tuples(
        st.integers(1, 5),
        st.integers(1, 12),
        st.none() | st.integers(1, 6),
        st.sampled_from([True, True, True, False]),
    )
    place = st.tuples(st.integers(0, len(TENANTS) - 1), st.integers(0, len(TOOLS) - 1))
    waiting = st.builds(
        Waiting,
        tenant=st.integers(0, len(TENANTS) - 1),
        tool=st.integers(0, len(TOOLS) - 1),
        priority=st.integers(0, 3),
        minutes=st.sampled_from([0, 0, 0, 1, 2]),
        undo=st.sampled_from([False] * 9 + [True]),
    )
    return st.builds(
        World,
        tenants=st.tuples(*[tenant] * len(TENANTS)),
        windows=st.tuples(*[st.integers(1, 24)] * len(TOOLS)),
        in_flight=st.lists(place, max_size=6).map(tuple),
        # Older rows have the lower ids.
        waiting=st.lists(waiting, max_size=60).map(
            lambda rows: tuple(sorted(rows, key=lambda row: -row.minutes))
        ),
        batch_max=st.integers(1, 30),
        top_only=st.booleans(),
    )


def expected(world: World) -> tuple[list[int], list[int]]:
    """The positions in `waiting` of the undo work and of the usual work, in the order they go."""
    if world.top_only:
        top = max((row.priority for row in world.waiting if not row.undo), default=0)
        undo, usual = in_order(world, top)
        if undo or usual:
            return undo, usual
    return in_order(world, 0)


def in_order(world: World, least: int) -> tuple[list[int], list[int]]:
    """As `expected`, with no usual work of a lower priority."""
    active = {n for n, tenant in enumerate(world.tenants) if tenant[3]}
    rows = [(n, row) for n, row in enumerate(world.waiting) if row.tenant in active]
    undo = sorted((n for n, row in rows if row.undo), key=lambda n: (-world.waiting[n].priority, n))
    busy = Counter(tenant for tenant, _ in world.in_flight)
    left = {
        n: min(most - busy[n], 99 if burst is None else burst)
        for n, (_, most, burst, _) in enumerate(world.tenants)
    }
    used = Counter(tool for _, tool in world.in_flight)
    places = {n: window - used[n] for n, window in enumerate(world.windows)}
    usual = [
        (n, row)
        for n, row in rows
        if not row.undo and row.priority >= least and left[row.tenant] > 0
    ]
    spare = {n: window // SPARED for n, window in enumerate(world.windows)}
    at_work = set(world.in_flight)
    usual = [
        (n, row)
        for n, row in usual
        if places[row.tool] > (spare[row.tool] if (row.tenant, row.tool) in at_work else 0)
    ]

    # What a lane has beyond its tool's room takes no turn of its tenant's other tools.
    lanes: Counter[tuple[int, int, int]] = Counter()
    fit: list[tuple[int, Waiting]] = []
    for n, row in usual:
        lane = (row.priority, row.tenant, row.tool)
        lanes[lane] += 1
        if lanes[lane] <= places[row.tool]:
            fit.append((n, row))

    def tier(row: Waiting) -> int:
        return min(3, row.priority + row.minutes)

    turns: Counter[int] = Counter()
    going: list[tuple[int, float, int]] = []
    first: set[int] = set()
    for n, row in sorted(fit, key=lambda one: (-tier(one[1]), one[0])):
        turns[row.tenant] += 1
        if turns[row.tenant] <= left[row.tenant]:
            weight = world.tenants[row.tenant][0]
            if (row.tenant, row.tool) not in at_work:
                at_work.add((row.tenant, row.tool))
                first.add(n)
            going.append((-tier(row), (busy[row.tenant] + turns[row.tenant]) / weight, n))
    found: list[int] = []
    taken: Counter[int] = Counter()
    firsts: Counter[int] = Counter()
    for _, _, n in sorted(going):
        tool = world.waiting[n].tool
        taken[tool] += 1
        firsts[tool] += n in first
        spared = min(spare[tool], places[tool])
        if taken[tool] <= places[tool] - spare[tool] or (
            n in first and (taken[tool] <= places[tool] or firsts[tool] <= spared)
        ):
            found.append(n)
    return undo, found


# One lane may give all of a batch, as the other tenants have much in flight: more rows of it than
# were looked at, and none of the others' before them.
DEEP = World(
    tenants=((1, 12, None, True),) * 3,
    windows=(12, 12),
    in_flight=((1, 1),) * 4 + ((2, 1),) * 4,
    waiting=tuple(
        Waiting(tenant=tenant, tool=tool, priority=1, minutes=0, undo=False)
        for tenant, tool in [(0, 0), (1, 0), (1, 1), (2, 0), (2, 1)] * 10
    ),
    batch_max=6,
)

# The last place but one of a window that one tenant fills, and two calls of another.
FULL = World(
    tenants=((1, 12, None, True),) * 3,
    windows=(8, 8),
    in_flight=((0, 0),) * 6,
    waiting=tuple(
        Waiting(tenant=tenant, tool=0, priority=priority, minutes=0, undo=False)
        for tenant, priority in [(0, 3)] * 9 + [(1, 1), (1, 1)]
    ),
    batch_max=6,
)

# A tenant's older calls of a tool that has room for one, and a later one of another tool.
BEHIND = World(
    tenants=((1, 2, None, True),) * 3,
    windows=(1, 1),
    in_flight=(),
    waiting=tuple(
        Waiting(tenant=0, tool=tool, priority=0, minutes=0, undo=False) for tool in [0] * 14 + [1]
    ),
    batch_max=2,
)

SET_UP = "DELETE FROM outbox; DELETE FROM commands; DELETE FROM tenant_budgets"
TENANT = """
    INSERT INTO tenants (tenant_id, title, weight, in_flight_max, rate_burst, rate_per_s, state)
    VALUES ($1, '', $2, $3, $4, $5, $6)
        ON CONFLICT (tenant_id) DO UPDATE
       SET weight = excluded.weight, in_flight_max = excluded.in_flight_max,
           rate_burst = excluded.rate_burst, rate_per_s = excluded.rate_per_s,
           state = excluded.state
"""
COMMAND = """
    WITH made AS (
        INSERT INTO commands (id, tenant_id, user_id, tool, method, args, idempotency_key,
                              key_source, fingerprint, priority, deadline_at, state)
        VALUES (uuidv7(), $1, 'ada', $2, 'use', '{}', $3, 'body', sha256(''), $4,
                now() + interval '1 day', $5)
        RETURNING id
    )
    INSERT INTO outbox (tenant_id, kind, topic, key, command_id, attempt, tool, method, priority,
                        exempt, created_at)
    SELECT $1, 'command', 'mcp.commands', '', id, 1, $2, 'use', $4, $6,
           -- The middle of its minute: a slow test ages nothing into the next tier.
           now() - make_interval(mins => $7, secs => 5)
      FROM made
     WHERE $5 = 'queued'
    RETURNING id
"""


async def claimed(world: World, owner: asyncpg.Connection, relay: asyncpg.Pool) -> list[int]:
    """Make the world and claim once; the positions in `waiting`, in no order."""
    await owner.execute(SET_UP)
    for name, (weight, most, burst, active) in zip(TENANTS, world.tenants, strict=True):
        rate = None if burst is None else 1e-9
        state = "active" if active else "suspended"
        await owner.execute(TENANT, name, weight, most, burst or 100, rate, state)
    for name, window in zip(TOOLS, world.windows, strict=True):
        await owner.execute(
            "UPDATE tools SET in_flight_max = $2 WHERE tool = $1 AND method = 'use'", name, window
        )
    keys = map(str, count())
    for tenant, tool in world.in_flight:
        await owner.fetch(
            COMMAND, TENANTS[tenant], TOOLS[tool], next(keys), 1, "dispatched", False, 0
        )
    places: dict[int, int] = {}
    for n, row in enumerate(world.waiting):
        tenant, tool = TENANTS[row.tenant], TOOLS[row.tool]
        made = await owner.fetch(
            COMMAND, tenant, tool, next(keys), row.priority, "queued", row.undo, row.minutes
        )
        places[made[0]["id"]] = n
    rows = await lease_commands(
        relay,
        relay="r",
        batch_max=world.batch_max,
        window=40,
        aging_s=AGING_S,
        lease_s=30,
        top_only=world.top_only,
    )
    return [places[row.outbox_id] for row in rows]


@pytest.fixture
def runner() -> asyncio.Runner:
    return asyncio.Runner()


@pytest.mark.guarantee("relay:claim-order")
def test_a_claim_is_the_beginning_of_the_right_order(
    database: Dsns, runner: asyncio.Runner
) -> None:
    async def connect() -> tuple[asyncpg.Connection, asyncpg.Pool]:
        owner = await asyncpg.connect(database.owner)
        await owner.execute("ALTER TABLE commands DISABLE TRIGGER USER")
        for name in TOOLS:
            await owner.execute(
                "INSERT INTO tools SELECT (jsonb_populate_record(t, jsonb_build_object("
                "'tool', $1::text, 'method', 'use', 'name', $1::text || '_use'))).*"
                " FROM tools t LIMIT 1",
                name,
            )
        return owner, await asyncpg.create_pool(database.relay, min_size=1, max_size=1)

    with runner:
        owner, relay = runner.run(connect())

        @settings(
            max_examples=examples(300),
            deadline=None,
            suppress_health_check=[HealthCheck.function_scoped_fixture],
        )
        @example(world=DEEP)
        @example(world=FULL)
        @example(world=BEHIND)
        @given(world=worlds())
        def holds(world: World) -> None:
            got = runner.run(claimed(world, owner, relay))
            undo, usual = expected(world)
            wanted = undo[: world.batch_max] + usual[: max(0, world.batch_max - len(undo))]
            assert sorted(got) == sorted(wanted[: len(got)]), repr(world)
            assert bool(got) == bool(wanted), "what may go, goes"

        holds()
        runner.run(relay.close())
        runner.run(owner.close())
