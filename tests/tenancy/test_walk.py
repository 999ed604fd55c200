"""Nothing of another tenant is readable, countable or guessable, by any route or MCP method.

What there is to walk comes from the OpenAPI document and the MCP server, so a new route or method
fails here until it is classified; a new table does in test_tables.py.
"""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import httpx2
import orjson
import pytest
from uuid_utils.compat import uuid7

from app.edges.mcp import command_tools, saga_tools
from app.edges.mcp.front import Front
from app.edges.parts import Parts
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.edges.mcp import wire
from tests.support.calls import fetch
from tests.support.served import ADAPTER, OPERATOR, Served, served
from tests.tenancy.theirs import fill

REASON = {"reason": "r"}
RESULT = {"status": "ok", "result": {"text": "x"}}

# What each route is, and what is sent to it; {id} is the id of a command.
BY_ID: dict[tuple[str, str], Any] = {
    ("get", "/commands/{command_id}"): None,
    ("get", "/commands/{command_id}/events"): None,
    ("post", "/commands/{command_id}/cancel"): {},
    ("post", "/results/{correlation_id}/claim"): {"attempt": 1, "adapter": "run-1"},
    ("post", "/results/{correlation_id}/progress"): {"stage": "s"},
    ("post", "/results/{correlation_id}"): RESULT,
    ("post", "/results/{correlation_id}/reject"): {"attempt": 1, **REASON},
    ("post", "/results/{correlation_id}/run"): {"attempt": 1, "run": "r", "status": "pending"},
    ("post", "/commands/{command_id}/approve"): REASON,
    ("post", "/commands/{command_id}/deny"): REASON,
    ("post", "/operator/commands/{command_id}/approve"): REASON,
    ("post", "/operator/commands/{command_id}/deny"): REASON,
    ("post", "/operator/commands/{command_id}/resolve"): {"outcome": "failed", "reason": "r"},
    ("get", "/operator/dead-letters/{command_id}"): None,
    ("get", "/auditor/commands/{command_id}"): None,
    ("get", "/sagas/{command_id}"): None,
    ("post", "/sagas/{command_id}/commit"): None,
    ("post", "/sagas/{command_id}/cancel"): {},
    ("post", "/operator/sagas/{command_id}/steps/a"): {"verb": "retry", "reason": "r"},
    ("post", "/operator/dead-letters/{command_id}/redrive"): REASON,
    ("post", "/operator/dead-letters/{command_id}/discard"): REASON,
    ("post", "/operator/holds/{command_id}/release"): REASON,
    ("get", "/operator/webhooks/{command_id}"): None,
    ("delete", "/operator/webhooks/{command_id}"): None,
    ("post", "/operator/webhooks/{command_id}/rotate"): {},
    ("post", "/operator/webhooks/{command_id}/enable"): REASON,
    ("post", "/operator/webhooks/{command_id}/disable"): REASON,
    ("post", "/operator/webhooks/{command_id}/test"): None,
    ("get", "/operator/webhooks/{command_id}/deliveries"): None,
    ("post", "/operator/webhooks/{command_id}/deliveries/{command_id}/redeliver"): None,
    ("post", "/operator/webhooks/{command_id}/redeliver"): {"since": "2026-12-01T00:00:00Z"},
}
LISTS: dict[tuple[str, str], Any] = {
    ("get", "/commands"): {"before": "{id}", "everyone": "true"},
    ("get", "/approvals"): {"before": "{id}"},
    ("get", "/operator/dead-letters"): {"after": "{id}"},
    ("get", "/operator/keys/blocked"): {"after": "{id}"},
    ("get", "/auditor/events"): {"before": "2999-01-01T00:00:00+00:00_{id}"},
    ("get", "/admin/tenant"): {},
    ("get", "/sagas"): {"before": "{id}", "everyone": "true"},
    ("get", "/sagas/definitions"): {},
    ("get", "/operator/webhooks"): {},
    ("get", "/operator/holds"): {"ended": "true", "before": "{id}"},
}
BULK: dict[tuple[str, str], Any] = {
    ("post", "/operator/dead-letters/redrive"): {"reason": "r", "dry_run": False, "limit": 100},
}
BATCH = ("post", "/results/batch")
OPEN = {("get", "/healthz"), ("get", "/readyz")}
CALLS = {
    ("post", "/mcp/tools/call"),
    ("post", "/sagas"),
    ("post", "/sagas/dry-run"),
    ("post", "/sagas/definitions"),
    ("post", "/operator/webhooks"),  # an endpoint of the caller's own tenant
    ("post", "/operator/holds"),  # a hold of the caller's own tenant
    ("get", "/sagas/definitions/{name}"),  # by a name of the caller's own tenant
}

BUILT_IN = ("command_status", "command_cancel", "command_list")

