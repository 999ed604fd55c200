"""Keys and bodies of ended commands go in time; what stays says so, and the audit proof holds."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from app.commands import retention
from app.commands.state import State
from app.commands.store import retention as stored
from app.config import Settings
from app.edges.parts import Parts
from app.errors import IdempotencyConflictError
from app.postgres.engine import Database, open_database
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.audit.conftest import open_log
from tests.conftest import settings_of
from tests.edges.mcp import wire
from tests.support.calls import ADA, accept, claim, delete, echo, fetch, finish
from tests.support.served import served

DAY = 86400.0
NO_SPACE = {"code": "no_space", "retryable": False}
AGE = "UPDATE commands SET finished_at = finished_at - make_interval(days => $2) WHERE id = $1"
RUN = """UPDATE commands SET run = '{"name": "job:1", "log": "quotes"}' WHERE id = $1"""
SAGA = """
    INSERT INTO sagas (id, tenant_id, user_id, kind, state, finished_at)
    VALUES ($1, 'demo', 'ada', 'adhoc', 'running', NULL)
"""
HELD = """
    INSERT INTO audit.holds (tenant_id, from_at, to_at, reason, placed_by)
    VALUES ('demo', $1, $2, 'x', 'x')
"""


@pytest.fixture
def policy(database: Dsns, issuer: DevIssuer) -> Settings:
    return settings_of(
        database.relay,
        issuer,
        keys_kept_s=7 * DAY,
        bodies_kept_s=30 * DAY,
        dead_letters_kept_s=90 * DAY,
    )


@pytest.fixture
async def relay(policy: Settings) -> AsyncIterator[Database]:
    """The relay's role."""
    async with open_database(policy, name="relay") as made:
        yield made


async def row(database: Dsns, command_id: UUID) -> asyncpg.Record:
    [found] = await fetch(database.owner, "SELECT * FROM commands WHERE id = $1", command_id)
    return found


async def ended(broker: Parts, database: Dsns, *, days: int, text: str = "hi", **more: Any) -> UUID:
    one = (await accept(broker, echo(text, **more))).written.id
    await claim(broker, one)
    await fetch(database.owner, RUN, one)
    await finish(broker, one, result={"text": "the result"})
    await fetch(database.owner, AGE, one, days)
    return one


@pytest.mark.guarantee("retention:keys")
async def test_a_key_lives_for_its_time_and_then_makes_a_new_command(
    broker: Parts, database: Dsns, relay: Database, policy: Settings
) -> None:
    young = await ended(broker, database, days=6, text="a", idempotency_key="young")
    old = await ended(broker, database, days=8, text="b", idempotency_key="old")
    assert await retention.purge(relay.pool, policy) == retention.Purged(keys=1, bodies=0)
    assert (await accept(broker, echo("a", idempotency_key="young"))).written.id == young
    with pytest.raises(IdempotencyConflictError):
        await accept(broker, echo("x", idempotency_key="young"))
    again = await accept(broker, echo("other", idempotency_key="old"))
    assert (again.written.new, again.written.id != old) == (True, True)
    kept = await row(database, old)
    assert (kept["idempotency_key"], kept["args"]) == (None, '{"text": "b"}')


@pytest.mark.guarantee("retention:bodies")
async def test_a_purged_body_is_gone_from_the_database_and_the_trail_still_proves_itself(
    broker: Parts, database: Dsns, relay: Database, policy: Settings
) -> None:
    old = await ended(broker, database, days=31)
    young = await ended(broker, database, days=29)
    failed = (await accept(broker, delete())).written.id
    await finish(broker, failed, error={**NO_SPACE, "message": "of ada's disk"})
    await fetch(database.owner, AGE, failed, 40)
    done = await retention.purge(relay.pool, policy)
    assert (done.bodies, await retention.purge(relay.pool, policy)) == (2, retention.Purged())
    gone = await row(database, old)
    assert (gone["args"], gone["result"], gone["state"]) == (None, None, "succeeded")
    assert gone["purged_at"] is not None
    assert gone["run"] == '{"name": "job:1"}'
    assert (await row(database, failed))["error"] == '{"code": "no_space"}'
    assert (await row(database, young))["result"] is not None
    assert await fetch(database.owner, "SELECT 1 FROM progress WHERE command_id = $1", old) == []
    async with open_log(database) as log:
        await log.seal()
        assert (await log.verify())["ok"]
        assert (await log.check()).fault is None


