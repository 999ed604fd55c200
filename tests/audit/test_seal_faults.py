"""Sealing with a fault at each of its statements: a whole batch of seals, or none of it."""

from datetime import UTC, datetime
from uuid import uuid4

import asyncpg
import pytest

from app.audit.keys import FileSigner, sign_request
from app.audit.request import Retire, parse
from tests.audit.conftest import LOG, Log, sealer
from tests.support.faults import InjectedFaultError, faulty_pool

SEALED = """
    SELECT (SELECT count(*) FROM audit.seals) AS seals,
           (SELECT count(*) FROM audit.members) AS members,
           (SELECT count(*) FROM outbox WHERE kind = 'audit') AS anchors,
           (SELECT xid::text FROM audit.watermark) AS watermark
"""
STEPS_MAX = 60
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.guarantee("audit:sealed-once")
@pytest.mark.guarantee("kernel:atomic")
@pytest.mark.parametrize("what", ["tick", "retire"])
async def test_a_fault_at_any_statement_of_sealing_leaves_all_of_it_or_nothing(
    log: Log, what: str
) -> None:
    async def seen() -> asyncpg.Record:
        [row] = await log.owner.fetch(SEALED)
        return row

    asked = Retire(id=uuid4(), asked_at=AT, reason="x", before=AT)
    request = parse(await sign_request(asked, FileSigner(log.officer), log=LOG))
    assert request is not None
    torn: list[str] = []
    steps = 0
    await log.append(5)
    await log.append(3, tenant="other")
    async with faulty_pool(log.dsns.relay) as (pool, faulty):
        made = sealer(pool, log.key)
        while await made.tick():
            pass
        if what == "tick":
            await log.append(4)
            await log.append(2, tenant="other")
        before = await seen()
        for steps in range(1, STEPS_MAX):
            faulty.left = steps
            try:
                await (made.tick() if what == "tick" else made.retire(request))
            except InjectedFaultError:
                after = await seen()
                if after != before:
                    torn.append(f"{steps}: {after}")
                    break
            else:
                break
        faulty.left = 0
        after = await seen()
    assert steps >= 6, "the injector never fired"
    made_now = [after[name] - before[name] for name in ("seals", "members", "anchors")]
    # What follows the commit only looks: a fault there finds all of it done.
    assert made_now == ([2, 6, 2] if what == "tick" else [2, 0, 2]), torn
    assert (after["watermark"] != before["watermark"]) == (what == "tick"), torn
    assert (await log.verify())["ok"]
    assert (await log.verify("other"))["ok"]
