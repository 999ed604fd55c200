"""The inbox: what waits for a person, what a verb would touch, and what came of it."""

import html
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from app.commands.state import State
from app.commands.store.waiting import COUNT_MAX
from app.console.verbs import ITEMS_MAX, VERBS
from app.edges.parts import Parts
from app.intake.prepare import CallRequest
from benchmarks.servers import execute, settle
from benchmarks.servers import fill as fill_many
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.console.conftest import send, signed_in
from tests.console.waiting import Waits, waits
from tests.support import plans
from tests.support.calls import accept, fetch, subject


async def page_of(client: httpx.AsyncClient) -> str:
    page = await client.get("/console/inbox")
    assert page.status_code == 200, page.text
    return html.unescape(page.text)


async def act(client: httpx.AsyncClient, verb: str, *items: object, **more: Any) -> str:
    """Preview, then do it, as a person does; gives what came of it."""
    named = [str(one) for one in items]
    shown = await send(client, "/console/inbox/preview", verb=verb, item=named)
    assert shown.status_code == 200, shown.text
    fields = {"verb": verb, "item": named, "reason": "because 🙂"} | more
    done = await send(client, "/console/inbox/act", **fields)
    assert done.status_code == 200, done.text
    return html.unescape(done.text)


@pytest.fixture
async def found(broker: Parts, database: Dsns) -> Waits:
    return await waits(broker, database)


@pytest.mark.guarantee("console:inbox")
async def test_everything_that_waits_for_a_person_is_there_with_who_asks_and_what(
    broker: Parts, issuer: DevIssuer, found: Waits
) -> None:
    async with signed_in(broker, issuer) as client:
        text = await page_of(client)
    for one in (found.approval, found.second, found.doubtful, found.dead):
        assert f'value="{one}"' in text
    assert f'value="{found.saga}/a"' in text
    assert text.index(str(found.second)) < text.index(str(found.approval)), "the sooner deadline"
    assert '"dest": "later"' in text
    assert text.count(f'value="{found.doubtful}"') == 1, "under its key alone"


@pytest.mark.guarantee("console:inbox")
async def test_a_preview_says_what_a_verb_touches_and_does_nothing(
    broker: Parts, issuer: DevIssuer, found: Waits
) -> None:
    before = {one: (await subject(broker, one)).state for one in found.calls}
    async with signed_in(broker, issuer) as client:
        for verb, item, said in (
            ("approve", found.approval, "as soon as it is its turn"),
            ("deny", found.approval, "ends as cancelled"),
            ("resolve-succeeded", found.doubtful, "1 call waits for ordering key"),
            ("resolve-failed", found.doubtful, "written down that it failed"),
            ("redrive", found.doubtful, "it may be done twice"),
            ("redrive", found.dead, "Attempt 4 is queued"),
            ("discard", found.dead, "leaves the dead letters"),
            ("step-retry", f"{found.saga}/a", "done again"),
            ("step-compensated", f"{found.saga}/a", "as if it had been undone"),
        ):
            answer = await send(client, "/console/inbox/preview", verb=verb, item=str(item))
            assert said in html.unescape(answer.text), verb
            assert "nothing is done yet" in answer.text
            if item == found.approval:
                assert '"dest": "later"' in html.unescape(answer.text)
        for verb in ("approve", "discard", "resolve-failed"):
            answer = await send(client, "/console/inbox/preview", verb=verb, item=str(found.queued))
            assert "cannot be done" in answer.text, verb
            assert 'action="/console/inbox/act"' not in answer.text
    assert {one: (await subject(broker, one)).state for one in found.calls} == before


@pytest.mark.guarantee("console:inbox")
async def test_each_verb_does_it_with_a_reason_in_the_persons_name(
    broker: Parts, issuer: DevIssuer, database: Dsns, found: Waits
) -> None:
    async with signed_in(broker, issuer, "olga") as client:
        assert "1 done" in await act(client, "approve", found.approval)
        assert "1 done" in await act(client, "deny", found.second)
        assert "1 done" in await act(client, "resolve-succeeded", found.doubtful)
        assert "1 done" in await act(client, "redrive", found.dead)
        assert "1 done" in await act(client, "step-compensated", f"{found.saga}/a")
        assert not (await subject(broker, found.approval)).awaits_approval
        assert (await subject(broker, found.second)).state is State.CANCELLED
        assert not (await subject(broker, found.doubtful)).outcome_unknown
        assert not (await subject(broker, found.behind)).held, "its key goes on"
        assert (await subject(broker, found.dead)).attempt == 4
        text = await page_of(client)
        assert "Nobody is waited for." in text
    rows = await fetch(
        database.owner,
        "SELECT type, actor, body ->> 'reason' AS reason FROM audit.events"
        " WHERE actor = 'operator:olga' ORDER BY occurred_at",
    )
    assert {row["reason"] for row in rows} >= {"because 🙂"}
    assert len(rows) >= 5


@pytest.mark.guarantee("console:inbox")
async def test_of_many_each_stands_or_fails_alone(
    broker: Parts, issuer: DevIssuer, found: Waits
) -> None:
    async with signed_in(broker, issuer) as client:
        text = await act(client, "deny", found.approval, found.queued, uuid4(), found.second)
        assert "2 done, 2 not" in text
        text = await act(client, "deny", found.approval)
        assert "0 done, 1 not" in text, "somebody was first"
        assert "1 done" in await act(client, "discard", found.dead)
        assert "0 done, 1 not" in await act(client, "discard", found.doubtful), "its key waits"


