"""The pages of calls: who sees which, what of them, by which filters, and at which cost."""

import html
from datetime import UTC, datetime, timedelta
from uuid import UUID

import httpx
import orjson
import pytest

from app.commands.state import State
from app.commands.store import places, search
from app.commands.store.search import Sought
from app.console.pages.calls import Filter
from app.edges.parts import Parts
from app.intake.prepare import CallRequest
from app.postgres.engine import tenant_transaction
from benchmarks.servers import execute, settle
from benchmarks.servers import fill as fill_many
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.console.conftest import send, signed_in
from tests.support import plans
from tests.support.calls import ADA, BOB, EVE, accept, claim, delete, echo, finish, subject
from tests.tenancy.theirs import fill

EVIL = "<script>document.title='owned'</script>{{ 7*7 }}'\"\u2028</td>"
RUN = (
    "jsonb_build_object('attempt', 1, 'name', '<b>job', 'status', '<i>label', 'log',"
    f" $e${EVIL}$e$, 'link', 'javascript:alert(1)')"
)


async def shown(client: httpx.AsyncClient, query: str = "") -> set[UUID]:
    page = await client.get(f"/console/calls{query}")
    assert page.status_code == 200, page.text
    return {UUID(one[:36]) for one in page.text.split('id="call-')[1:]}


@pytest.mark.guarantee("tenancy:walk")
async def test_nobody_sees_a_call_of_another_tenant_or_without_a_scope_of_another_user(
    broker: Parts, issuer: DevIssuer
) -> None:
    theirs = await fill(broker)
    bobs = (await accept(broker, echo("bob"), BOB)).written.id
    async with (
        signed_in(broker, issuer, "olga") as operator,
        signed_in(broker, issuer, "ada", "tools") as ada,
        signed_in(broker, issuer, "eve", tenant="other") as eve,
    ):
        assert await shown(operator) == {*theirs.commands, bobs}
        assert await shown(ada) == set(theirs.commands)
        assert await shown(ada, "?user=bob") == set(theirs.commands), "the filter is the operator's"
        assert len(await shown(eve)) == 1
        for one in (*theirs.commands, bobs):
            assert (await operator.get(f"/console/calls/{one}")).status_code == 200
            for path in (f"/console/calls/{one}", f"/console/calls/{one}/live"):
                assert (await eve.get(path)).status_code == 404
            answer = await send(eve, f"/console/calls/{one}/cancel", reason="mine now")
            assert answer.status_code == 404
        assert (await ada.get(f"/console/calls/{bobs}")).status_code == 404
        answer = await send(ada, f"/console/calls/{bobs}/cancel", reason="mine now")
        assert answer.status_code == 404
        story = await ada.get(f"/console/calls/{theirs.done}")
        assert "command.accepted" not in story.text, "the audit trail is not for callers"
        assert "command.accepted" in (await operator.get(f"/console/calls/{theirs.done}")).text