@pytest.mark.guarantee("retention:bodies")
async def test_whoever_asks_for_a_purged_command_is_told_so_on_every_way(
    broker: Parts, database: Dsns, issuer: DevIssuer
) -> None:
    policy = settings_of(database.relay, issuer, keys_kept_s=99 * DAY, bodies_kept_s=30 * DAY)
    one = await ended(broker, database, days=31, idempotency_key="k")
    bad = (await accept(broker, delete(idempotency_key="bad"))).written.id
    await finish(broker, bad, error={**NO_SPACE, "message": "secret words"})
    await fetch(database.owner, AGE, bad, 31)
    async with open_database(policy, name="relay") as relay:
        assert (await retention.purge(relay.pool, policy)).bodies == 2
    async with served(broker, issuer) as app, app.client("ada") as http:
        shown = (await http.get(f"/commands/{one}")).json()
        assert "purged" in shown["note"]
        assert datetime.fromisoformat(shown["purged_at"]) <= datetime.now(UTC)
        assert "result" not in shown
        body = {"tool": "probe", "method": "echo", "args": {"text": "hi"}, "idempotency_key": "k"}
        replayed = await http.post("/mcp/tools/call", json=body)
        assert replayed.headers["idempotent-replayed"] == "true"
        assert (replayed.status_code, replayed.json()["status"]) == (200, "ok")
        assert "Do not repeat" in replayed.json()["note"]
        events = await http.get(f"/commands/{one}/events")
        assert "purged" in events.text
        meta = {"dev.mcpbroker/idempotency_key": "k"}
        again = (await wire.call(http, "probe_echo", {"text": "hi"}, meta=meta))["result"]
        assert not again.get("isError")
        assert "purged" in again["content"][0]["text"]
        assert again["structuredContent"]["status"] == "succeeded"
        assert "null" not in again["content"][0]["text"]
        status = (await wire.call(http, "command_status", {"command_id": str(one)}))["result"]
        assert "purged" in status["structuredContent"]["note"]
        meta = {"dev.mcpbroker/idempotency_key": "bad"}
        failed = (await wire.call(http, "git_delete", {"dest": "d"}, meta=meta))["result"]
        assert failed["isError"]
        assert "no_space" in failed["content"][0]["text"]
        assert "secret words" not in str(failed)


@pytest.mark.guarantee("retention:bodies")
async def test_a_sagas_member_stays_until_its_saga_has_ended_for_that_long(
    broker: Parts, database: Dsns, relay: Database, policy: Settings
) -> None:
    saga, one = uuid4(), await ended(broker, database, days=31)
    await fetch(database.owner, SAGA, saga)
    await fetch(database.owner, "UPDATE commands SET saga_id = $2 WHERE id = $1", one, saga)
    assert await retention.purge(relay.pool, policy) == retention.Purged()
    over = (
        "UPDATE sagas SET state = 'completed', finished_at = now() - make_interval(days => $2)"
        " WHERE id = $1"
    )
    await fetch(database.owner, over, saga, 10)
    assert await retention.purge(relay.pool, policy) == retention.Purged(keys=1, bodies=0)
    await fetch(database.owner, over, saga, 31)
    assert await retention.purge(relay.pool, policy) == retention.Purged(keys=0, bodies=1)


@pytest.mark.guarantee("retention:hold")
async def test_a_legal_hold_keeps_keys_and_bodies_of_its_time(
    broker: Parts, database: Dsns, relay: Database, policy: Settings
) -> None:
    await ended(broker, database, days=31)
    now = datetime.now(UTC)
    await fetch(database.owner, HELD, None, None)
    assert await retention.purge(relay.pool, policy) == retention.Purged()
    await fetch(database.owner, "UPDATE audit.holds SET released_at = now()")
    await fetch(
        database.owner, HELD, now.replace(year=now.year - 3), now.replace(year=now.year - 2)
    )
    assert await retention.purge(relay.pool, policy) == retention.Purged(keys=1, bodies=1)


async def dead(broker: Parts, database: Dsns, *, days: int, **more: Any) -> UUID:
    one = (await accept(broker, echo("x", **more))).written.id
    for attempt in (1, 2, 3):
        await finish(broker, one, attempt=attempt, error={"code": "boom", "message": "no"})
    await fetch(database.owner, AGE, one, days)
    return one


