"""The inbox of people who decide as members of a group: their approvals, and nothing else."""

import html
from typing import Any
from uuid import UUID

import httpx
import pytest

from app.commands.state import State
from app.commands.store import waiting
from app.commands.store.waiting import WINDOW, Asking
from app.console.pages.inbox import KINDS
from app.console.verbs import VERBS
from app.edges.parts import Parts
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from benchmarks.servers import execute, settle
from benchmarks.servers import fill as fill_many
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.console.conftest import send, signed_in
from tests.console.test_inbox import act, page_of
from tests.console.waiting import Waits, waits
from tests.support import plans
from tests.support.calls import BOB, accept, delete, subject

FOUR_EYES = """
    UPDATE tools
       SET digest = sha256('four eyes'),
           policy = policy || '{"approval": {"by": "operator", "approvers": ["finance"],
               "not_own": true, "quorum": 2, "escalate_s": 3600, "escalate_to": ["managers"]}}'
     WHERE tool = 'git' AND method = 'delete'
"""
FAY = Identity(
    tenant_id="demo",
    user_id="fay",
    client_id="cli",
    groups=frozenset({"finance"}),
    scopes=frozenset({"tools"}),
)


@pytest.fixture
async def found(broker: Parts, database: Dsns) -> Waits:
    """What waits for operators, and beside it two calls of four eyes."""
    made = await waits(broker, database)
    await execute(database.owner, FOUR_EYES)
    broker.catalog.forget()
    return made


async def four_eyes(broker: Parts, name: str, who: Identity = BOB, **more: Any) -> UUID:
    return (await accept(broker, delete(name, **more), who)).written.id


def shown(page: str) -> str:
    """The page's text, in one line."""
    return " ".join(page.split())


@pytest.mark.guarantee("console:inbox")
async def test_a_member_of_a_group_sees_what_it_may_decide_about_and_nothing_else(
    broker: Parts, issuer: DevIssuer, found: Waits
) -> None:
    bobs = await four_eyes(broker, "bobs")
    own = await four_eyes(broker, "fays-own", FAY)
    async with signed_in(broker, issuer, "fay", "tools", groups=("finance", "staff")) as fay:
        first = await fay.get("/console")
        assert first.headers["location"] == "/console/inbox"
        text = await page_of(fay)
        assert "what waits for your approval" in text
        for one in (bobs, own):
            assert f'value="{one}"' in text
            assert f"/console/calls/{one}" not in text, "the call's page is not theirs"
        for other in (*found.calls, found.saga):
            assert str(other) not in text
        assert text.count("<div>0 of 2</div>") == 2
        assert "your own call: others approve it" in text
        assert '"dest": "bobs"' in text
        for kind in ("blocked", "sagas", "dead"):
            assert (await fay.get(f"/console/inbox?kind={kind}")).status_code == 403
        assert (await fay.get(f"/console/calls/{bobs}")).status_code == 404


@pytest.mark.guarantee("console:inbox")
async def test_two_members_approve_from_the_inbox_and_the_caller_is_none_of_them(
    broker: Parts, issuer: DevIssuer, found: Waits
) -> None:
    fays = await four_eyes(broker, "fays", FAY)
    async with (
        signed_in(broker, issuer, "fay", "tools", groups=("finance",)) as fay,
        signed_in(broker, issuer, "fox", "tools", groups=("finance",)) as fox,
        signed_in(broker, issuer, "fred", "profile", groups=("finance",)) as fred,
    ):
        preview = await send(fay, "/console/inbox/preview", verb="approve", item=str(fays))
        assert "cannot be done" in preview.text
        assert "your own call, and its tool has others approve it" in preview.text
        assert "0 done, 1 not" in await act(fay, "approve", fays)
        assert "your yes is one" in html.unescape(
            (await send(fox, "/console/inbox/preview", verb="approve", item=str(fays))).text
        )
        assert "1 done" in await act(fox, "approve", fays)
        assert "<div>1 of 2</div>" in await page_of(fay)
        text = await page_of(fox)
        assert "you have approved it" in text
        again = await send(fox, "/console/inbox/preview", verb="approve", item=str(fays))
        assert "You have approved it already" in html.unescape(again.text)
        assert (await subject(broker, fays)).awaits_approval
        assert "1 done" in await act(fred, "approve", fays)
        assert not (await subject(broker, fays)).awaits_approval
        assert "Nobody waits for you." in await page_of(fred)
        denied = await four_eyes(broker, "no")
        assert "1 done" in await act(fred, "deny", denied)
        assert (await subject(broker, denied)).state is State.CANCELLED


@pytest.mark.guarantee("tenancy:walk")
async def test_who_is_not_in_the_group_or_in_another_tenants_decides_nothing(
    broker: Parts, issuer: DevIssuer, database: Dsns, found: Waits
) -> None:
    one = await four_eyes(broker, "x")
    async with (
        signed_in(broker, issuer, "mia", "tools", groups=("staff",)) as mia,
        signed_in(broker, issuer, "eve", "tools", groups=("finance",), tenant="other") as eve,
        signed_in(broker, issuer, "ada", "tools") as ada,
        signed_in(broker, issuer, "max", "tools", groups=("managers",)) as manager,
        signed_in(broker, issuer, "olga", "operator") as olga,
    ):
        assert 'href="/console/inbox"' not in (await mia.get("/console/calls")).text
        assert 'href="/console/inbox"' in (await eve.get("/console/calls")).text
        for other in (mia, eve, manager):
            assert "Nobody waits for you." in await page_of(other)
            for verb in ("approve", "deny"):
                assert "0 done, 1 not" in await act(other, verb, one)
            for verb in set(VERBS) - {"approve", "deny"}:
                item = f"{found.saga}/a" if verb.startswith("step-") else str(found.dead)
                for path in ("preview", "act"):
                    fields = {"verb": verb, "item": item, "reason": "mine"}
                    answer = await send(other, f"/console/inbox/{path}", **fields)
                    assert answer.status_code == 403, verb
        assert (await ada.get("/console/inbox")).status_code == 403
        text = await page_of(olga)
        assert f'id="call-{one}"' in text, "operators see what waits for others"
        assert f'value="{one}"' not in text, "and do not decide about it"
        assert "waits for 2 of group finance, not the caller" in shown(text)
        assert (await subject(broker, one)).awaits_approval
        await execute(
            database.owner, f"UPDATE commands SET escalated_at = now() WHERE id = '{one}'"
        )
        assert f'value="{one}"' in await page_of(manager), "it has escalated to the managers"


