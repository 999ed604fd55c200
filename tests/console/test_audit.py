"""The page of the audit trail: who may read it, what is found, checks, bundles and proofs."""

import html
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import httpx
import pytest

from app.audit import bundle, note, tree
from app.audit.store import search
from app.audit.store.search import Sought
from app.edges.parts import Parts
from app.postgres.engine import tenant_transaction
from benchmarks.servers import execute, settle
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.audit.conftest import Log, open_log
from tests.console.conftest import send, signed_in
from tests.support import plans
from tests.support.calls import BOB, accept, echo, fetch, finish
from tests.tenancy.theirs import fill

EVIL = "<script>document.title='owned'</script>{{ 7*7 }}'\"\u2028"


async def shown(client: httpx.AsyncClient, query: str = "") -> set[UUID]:
    page = await client.get(f"/console/audit{query}")
    assert page.status_code == 200, page.text
    return {UUID(one[:36]) for one in page.text.split("/console/audit/proof/")[1:]}


async def events(database: Dsns, where: str = "tenant_id = 'demo'") -> set[UUID]:
    rows = await fetch(database.owner, f"SELECT event_id FROM audit.events WHERE {where}")
    return {row["event_id"] for row in rows}


@pytest.mark.guarantee("tenancy:walk")
async def test_an_auditor_sees_the_tenants_events_and_nobody_else_any(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    await fill(broker)
    mine = await events(database)
    [one, *_] = mine
    async with open_log(database) as log:
        await log.seal()
    async with (
        signed_in(broker, issuer, "olga", "operator", "tools", "admin") as operator,
        signed_in(broker, issuer, "anna", "auditor") as auditor,
        signed_in(broker, issuer, "eve", "auditor", "tools", tenant="other") as eve,
    ):
        for path in ("", f"/proof/{one}"):
            assert (await operator.get(f"/console/audit{path}")).status_code == 403
        for path in ("verify", "bundle"):
            assert (await send(operator, f"/console/audit/{path}")).status_code == 403
        assert mine <= await shown(auditor) | await shown(auditor, "?person=ada")
        assert not mine & await shown(eve)
        assert not mine & await shown(eve, "?person=ada")
        assert (await eve.get(f"/console/audit/proof/{one}")).status_code == 404
        assert (await auditor.get(f"/console/audit/proof/{one}")).status_code == 200
        theirs = await send(eve, "/console/audit/bundle")
        assert theirs.status_code == 200
        assert "demo" not in theirs.text


async def test_each_filter_finds_what_fits_and_a_persons_activity_is_counted(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    theirs = await fill(broker)
    bobs = (await accept(broker, echo("bob"), BOB)).written.id
    hour = timedelta(hours=1)
    soon = (datetime.now(UTC) + hour).strftime("%Y-%m-%dT%H:%M:%S")
    async with signed_in(broker, issuer, "anna", "auditor") as client:
        for query, where in (
            ("?person=bob", f"command_id = '{bobs}'"),
            (f"?command={theirs.dead}", f"command_id = '{theirs.dead}'"),
            (f"?command={bobs}&person=ada", "false"),
            ("?kind=command.dead", "type = 'command.dead_lettered' AND tenant_id = 'demo'"),
            ("?tool=git/delete", "tool = 'git' AND tenant_id = 'demo'"),
            ("?tool=git/none", "false"),
            (f"?since={soon}", "false"),
            (f"?until={soon}&tool=git", "tool = 'git' AND tenant_id = 'demo'"),
            ("?until=1970-01-01T00:00", "false"),
            ("?person=&kind=&tool=git&command=&since=&until=", "tool = 'git'"),
            (f"?command={uuid4()}", "false"),
        ):
            assert await shown(client, query) == await events(database, where), query
        page = (await client.get("/console/audit?person=ada")).text
        assert "What ada did" in page
        assert '<td data-label="Kind" class="wrap">command.retry' in page


@pytest.mark.parametrize(
    "query",
    [
        "command=x",
        "since=x",
        "before=x",
        "person=%00",
        f"kind={'k' * 300}",
        "until=99999-01-01T00:00",
        "before=2026-01-01T00:00:00_x",
        f"before=2026-01-01T00:00:00_{UUID(int=1)}",
    ],
)
async def test_a_filter_that_cannot_be_is_refused_as_a_page(
    broker: Parts, issuer: DevIssuer, query: str
) -> None:
    async with signed_in(broker, issuer, "anna", "auditor") as client:
        page = await client.get(f"/console/audit?{query}")
        assert page.status_code == 400, page.text
        assert "bad_request" in page.text


async def test_pages_go_on_where_the_one_before_ended(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    async with open_log(database) as log:
        await log.append(120)
    mine = await events(database)
    found: list[set[UUID]] = []
    async with signed_in(broker, issuer, "anna", "auditor") as client:
        page = "?kind=command."
        while page:
            found.append(await shown(client, page))
            text = (await client.get(f"/console/audit{page}")).text
            older = [one for one in text.split('href="/console/audit') if 'id="older"' in one[:300]]
            page = html.unescape(older[0].partition('"')[0]) if older else ""
    assert [len(one) for one in found] == [50, 50, 20]
    assert set().union(*found) == mine


@pytest.mark.guarantee("console:text")
async def test_what_events_hold_is_shown_as_text(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    call = (await accept(broker, echo(EVIL, ordering_key="<b>key</b>"))).written.id
    for attempt in (1, 2, 3):
        error = {"code": "<u>c</u>", "message": EVIL}
        await finish(broker, call, attempt=attempt, error=error)
    async with signed_in(broker, issuer, "anna", "auditor") as client:
        for query in ("", f"?command={call}", "?person=%3Cb%3Eada", "?kind=%3Cu%3E"):
            text = (await client.get(f"/console/audit{query}")).text
            for tag in ("<script>document", "<b>key", "<u>c", "<b>ada", '"<u>'):
                assert tag not in text, (query, tag)


async def test_a_check_names_checkpoint_and_key_and_the_first_bad_event(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    async with signed_in(broker, issuer, "anna", "auditor") as client:
        empty = await send(client, "/console/audit/verify")
        assert "Nothing is sealed yet" in empty.text
        assert (await send(client, "/console/audit/bundle")).status_code == 404
        async with open_log(database) as log:
            await three_seals(log)
            good = await send(client, "/console/audit/verify")
            assert "The log is as it was sealed" in good.text
            [key] = log.keys
            assert key in good.text
            row = await log.owner.fetchrow(
                "SELECT checkpoint, encode(root, 'hex') AS root FROM audit.seals"
                " WHERE tenant_id = 'demo' ORDER BY seal_no DESC LIMIT 1"
            )
            assert row is not None
            assert row["root"] in good.text
            assert row["checkpoint"].splitlines()[0] in good.text
            part = await send(client, "/console/audit/verify", last="2")
            assert "seals 1 to 2" in part.text
            event_id = await tampered(log)
        bad = await send(client, "/console/audit/verify")
        assert bad.status_code == 200
        assert "The log is not as it was sealed" in bad.text
        assert str(event_id) in bad.text
        for last in ("0", "x", "-1", "٣", "9" * 40, "1e3", "\U0001f642"):
            assert (await send(client, "/console/audit/verify", last=last)).status_code == 400
            assert (await send(client, "/console/audit/bundle", last=last)).status_code == 400


async def three_seals(log: Log) -> None:
    for count in (5, 4, 3):
        await log.append(count)
        await log.seal()


async def tampered(log: Log) -> UUID:
    """An owner who switches the triggers off alters an event in the second seal."""
    [row] = await log.owner.fetch(
        "SELECT event_id, audit.events.tableoid::regclass::text AS part FROM audit.events"
        " JOIN audit.members USING (tenant_id, event_id) WHERE tenant_id = 'demo' AND seq = 8"
    )
    await log.owner.execute(f"ALTER TABLE {row['part']} DISABLE TRIGGER ALL")
    await log.owner.execute(
        f"UPDATE {row['part']} SET body = '{{\"altered\": true}}' WHERE event_id = $1",
        row["event_id"],
    )
    return row["event_id"]


async def test_a_bundle_and_a_proof_are_checked_without_the_database(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    async with open_log(database) as log:
        await three_seals(log)
        keys = log.keys
        await log.append(1)
        rows = await log.owner.fetch("SELECT event_id FROM audit.members WHERE tenant_id = 'demo'")
    async with signed_in(broker, issuer, "anna", "auditor") as client:
        answer = await send(client, "/console/audit/bundle")
        assert answer.headers["content-disposition"].endswith('.ndjson"')
        header, report = bundle.check(
            bundle.parse(answer.content.splitlines(keepends=True)), keys=keys
        )
        assert header.tenant_id == "demo"
        assert report.fault is None
        assert report.events >= 12
        for row in rows:
            proof = (await client.get(f"/console/audit/proof/{row['event_id']}")).json()
            assert tree.included(
                bytes.fromhex(proof["leaf"]),
                index=proof["seq"] - 1,
                size=proof["size"],
                path=[bytes.fromhex(one) for one in proof["path"]],
                root=bytes.fromhex(proof["root"]),
            )
            assert note.signers_of(proof["checkpoint"], keys)
        assert (await client.get(f"/console/audit/proof/{uuid4()}")).status_code == 404
        assert (await client.get("/console/audit/proof/x")).status_code == 400


FILL = """
    INSERT INTO audit.events (tenant_id, type, actor, user_id, tool, method, body)
    SELECT {tenant}, 'command.accepted', 'user:u', 'u', 't', 'm', '{{}}'
      FROM generate_series(1, {count})
"""


@pytest.mark.guarantee("console:bounded")
async def test_a_search_reads_a_window_at_the_most_however_many_events_there_are(
    broker: Parts, database: Dsns
) -> None:
    await execute(database.owner, FILL.format(tenant="'other'", count=10))
    await execute(database.owner, FILL.format(tenant="'demo'", count=30_000))
    await settle(database.owner)
    engine = broker.database.engine
    now = datetime.now(UTC)
    for tenant, sought, most in (
        ("demo", Sought(), 60),
        ("demo", Sought(person="nobody"), search.WINDOW),
        ("demo", Sought(kind="none", tool="t"), search.WINDOW),
        ("demo", Sought(command_id=uuid4()), 60),
        ("demo", Sought(until=now - timedelta(days=1)), 60),
        ("demo", Sought(since=now + timedelta(days=1)), 60),
        ("other", Sought(person="nobody"), 60),
    ):
        async with tenant_transaction(engine, tenant) as conn:
            with plans.heard(engine) as said:
                await search.find(conn, tenant_id=tenant, sought=sought, before=None, limit=50)
                if sought.person is not None:
                    await search.activity(conn, tenant_id=tenant, sought=sought, before=None)
            for statement, values in said:
                read = await plans.most_read(conn, statement, values)
                assert read <= most * 1.01, (tenant, sought, read, statement)
