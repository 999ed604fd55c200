"""A person's data goes, the log stays provable, and no erasure can hide an event."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest

from app.audit import event as audit
from app.audit.store import export
from app.audit.store import retention as audit_retention
from app.audit.store.retention import Erasure
from tests.audit.conftest import Log
from tests.audit.tampering import tamper
from tests.audit.test_partitions import invoke

BODY = '{"args": {"mail": "ada@example.org"}}'
HIDDEN = "SELECT count(*) FROM audit.events e WHERE strpos(to_jsonb(e)::text, $1) > 0"
BLANK = """
    UPDATE audit.events
       SET commitment = audit.personal_v1(salt, actor, user_id, fingerprint, body),
           actor = CASE WHEN actor LIKE 'user:%' THEN 'user:[erased]' ELSE actor END,
           user_id = NULL, fingerprint = NULL, body = '{}', salt = NULL, erased_by = "by"
     WHERE type = 'command.claimed'
"""


@pytest.fixture
async def erased(log: Log) -> Log:
    """Ada's five events, one that she did as an operator for bob, and two of bob's alone."""
    await log.append(5, body=BODY)
    await log.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor, user_id) VALUES"
        " ('demo', 'command.redriven', 'operator:ada', 'bob'),"
        " ('demo', 'command.claimed', 'adapter:eda', 'bob'),"
        " ('demo', 'command.accepted', 'user:bob', 'bob'),"
        " ('other', 'command.accepted', 'user:ada', 'ada')"
    )
    await log.seal()
    assert [(one.events, one.more) for one in await log.erase("ada")] == [(6, False)]
    await log.seal()
    return log


@pytest.mark.guarantee("erasure:provable")
async def test_after_an_erasure_the_person_is_gone_and_the_log_verifies(
    erased: Log, tmp_path: Path
) -> None:
    assert await erased.owner.fetchval(HIDDEN, "ada@example.org") == 0
    names = (
        "SELECT count(*) FROM audit.events"
        " WHERE tenant_id = 'demo' AND (user_id = 'ada' OR actor LIKE '%ada')"
    )
    assert await erased.owner.fetchval(names) == 0
    assert (
        await erased.owner.fetchval("SELECT count(*) FROM audit.events WHERE user_id = 'bob'") == 2
    )
    kept = await erased.owner.fetch(
        "SELECT DISTINCT actor FROM audit.events WHERE commitment IS NOT NULL ORDER BY 1"
    )
    assert [row["actor"] for row in kept] == ["adapter:eda", "operator:[erased]"]
    for tenant in ("demo", "other"):
        assert (await erased.verify(tenant))["ok"]
    report = await erased.check(anchors=await erased.anchors())
    assert (report.fault, report.erased, report.events) == (None, 6, 9)
    pem, bundle = erased.pem(tmp_path / "key.pem"), tmp_path / "demo.ndjson"
    done = await invoke("export", "demo", "--out", bundle, "--database-url", erased.dsns.owner)
    assert done.exit_code == 0, done.output
    officers = erased.pem(tmp_path / "officers.pem", erased.officer)
    taken = await invoke("verify-bundle", bundle, "--keys", pem, "--retention-keys", officers)
    assert "6 of the events have had a person's data erased" in taken.output
    assert not re.search(r"[\":]ada[\"@]", bundle.read_text())


@pytest.mark.guarantee("erasure:provable")
async def test_an_erasure_is_itself_an_event_and_says_how_much_not_who(erased: Log) -> None:
    row = await erased.owner.fetchrow(
        "SELECT actor, user_id, body->>'events' AS n, body::text AS body FROM audit.events"
        " WHERE type = 'person.erased'"
    )
    assert row is not None
    assert (row["actor"], row["user_id"], row["n"]) == ("db:broker_retention_login", None, "6")
    assert not re.search(r"\bada\b", row["body"]), "a signature may hold these letters"
    assert await erased.erase("ada") == [
        Erasure(erasure=None, events=0, commands=0, kept=0, more=False)
    ], "the second time there is nothing to erase, and nothing is said"


async def test_a_large_erasure_goes_in_batches_each_with_a_record_of_its_own(log: Log) -> None:
    await log.append(7)
    await log.seal()
    done = await log.erase("ada", batch=3)
    assert [one.events for one in done] == [3, 3, 1]
    await log.seal()
    assert (await log.verify())["ok"]
    assert (await log.check()).fault is None


async def faults(log: Log) -> tuple[bool, str | None]:
    """Whether the database finds the log whole, and what the check finds that believes nothing."""
    report = await log.check()
    return (await log.verify())["ok"], None if report.fault is None else report.fault.reason


@pytest.mark.guarantee("erasure:no-cover")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ([BLANK.replace('"by"', "gen_random_uuid()")], "were erased"),
        (
            [
                BLANK.replace(
                    '"by"', "(SELECT r.event_id FROM audit.events r WHERE type = 'person.erased')"
                )
            ],
            "were erased",
        ),
        (["UPDATE audit.events SET type = 'x' WHERE commitment IS NOT NULL"], "was altered"),
        (["UPDATE audit.events SET tool = 'x' WHERE commitment IS NOT NULL"], "was altered"),
        (["UPDATE audit.events SET user_id = 'eve' WHERE commitment IS NOT NULL"], "was altered"),
        (
            ["UPDATE audit.events SET actor = 'user:eve' WHERE actor LIKE 'operator:%'"],
            "was altered",
        ),
        (
            ["UPDATE audit.events SET body = '{\"a\":1}' WHERE commitment IS NOT NULL"],
            "was altered",
        ),
        (
            ["UPDATE audit.events SET commitment = sha256('') WHERE erased_by IS NOT NULL"],
            "altered",
        ),
        (["UPDATE audit.events SET actor = 'user:eve' WHERE actor = 'user:bob'"], "was altered"),
        (["UPDATE audit.events SET salt = sha256('') WHERE actor = 'user:bob'"], "was altered"),
        (["UPDATE audit.events SET salt = NULL WHERE actor = 'user:bob'"], "was altered"),
        (["DELETE FROM audit.events WHERE actor = 'operator:[erased]'"], "is gone"),
        (["DELETE FROM audit.events WHERE type = 'person.erased'"], "is gone"),
        (
            ["UPDATE audit.events SET body = '{}' WHERE type = 'person.erased'"],
            "was altered",
        ),
    ],
)
async def test_an_erasure_cannot_hide_or_change_an_event(
    erased: Log, changes: list[str], reason: str
) -> None:
    assert await faults(erased) == (True, None)
    await tamper(erased.owner, changes)
    ok, found = await faults(erased)
    assert not ok
    assert reason in (found or ""), found


@pytest.mark.guarantee("erasure:provable")
async def test_a_persons_ordering_keys_go_and_those_of_others_and_of_doubt_stay(log: Log) -> None:
    rows = (("ada", "mail:ada", False), ("ada", "shared", False), ("ada", "doubt", True))
    for user, key, unknown in (*rows, ("bob", "shared", False)):
        await log.owner.execute(
            "INSERT INTO commands (id, tenant_id, user_id, tool, method, key_source, fingerprint,"
            " ordering_key, ordering, state, deadline_at, finished_at, outcome_unknown)"
            " VALUES (gen_random_uuid(), 'demo', $1, 'mail', 'send', 'body', sha256('x'), $2,"
            " 'completion', 'timed_out', now(), now(), $3)",
            user,
            key,
            unknown,
        )
    await log.owner.execute(
        "INSERT INTO ordering_heads (tenant_id, ordering_key, next_seq, blocked_reason)"
        " SELECT DISTINCT ON (ordering_key) 'demo', ordering_key, 2,"
        "        CASE WHEN outcome_unknown THEN 'outcome of ' || id || ' unknown' END"
        "   FROM commands"
    )
    await log.owner.execute(
        "INSERT INTO commands (id, tenant_id, user_id, tool, method, key_source, fingerprint,"
        " ordering_key, ordering, key_seq, held, deadline_at)"
        " VALUES (gen_random_uuid(), 'demo', 'bob', 'mail', 'send', 'body', sha256('x'),"
        " 'shared', 'completion', 1, true, now())"
    )
    [done] = await log.erase("ada")
    assert done.commands == 3
    kept = "SELECT array_agg(ordering_key ORDER BY ordering_key) FROM commands WHERE user_id = $1"
    assert await log.owner.fetchval(kept, "[erased]") == ["doubt", None, None]
    assert await log.owner.fetchval(kept, "bob") == ["shared", "shared"]
    heads = await log.owner.fetch("SELECT ordering_key FROM ordering_heads ORDER BY 1")
    assert [row["ordering_key"] for row in heads] == ["doubt", "shared"]
    await log.seal()
    assert await faults(log) == (True, None)


@pytest.mark.guarantee("erasure:no-cover")
async def test_the_trigger_lets_an_erasure_pass_and_nothing_that_looks_like_one(log: Log) -> None:
    await log.append(2)
    await log.owner.execute("SET ROLE broker_owner")
    good = BLANK.replace('"by"', "gen_random_uuid()").replace(
        "command.claimed", "command.succeeded"
    )
    for bad in (
        good.replace("user_id = NULL", "user_id = NULL, type = 'x'"),
        good.replace("user_id = NULL", "user_id = NULL, state_to = 'failed'"),
        good.replace("salt = NULL", "salt = salt"),
        good.replace("body = '{}'", "body = '[]'"),
        good.replace("gen_random_uuid()", "NULL"),
        good.replace("audit.personal_v1(salt, actor, user_id, fingerprint, body)", "sha256('x')"),
    ):
        assert bad != good
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="is refused"):
            await log.owner.execute(bad)
    await log.owner.execute(good)


async def test_a_hold_and_open_work_refuse_an_erasure(log: Log) -> None:
    await log.append(1)
    conn = await asyncpg.connect(log.dsns.retention)
    hold = await audit_retention.hold(conn, "demo", reason="case", from_at=None, to_at=None)
    with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="legal hold"):
        await log.erase("ada")
    assert await audit_retention.release(conn, hold, reason="closed") == "demo"
    await conn.close()
    assert [one.events for one in await log.erase("ada")] == [1]


async def test_an_event_from_before_there_were_salts_keeps_its_leaf_and_is_not_erased(
    log: Log,
) -> None:
    await log.owner.execute(
        "INSERT INTO audit.events (tenant_id, type, actor, user_id, salt)"
        " VALUES ('demo', 'x', 'user:ada', 'ada', NULL)"
    )
    await log.seal()
    [done] = await log.erase("ada")
    assert (done.events, done.kept) == (0, 1)
    leaf = await log.owner.fetchrow(
        "SELECT audit.leaf(e),"
        " audit.leaf_v1(event_id, occurred_at, tenant_id, type, actor, user_id,"
        " command_id, saga_id, tool, method, attempt, state_from, state_to, fingerprint, body)"
        " AS first FROM audit.events e"
    )
    assert leaf is not None
    assert leaf["leaf"] == leaf["first"]
    assert await faults(log) == (True, None)


async def test_both_sides_compute_the_same_leaf_before_and_after_an_erasure(erased: Log) -> None:
    events = [
        one.event
        async for one in _members(erased)
        if isinstance(one, export.Member) and one.event is not None
    ]
    stored = {
        row["event_id"]: row["leaf"]
        for row in await erased.owner.fetch("SELECT event_id, audit.leaf(e) FROM audit.events e")
    }
    assert {event.commitment is None for event in events} == {True, False}
    for event in events:
        assert audit.leaf_of(event) == stored[event.event_id]
        assert audit.leaf_of(replace(event, event_id=UUID(int=1))) != stored[event.event_id]


async def test_both_sides_compute_the_same_leaf_of_any_event(log: Log) -> None:
    random, odd = Random(1), ["", "\\", "\\x00", "ä:b,", "7:x", "-", "[erased]", "\n", "𝄞"]
    actors = ["user:", ":", "adapter:eda", "adapter:", "db:x", "relay", "x:y:z", "dbx:", "clock"]

    def maybe(value: Any) -> Any:
        return value if random.random() < 0.6 else None

    rows = [
        (
            random.choice(odd) + "t",
            random.choice(actors),
            *(maybe(random.choice(odd)) for _ in range(5)),
            maybe(UUID(int=random.getrandbits(128))),
            maybe(UUID(int=random.getrandbits(128))),
            maybe(random.randrange(-5, 9)),
            maybe(random.randbytes(3)),
            orjson.dumps({"a": random.choice(odd)}).decode(),
        )
        for _ in range(300)
    ]
    await log.owner.executemany(
        "INSERT INTO audit.events (tenant_id, type, actor, user_id, tool, method, state_from,"
        " state_to, command_id, saga_id, attempt, fingerprint, body)"
        " VALUES ('demo', $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        rows,
    )
    await log.seal()
    stored = {
        row["event_id"]: row["leaf"]
        for row in await log.owner.fetch("SELECT event_id, audit.leaf(e) FROM audit.events e")
    }
    events = [
        one.event
        async for one in _members(log)
        if isinstance(one, export.Member) and one.event is not None
    ]
    assert len(events) == len(rows)
    assert all(audit.leaf_of(event) == stored[event.event_id] for event in events)


async def _members(log: Log) -> AsyncIterator[object]:
    async with log.owner.transaction():
        async for line in export.log(log.owner, "demo"):
            yield line
