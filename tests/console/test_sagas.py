"""The pages of sagas: who sees which, the graph, the order of undoing, and what settles a step."""

import html
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest

from app.console import dag
from app.edges.parts import Parts
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from app.sagas import registry
from app.sagas.parse import parse
from app.sagas.state import State
from app.sagas.store import search
from app.sagas.store.search import Sought
from benchmarks.servers import execute, settle
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.conftest import settings_of
from tests.console.conftest import send, signed_in
from tests.sagas.lab import Lab, open_lab
from tests.support import plans
from tests.support.calls import fetch

EVIL = "<script>document.title='owned'</script>{{ 7*7 }}'\"\u2028"
OLGA = Identity(
    tenant_id="demo",
    user_id="olga",
    client_id="olga",
    scopes=frozenset({"tools", "operator"}),
)


def step(name: str, *needs: str, **more: object) -> dict[str, object]:
    one: dict[str, object] = {"id": name, "tool": "lab_do", "args": {"text": name}}
    undo = {"compensate": {"tool": "lab_undo", "args": {"text": name}}}
    return one | {"needs": list(needs)} | ({} if "kind" in more else undo) | more


DIAMOND = {"steps": [step("a"), step("b", "a"), step("c", "a"), step("d", "b", "c", "a")]}
PIVOT = {
    "steps": [
        step("a"),
        step("p", "a", kind="pivot"),
        step("r", "p", kind="retriable"),
    ]
}


@pytest.fixture
async def lab(broker: Parts, database: Dsns, issuer: DevIssuer) -> AsyncIterator[Lab]:
    async with open_lab(broker, database, settings_of(database.relay, issuer)) as made:
        yield made


async def shown(client: httpx.AsyncClient, query: str = "") -> set[UUID]:
    page = await client.get(f"/console/sagas{query}")
    assert page.status_code == 200, page.text
    return {UUID(one[:36]) for one in page.text.split('id="saga-')[1:]}


async def stuck(lab: Lab) -> UUID:
    """One whose pivot may have been done."""
    saga = await lab.run(PIVOT)
    await lab.do(saga, "a")
    await lab.lose(saga, "p")
    assert (await lab.saga(saga))[0] == "stuck"
    return saga


def test_a_plan_may_name_a_step_before_those_that_it_needs() -> None:
    drawn = dag.draw({"c": ["b"], "b": ["a"], "a": []})
    assert [one.id for one in sorted(drawn.boxes, key=lambda box: box.y)] == ["a", "b", "c"]


@pytest.mark.guarantee("tenancy:walk")
async def test_nobody_sees_a_saga_of_another_tenant_or_without_a_scope_of_another_user(
    lab: Lab, issuer: DevIssuer
) -> None:
    adas = await lab.run(DIAMOND)
    await registry.register(
        lab.broker.database.engine, lab.broker.catalog, OLGA, parse(DIAMOND | {"name": "theirs"})
    )
    async with (
        signed_in(lab.broker, issuer, "olga") as operator,
        signed_in(lab.broker, issuer, "ada", "tools") as ada,
        signed_in(lab.broker, issuer, "bob", "tools") as bob,
        signed_in(lab.broker, issuer, "eve", tenant="other") as eve,
    ):
        assert await shown(operator) == await shown(ada) == {adas}
        for other in (bob, eve):
            assert await shown(other) == set()
            assert await shown(other, "?user=ada") == set()
            for path in (f"/console/sagas/{adas}", f"/console/sagas/{adas}/live"):
                assert (await other.get(path)).status_code == 404
            for verb in ("cancel", "retry"):
                fields = {"verb": verb, "step": "a", "reason": "mine now"}
                for act in ("preview", "act"):
                    answer = await send(other, f"/console/sagas/{adas}/{act}", **fields)
                    assert answer.status_code in {403, 404}
        assert "theirs" in (await operator.get("/console/sagas/definitions")).text
        assert "theirs" not in (await eve.get("/console/sagas/definitions")).text
        assert (await eve.get("/console/sagas/definitions/theirs")).status_code == 404
        assert (await send(eve, "/console/sagas/plan", name="theirs")).status_code == 404
    assert await lab.saga(adas) == (
        "running",
        dict.fromkeys("bcd", "pending") | {"a": "dispatched"},
    )