# MCP methods that name a command, and the ones that say nothing of any.
NAMING = {"tools/call", "resources/read", "tasks/get", "tasks/update", "tasks/cancel"}
NAMELESS = {
    "initialize",
    "ping",
    "server/discover",
    "tools/list",
    "resources/list",
    "resources/templates/list",
    "subscriptions/listen",  # walked in tests/edges/mcp/test_listen.py, as its answer is a stream
}


def plain(answer: httpx2.Response, named: UUID) -> tuple[int, dict[str, str], str]:
    """An answer, byte for byte but for the id that was asked for."""
    headers = {name: value for name, value in answer.headers.items() if name != "date"}
    return answer.status_code, headers, answer.text.replace(str(named), "ID")


@asynccontextmanager
async def strangers(app: Served) -> AsyncGenerator[dict[str, httpx2.AsyncClient]]:
    """Whoever must not see demo's commands, each with all the rights of their own tenant."""
    async with (
        app.client("eve", *OPERATOR, *ADAPTER, tenant="other") as eve,
        app.client("ada", *OPERATOR, *ADAPTER, tenant="other", tenants=["other"]) as namesake,
        app.client("eda", *ADAPTER, tenant="adapters", tenants=["other"]) as bound,
        app.client("eda", *ADAPTER, tenant="adapters", tools=["none/*"]) as narrow,
    ):
        yield {"caller": eve, "namesake": namesake, "bound": bound, "narrow": narrow}


async def ask(
    http: httpx2.AsyncClient, route: tuple[str, str], body: Any, named: UUID
) -> tuple[int, dict[str, str], str]:
    method, path = route
    url = path.replace("{correlation_id}", str(named)).replace("{command_id}", str(named))
    sent = {"json": body} if body is not None else {}
    return plain(await http.request(method, url, **sent), named)


@pytest.mark.guarantee("tenancy:walk")
async def test_every_route_is_classified(broker: Parts, issuer: DevIssuer) -> None:
    async with served(broker, issuer) as app:
        document = app.api.openapi()
    ids = ("{saga_id}", "{webhook_id}", "{delivery_id}", "{hold_id}")
    named = {"{step}": "a", **dict.fromkeys(ids, "{command_id}")}
    routes = {
        (method, renamed(path, named)) for path, one in document["paths"].items() for method in one
    }
    assert routes == {*BY_ID, *LISTS, *BULK, BATCH, *OPEN, *CALLS}


