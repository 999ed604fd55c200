"""What a login that may only read can hold up, hear and cause: nothing of anybody else's."""

import asyncio
import re
import secrets
from collections import Counter

import asyncpg
import pytest

from app import assets
from app.commands.store import dispatch_claim
from app.edges.parts import Parts
from app.postgres import wakeups
from app.postgres.wakeups import CATALOG, COMMANDS, OUTBOX, SAGAS, STOPS
from devstack.stack import Dsns
from tests.audit.conftest import Log
from tests.support.calls import accept, echo, finish
from tests.support.stack import wait_for

CHANNELS = (COMMANDS, CATALOG, STOPS, OUTBOX, SAGAS)
TAKEN = (
    "hashtext('audit.ensure_partitions')",
    "hashtext('audit.retention')",
    "hashtextextended('mcpbroker.dispatch', 0)",
    "hashtextextended('demo:service', 7041)",
)
"""The advisory locks that there once were."""


@pytest.mark.guarantee("access:reach")
async def test_no_lock_or_transaction_of_an_auditor_holds_anything_up(log: Log) -> None:
    await log.append(3)
    conn = await asyncpg.connect(log.dsns.auditor)
    retention = await asyncpg.connect(log.dsns.retention, server_settings={"lock_timeout": "2s"})
    try:
        for key in TAKEN:
            await conn.execute(f"SELECT pg_advisory_lock({key})")
        await conn.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await conn.execute("SELECT count(*) FROM audit.events; SELECT pg_current_xact_id()")
        async with log.pool.acquire() as relay, relay.transaction():
            await relay.execute("SET LOCAL lock_timeout = '2s'")
            assert (await relay.fetchval("SELECT audit.ensure_partitions(6)") or 0) > 0
            await relay.execute(dispatch_claim.LOCK)
        months = "SELECT count(*) FROM audit.shape() WHERE kind = 'month'"
        assert await log.owner.fetchval(months) == 1, "those of before and these are alike"
        assert await retention.fetchval("SELECT audit.hold('demo', 'case', NULL, NULL)")
    finally:
        await conn.close()
        await retention.close()


@pytest.mark.guarantee("access:reach")
async def test_an_auditor_can_lock_no_row_and_no_table_that_others_write(log: Log) -> None:
    conn = await asyncpg.connect(log.dsns.auditor)
    try:
        for statement in (
            "SELECT FROM turns FOR UPDATE",
            "SELECT FROM turns FOR KEY SHARE",
            "SELECT FROM audit.watermark FOR SHARE",
            *(
                f"LOCK TABLE audit.{table} IN {mode} MODE"
                for table in ("events", "members", "seals", "watermark")
                for mode in ("ROW EXCLUSIVE", "SHARE UPDATE EXCLUSIVE", "ACCESS EXCLUSIVE")
            ),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                async with conn.transaction():
                    await conn.execute(statement)
    finally:
        await conn.close()


async def test_no_work_waits_for_an_advisory_lock(log: Log) -> None:
    found = await log.owner.fetch(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE prosrc LIKE '%advisory%'"
        " AND pronamespace IN ('audit'::regnamespace, 'public'::regnamespace)"
    )
    assert found == []
    for folder in ("app", "relay"):
        for path in (assets.root() / folder).rglob("*"):
            if path.suffix in {".py", ".sql"}:
                assert "pg_advisory" not in path.read_text(encoding="utf-8"), path


@pytest.mark.guarantee("access:reach")
async def test_nobody_who_listens_hears_a_commands_id(broker: Parts, database: Dsns) -> None:
    heard: list[str] = []
    conn = await asyncpg.connect(database.auditor)
    try:
        for channel in CHANNELS:
            await conn.add_listener(channel, lambda *said: heard.append(str(said[3])))
        one = (await accept(broker, echo())).written.id
        await finish(broker, one, result={"text": "hi"})

        async def told() -> bool:
            return wakeups.mark(one) in heard

        assert await wait_for(told)
        assert not [said for said in heard if str(one) in said or one.hex in said]
    finally:
        await conn.close()


@pytest.mark.guarantee("access:reach")
async def test_what_an_auditor_notifies_is_heard_some_times_a_second_at_most(
    database: Dsns,
) -> None:
    heard: Counter[str] = Counter()
    last: asyncio.Event = asyncio.Event()

    def hear(channel: str, payload: str) -> None:
        heard[channel] += 1
        if payload == "last":
            last.set()

    handlers = {one: (lambda said, one=one: hear(one, said)) for one in CHANNELS}
    listening = asyncio.create_task(wakeups.listen(database.app, handlers, name="reach"))
    conn = await asyncpg.connect(database.auditor)
    try:

        async def connected() -> bool:
            return heard[SAGAS] > 0

        assert await wait_for(connected)
        heard.clear()
        for payload in ("", "?"):
            for _ in range(300):
                for channel in (COMMANDS, CATALOG, STOPS):
                    await conn.execute("SELECT pg_notify($1, $2)", channel, payload)
        await conn.execute("SELECT pg_notify($1, 'last')", COMMANDS)
        async with asyncio.timeout(10):
            await last.wait()
        assert sum(heard.values()) < 100, heard
        assert heard[CATALOG] > 0, "what was said last is not lost"
    finally:
        await conn.close()
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def test_the_login_that_the_page_makes_has_its_timeouts(log: Log) -> None:
    page = (assets.root() / "docs" / "AUDITORS.md").read_text(encoding="utf-8")
    made = re.search(r"```\n(CREATE ROLE carol.*?)```", page, re.DOTALL)
    assert made is not None
    password = secrets.token_urlsafe()
    script = made.group(1).replace("…", password)
    try:
        await log.owner.execute(script)
        conn = await asyncpg.connect(log.dsns.auditor, user="carol", password=password)
        names = re.findall(r"SET (\w+) = '(\w+)'", script)
        assert len(names) == 3
        for name, value in names:
            assert await conn.fetchval(f"SHOW {name}") == value
        await conn.close()
    finally:
        await log.owner.execute("DROP ROLE IF EXISTS carol")