async def test_each_filter_finds_what_fits(lab: Lab, issuer: DevIssuer) -> None:
    running = await lab.run(DIAMOND)
    waiting = await stuck(lab)
    every = {running, waiting}
    async with signed_in(lab.broker, issuer) as client:
        for query, found in (
            ("", every),
            ("?state=stuck&state=compensation_failed", {waiting}),
            ("?state=running", {running}),
            ("?state=completed", set[UUID]()),
            ("?user=ada&name=", every),
            ("?user=nobody", set[UUID]()),
            ("?name=inline", every),
            ("?name=none", set[UUID]()),
            (f"?before={waiting}", {running}),
        ):
            assert await shown(client, query) == found, query
        for query in ("state=owned", "before=x", "name=%00", f"user={'x' * 300}"):
            assert (await client.get(f"/console/sagas?{query}")).status_code == 400, query


async def test_a_saga_is_drawn_with_its_calls_and_the_order_of_its_undoing(
    lab: Lab, issuer: DevIssuer
) -> None:
    saga = await lab.run(DIAMOND)
    await lab.do(saga, "a")
    call = await lab.do(saga, "c")
    async with signed_in(lab.broker, issuer) as client:
        page = (await client.get(f"/console/sagas/{saga}")).text
        assert page.count('class="node ') == 4
        assert page.count('class="edge"') == 4, "d waits for a by b and c"
        assert f'href="/console/calls/{call}"' in page
        assert 'id="step-c"' in page
        there = (await client.get(f"/console/calls/{call}")).text
        assert f'href="/console/sagas/{saga}#step-c"' in there, "and back"
        own = (await client.get(f"/console/calls/{saga}")).text
        assert f'href="/console/sagas/{saga}"' in own
        assert f'href="/console/calls/{saga}"' in page
        assert "c, then a" in page
        assert "style=" not in page
        answer = await send(client, f"/console/sagas/{saga}/preview", verb="cancel")
        assert answer.text.index("<b>c</b>") < answer.text.index("<b>a</b>")
        assert (await lab.saga(saga))[0] == "running", "a preview does nothing"
        for reason in ("", " ", "x" * 501, "a\x00"):
            refused = await send(client, f"/console/sagas/{saga}/act", verb="cancel", reason=reason)
            assert refused.status_code == 400
        answer = await send(client, f"/console/sagas/{saga}/act", verb="cancel", reason="no 🙂")
        assert answer.headers["location"] == f"/console/sagas/{saga}"
        await lab.turns()
        assert (await lab.saga(saga))[0] in {"stopping", "compensating"}


async def test_a_step_that_a_saga_waits_for_is_settled_by_an_operator_with_a_reason(
    lab: Lab, issuer: DevIssuer, database: Dsns
) -> None:
    saga = await stuck(lab)
    async with (
        signed_in(lab.broker, issuer, "ada", "tools") as ada,
        signed_in(lab.broker, issuer, "olga") as client,
    ):
        assert "Retry…" not in (await ada.get(f"/console/sagas/{saga}")).text
        for act in ("preview", "act"):
            mine = await send(
                ada, f"/console/sagas/{saga}/{act}", verb="retry", step="p", reason="r"
            )
            assert mine.status_code == 403
        page = (await client.get(f"/console/sagas/{saga}")).text
        for name in ("retry-p", "resolve-succeeded-p", "resolve-failed-p"):
            assert f'id="{name}"' in page
        assert 'id="skip-p"' not in page, "a pivot is not skipped"
        assert 'id="retry-a"' not in page
        for verb, step_id in (("skip", "p"), ("retry", "a"), ("retry", "none"), ("own", "p")):
            for act in ("preview", "act"):
                refused = await send(
                    client, f"/console/sagas/{saga}/{act}", verb=verb, step=step_id, reason="r"
                )
                assert refused.status_code in {400, 404, 409}, (verb, step_id)
        preview = await send(
            client, f"/console/sagas/{saga}/preview", verb="resolve-succeeded", step="p"
        )
        assert "succeeded" in preview.text
        assert (await lab.saga(saga))[0] == "stuck"
        done = await send(
            client,
            f"/console/sagas/{saga}/act",
            verb="resolve-succeeded",
            step="p",
            reason=f"seen at the host {EVIL}",
        )
        assert done.status_code == 303
        page = (await client.get(f"/console/sagas/{saga}")).text
        assert "<script>document" not in page
        assert html.escape("seen at the host") in page
    await lab.turns()
    assert (await lab.saga(saga))[1] == {"a": "succeeded", "p": "succeeded", "r": "dispatched"}
    [event] = await fetch(
        database.owner, "SELECT actor, body FROM audit.events WHERE type = 'saga.settled'"
    )
    assert event["actor"] == "operator:olga"
    assert "seen at the host" in str(event["body"])


