"""The processes of a chaos run, and the monkey that kills them."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import asyncpg
from sqlalchemy import text

from app.audit import keys
from app.catalog import file as catalog_file
from app.postgres import migrate
from devstack.kafka import EmbeddedKafka
from devstack.postgres import EmbeddedPostgres, free_port
from devstack.process import NotReadyError, Process
from devstack.stack import AppProcess, Dsns, http_ok, prepare, relay_process
from devstack.tokens import DevIssuer
from tests.system.chaos.executors import Killable, ansibles, ours, worker

TOOLS = Path(__file__).with_name("tools.yml")
WORK = Path(__file__).with_name("work.yml")
TIMES = {
    "LEASE_S": "4",
    "CANCEL_GRACE_S": "2",
    "CLAIM_WAIT_S": "3",
    "RELAY_LEASE_S": "4",
    "PUBLISH_TIMEOUT_S": "3",
    "CLOCK_S": "0.3",
    "POLL_S": "0.3",
    "INLINE_WAIT_S": "1",
    "SEAL_S": "0.5",
    "LOG_LEVEL": "WARNING",
}
# A playbook takes seconds to start, more where several do.
EDA_TIMES = {"LEASE_S": "60", "CLAIM_WAIT_S": "30", "CANCEL_GRACE_S": "20", "DISPATCH_WINDOW": "8"}
KAFKA = {"group.min.session.timeout.ms": "1000"}
START_S = 60.0
QUEUED_MAX = 100
CONNECTIONS_MAX = 200
WORKER_SHARE = 0.5
"""How often a worker dies beside whatever else does."""
AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)


@dataclass(slots=True, kw_only=True)
class Fleet:
    """Everything that runs."""

    postgres: EmbeddedPostgres
    kafka: EmbeddedKafka
    dsns: Dsns
    apps: list[AppProcess]
    relays: list[Process]
    executor: Killable
    workers: list[Process]
    effects: Path
    issuer: DevIssuer
    restarts: set[asyncio.Task[None]] = field(default_factory=set[asyncio.Task[None]])
    down: set[str] = field(default_factory=set[str])

    @property
    def urls(self) -> list[str]:
        return [app.url for app in self.apps]

    @property
    def processes(self) -> list[Killable]:
        """Those of ours; a broken one must have gone on by itself."""
        apps = (app.process for app in self.apps)
        return [self.executor, *self.workers, *self.relays, *apps]

    @property
    def tools(self) -> list[str]:
        """What is called: the executor's tool, and the workers' where there are some."""
        return ["trial", "work"] if self.workers else ["trial"]

    def later(self, name: str, pause_s: float, start: Callable[[], None]) -> None:
        """Start a killed part again after a pause, while other things die."""

        async def restart() -> None:
            await asyncio.sleep(pause_s)
            await asyncio.to_thread(insist, start)
            self.down.discard(name)

        self.down.add(name)
        task = asyncio.create_task(restart())
        self.restarts.add(task)
        task.add_done_callback(self.restarts.discard)

    async def whole(self) -> None:
        """Everything that was killed runs again."""
        while self.restarts:
            await asyncio.gather(*self.restarts)


def insist(start: Callable[[], None]) -> None:
    """Start, and again where the killed one's children still hold its port or its memory."""
    until = time.monotonic() + START_S
    while True:
        try:
            start()
        except NotReadyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.3)
        else:
            return


async def offered(dsn: str) -> Dsns:
    """A database with the tools of the run."""
    dsns = await prepare(dsn)
    async with migrate.connected(dsns.owner) as engine:
        for file in (TOOLS, WORK):
            await catalog_file.apply(engine, catalog_file.parse(file), prune=False)
        # The load is over what the killed can do: without a bound the queue grows for as long.
        async with engine.begin() as conn:
            await conn.execute(text(f"UPDATE tenants SET queued_max = {QUEUED_MAX}"))
    return dsns


