"""The sealer: every event once, in its transaction's order, whoever seals, crashes or waits."""

import asyncio
from pathlib import Path

import asyncpg
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import REGISTRY

from app.audit import note
from app.audit.bundle import parse_anchors
from app.audit.keys import FileSigner
from app.audit.store import seals as audit_seals
from relay import gauges
from relay.sealer import Sealer
from tests.audit.conftest import LOG, Log, sealer
from tests.support.stack import wait_for


@pytest.mark.guarantee("audit:sealed-once")
async def test_events_get_dense_numbers_and_one_seal_a_tenant_a_batch(log: Log) -> None:
    await log.append(7)
    await log.append(3, tenant="other")
    await log.seal()
    await log.append(2)
    await log.seal()
    await log.seal()
    rows = await log.owner.fetch(
        "SELECT tenant_id, seal_no, seq_from, seq_to FROM audit.seals ORDER BY 1, 2"
    )
    assert [tuple(row) for row in rows] == [
        ("demo", 1, 1, 7),
        ("demo", 2, 8, 9),
        ("other", 1, 1, 3),
    ]
    assert (await log.verify())["ok"]
    assert (await log.verify("other"))["ok"]
    assert (await log.check()).fault is None


async def test_python_and_sql_compute_the_same_leaf_seal_and_root(log: Log) -> None:
    await log.append(3, body='{"b": 1,\n "a":  "\u00e9\u2028\\u0041", "n": 1.50}')
    await log.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor) VALUES ('demo', '', '5:x,')"
    )
    await log.seal()
    report = await log.check()
    assert report.fault is None
    verified = await log.verify()
    assert (report.root, report.size) == (verified["root"], 4)
    assert await log.owner.fetchval(
        "SELECT bool_and(digest = audit.seal_digest(s)) FROM audit.seals s"
    )


@pytest.mark.guarantee("audit:sealed-once")
async def test_a_transaction_that_commits_late_is_sealed_after_those_that_overtook_it(
    log: Log,
) -> None:
    late = await asyncpg.connect(log.dsns.owner)
    insert = "INSERT INTO audit.events (tenant_id, type, actor) VALUES ('demo', $1, 'x')"
    async with late.transaction():
        await late.execute(insert, "late")
        await log.append(3)
        await log.seal()
        assert await log.sealed() == 0, "an open transaction could still write below them"
        assert log.sealer.counts.lag_s > 0
    await log.append(1)
    await log.seal()
    assert await log.sealed() == 5
    assert (await log.verify())["ok"]
    assert log.sealer.counts.lag_s == 0
    await late.close()


async def test_a_batch_is_bounded_and_never_splits_a_transaction(log: Log) -> None:
    many = (
        "INSERT INTO audit.events (tenant_id, type, actor)"
        " SELECT 'demo', 'x', 'x' FROM generate_series(1, $1::int)"
    )
    await log.append(5)
    await log.owner.execute(many, 30)
    await log.append(4)
    small = sealer(log.pool, log.key, batch_max=10)
    sizes = [0]
    while await small.tick():
        sizes.append(await log.sealed())
    assert await log.sealed() == 39
    assert [size for size in sizes if 0 < size < 35] == [], "the large transaction is whole"
    assert (await log.verify())["ok"]


@pytest.mark.guarantee("audit:sealed-once")
async def test_an_id_that_another_event_had_keeps_nothing_from_being_sealed(log: Log) -> None:
    """Writers choose the ids, and one that is taken over chooses badly."""
    again = (
        "INSERT INTO audit.events (event_id, tenant_id, type, actor)"
        " VALUES ('00000000-0000-4000-8000-000000000001', $1, $2, 'x')"
    )
    await log.owner.execute(again, "demo", "first")
    await log.seal()
    await log.owner.execute(again, "demo", "of a later seal")
    async with log.owner.transaction():
        await log.owner.execute(again, "demo", "of the same seal")
        await log.owner.execute(again, "other", "of another tenant")
    await log.seal()
    assert (await log.sealed(), await log.sealed("other")) == (3, 1)
    for tenant in ("demo", "other"):
        assert (await log.verify(tenant))["ok"]
        assert (await log.check(tenant)).fault is None


