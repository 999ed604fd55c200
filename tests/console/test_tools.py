"""The page of tools and the tenant: own figures only, limits and grants by scope, no secrets."""

from datetime import UTC, datetime, timedelta

import pytest

from adapters.targets import Target
from app.catalog import store as catalog
from app.commands import holds
from app.commands.store import figures, search
from app.edges.parts import Parts
from app.postgres import migrate
from app.postgres.engine import tenant_transaction
from benchmarks.servers import fill as fill_many
from benchmarks.servers import settle
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.console.conftest import signed_in
from tests.support import plans
from tests.tenancy.theirs import fill

EVIL = "<script>document.title='owned'</script>"


@pytest.mark.guarantee("tenancy:walk")
async def test_a_viewer_sees_the_own_tenants_figures_by_scope_and_no_secret(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    await fill(broker)
    async with migrate.connected(database.owner) as engine, engine.begin() as conn:
        credential = {"type": "bearer", "token": "env:hunter2"}
        address = "https://ada:hunter2@api.acme.example/v1?key=hunter2"
        for tenant, name in (("demo", "acme"), ("other", "elsewhere")):
            target = Target(
                name=name, kind="http", tenant=tenant, address=address, credential=credential
            )
            await catalog.put_target(conn, target)
    await holds.place(
        broker.database.engine,
        "demo",
        holds.Which(tool="git"),
        effect="wait",
        reason=EVIL,
        until=None,
        actor="operator:olga",
    )
    async with (
        signed_in(broker, issuer, "olga", "operator", "admin", "tools") as both,
        signed_in(broker, issuer, "oskar", "operator") as operator,
        signed_in(broker, issuer, "ada", "tools", "auditor") as ada,
        signed_in(broker, issuer, "eve", "operator", "admin", tenant="other") as eve,
    ):
        page = (await both.get("/console/tools")).text
        assert "api.acme.example" in page
        assert "elsewhere" not in page
        assert "hunter2" not in page
        assert "<script>document" not in page
        assert "Holds in force" in page
        assert "git/delete" in page
        own = (await operator.get("/console/tools")).text
        assert "api.acme.example" not in own
        assert "Grants" not in own
        assert "Holds in force" in own
        assert (await ada.get("/console/tools")).status_code == 403
        other = (await eve.get("/console/tools")).text
        assert "acme<" not in other
        assert "Holds in force" not in other
        assert "owned" not in other
    async with tenant_transaction(broker.database.engine, "other") as conn:
        since = datetime.now(UTC) - timedelta(hours=1)
        for tenant_id, calls in (("other", 1), ("demo", 0)):
            done = await figures.done(conn, tenant_id=tenant_id, since=since)
            assert sum(one.calls for one in done.values()) == calls
    async with tenant_transaction(broker.database.engine, "demo") as conn:
        done = await figures.done(conn, tenant_id="demo", since=since)
        assert done["probe", "echo"].calls == 2
        assert done["probe", "echo"].error_rate == 0.5
        assert done["probe", "echo"].p50_s <= done["probe", "echo"].p99_s
        assert (await figures.queued(conn, tenant_id="demo"))["git", "delete"] == 1
        assert (await figures.in_flight(conn, tenant_id="demo"))["probe", "echo"] == 1


@pytest.mark.guarantee("console:bounded")
async def test_figures_read_a_window_at_the_most_however_many_calls_there_are(
    broker: Parts, database: Dsns
) -> None:
    for state in ("succeeded", "queued"):
        await fill_many(database.owner, 15_000, state=state, tag=state)
    await settle(database.owner)
    engine = broker.database.engine
    day = datetime.now(UTC) - timedelta(days=1)
    async with tenant_transaction(engine, "demo") as conn:
        with plans.heard(engine) as said:
            await figures.done(conn, tenant_id="demo", since=day)
            await figures.queued(conn, tenant_id="demo")
            await figures.in_flight(conn, tenant_id="demo")
        for statement, values in said:
            assert await plans.most_read(conn, statement, values) <= search.WINDOW * 1.01, statement