@pytest.mark.guarantee("tenancy:walk")
async def test_nobody_acts_for_another_tenant_or_without_the_scope(
    broker: Parts, issuer: DevIssuer, found: Waits
) -> None:
    async with (
        signed_in(broker, issuer, "eve", tenant="other") as eve,
        signed_in(broker, issuer, "ada", "tools", "auditor", "admin") as ada,
    ):
        assert "Nobody is waited for." in await page_of(eve)
        for verb in VERBS:
            item = f"{found.saga}/a" if verb.startswith("step-") else found.approval
            assert "0 done, 1 not" in await act(eve, verb, item), verb
            for path in ("preview", "act"):
                fields = {"verb": verb, "item": str(item), "reason": "mine"}
                answer = await send(ada, f"/console/inbox/{path}", **fields)
                assert answer.status_code == 403, verb
        assert (await ada.get("/console/inbox")).status_code == 403
        assert (await ada.get("/console/inbox/live")).status_code == 403
    assert (await subject(broker, found.approval)).awaits_approval


@pytest.mark.guarantee("console:forged")
async def test_no_verb_is_done_by_a_form_of_another_session(
    broker: Parts, issuer: DevIssuer, found: Waits
) -> None:
    async with signed_in(broker, issuer) as client:
        for more in ({"csrf": "0" * 64}, {"csrf": ""}):
            fields = {"verb": "deny", "item": str(found.approval), "reason": "r"} | more
            assert (await send(client, "/console/inbox/act", **fields)).status_code == 403
    assert (await subject(broker, found.approval)).awaits_approval


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"verb": "deny"},
        {"verb": "none", "item": str(UUID(int=0))},
        {"verb": "deny", "item": "x"},
        {"verb": "deny", "item": f"{UUID(int=0)}/a"},
        {"verb": "step-retry", "item": str(UUID(int=0))},
        {"verb": "step-retry", "item": f"{UUID(int=0)}/"},
        {"verb": "deny", "item": [str(UUID(int=n)) for n in range(ITEMS_MAX + 1)]},
        {"verb": "deny", "item": str(UUID(int=0)), "reason": ""},
        {"verb": "deny", "item": str(UUID(int=0)), "reason": "x" * 501},
        {"verb": "deny\x00", "item": str(UUID(int=0)), "reason": "x"},
    ],
)
async def test_a_form_that_names_nothing_that_can_be_done_is_refused(
    broker: Parts, issuer: DevIssuer, fields: dict[str, Any]
) -> None:
    async with signed_in(broker, issuer) as client:
        answer = await send(client, "/console/inbox/act", **fields)
        assert answer.status_code == 400, answer.text


@pytest.mark.guarantee("console:text")
async def test_a_secret_and_a_script_in_the_arguments_are_shown_as_such(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    await execute(
        database.owner,
        'UPDATE tools SET policy = policy || \'{"approval": "operator"}\','
        ' input_schema = \'{"properties": {"text": {}, "pass": {"x-sensitive": true}}}\''
        " WHERE tool = 'probe' AND method = 'echo'",
    )
    broker.catalog.forget()
    args = {"text": "<script>alert(1)</script>", "pass": "hunter2-hunter2"}
    await accept(broker, CallRequest(tool="probe", method="echo", args=args))
    async with signed_in(broker, issuer) as client:
        text = (await client.get("/console/inbox")).text
    assert "hunter2" not in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert" in text


@pytest.mark.guarantee("console:bounded")
async def test_the_inbox_reads_what_it_shows_however_many_calls_there_are(
    broker: Parts, issuer: DevIssuer, database: Dsns, found: Waits
) -> None:
    await fill_many(database.owner, 20_000, state="succeeded", tag="done")
    await fill_many(database.owner, 2_000, tag="queued")
    await execute(
        database.owner,
        "UPDATE commands SET state = 'dead_lettered',"
        " finished_at = now() - random() * interval '1 day'"
        " WHERE id IN (SELECT id FROM commands WHERE state = 'succeeded' LIMIT 3000);"
        "UPDATE commands SET approval = 'pending' WHERE state = 'queued';"
        "INSERT INTO ordering_heads (tenant_id, ordering_key)"
        " SELECT 'demo', 'key ' || n FROM generate_series(1, 5000) n",
    )
    await settle(database.owner)
    engine = broker.database.engine
    async with signed_in(broker, issuer) as client:
        with plans.heard(engine) as said:
            assert f'value="{found.second}"' in await page_of(client)
    async with engine.begin() as conn:
        await conn.exec_driver_sql("SELECT set_config('app.tenants', '{demo}', true)")
        read = [(await plans.most_read(conn, *one), one[0]) for one in said if "FROM" in one[0]]
    assert len(read) >= 9
    counts = [one for one in read if one[1].split()[:2] == ["SELECT", "count(*)"]]
    assert len(counts) == 4
    assert max(counts)[0] <= COUNT_MAX * 1.01, max(counts)
    assert max(set(read) - set(counts))[0] <= 120, max(read)