@pytest.mark.guarantee("retention:dead-letters")
async def test_a_dead_letter_stays_whole_until_it_is_settled_or_its_own_time_is_over(
    broker: Parts, database: Dsns, relay: Database, policy: Settings
) -> None:
    waits = await dead(broker, database, days=80, idempotency_key="waits")
    forgotten = await dead(broker, database, days=91)
    assert await retention.purge(relay.pool, policy) == retention.Purged()
    words = await retention.discard_forgotten(relay.engine, policy)
    assert [word.command.id for word in words] == [forgotten]
    assert await retention.discard_forgotten(relay.engine, policy) == []
    assert await retention.purge(relay.pool, policy) == retention.Purged(keys=1, bodies=1)
    kept = await row(database, waits)
    assert (kept["idempotency_key"], kept["args"], kept["discarded_at"]) == (
        "waits",
        '{"text": "x"}',
        None,
    )
    [said] = await fetch(
        database.owner, "SELECT actor, body FROM audit.events WHERE type = 'command.discarded'"
    )
    assert (said["actor"], "90 days" in said["body"]) == ("clock", True)


@pytest.mark.guarantee("retention:dead-letters")
async def test_a_forgotten_dead_letter_whose_key_waits_stays_and_hides_no_younger_one(
    broker: Parts,
    database: Dsns,
    relay: Database,
    policy: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "ROWS", 1)
    waits = await dead(broker, database, days=92, ordering_key="k")
    other = await dead(broker, database, days=91)
    block = "UPDATE ordering_heads SET blocked_reason = $1 WHERE ordering_key = 'k'"
    await fetch(database.owner, block, f"outcome of {waits} unknown")
    words = await retention.discard_forgotten(relay.engine, policy)
    assert [word.command.id for word in words] == [other]
    assert (await row(database, waits))["discarded_at"] is None


async def test_many_relays_purge_each_command_once_and_skip_what_is_locked(
    broker: Parts,
    database: Dsns,
    relay: Database,
    policy: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "ROWS", 7)
    ids = [await ended(broker, database, days=31, text=f"t{n}") for n in range(20)]
    holder = await asyncpg.connect(database.owner)
    async with holder.transaction():
        await holder.execute("SELECT FROM commands WHERE id = $1 FOR UPDATE", ids[3])
        async with asyncio.timeout(5):
            passes = await asyncio.gather(*(retention.purge(relay.pool, policy) for _ in range(3)))
    await holder.close()
    assert sum(one.bodies for one in passes) == sum(one.keys for one in passes) == 19
    assert (await retention.purge(relay.pool, policy)).bodies == 1


async def test_a_window_is_bounded_however_many_commands_must_stay(
    broker: Parts, database: Dsns, relay: Database
) -> None:
    for n in range(6):
        await ended(broker, database, days=31, text=f"t{n}")
    await fetch(database.owner, HELD, None, None)
    window = await stored.purge_bodies(relay.pool, kept_s=DAY, limit=4)
    assert (window.purged, window.after is not None) == (0, True)
    assert window.after is not None
    rest = await stored.purge_bodies(relay.pool, kept_s=DAY, after=window.after, limit=4)
    assert (rest.purged, rest.after) == (0, None)


@pytest.mark.guarantee("erasure:provable")
async def test_an_erasure_takes_a_persons_commands_too_and_refuses_while_one_is_open(
    broker: Parts, database: Dsns, issuer: DevIssuer
) -> None:
    one = await ended(broker, database, days=0, text="ada's text", idempotency_key="ada-key")
    still = (await accept(broker, echo("open"))).written.id
    async with open_log(database) as log:
        with pytest.raises(asyncpg.ObjectNotInPrerequisiteStateError, match="open commands"):
            await log.erase("ada")
        await finish(broker, still, result={"text": "x"})
        [done] = await log.erase("ada")
        assert (done.commands, done.events >= 5, done.kept) == (2, True, 0)
        await log.seal()
        assert (await log.verify())["ok"]
        assert (await log.check()).fault is None
    gone = await row(database, one)
    assert (gone["user_id"], gone["args"], gone["result"], gone["idempotency_key"]) == (
        "[erased]",
        None,
        None,
        None,
    )
    assert State(gone["state"]) is State.SUCCEEDED
    for table in ("commands", "progress", "audit.events"):
        found = await fetch(
            database.owner,
            f"SELECT count(*) AS n FROM {table} t WHERE to_jsonb(t)::text ~ $1",
            '"ada"|:ada|ada\'s|"open"',
        )
        assert found[0]["n"] == 0, table
    async with served(broker, issuer) as app, app.client(ADA.user_id) as http:
        assert (await http.get(f"/commands/{one}")).status_code == 404