async def test_a_dry_run_by_form_shows_the_plan_and_starts_nothing(
    lab: Lab, issuer: DevIssuer, database: Dsns
) -> None:
    definition = parse(
        {
            "name": "greet",
            "input": {
                "type": "object",
                "properties": {"who": {"type": "string", "default": "you"}},
            },
            "steps": [step("a") | {"args": {"text": "{{ input.who }}"}}, step("b", "a")],
        }
    )
    for _ in range(2):
        await registry.register(lab.broker.database.engine, lab.broker.catalog, OLGA, definition)
    async with signed_in(lab.broker, issuer) as client:
        page = await client.get("/console/sagas/definitions/greet?version=1")
        assert page.text.count('class="node ') == 2
        assert (await client.get("/console/sagas/definitions/greet?version=2")).status_code == 404
        done = await send(
            client, "/console/sagas/plan", name="greet", input='{"who": "<b>Ada</b>"}'
        )
        assert done.status_code == 200
        assert "&lt;b&gt;Ada&lt;/b&gt;" in done.text
        assert "<b>Ada" not in done.text
        assert done.text.index("Nothing was started") < done.text.index("How it would be undone")
        inline = "steps:\n- {id: x, tool: lab_do, args: {text: t}, kind: readonly}\n"
        refused = await send(client, "/console/sagas/plan", plan=inline)
        assert refused.status_code == 422
        assert "lab" in refused.text
        for fields in (
            {},
            {"name": "greet", "plan": "steps: []"},
            {"name": EVIL},
            {"name": "greet", "version": "x"},
            {"name": "greet", "version": "9" * 30},
            {"name": "greet", "version": "٣"},
            {"name": "greet", "input": "[]"},
            {"name": "greet", "input": "{"},
            {"name": "greet", "input": '{"who": NaN}'},
            {"name": "greet", "input": '{"who": "\\ud800"}'},
            {"name": "greet", "input": "[" * 5000},
            {"plan": EVIL},
            {"plan": "[" * 5000},
            {"plan": "a: &a [*a]"},
            {"plan": "steps: [{id: a, tool: 2020-01-01}]"},
            {"plan": f'{{"steps": [{{"id": "{"x" * 100}", "tool": "y"}}]}}'},
        ):
            answer = await send(client, "/console/sagas/plan", **fields)
            assert 400 <= answer.status_code < 500, fields
            assert "<script>document" not in answer.text
            assert 'name="plan"' in answer.text, "the form is there, as it was filled"
    [count] = await fetch(database.owner, "SELECT count(*) FROM sagas")
    assert count["count"] == 0


FILL = """
    INSERT INTO sagas (id, tenant_id, user_id, kind, name, state, finished_at)
    SELECT CAST(lpad(to_hex(n), 12, '0') || '70008000000000000000' AS uuid), {tenant}, 'u' || n % 7,
           'declared', 'many', 'completed', now()
      FROM generate_series({first}, {last}) n
"""


@pytest.mark.guarantee("console:bounded")
async def test_a_page_of_sagas_reads_a_window_at_the_most_however_many_there_are(
    broker: Parts, database: Dsns
) -> None:
    await execute(database.owner, FILL.format(tenant="'other'", first=1, last=10))
    await execute(database.owner, FILL.format(tenant="'demo'", first=11, last=30_000))
    await settle(database.owner)
    engine = broker.database.engine
    for tenant, sought, most in (
        ("demo", Sought(), 60),
        ("demo", Sought(states=frozenset({State.STUCK})), 60),
        ("demo", Sought(states=frozenset({State.RUNNING})), search.WINDOW),
        ("demo", Sought(user_id="nobody"), 60),
        ("demo", Sought(name="none"), search.WINDOW),
        ("other", Sought(), 60),
    ):
        async with tenant_transaction(engine, tenant) as conn:
            with plans.heard(engine) as said:
                await search.find(conn, tenant_id=tenant, sought=sought, before=None, limit=50)
            for statement, values in said:
                read = await plans.most_read(conn, statement, values)
                assert read <= most * 1.01, (tenant, sought, read, statement)


async def test_what_a_step_is_already_it_is_not_resolved_as(lab: Lab, issuer: DevIssuer) -> None:
    saga = await lab.run(PIVOT)
    await lab.do(saga, "a")
    await lab.do(saga, "p")
    await lab.do(saga, "r", error={"code": "no", "message": "No.", "retryable": False})
    assert (await lab.saga(saga))[0] == "stuck"
    async with signed_in(lab.broker, issuer) as client:
        page = (await client.get(f"/console/sagas/{saga}")).text
        assert 'id="skip-r"' in page
        assert 'id="resolve-failed-r"' not in page
        answer = await send(
            client, f"/console/sagas/{saga}/act", verb="resolve-failed", step="r", reason="r"
        )
        assert answer.status_code == 409