@asynccontextmanager
async def open_fleet(
    home: Path,
    issuer: DevIssuer,
    public_url: str,
    *,
    eda: bool = False,
    workers: int = 0,
    postgres: EmbeddedPostgres | None = None,
    kafka: EmbeddedKafka | None = None,
    settings: Mapping[str, str] | None = None,
) -> AsyncGenerator[Fleet]:
    """Start everything; stop it all at the end. With `eda` the executor is a real one.

    Workers work beside the executor, on a tool of their own.
    """
    postgres = postgres or EmbeddedPostgres()
    kafka = kafka or EmbeddedKafka(properties=KAFKA)
    started: list[Callable[[], None]] = [kafka.stop, postgres.stop]
    try:
        await asyncio.gather(asyncio.to_thread(postgres.start), asyncio.to_thread(kafka.start))
        dsns = await offered(postgres.dsn)
        keys.generate(home / "seal.pem", home / "seal.pub.pem")
        times = TIMES | (EDA_TIMES if eda else {}) | dict(settings or {})
        common = {f"MCP_BROKER_{name}": value for name, value in times.items()} | {
            "MCP_BROKER_KAFKA_BOOTSTRAP": kafka.bootstrap,
            "MCP_BROKER_ISSUERS": issuer.setting(),
            "MCP_BROKER_PUBLIC_URL": public_url,
        }
        app_env = common | {"MCP_BROKER_DATABASE_URL": dsns.app}
        relay_env = common | {
            "MCP_BROKER_DATABASE_URL": dsns.relay,
            "MCP_BROKER_SEAL_KEYS": f'["{home / "seal.pem"}"]',
        }
        apps = [
            AppProcess(home=home, env=app_env, port=free_port(), name=f"app-{n}") for n in range(2)
        ]
        relays = [relay_process(home=home, env=relay_env, name=f"relay-{n}") for n in range(3)]
        token = issuer.token(tenant="adapters", user="eda", scopes=["results:write"])
        made = ansibles if eda else ours
        executor = made(home, kafka.bootstrap, [app.url for app in apps], token)
        working = [
            worker(home, kafka.bootstrap, apps[n % len(apps)].url, token, f"worker-{n}")
            for n in range(workers)
        ]
        # The last of them need the topics.
        for process in [*relays, *(app.process for app in apps), executor, *working]:
            started.insert(0, process.kill)
            process.start()
        await asyncio.gather(*(asyncio.to_thread(ready, app) for app in apps))
        yield Fleet(
            postgres=postgres,
            kafka=kafka,
            dsns=dsns,
            apps=apps,
            relays=relays,
            executor=executor,
            workers=working,
            effects=home / "effects",
            issuer=issuer,
        )
    finally:
        for stop in started:
            await asyncio.to_thread(stop)


def ready(app: AppProcess) -> None:
    """Wait for an app that was started."""
    app.process.wait_ready(lambda: http_ok(f"{app.url}/readyz"), timeout_s=START_S)


