"""A disk of PostgreSQL or Kafka is full: callers are told, and all goes on when there is room."""

import asyncio
import subprocess
from collections.abc import Callable
from pathlib import Path
from random import Random
from secrets import token_hex
from typing import Any, Final

import asyncpg
import httpx2
import pytest

from app.edges.server import open_broker
from devstack.kafka import EmbeddedKafka
from devstack.postgres import EmbeddedPostgres
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.audit.conftest import open_log
from tests.conftest import AUDIENCE, settings_of
from tests.support import stack
from tests.support.served import ADAPTER, served
from tests.support.stack import wait_for
from tests.system.chaos.fleet import KAFKA, Fleet, Monkey, open_fleet
from tests.system.chaos.test_chaos import SECONDS, SETTLE_S, only_for_long, ordeal
from tests.system.machines.disks import Disk, small_disk

pytestmark = pytest.mark.chaos

SMALL: Final = {"shared_buffers": "32MB", "max_wal_size": "64MB", "min_wal_size": "32MB"}
ROOMY: Final = "4g"
BACK_S: Final = 30
CALLS_MAX: Final = 400
NOW: Final = {"Prefer": "respond-async"}
WRITTEN: Final = """
    SELECT (SELECT count(*) FROM commands) AS commands,
           (SELECT count(*) FROM audit.events WHERE type = 'command.accepted') AS accepted,
           (SELECT count(*) FROM audit.events WHERE type = 'command.succeeded') AS succeeded
"""


def postgres_on(data: Disk, log: Disk) -> EmbeddedPostgres:
    """A cluster with its data on one disk and its write-ahead log on another; not started."""
    home = data.folder("postgres")
    server = EmbeddedPostgres(data=home, settings=SMALL)
    server.start()
    server.stop()
    inside, moved = home / "data" / "pg_wal", log.path / "pg_wal"
    subprocess.run(["mv", str(inside), str(moved)], check=True)
    inside.symlink_to(moved)
    return server


def with_room(disk: Disk, server: EmbeddedPostgres) -> None:
    """Make room again, and start the server where it has ended, as its supervisor does."""
    disk.free()
    if not server.running:
        server.start()


class Callers:
    """A caller and an adapter, and what they were told."""

    def __init__(self, http: httpx2.AsyncClient, adapter: httpx2.AsyncClient) -> None:
        self._http = http
        self._adapter = adapter
        self.accepted: dict[str, str] = {}
        self.refused: set[str] = set()

    async def call(self, key: str, text: str | None = None) -> bool:
        """Whether it was accepted; it was told clearly where it was not."""
        args = {"name": key, "owner": "o", "settings": {"text": text or key}}
        body = {"tool": "service", "method": "configure", "args": args}
        headers = NOW | {"Idempotency-Key": key}
        answer = await self._http.post("/mcp/tools/call", json=body, headers=headers)
        if answer.status_code == 202:
            found = answer.json()["command_id"]
            assert self.accepted.setdefault(key, found) == found, "accepted once"
            return True
        told(answer)
        self.refused.add(key)
        return False

    async def report(self, path: str, body: dict[str, Any]) -> bool:
        """Whether the adapter's report was taken."""
        answer = await self._adapter.post(f"/results/{path}", json=body)
        if answer.status_code == 200:
            return True
        told(answer)
        return False


def told(answer: httpx2.Response) -> None:
    """The problem says that it is the broker's, that it passes, and when to come back."""
    assert answer.status_code == 503, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "unavailable"
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.guarantee("postgres:full-disk")
@pytest.mark.parametrize("which", ["data", "log"])
async def test_with_a_full_disk_callers_are_told_and_nothing_false_is_written(
    which: str, issuer: DevIssuer
) -> None:
    with small_disk("300m" if which == "data" else "130m") as small, small_disk(ROOMY) as roomy:
        disks = (small, roomy) if which == "data" else (roomy, small)
        server = await asyncio.to_thread(postgres_on, *disks)
        try:
            await asyncio.to_thread(server.start)
            await stack.make_template(server.dsn)
            database = await stack.clone(server.dsn)
            async with (
                open_broker(settings_of(database.app, issuer)) as broker,
                served(broker, issuer) as app,
                app.client("ada") as http,
                app.client("eda", *ADAPTER, tenant="adapters") as adapter,
            ):
                callers = Callers(http, adapter)
                await fills_up(callers, small, lambda: with_room(small, server))
            await nothing_false(callers, database)
        finally:
            small.free()
            await asyncio.to_thread(server.stop)