@pytest.mark.guarantee("tenancy:walk")
async def test_a_foreign_id_is_answered_byte_for_byte_like_one_that_never_was(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    theirs = await fill(broker)
    before = await state(database)
    async with served(broker, issuer) as app, strangers(app) as who:
        for route, body in BY_ID.items():
            adapters = route[1].startswith("/results/")
            names = ("namesake", "bound", "narrow") if adapters else ("caller", "namesake")
            for name in names:
                never = await ask(who[name], route, body, uuid7())
                assert never[0] == 404, (route, name, never)
                for one in theirs.ids:
                    assert await ask(who[name], route, body, one) == never, (route, name)
        # A user of the same tenant is a stranger too, to what only its owner may see.
        async with app.client("bob") as bob:
            for route, body in BY_ID.items():
                never = await ask(bob, route, body, uuid7())
                for one in theirs.ids:
                    assert await ask(bob, route, body, one) == never, route
    assert await state(database) == before, "and nothing has moved"


def batch_of(named: UUID) -> dict[str, Any]:
    """A report of each kind about one command."""
    reports = {path: body for (_, path), body in BY_ID.items() if path.startswith("/results/")}
    items = [
        {"op": path.removeprefix("/results/{correlation_id}").strip("/") or "result", **body}
        for path, body in reports.items()
    ]
    return {"items": [{"correlation_id": str(named), **one} for one in items]}


@pytest.mark.guarantee("tenancy:walk")
async def test_a_batch_of_reports_answers_a_foreign_id_like_one_that_never_was(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    theirs = await fill(broker)
    before = await state(database)
    async with served(broker, issuer) as app, strangers(app) as who:
        for name in ("namesake", "bound", "narrow"):
            unknown = uuid7()
            never = await ask(who[name], BATCH, batch_of(unknown), unknown)
            answers = orjson.loads(never[2])["items"]
            assert [answer["status"] for answer in answers] == [404] * 5, (name, never)
            for one in theirs.ids:
                assert await ask(who[name], BATCH, batch_of(one), one) == never, name
    assert await state(database) == before, "and nothing has moved"


@pytest.mark.guarantee("tenancy:walk")
async def test_no_list_holds_or_counts_or_pages_by_what_is_another_tenants(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    theirs = await fill(broker)
    before = await state(database)
    async with served(broker, issuer) as app, strangers(app) as who:
        for name in ("caller", "namesake"):
            http = who[name]
            for (_, path), query in LISTS.items():
                whole = await http.get(
                    path, params={"everyone": "true"} if "everyone" in query else {}
                )
                assert whole.status_code == 200
                assert not [one for one in theirs.ids if str(one) in whole.text], path
                for at in theirs.ids:
                    # Its neighbour in time that never was: the order of ids is the same.
                    never = UUID(int=at.int ^ 1)
                    pages = [await http.get(path, params=filled(query, one)) for one in (at, never)]
                    assert plain(pages[0], at) == plain(pages[1], never), path
            for (method, path), body in BULK.items():
                done = await http.request(method, path, json=body)
                assert (done.status_code, done.json()["commands"]) == (200, []), path
    assert await state(database) == before


@pytest.mark.guarantee("tenancy:walk")
async def test_a_call_meets_no_key_order_or_duplicate_of_another_tenant(
    broker: Parts, issuer: DevIssuer
) -> None:
    theirs = await fill(broker)
    async with served(broker, issuer) as app, app.client("ada", tenant="other") as http:
        same = {"tool": "git", "method": "delete", "args": {"dest": "theirs"}}
        for more in ({"idempotency_key": "their-key"}, {}, {"ordering_key": "their-order"}):
            answer = await http.post(
                "/mcp/tools/call", json={**same, **more}, headers={"Prefer": "respond-async"}
            )
            assert answer.status_code == 202, answer.text
            assert "idempotent-replayed" not in answer.headers
            assert answer.json()["correlation_id"] not in map(str, theirs.ids)
        # Ids are unique for all: that one is taken is said, and not whose it is.
        taken = [
            plain(
                await http.post(
                    "/mcp/tools/call",
                    json={**same, "correlation_id": str(one), "idempotency_key": f"k{n}"},
                    headers={"Prefer": "respond-async"},
                ),
                one,
            )
            for n, one in enumerate(theirs.commands)
        ]
        assert {status for status, _, _ in taken} == {409}
        assert len({body for _, _, body in taken}) == 1
        for name in ("tenant_id", "user_id"):
            said = await http.post("/mcp/tools/call", json={**same, name: "demo"})
            assert said.status_code == 403


@pytest.mark.guarantee("tenancy:walk")
async def test_every_mcp_method_and_built_in_tool_is_classified(broker: Parts) -> None:
    served_methods = set(vars(Front(broker).server())["_request_handlers"])
    assert served_methods - NAMELESS == NAMING
    assert set(command_tools.SCHEMAS) == {*BUILT_IN, "saga_status", "saga_cancel"}
    assert {tool.name for tool in saga_tools.TOOLS} == {"saga_run", "saga_status", "saga_cancel"}


async def said(http: httpx2.AsyncClient, verb: str, one: UUID) -> str:
    """What a method answers for an id, but for the id."""
    match verb:
        case "command_status":
            found = await wire.call(http, verb, {"command_id": str(one), "wait_s": 0})
        case "command_cancel":
            found = await wire.call(http, verb, {"command_id": str(one)})
        case "command_list":
            found = await wire.call(http, verb, {"before": str(one)})
        case "saga_status" | "saga_cancel":
            found = await wire.call(http, verb, {"saga_id": str(one)})
        case "resources/read":
            uri = f"command://{one}"
            found = wire.message(await wire.send(http, verb, {"uri": uri}, name=uri))
        case _:
            found = await wire.task(http, verb.removeprefix("tasks/"), str(one))
    assert isinstance(found, Mapping)
    rest = {name: value for name, value in found.items() if name != "id"}
    return str(rest).replace(str(one), "ID")


@pytest.mark.guarantee("tenancy:walk")
async def test_every_mcp_method_answers_for_a_foreign_id_as_for_one_that_never_was(
    broker: Parts, issuer: DevIssuer, database: Dsns
) -> None:
    theirs = await fill(broker)
    before = await state(database)
    verbs = [*BUILT_IN, "saga_status", "saga_cancel", *sorted(NAMING - {"tools/call"})]
    async with (
        served(broker, issuer) as app,
        app.client("eve", *OPERATOR, tenant="other") as eve,
        app.client("bob") as bob,
    ):
        for http in (eve, bob):
            for verb in verbs:
                for one in (theirs.queued, theirs.done, theirs.saga):
                    never = await said(http, verb, UUID(int=one.int ^ 1))
                    assert await said(http, verb, one) == never, verb
                    assert verb == "command_list" or "not" in never.lower() or "no " in never
    assert await state(database) == before


async def state(database: Dsns) -> list[Any]:
    """Every command of demo as it is, and how many events there are."""
    rows = await fetch(
        database.owner,
        "SELECT to_jsonb(c) AS c FROM commands c WHERE tenant_id = 'demo' ORDER BY id",
    )
    events = await fetch(
        database.owner,
        "SELECT count(*) AS n FROM audit.events"
        " WHERE tenant_id = 'demo' AND command_id IS NOT NULL",
    )
    return [*(row["c"] for row in rows), events[0]["n"]]


def renamed(path: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        path = path.replace(old, new)
    return path


def filled(query: Mapping[str, str], one: UUID) -> dict[str, str]:
    return {name: value.replace("{id}", str(one)) for name, value in query.items()}