class Monkey:
    """Does harm at random: each kind once in a shuffled order, then any."""

    def __init__(self, fleet: Fleet, random: Random, *, slowness: float = 1) -> None:
        self._fleet = fleet
        self._slowness = slowness
        self._random = random
        self.done = Counter[str]()
        self._moves: dict[str, Callable[[], Awaitable[None]]] = {
            "app": self.kill_app,
            "relay": self.kill_relay,
            "executor": self.kill_executor,
            "kafka": self.kill_kafka,
            "postgres": self.kill_postgres,
            "postgres_restart": self.postgres_restart,
            "backend_kill": self.backend_kill,
            "pool_exhaustion": self.pool_exhaustion,
            "idle_in_transaction": self.idle_in_transaction,
            "repeated_kills": self.repeated_kills,
        }

    async def rage(self, seconds: float) -> None:
        """Do harm for so long."""
        until = time.monotonic() + seconds
        names = list(self._moves)
        self._random.shuffle(names)
        while time.monotonic() < until:
            # Beside each of them the executor dies often: that is where effects are at stake.
            name = names.pop() if names else self._random.choice([*self._moves, "executor"])
            with contextlib.suppress(*AWAY):
                await self._moves[name]()
                self.done[name] += 1
            if self._fleet.workers and self._random.random() < WORKER_SHARE:
                await self.kill_worker()
            await asyncio.sleep(self._slowness * self._random.uniform(0.3, 1.5))

    def _pause(self) -> float:
        return self._random.uniform(0.1, 1.5)

    def _kill(self, process: Killable) -> None:
        if process.name not in self._fleet.down:
            process.kill()
            self._fleet.later(process.name, self._pause(), process.start)

    async def kill_app(self) -> None:
        self._kill(self._random.choice(self._fleet.apps).process)

    async def kill_relay(self) -> None:
        self._kill(self._random.choice(self._fleet.relays))

    async def kill_executor(self) -> None:
        self._kill(self._fleet.executor)

    async def kill_worker(self) -> None:
        """With its programs, or alone: their supervisors end them then."""
        one = self._random.choice(self._fleet.workers)
        if one.name in self._fleet.down:
            return
        await asyncio.to_thread(self._random.choice([one.kill, one.kill_leader]))
        self.done["worker"] += 1
        self._fleet.later(one.name, self._pause(), one.start)

    async def kill_kafka(self) -> None:
        if "kafka" not in self._fleet.down:
            await asyncio.to_thread(self._fleet.kafka.kill)
            self._fleet.later("kafka", self._pause(), self._fleet.kafka.start)

    async def kill_postgres(self) -> None:
        if "postgres" not in self._fleet.down:
            await asyncio.to_thread(self._fleet.postgres.kill)
            self._fleet.later("postgres", self._pause(), self._fleet.postgres.start)

    async def postgres_restart(self) -> None:
        if "postgres" not in self._fleet.down:
            self._fleet.later("postgres", 0, self._fleet.postgres.restart)

    async def repeated_kills(self) -> None:
        """The same app and relay, again as soon as they are up."""
        for _ in range(3):
            for process in (self._fleet.apps[0].process, self._fleet.relays[0]):
                if process.name not in self._fleet.down:
                    process.kill()
                    self._fleet.later(process.name, 0, process.start)
            await asyncio.sleep(self._random.uniform(0.2, 1.0))

    async def _connect(self) -> asyncpg.Connection:
        return await asyncpg.connect(self._fleet.dsns.owner, timeout=2)

    async def backend_kill(self) -> None:
        conn = await self._connect()
        try:
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE usename LIKE 'broker%' AND random() < $1::float8",
                self._random.choice([0.3, 1.0]),
            )
        finally:
            conn.terminate()

    async def pool_exhaustion(self) -> None:
        """Somebody takes every connection that Postgres has left, for a moment."""
        held: list[asyncpg.Connection] = []
        try:
            with contextlib.suppress(*AWAY):
                while len(held) < CONNECTIONS_MAX:
                    held.append(await asyncpg.connect(self._fleet.dsns.app, timeout=2))
            await asyncio.sleep(self._random.uniform(0.5, 1.5))
        finally:
            for conn in held:
                conn.terminate()

    async def idle_in_transaction(self) -> None:
        """Somebody locks commands and keys, and sits on them."""
        conn = await self._connect()
        try:
            async with conn.transaction():
                await conn.fetch("SELECT FROM ordering_heads ORDER BY random() LIMIT 2 FOR UPDATE")
                await conn.fetch(
                    "SELECT FROM commands WHERE finished_at IS NULL LIMIT 5 FOR UPDATE SKIP LOCKED"
                )
                await asyncio.sleep(self._random.uniform(0.5, 2))
        finally:
            conn.terminate()