@pytest.mark.guarantee("audit:sealed-once")
async def test_of_many_sealers_one_seals_and_another_takes_over(log: Log) -> None:
    one = sealer(log.pool, log.key)
    others = [sealer(log.pool, log.key) for _ in range(3)]
    await log.append(5)
    while await one.tick():
        pass
    await log.append(5)
    await asyncio.gather(*(other.tick() for other in others))
    assert one.counts.leading
    assert not any(other.counts.leading for other in others)
    assert await log.sealed() == 5
    await log.owner.execute("UPDATE leases SET until = now() - interval '1 second'")
    await asyncio.gather(*(other.tick() for other in others))
    assert sum(other.counts.leading for other in others) == 1
    assert await log.sealed() == 10
    assert (await log.verify())["ok"]


class SlowSigner(FileSigner):
    """Signs when told to."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        super().__init__(key)
        self.asked = asyncio.Event()
        self.go = asyncio.Event()

    async def sign(self, message: bytes) -> bytes:
        self.asked.set()
        await self.go.wait()
        return await super().sign(message)


@pytest.mark.guarantee("audit:sealed-once")
async def test_a_sealer_that_lost_its_lease_while_it_signed_writes_nothing(log: Log) -> None:
    await log.append(0)
    await log.seal()
    await log.append(5)
    slow = SlowSigner(log.key)
    old = Sealer(log.pool, [slow], log=LOG)
    await log.owner.execute("DELETE FROM leases")
    ticking = asyncio.create_task(old.tick())
    async with asyncio.timeout(5):
        await slow.asked.wait()
    await log.owner.execute("UPDATE leases SET until = now() - interval '1 second'")
    new = sealer(log.pool, log.key)
    assert await wait_for(lambda: _leads(new))
    slow.go.set()
    await ticking
    assert await log.sealed() == 5
    assert old.counts.seals == 0
    assert (await log.verify())["ok"]


async def _leads(one: Sealer) -> bool:
    await one.tick()
    return one.counts.leading and one.counts.events == 5


async def test_a_log_without_its_watermark_is_read_again_and_sealed_no_twice(log: Log) -> None:
    await log.append(6)
    await log.seal()
    await log.owner.execute("DELETE FROM audit.watermark")
    await log.append(2)
    await log.seal()
    assert await log.sealed() == 8
    assert (await log.verify())["ok"]


async def test_what_a_restored_dump_brings_is_sealed_and_what_follows_too(log: Log) -> None:
    """In a new cluster transaction ids start over: old events seem to come from the future."""
    await log.append(3)
    await log.seal()
    await log.owner.execute("UPDATE audit.watermark SET cluster = 1, xid = '99999999999'")
    await log.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor, xid)"
        " SELECT 'demo', 'restored', 'x', '99999999998' FROM generate_series(1, 25)"
    )
    await log.append(2)
    small = sealer(log.pool, log.key, batch_max=10)
    await log.owner.execute("DELETE FROM leases")
    while await small.tick():
        pass
    assert await log.sealed() == 31, "and that the log has moved"
    await log.append(1)
    while await small.tick():
        pass
    assert await log.sealed() == 32
    assert (await log.verify())["ok"]
    assert small.counts.lag_s == 0, "what the dump brought is sealed, whatever its ids"


async def test_each_seal_has_its_anchor_in_the_outbox_and_in_the_file(
    log: Log, tmp_path: Path
) -> None:
    path = tmp_path / "anchors.ndjson"
    woken = asyncio.Event()
    made = sealer(log.pool, log.key, anchor_file=path, on_sealed=woken.set)
    for _ in range(3):
        await log.append(2)
        while await made.tick():
            pass
    assert woken.is_set()
    anchors = await log.anchors()
    assert [anchor.seal_no for anchor in anchors] == [1, 2, 3]
    assert list(parse_anchors(path.read_bytes().splitlines())) == anchors
    [row] = await log.owner.fetch(
        "SELECT topic, key, tenant_id, payload FROM outbox WHERE kind = 'audit' AND"
        " (payload ->> 'seal_no')::int = 3"
    )
    assert (row["topic"], row["key"], row["tenant_id"]) == ("mcp.audit", "demo", "demo")
    checkpoint = orjson.loads(row["payload"])["checkpoint"]
    assert checkpoint.startswith(f"{LOG}/demo\n6\n")
    assert note.signers_of(checkpoint, log.keys)
    assert (await log.check(anchors=anchors)).anchors == 3


async def test_run_seals_until_it_is_told_to_stop_and_gives_the_lease_back(log: Log) -> None:
    stop = asyncio.Event()
    running = asyncio.create_task(sealer(log.pool, log.key, interval_s=0.05, lease_s=60).run(stop))
    await log.append(3)
    await wait_for(lambda: _count(log, 3))
    await log.append(3)
    await wait_for(lambda: _count(log, 6))
    stop.set()
    async with asyncio.timeout(5):
        await running
    await log.append(1)
    await log.seal()
    assert await log.sealed() == 7, "another sealer need not wait for the lease to run out"


async def _count(log: Log, wanted: int) -> bool:
    return await log.sealed() == wanted


async def test_a_relay_says_that_it_seals_only_while_it_has_the_lease(log: Log) -> None:
    one, stop = sealer(log.pool, log.key, interval_s=0.02), asyncio.Event()
    running = asyncio.create_task(one.run(stop))

    async def leads() -> bool:
        return one.counts.leading

    async def follows() -> bool:
        return not one.counts.leading

    await wait_for(leads)
    await log.owner.execute("REVOKE UPDATE ON leases FROM broker_relay")
    await wait_for(follows)  # of what it cannot renew, nobody knows who has it
    await log.owner.execute("GRANT UPDATE ON leases TO broker_relay")
    await wait_for(leads)
    stop.set()
    async with asyncio.timeout(5):
        await running
    assert not one.counts.leading


async def test_what_waits_for_a_seal_is_counted_up_to_a_bound_and_past_the_history(
    log: Log,
) -> None:
    async def waiting(limit: int) -> int:
        async with log.pool.acquire() as conn:
            mark = await audit_seals.watermark(conn)
            return await audit_seals.waiting(conn, after=mark.xid, limit=limit)

    many = (
        "INSERT INTO audit.events (tenant_id, type, actor)"
        " SELECT 'demo', 'x', 'x' FROM generate_series(1, 20000)"
    )
    await log.owner.execute(many)
    assert await waiting(100_000) == 20_000
    await log.seal()
    assert await waiting(100_000) == 0
    await log.owner.execute(many)
    await log.append(3, tenant="other")
    await log.owner.execute("ANALYZE audit.events")
    before = await _reads(log)
    assert await waiting(300) == 300
    assert await _reads(log) - before < 1000, "neither those that are sealed nor all that wait"
    async with log.pool.acquire() as conn:
        await gauges.read(conn)
    assert REGISTRY.get_sample_value("mcpbroker_unsealed_events") == 20_003


async def test_a_tick_costs_the_batch_and_not_the_history(log: Log) -> None:
    await log.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor)"
        " SELECT 'demo', 'x', 'x' FROM generate_series(1, 20000)"
    )
    await log.seal()
    await log.append(10)
    await log.owner.execute("SELECT pg_stat_force_next_flush()")
    before = await _reads(log)
    await log.seal()
    await log.owner.execute("SELECT pg_stat_force_next_flush()")
    assert await log.sealed() == 20010
    assert await _reads(log) - before < 200, "rows of events read for ten new ones"


async def _reads(log: Log) -> int:
    rows = await log.pool.fetch("SELECT pg_stat_force_next_flush()")
    assert rows
    found = await log.owner.fetchval(
        "SELECT sum(seq_tup_read + idx_tup_fetch)::bigint FROM pg_stat_user_tables"
        " WHERE schemaname = 'audit' AND relname LIKE 'events\\_%'"
    )
    assert isinstance(found, int)
    return found
