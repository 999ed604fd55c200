"""The whole stack on one machine: Postgres, Kafka, app, relay and EDA, each a process."""

import asyncio
import hmac
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import asyncpg
import orjson

from app import assets
from app.audit import keys
from app.catalog import file as catalog_file
from app.catalog import store as catalog_store
from app.catalog.policy import Grant
from app.catalog.store import Limits
from app.postgres import migrate
from devstack import prometheus
from devstack.eda import EmbeddedEda
from devstack.kafka import EmbeddedKafka
from devstack.postgres import EmbeddedPostgres, free_port
from devstack.process import Process
from devstack.prometheus import LocalPrometheus
from devstack.tokens import DevIssuer, console_link

WEBHOOK_KEY: Final = "webhooks of a development stack: for nothing else"
READY_S: Final = 60.0
WORKER_STOP_S: Final = 40.0
"""Beyond the worker's grace."""
TENANT: Final = "demo"
USER: Final = "ada"
OBSERVED: Final = ("app", "relay", "worker")
"""What has metrics."""

TRANSACTION_TIMEOUT_SINCE: Final = 17
"""The major version of PostgreSQL that has `transaction_timeout`."""

LOGINS: Final = (
    "broker_app",
    "broker_relay",
    "broker_auditor",
    "broker_retention",
    "broker_observer",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dsns:
    """How each deployment reaches one database."""

    owner: str
    app: str
    relay: str
    auditor: str
    retention: str
    observer: str

    @property
    def name(self) -> str:
        """The database's."""
        return self.owner.rpartition("/")[2]


async def create_logins(superuser_dsn: str) -> None:
    """Give each group role a login role of the name `<role>_login`; once a server."""
    conn = await asyncpg.connect(superuser_dsn)
    try:
        for role in LOGINS:
            await conn.execute(f"""
                DO $$ BEGIN
                    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{role}_login') THEN
                        CREATE ROLE {role}_login LOGIN IN ROLE {role}
                               PASSWORD '{password_of(superuser_dsn, role)}';
                    END IF;
                EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
                END $$
            """)
        timeouts = {"idle_in_transaction_session_timeout": "1min", "statement_timeout": "10min"}
        if conn.get_server_version().major >= TRANSACTION_TIMEOUT_SINCE:
            timeouts["transaction_timeout"] = "30min"
        for name, value in timeouts.items():
            await conn.execute(f"ALTER ROLE broker_auditor_login SET {name} = '{value}'")
    finally:
        await conn.close()


def password_of(superuser_dsn: str, role: str) -> str:
    """A login role's password, by the superuser's: who has one of them has no other."""
    known = urlsplit(superuser_dsn).password or "development"
    return hmac.digest(known.encode(), role.encode(), "sha256").hex()


def dsns(superuser_dsn: str, database: str) -> Dsns:
    """The addresses of a database, by deployment."""
    base, _, _ = superuser_dsn.rpartition("/")
    _, _, place = base.rpartition("@")

    def as_role(role: str) -> str:
        return f"postgresql://{role}_login:{password_of(superuser_dsn, role)}@{place}/{database}"

    return Dsns(
        owner=f"{base}/{database}",
        app=as_role("broker_app"),
        relay=as_role("broker_relay"),
        auditor=as_role("broker_auditor"),
        retention=as_role("broker_retention"),
        observer=as_role("broker_observer"),
    )


async def prepare(superuser_dsn: str, *, tenants: tuple[str, ...] = (TENANT,)) -> Dsns:
    """Migrate the `broker` database and fill in the catalog and tenants that may call it all."""
    conn = await asyncpg.connect(superuser_dsn)
    try:
        if not await conn.fetchval("SELECT 1 FROM pg_database WHERE datname = 'broker'"):
            await conn.execute("CREATE DATABASE broker")
    finally:
        await conn.close()
    found = dsns(superuser_dsn, "broker")
    await migrate.upgrade(found.owner)
    await create_logins(superuser_dsn)
    await seed(found.owner, tenants=tenants)
    return found


async def seed(owner_dsn: str, *, tenants: tuple[str, ...]) -> None:
    """The shipped catalog, and tenants whose every user may call all of it."""
    async with migrate.connected(owner_dsn) as engine:
        await catalog_file.apply(engine, catalog_file.parse(catalog_file.SHIPPED), prune=False)
        async with engine.begin() as conn:
            for tenant_id in tenants:
                await catalog_store.put_tenant(conn, tenant_id, Limits(title=f"Tenant {tenant_id}"))
                every = Grant(subject_kind="tenant", subject="*", pattern="*", effect="allow")
                await catalog_store.grant(conn, tenant_id, [every])


class AppProcess:
    """One app replica."""

    def __init__(
        self, *, home: Path, env: Mapping[str, str], port: int, name: str, detached: bool = False
    ) -> None:
        self.port = port
        env = {**env, "MCP_BROKER_PORT": str(port)}
        self.process = _deployed("app", "serve", home=home, env=env, name=name, detached=detached)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it can accept calls."""
        self.process.start()
        self.process.wait_ready(lambda: http_ok(f"{self.url}/readyz"), timeout_s=READY_S)


def http_ok(url: str) -> bool:
    """Whether a GET answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:  # noqa: S310 loopback
            return answer.status == 200  # noqa: PLR2004
    except (urllib.error.URLError, OSError):
        return False


def relay_process(
    *, home: Path, env: Mapping[str, str], name: str, detached: bool = False
) -> Process:
    """One relay; it is ready once started, as it waits for Kafka and Postgres by itself."""
    return _deployed("relay", home=home, env=env, name=name, detached=detached)


def worker_process(
    *, home: Path, env: Mapping[str, str], name: str, detached: bool = False
) -> Process:
    """One worker; it waits for Kafka and the app by itself."""
    return _deployed("worker", home=home, env=env, name=name, detached=detached)


def _deployed(
    *module: str, home: Path, env: Mapping[str, str], name: str, detached: bool
) -> Process:
    return Process(
        name,
        [sys.executable, "-m", *module],
        log=home / f"{name}.log",
        env={**os.environ, **env},
        cwd=assets.root(),
        detached=detached,
    )


class Stack:
    """Everything, started in order and stopped in the other."""

    def __init__(
        self,
        home: Path,
        *,
        port: int | None = None,
        observe: bool = False,
        data: Path | None = None,
        detached: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        """`data` is where the servers keep theirs, for good; otherwise it goes when they stop."""
        self.home = home
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.say = say
        self.workspace = home / "workspace"
        self.spans = home / "spans.jsonl"
        self._observe = observe
        self._metrics = {name: free_port() for name in OBSERVED} if observe else {}
        self.prometheus: LocalPrometheus | None = None
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o700)  # keys, tokens and logs
        self.workspace.mkdir(exist_ok=True)
        self.seal_key, self.seal_public = home / "seal.pem", home / "seal.pub.pem"
        if not self.seal_key.exists():
            keys.generate(self.seal_key, self.seal_public)
        self.issuer = DevIssuer(home, audience=f"{self.url}/mcp")
        kept = {name: data and data / name for name in ("postgres", "kafka")}
        self.postgres = EmbeddedPostgres(data=kept["postgres"], detached=detached)
        self.kafka = EmbeddedKafka(data=kept["kafka"], detached=detached)
        self._kept = data is not None
        self.dsns: Dsns | None = None
        self.app: AppProcess | None = None
        self.relay: Process | None = None
        self.eda: EmbeddedEda | None = None
        self.worker: Process | None = None
        self._detached = detached

    def _observed(self, name: str) -> dict[str, str]:
        """What has a part serve metrics, and write spans: soon and with the ids of commands."""
        if not self._observe:
            return {}
        return {
            "MCP_BROKER_METRICS_PORT": str(self._metrics[name]),
            "MCP_BROKER_TRACE_PATH": str(self.spans),
            "MCP_BROKER_TRACE_ATTRIBUTES": '["correlation_id"]',
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }

    def env(self, dsn: str, name: str) -> dict[str, str]:
        """The settings of the app or the relay of this stack."""
        return self._observed(name) | {
            "MCP_BROKER_DATABASE_URL": dsn,
            "MCP_BROKER_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
            "MCP_BROKER_PUBLIC_URL": self.url,
            "MCP_BROKER_ISSUERS": self.issuer.setting(),
            "MCP_BROKER_SEAL_KEYS": orjson.dumps([str(self.seal_key)]).decode(),
            "MCP_BROKER_WEBHOOK_KEYS": f'["{WEBHOOK_KEY}"]',
            "MCP_BROKER_WEBHOOK_NETWORKS": '["127.0.0.0/8"]',
        }

    def start(self) -> None:
        """Start all parts; what was started is stopped again where one fails."""
        try:
            self.say("PostgreSQL …")
            self.postgres.start()
            self.say("Kafka …")
            self.kafka.start()
            self.say("schema, catalog, tenant …")
            self.dsns = asyncio.run(prepare(self.postgres.dsn))
            self.say("app, relay …")
            self.relay = relay_process(
                home=self.home,
                env=self.env(self.dsns.relay, "relay"),
                name="relay",
                detached=self._detached,
            )
            self.relay.start()
            self.app = AppProcess(
                home=self.home,
                env=self.env(self.dsns.app, "app"),
                port=self.port,
                name="app",
                detached=self._detached,
            )
            self.app.start()
            self.say("worker …")
            self.worker = worker_process(
                home=self.home,
                env=self._observed("worker")
                | {
                    "MCP_BROKER_KAFKA_BOOTSTRAP": self.kafka.bootstrap,
                    "MCP_BROKER_URL": self.url,
                    "MCP_BROKER_TOKEN": self.adapter_token("worker"),
                },
                name="worker",
                detached=self._detached,
            )
            self.worker.start()
            self.say("EDA (ansible-rulebook) …")
            self.eda = EmbeddedEda(
                home=self.home,
                kafka=self.kafka.bootstrap,
                broker_url=self.url,
                token=self.adapter_token("eda"),
                workspace=self.workspace,
                detached=self._detached,
            )
            self.eda.start()
            if self._observe and prometheus.found():
                self.say("Prometheus …")
                self.prometheus = LocalPrometheus(self.home, self._metrics, detached=self._detached)
                self.prometheus.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop all parts, the data's last."""
        if self.prometheus is not None:
            self.prometheus.stop()
        if self.eda is not None:
            self.eda.stop()
        if self.worker is not None:
            self.worker.stop(timeout_s=WORKER_STOP_S)
        if self.app is not None:
            self.app.process.stop()
        if self.relay is not None:
            self.relay.stop()
        self.kafka.stop()
        self.postgres.stop()

    def user_token(self, *, scopes: tuple[str, ...] = ("tools",), user: str = USER) -> str:
        """A caller's token."""
        return self.issuer.token(tenant=TENANT, user=user, scopes=scopes)

    def console_link(self) -> str:
        """A link that signs a person in at the console, once."""
        return console_link(self.issuer, self.url, tenant=TENANT, user=USER)

    def adapter_token(self, name: str) -> str:
        """A token of who works on calls."""
        return self.issuer.token(tenant="adapters", user=name, scopes=["results:write"])

    def folders(self) -> list[str]:
        """The servers' data, to be removed after them; Prometheus's alone where it is kept."""
        scraped = [] if self.prometheus is None else [str(self.prometheus.home)]
        return scraped if self._kept else [str(self.postgres.home), str(self.kafka.home), *scraped]

    def tails(self, lines: int = 12) -> str:
        """Of each part whether it runs, and the end of its log: why something went wrong."""
        parts = (
            self.app and self.app.process,
            self.relay,
            self.worker,
            self.eda and self.eda.process,
        )
        return "\n\n".join(
            f"{part.name} {'runs' if part.running else 'has ended'}:\n{part.tail(lines)}"
            for part in parts
            if part is not None
        )

    def pids(self) -> dict[str, int]:
        """Every part's process group."""
        assert self.app is not None
        assert self.relay is not None
        assert self.eda is not None
        assert self.worker is not None
        observing = {} if self.prometheus is None else {"prometheus": self.prometheus.process.pid}
        return observing | {
            "eda": self.eda.process.pid,
            "worker": self.worker.pid,
            "app": self.app.process.pid,
            "relay": self.relay.pid,
            "kafka": self.kafka.pid,
            "postgres": self.postgres.pid,
        }
