"""Labels of calls: given, shown, searched, sent, audited, and gone with the arguments."""

from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson
import pytest

from app.commands.envelope import envelope
from app.commands.store import commands
from app.commands.store.dispatch_claim import lease_commands
from app.edges.parts import Parts
from app.postgres.engine import tenant_transaction
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.audit.conftest import open_log
from tests.edges.conftest import auth
from tests.support.calls import ADA, EVE, accept, counts, delete, echo, fetch, finish
from tests.support.plans import hungriest
from tests.support.served import Shared

CALL: dict[str, Any] = {"tool": "probe", "method": "echo", "args": {"text": "hi"}}
NOW = {"Prefer": "respond-async"}


async def accepted(http: httpx.AsyncClient, *labels: str, header: str = "", **more: Any) -> str:
    body = CALL | {"labels": list(labels)} | more
    answer = await http.post(
        "/mcp/tools/call", json=body, headers=NOW | {"Mcp-Broker-Labels": header}
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["command_id"]


async def listed(http: httpx.AsyncClient, *labels: str, **more: Any) -> list[str]:
    params = {"label": list(labels), **more}
    answer = await http.get("/commands", params=params)
    assert answer.status_code == 200, answer.text
    return [one["command_id"] for one in answer.json()["commands"]]


@pytest.mark.guarantee("labels:searched")
async def test_a_call_is_found_by_each_and_by_all_of_its_labels(
    http: httpx.AsyncClient, issuer: DevIssuer
) -> None:
    first = await accepted(http, "INC-17", '👩‍🚀 "q" \\ {x}', header="chg-1, INC-17")
    second = await accepted(http, "INC-17", args={"text": "2"})
    plain = await accepted(http, args={"text": "3"})
    shown = (await http.get(f"/commands/{first}")).json()
    assert shown["labels"] == ["INC-17", '👩‍🚀 "q" \\ {x}', "chg-1"]
    assert "labels" not in (await http.get(f"/commands/{plain}")).json()
    assert await listed(http, "INC-17") == [second, first]
    assert await listed(http, "INC-17", limit=1) == [second]
    assert await listed(http, "INC-17", before=second) == [first]
    assert await listed(http, "chg-1", "INC-17") == [first]
    assert await listed(http, '👩‍🚀 "q" \\ {x}') == [first]
    assert await listed(http, "INC-17", state="running") == []
    assert await listed(http, "inc-17") == []
    assert await listed(http, *(str(n) for n in range(10))) == []
    assert (await http.get("/commands", params={"label": ["x"] * 11})).status_code == 400
    for who in (auth(issuer, "bob"), auth(issuer, "eve", tenant="other")):
        http.headers.update(who)
        assert await listed(http, "INC-17") == []


@pytest.mark.guarantee("labels:searched")
@pytest.mark.parametrize(
    "labels", [["x"] * 11, ["x\n"], ["\x00"], [7], "x", [{}], [""], ["x" * 65]]
)
async def test_bad_labels_are_refused_and_leave_nothing(shared: Shared, labels: Any) -> None:
    body = CALL | {"labels": labels}
    answer = await shared.http.post("/mcp/tools/call", json=body, headers=NOW)
    assert answer.status_code in {400, 422}
    assert "labels" in answer.text
    assert await counts(shared.dsns.owner) == (0, 0, 0)
    assert await fetch(shared.dsns.owner, "SELECT 1 FROM command_labels") == []


@pytest.mark.guarantee("labels:searched")
async def test_labels_are_no_part_of_the_request_that_a_key_or_a_twin_names(
    http: httpx.AsyncClient, broker: Parts
) -> None:
    first = await accepted(http, "a", idempotency_key="k")
    assert await accepted(http, "b", idempotency_key="k") == first
    assert await listed(http, "b") == []
    one = await accept(broker, delete(labels=("a",)))
    two = await accept(broker, delete(labels=("b",)))
    assert (two.written.id, two.deduplicated) == (one.written.id, True)


@pytest.mark.guarantee("labels:searched")
async def test_labels_are_in_the_event_and_in_the_envelope(
    http: httpx.AsyncClient, broker: Parts, database: Dsns
) -> None:
    one = await accepted(http, "a", "b c")
    pool = await asyncpg.create_pool(database.relay, min_size=1, max_size=1)
    try:
        [leased] = await lease_commands(
            pool, relay="r", batch_max=5, window=10, aging_s=60, lease_s=30
        )
    finally:
        await pool.close()
    assert leased.command is not None
    assert envelope(leased.command, by_reference=True)["labels"] == ["a", "b c"]
    [row] = await fetch(
        database.owner, "SELECT body::text FROM audit.events WHERE command_id = $1", UUID(one)
    )
    assert orjson.loads(row["body"])["labels"] == ["a", "b c"]


@pytest.mark.guarantee("labels:searched")
async def test_labels_and_reasons_go_with_the_arguments_and_with_the_person(
    broker: Parts, database: Dsns
) -> None:
    said = {"invocation_reason": "r", "model": "m"}
    kept = (await accept(broker, echo("1", labels=("a",), asserted=said))).written.id
    theirs = (await accept(broker, echo("2", labels=("a",), asserted=said), EVE)).written.id
    for one in (kept, theirs):
        await finish(broker, one, result={"text": "x"})
    async with open_log(database) as log:
        await log.seal()
        await log.erase("ada")
    rows = await fetch(database.owner, "SELECT id, labels, asserted FROM commands")
    assert {row["id"]: row["labels"] for row in rows} == {kept: None, theirs: ["a"]}
    assert [row["asserted"] is None for row in rows if row["id"] == kept] == [True]
    left = await fetch(database.owner, "SELECT command_id FROM command_labels")
    assert [row["command_id"] for row in left] == [theirs]


@pytest.mark.guarantee("labels:searched")
async def test_a_search_reads_what_it_shows_however_many_have_the_label(
    broker: Parts, database: Dsns
) -> None:
    """As the app's role: under row-level security an index over arrays would not be asked."""
    for n in range(4):
        await accept(broker, echo(str(n), labels=("all", f"n{n}")))
    await fetch(
        database.owner,
        "INSERT INTO command_labels SELECT 'demo', 'all', gen_random_uuid()"
        " FROM generate_series(1, 20000)",
    )
    await fetch(database.owner, "ANALYZE command_labels, commands")
    statement = str(commands.LIST_LABELLED)
    for name, value in {
        "tenant_id": "'demo'",
        "label": "'n1'",
        "before": "NULL",
        "newest": f"'{commands.NEWEST}'",
        "others": "'{all}'",
        "user_id": "'ada'",
        "states": "NULL",
        "tool": "NULL",
        "method": "NULL",
        "limit": "20",
    }.items():
        statement = statement.replace(f":{name}", value)
    conn = await asyncpg.connect(database.app)
    try:
        await conn.execute("SET app.tenants = '{demo}'")
        assert len(await conn.fetch(statement)) == 1
        assert await hungriest(conn, statement) < 10
    finally:
        await conn.close()
    async with tenant_transaction(broker.database.engine, "demo") as open_:
        found = await commands.list_newest(
            open_,
            tenant_id="demo",
            user_id=ADA.user_id,
            states=None,
            tool=None,
            before=None,
            limit=5,
            labels=["n1", "all"],
        )
    assert [one.labels for one in found] == [["all", "n1"]]