async def fills_up(callers: Callers, disk: Disk, room: Callable[[], None]) -> None:
    """Calls until the disk is full, a report meanwhile, and all of them again with room."""
    assert await callers.call("before")
    one = callers.accepted["before"]
    assert await callers.report(f"{one}/claim", {"attempt": 1, "adapter": "run"})
    done = {"status": "ok", "result": {"text": token_hex(200_000)}, "attempt": 1}
    disk.fill()
    for number in range(CALLS_MAX):
        if not await callers.call(f"during-{number}", token_hex(50_000)):
            break
    assert callers.refused, "the disk was full"
    assert disk.full
    assert not await callers.report(one, done)
    await asyncio.to_thread(room)

    async def back() -> bool:
        return await callers.call("after")

    assert await wait_for(back, BACK_S)
    assert await callers.report(one, done)
    assert all([await callers.call(key) for key in callers.refused])


async def nothing_false(callers: Callers, database: Dsns) -> None:
    """What was accepted is there, once, and the log of it is whole."""
    owner = await asyncpg.connect(database.owner)
    try:
        rows = await owner.fetch("SELECT id::text, idempotency_key FROM commands")
        assert {row["idempotency_key"]: row["id"] for row in rows} == callers.accepted
        [written] = await owner.fetch(WRITTEN)
        count = len(callers.accepted)
        assert dict(written) == {"commands": count, "accepted": count, "succeeded": 1}
    finally:
        await owner.close()
    async with open_log(database) as log:
        await log.seal()
        assert (await log.verify())["ok"]


def filler(data: Disk, log: Disk, records: Disk) -> type[Monkey]:
    """A monkey for these disks."""

    class Fuller(Monkey):
        """Fills disks and makes room again, and kills as well."""

        def __init__(self, fleet: Fleet, random: Random, *, slowness: float = 1) -> None:
            super().__init__(fleet, random, slowness=slowness)
            self._moves = {
                "full data": self.full_data,
                "full log": self.full_log,
                "full kafka": self.full_kafka,
                "relay": self.kill_relay,
                "executor": self.kill_executor,
            }

        async def full_data(self) -> None:
            await self._postgres(data)

        async def full_log(self) -> None:
            await self._postgres(log)

        async def full_kafka(self) -> None:
            """Kafka gives a disk up that took no write, until it is started again."""
            if "kafka" in self._fleet.down:
                return
            await asyncio.to_thread(records.fill)

            def start() -> None:
                records.free()
                self._fleet.kafka.kill()
                self._fleet.kafka.start()

            self._fleet.later("kafka", self._random.uniform(2, 5), start)

        async def _postgres(self, disk: Disk) -> None:
            if "postgres" in self._fleet.down:
                return
            await asyncio.to_thread(disk.fill)
            pause_s = self._random.uniform(2, 5)
            self._fleet.later("postgres", pause_s, lambda: with_room(disk, self._fleet.postgres))

    return Fuller


@only_for_long
@pytest.mark.timeout(int(SECONDS + SETTLE_S + 240))
@pytest.mark.guarantee("chaos:disks")
async def test_whichever_disk_is_full_every_call_ends_once_in_order(
    home: Path, issuer: DevIssuer, pytestconfig: pytest.Config
) -> None:
    url = AUDIENCE.removesuffix("/mcp")
    with small_disk("1g") as data, small_disk("300m") as log, small_disk("1g") as records:
        postgres = await asyncio.to_thread(postgres_on, data, log)
        kafka = EmbeddedKafka(data=records.path / "kafka", properties=KAFKA)
        async with open_fleet(home, issuer, url, postgres=postgres, kafka=kafka) as fleet:
            harm = filler(data, log, records)
            await ordeal(fleet, pytestconfig, seconds=SECONDS, callers=6, harm=harm)