@pytest.mark.guarantee("console:bounded")
async def test_a_members_page_looks_through_a_window_and_goes_on_behind_it(
    broker: Parts, issuer: DevIssuer, database: Dsns, monkeypatch: pytest.MonkeyPatch
) -> None:
    await execute(database.owner, FOUR_EYES)
    broker.catalog.forget()
    await fill_many(database.owner, 3_000, tag="others")
    await execute(
        database.owner,
        "UPDATE commands SET approval = 'pending', deadline_at = now() + interval '1 hour'"
        " WHERE state = 'queued'",
    )
    last = await four_eyes(broker, "last", deadline_s=86400)
    await settle(database.owner)
    monkeypatch.setattr(waiting, "WINDOW", 2_000)
    async with signed_in(broker, issuer, "fay", "tools", groups=("finance",)) as fay:
        text = await page_of(fay)
        assert "None of those that wait longest is yours." in text
        assert str(last) not in text
        more = text.partition('id="more-approvals"')[0].rpartition('href="')[2].partition('"')[0]
        behind = await fay.get(more)
        assert f'value="{last}"' in behind.text
    asking = Asking(tenant_id="demo", groups=("finance",))
    engine = broker.database.engine
    async with tenant_transaction(engine, "demo") as conn:
        with plans.heard(engine) as said:
            await waiting.unapproved(conn, asking, after=None, limit=50)
            await waiting.count_unapproved(conn, asking)
        for statement, values in said:
            assert await plans.most_read(conn, statement, values) <= 2_000 * 1.01, statement
    assert WINDOW == 10_000


@pytest.mark.parametrize(
    "query",
    [
        "after=x",
        "kind=approvals&after=x",
        "kind=approvals&after=2026-01-01T00:00:00_x",
        f"kind=dead&after=2026-01-01T00:00:00_{UUID(int=1)}",
        "kind=sagas&after=x",
        "kind=blocked&after=%00",
        f"kind=blocked&after={'k' * 300}",
        "kind=owned",
    ],
)
async def test_a_place_that_no_page_gave_is_refused_as_a_page(
    broker: Parts, issuer: DevIssuer, query: str
) -> None:
    async with signed_in(broker, issuer) as client:
        page = await client.get(f"/console/inbox?{query}")
        assert page.status_code == 400, page.text
        assert "bad_request" in page.text


async def pages(client: httpx.AsyncClient, kind: str) -> list[set[str]]:
    """What each page of a kind has to choose, until there is no further one."""
    url, found = f"/console/inbox?kind={kind}", list[set[str]]()
    while url:
        text = html.unescape((await client.get(url)).text)
        found.append({one.partition('"')[0] for one in text.split('name="item" value="')[1:]})
        before, more, _ = text.partition(f'id="more-{kind}"')
        url = before.rpartition('href="')[2].partition('"')[0] if more else ""
    return found


@pytest.mark.guarantee("console:inbox")
async def test_each_kind_goes_on_page_by_page_and_is_counted_whole(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    for tag in ("pending", "dead"):
        await fill_many(database.owner, 120, tag=tag)
        await execute(database.owner, BECOME[tag])
    await execute(database.owner, OTHERS)
    async with signed_in(broker, issuer) as client:
        text = await page_of(client)
        for kind in KINDS:
            found = await pages(client, kind)
            assert [len(one) for one in found] == [50, 50, 20], kind
            assert len(set().union(*found)) == 120, "none twice"
            assert f'id="more-{kind}"' in text
    assert text.count('<span class="count">120, ') == 4


BECOME = {
    "pending": """
        UPDATE commands SET approval = 'pending', deadline_at = now() + random() * interval '9 h'
         WHERE state = 'queued'
    """,
    "dead": """
        UPDATE commands
           SET state = 'dead_lettered', finished_at = now() - (n % 9) * interval '1 s'
          FROM (SELECT id, row_number() OVER () AS n FROM commands) few
         WHERE commands.id = few.id AND state = 'queued' AND approval IS NULL
    """,
}
OTHERS = """
    INSERT INTO sagas (id, tenant_id, user_id, kind, name, state, reason)
    SELECT gen_random_uuid(), 'demo', 'ada', 'declared', 'provision', 'stuck', '{}'
      FROM generate_series(1, 120);
    INSERT INTO saga_steps (saga_id, step, tenant_id, position, state)
    SELECT id, 'a', 'demo', 0, 'unknown' FROM sagas;
    INSERT INTO ordering_heads (tenant_id, ordering_key, blocked_reason)
    SELECT 'demo', 'key "' || n || '"', 'nobody knows what ' || gen_random_uuid() || ' did'
      FROM generate_series(1, 120) n
"""