async def test_each_filter_finds_what_fits_and_is_in_the_url(
    broker: Parts, issuer: DevIssuer
) -> None:
    theirs = await fill(broker)
    labelled = (await accept(broker, echo("x", labels=("CHG-1", "é/ü")))).written.id
    bobs = (await accept(broker, delete("b", idempotency_key="Bob's"), BOB)).written.id
    every = {*theirs.commands, labelled, bobs}
    soon = (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S")
    async with signed_in(broker, issuer) as client:
        for query, found in (
            ("", every),
            ("?state=dead_lettered", {theirs.dead}),
            ("?state=queued&state=running", every - {theirs.dead, theirs.done}),
            ("?state=&tool=&user=&key=&id=&saga=&since=&until=&label=", every),
            ("?tool=git", {theirs.queued, bobs}),
            ("?tool=git/delete&user=bob", {bobs}),
            ("?tool=git/none", set[UUID]()),
            ("?key=their-order", {theirs.done}),
            (f"?id={str(theirs.done).upper()}", {theirs.done}),
            (f"?id={str(theirs.done)[-9:]}", {theirs.done}),
            (f"?id={'f' * 32}", set[UUID]()),
            ("?id=their-key", {theirs.queued}),
            (f"?saga={theirs.saga}", {theirs.saga}),
            ("?label=CHG-1", {labelled}),
            ("?label=%C3%A9%2F%C3%BC&user=ada", {labelled}),
            (f"?since={soon}", set[UUID]()),
            (f"?until={soon}", every),
            ("?until=1970-01-01T00:00", set[UUID]()),
            ("?since=9999-12-31T23:59:59", set[UUID]()),
        ):
            assert await shown(client, query) == found, query


@pytest.mark.parametrize(
    "query",
    [
        "state=owned",
        "saga=x",
        "before=x",
        "since=x",
        "tool=%00",
        "id=%ed%a0%80%00",
        f"key={'k' * 300}",
        "until=99999-01-01T00:00",
    ],
)
async def test_a_filter_that_cannot_be_is_refused_as_a_page(
    broker: Parts, issuer: DevIssuer, query: str
) -> None:
    async with signed_in(broker, issuer) as client:
        page = await client.get(f"/console/calls?{query}")
        assert page.status_code == 400, page.text
        assert "bad_request" in page.text


async def test_pages_go_on_where_the_one_before_ended(broker: Parts, issuer: DevIssuer) -> None:
    made = [(await accept(broker, echo(str(n)))).written.id for n in range(120)]
    found: list[set[UUID]] = []
    async with signed_in(broker, issuer) as client:
        page = "/console/calls?tool=probe"
        while page:
            text = (await client.get(page)).text
            found.append({UUID(one[:36]) for one in text.split('id="call-')[1:]})
            older = [one for one in text.split('href="') if 'id="older"' in one[:300]]
            page = html.unescape(older[0].partition('"')[0]) if older else ""
    assert [len(one) for one in found] == [50, 50, 20]
    assert set().union(*found) == set(made)


@pytest.mark.guarantee("console:text")
async def test_whatever_callers_and_adapters_wrote_is_shown_as_text(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    request = echo(EVIL, ordering_key="<b>key</b>", labels=("<i>label</i>",))
    call = (await accept(broker, request)).written.id
    await claim(broker, call)
    await finish(broker, call, result={EVIL: EVIL})
    bad = (await accept(broker, echo("bad", ordering_key="<b>2</b>"))).written.id
    for attempt in (1, 2, 3):
        await finish(
            broker,
            bad,
            attempt=attempt,
            error={"code": "<u>c</u>", "message": f"{EVIL}"},
        )
    await execute(database.owner, f"UPDATE commands SET run = {RUN} WHERE id = '{call}'")
    output = {"message": "<u>c</u>", "details": {"output": EVIL}}
    run = f"run = {RUN} - 'log', error = $e${orjson.dumps(output).decode()}$e$"
    await execute(database.owner, f"UPDATE commands SET {run} WHERE id = '{bad}'")
    async with signed_in(broker, issuer, "<b>olga</b>") as client:
        for path in (f"/console/calls/{call}", f"/console/calls/{bad}"):
            assert f'aria-label="Output">{html.escape(EVIL)[:9]}' in (await client.get(path)).text
        for path in ("/console/calls", f"/console/calls/{call}", f"/console/calls/{bad}"):
            text = (await client.get(path)).text
            for tag in ("<script>document", "<b>key", "<b>2", "<b>olga", "<i>label", "<u>c"):
                assert tag not in text, (path, tag)
            assert "&lt;b&gt;olga" in text


@pytest.mark.guarantee("console:text")
async def test_a_secret_argument_is_shown_to_nobody(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    schema = '{"type": "object", "properties": {"text": {"type": "string", "x-sensitive": true}}}'
    await execute(
        database.owner,
        f"UPDATE tools SET input_schema = '{schema}' WHERE tool = 'probe' AND method = 'echo'",
    )
    broker.catalog.forget()
    call = (await accept(broker, echo("hunter2-hunter2"))).written.id
    async with signed_in(broker, issuer) as client:
        text = (await client.get(f"/console/calls/{call}")).text
        assert "hunter2" not in text
        assert "[redacted]" in text
        await execute(database.owner, "UPDATE tools SET retired_at = now() WHERE tool = 'probe'")
        broker.catalog.forget()
        text = (await client.get(f"/console/calls/{call}")).text
        assert "hunter2" not in text
        assert "out of service" in text


async def test_a_cancel_needs_a_reason_and_is_audited_as_its_persons(
    broker: Parts, issuer: DevIssuer
) -> None:
    call = (await accept(broker, delete("x"))).written.id
    async with signed_in(broker, issuer, "ada") as client:
        for reason in ("", "   ", "x" * 501, "a\x00b"):
            answer = await send(client, f"/console/calls/{call}/cancel", reason=reason)
            assert answer.status_code == 400, reason
        assert (await subject(broker, call)).state is State.QUEUED
        answer = await send(client, f"/console/calls/{call}/cancel", reason="not needed 🙂")
        assert answer.headers["location"] == f"/console/calls/{call}"
        page = (await client.get(f"/console/calls/{call}")).text
        assert (await subject(broker, call)).state is State.CANCELLED
        assert "not needed 🙂" in page
        assert "user:ada" in page


async def test_a_call_that_waits_says_for_what_and_behind_how_many(
    broker: Parts, issuer: DevIssuer
) -> None:
    first, second, third = [
        (await accept(broker, echo(str(n), ordering_key="k"))).written.id for n in range(3)
    ]
    await accept(broker, delete("other"))
    fifth = (await accept(broker, delete("another"))).written.id
    async with signed_in(broker, issuer) as client:
        page = (await client.get(f"/console/calls/{third}")).text
        assert "1 wait before it" in page
        assert f'href="/console/calls/{first}"' in page
        assert "wait before it" not in (await client.get(f"/console/calls/{second}")).text
        assert (
            "1 of its tool are sent before it" in (await client.get(f"/console/calls/{fifth}")).text
        )


HOSTILE = (
    *("🙂", "\ufeff", "'; DROP TABLE commands; --", '"', "{{ 7*7 }}", "${x}", "%s%n", "\x07"),
    *("9223372036854775808", "-1", "NaN", "1e999", "null", "\u202egnp", "[" * 200, "é" * 256),
    *("../../etc/passwd", "<svg/onload=alert(1)>", " ", "\r\nSet-Cookie: a=b", "a" * 4000),
)


@pytest.mark.parametrize("field", sorted(Filter.model_fields))
async def test_a_hostile_filter_is_answered_and_its_text_is_text(
    broker: Parts, issuer: DevIssuer, field: str
) -> None:
    await accept(broker, echo("x"))
    async with signed_in(broker, issuer) as client:
        for value in HOSTILE:
            page = await client.get("/console/calls", params={field: value})
            assert page.status_code in {200, 400}, (field, value)
            assert "<svg/onload" not in page.text
            assert "set-cookie" not in page.headers
        for raw in ("%00", "%ed%a0%80", "%ff", "%"):
            page = await client.get(f"/console/calls?{field}={raw}")
            assert page.status_code in {200, 400}, (field, raw)


MANY = 30_000


@pytest.mark.guarantee("console:bounded")
async def test_a_page_reads_a_window_at_the_most_however_many_calls_there_are(
    broker: Parts, database: Dsns
) -> None:
    await fill_many(database.owner, MANY, state="succeeded", tag="mine")
    await fill_many(database.owner, 10, tenant="'other'", tag="theirs")
    rare = (
        await accept(broker, CallRequest(tool="git", method="delete", args={"dest": "d"}))
    ).written.id
    await finish(broker, rare, error={"code": "no", "retryable": False})
    await settle(database.owner)
    engine = broker.database.engine
    for sought, most in (
        (Sought(), 60),
        (Sought(states=frozenset({State.DEAD_LETTERED, State.FAILED})), 60),
        (Sought(states=frozenset({State.RUNNING})), search.WINDOW),
        (Sought(user_id="nobody"), 60),
        (Sought(ordering_key="none"), search.WINDOW),
        (Sought(id_part="none"), search.WINDOW),
        (Sought(id_part=str(rare)), 60),
        (Sought(saga_id=rare), 60),
        (Sought(label="none"), 60),
        (Sought(tool="none", since=datetime.now(UTC) + timedelta(days=1)), 60),
    ):
        async with tenant_transaction(engine, "demo") as conn:
            with plans.heard(engine) as said:
                await search.find(conn, tenant_id="demo", sought=sought, before=None, limit=50)
                await search.counts(conn, tenant_id="demo", since=datetime.now(UTC))
            assert len(said) >= 2
            for statement, values in said:
                read = await plans.most_read(conn, statement, values)
                assert read <= max(most, search.COUNT_MAX + 1) * 1.01, (sought, read, statement)
    async with tenant_transaction(engine, "other") as conn:
        with plans.heard(engine) as said:
            found = await search.find(
                conn, tenant_id="other", sought=Sought(), before=None, limit=50
            )
        assert len(found.commands) == 10
        assert await plans.most_read(conn, *said[0]) <= 60, "another tenant's are not read"


async def test_a_place_in_line_counts_its_own_lane_up_to_a_bound(
    broker: Parts, database: Dsns
) -> None:
    await fill_many(database.owner, 3000, tag="before")
    last = (await accept(broker, echo("last"))).written.id
    await accept(broker, echo("eves"), EVE)
    await settle(database.owner)
    command = await subject(broker, last)
    engine = broker.database.engine
    async with tenant_transaction(engine, ADA.tenant_id) as conn:
        with plans.heard(engine) as said:
            ahead = await places.in_lane(conn, command)
        assert ahead == places.COUNT_MAX
        assert await plans.most_read(conn, *said[0]) <= places.COUNT_MAX + 10
