"""A tenant names, sees, uses and learns of no other tenant's target or credential."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from adapters import claims
from adapters.contract import Failure
from adapters.credentials import CredentialSources
from adapters.kinds import Adapters
from app.edges.parts import Parts
from devstack.stack import Dsns
from devstack.tokens import DevIssuer
from tests.adapters.executor import Heard
from tests.edges.mcp import wire
from tests.support.calls import fetch
from tests.support.offers import put
from tests.support.served import ADAPTER, OPERATOR, Served, served
from tests.support.stack import listening
from tests.tenancy.test_walk import LISTS

SECRETS = {"demo": "s3cret-of-demo", "other": "s3cret-of-other"}
HIDDEN = "hidden-place"


class Site:
    """Shows what it was sent, and gives each caller a session."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []

    async def show(self, request: Request) -> JSONResponse:
        self.seen.append({"headers": dict(request.headers), "body": await request.json()})
        token = request.headers.get("authorization", "")
        return JSONResponse(self.seen[-1], headers={"set-cookie": f"session={token[-5:]}; Path=/"})


@pytest.fixture
async def site() -> AsyncIterator[tuple[Site, str]]:
    made = Site()
    async with listening(Starlette(routes=[Route("/show", made.show, methods=["POST"])])) as port:
        yield made, f"http://127.0.0.1:{port}"


def catalog(address: str, home: Path, *, theirs: bool = True) -> dict[str, Any]:
    """Tools of a shared target, of one that each tenant has for itself, and of another's alone."""

    def tool(method: str, target: str) -> dict[str, Any]:
        names = ("who", "tenant", "target", "credential")
        body = {name: f"{{{name}}}" for name in names}
        adapter: dict[str, Any] = {
            "kind": "http",
            "target": target,
            "method": "POST",
            "path": "/show",
        }
        adapter |= {"body": body}
        about = {"tool": "kind", "method": method, "description": method}
        return about | {"input_schema": {"type": "object"}, "adapter": adapter}

    def target(name: str, **more: Any) -> dict[str, Any]:
        token = f"file:{home}/{HIDDEN}/{{tenant}}"
        credential = {"type": "bearer", "token": token}
        return {"name": name, "kind": "http", "address": address, "credential": credential} | more

    marked = {"address": f"http://{HIDDEN}.example"}
    own = [target("own", tenant="other", **marked), target("alone", tenant="other", **marked)]
    return {
        "tools": [tool("shared", "shared"), tool("own", "own"), tool("alone", "alone")],
        "targets": [target("shared"), target("own"), *(own if theirs else ())],
    }


@pytest.fixture
async def offered(database: Dsns, home: Path, broker: Parts, site: tuple[Site, str]) -> None:
    folder = home / HIDDEN
    folder.mkdir()
    for tenant, secret in SECRETS.items():
        (folder / tenant).write_text(secret)
    await put(database, home, catalog(site[1], home), broker=broker)


async def begin(http: httpx2.AsyncClient, method: str, **args: Any) -> str:
    answer = await http.post(
        "/mcp/tools/call",
        json={"tool": "kind", "method": method, "args": args},
        headers={"Prefer": "respond-async"},
    )
    assert answer.status_code == 202, answer.text
    return answer.json()["correlation_id"]


async def work(app: Served, adapters: Adapters, command: str) -> None:
    """Claim, run and report, as an executor does."""
    async with app.client("worker", *ADAPTER, tenant="adapters") as http:
        claim = {"attempt": 1, "adapter": f"run-{command}"}
        granted = (await http.post(f"/results/{command}/claim", json=claim)).json()
        assert granted["proceed"], granted
        call = claims.call_of(granted)
        outcome = call if isinstance(call, Failure) else await adapters.run(call, Heard())
        told = await http.post(f"/results/{command}", json={"attempt": 1, **claims.spoken(outcome)})
        assert told.status_code == 200, told.text


async def end(http: httpx2.AsyncClient, command: str) -> dict[str, Any]:
    return (await http.get(f"/commands/{command}")).json()


@pytest.fixture
async def adapters(site: tuple[Site, str]) -> AsyncIterator[Adapters]:
    """One executor for both tenants; closed before the server."""
    made = Adapters(credentials=CredentialSources({}))
    yield made
    await made.close()


@pytest.mark.guarantee("tenancy:targets")
@pytest.mark.usefixtures("offered")
async def test_each_tenants_calls_go_with_its_own_credential_whatever_they_say(
    broker: Parts, issuer: DevIssuer, adapters: Adapters, site: tuple[Site, str]
) -> None:
    words = {"tenant": "other", "tenant_id": "other", "target": "alone", "credential": "{tenant}"}
    async with (
        served(broker, issuer) as app,
        app.client("ada") as ada,
        app.client("eve", tenant="other") as eve,
    ):
        clients = {"demo": ada, "other": eve}
        made = [
            (tenant, await begin(http, "shared", who=tenant, **words))
            for tenant, http in clients.items()
            for _ in range(3)
        ]
        await asyncio.gather(*(work(app, adapters, command) for _, command in made))
        for tenant, command in made:
            found = await end(clients[tenant], command)
            assert found["result"]["body"]["who"] == tenant
            assert found["result"]["headers"]["authorization"] == "Bearer [redacted]"
            assert not any(secret in str(found) for secret in SECRETS.values())
    for seen in site[0].seen:
        assert seen["headers"]["authorization"] == f"Bearer {SECRETS[seen['body']['who']]}"
        assert "cookie" not in seen["headers"], "no session goes on with another call"
    assert len(site[0].seen) == len(made)


@pytest.mark.guarantee("tenancy:targets")
@pytest.mark.usefixtures("offered")
async def test_a_target_of_another_tenant_is_as_one_that_there_is_not(
    broker: Parts,
    issuer: DevIssuer,
    adapters: Adapters,
    database: Dsns,
    site: tuple[Site, str],
) -> None:
    async with served(broker, issuer) as app, app.client("ada") as ada:

        async def told() -> list[Any]:
            """What a call of each tool comes to, less its ids and times."""
            found: list[Any] = []
            for method in ("own", "alone"):
                command = await begin(ada, method, who="demo")
                async with app.client("worker", *ADAPTER, tenant="adapters") as http:
                    claim = {"attempt": 1, "adapter": f"run-{command}"}
                    granted = (await http.post(f"/results/{command}/claim", json=claim)).json()
                await work(app, adapters, command)
                ended = await end(ada, command)
                found.append((granted.get("target"), ended["state"], ended.get("error")))
            return found

        with_theirs = await told()
        await fetch(database.owner, "DELETE FROM targets WHERE tenant_id = 'other'")
        broker.catalog.forget()
        assert await told() == with_theirs
    [own, alone] = with_theirs
    assert (own[0]["tenant"], own[1]) == (None, "succeeded"), "the shared one"
    assert alone[0] is None
    assert alone[2]["code"] == "misconfigured"
    assert "alone" not in alone[2]["message"].replace("kind/alone", "")


@pytest.mark.guarantee("tenancy:targets")
@pytest.mark.usefixtures("offered")
async def test_no_route_method_or_trail_shows_where_another_tenants_calls_go(
    broker: Parts, issuer: DevIssuer, adapters: Adapters
) -> None:
    async with (
        served(broker, issuer) as app,
        app.client("ada", *OPERATOR, *ADAPTER, tenants=["demo"]) as ada,
        app.client("eve", *OPERATOR, tenant="other") as eve,
    ):
        theirs = await begin(eve, "alone")
        mine = await begin(ada, "shared")
        await work(app, adapters, mine)
        paths = [path for _, path in LISTS]
        paths += [f"/commands/{mine}", f"/auditor/commands/{mine}", "/auditor/events?limit=500"]
        methods = ("tools/list", "resources/list", "server/discover")
        shown = [
            *[(await ada.get(path)).text for path in paths],
            *[(await wire.send(ada, method, {})).text for method in methods],
            str(await wire.call(ada, "command_status", {"command_id": mine})),
        ]
        assert any("kind_shared" in one for one in shown), "the tools are there"
        assert any(mine in one for one in shown)
        for one in shown:
            assert HIDDEN not in one
            assert not any(secret in one for secret in SECRETS.values())
        claim = {"attempt": 1, "adapter": "mine", "tenant_id": "demo", "tool": "kind"}
        whole = claim | {"method": "alone"}
        for body in ({"attempt": 1, "adapter": "mine"}, whole, whole | {"tenant_id": "other"}):
            answer = await ada.post(f"/results/{theirs}/claim", json=body)
            assert answer.status_code == 404
            item = {"op": "claim", "correlation_id": theirs, **body}
            batch = await ada.post("/results/batch", json={"items": [item]})
            assert [one["status"] for one in batch.json()["items"]] == [404]
            assert HIDDEN not in answer.text + batch.text
        trail = (await eve.get("/auditor/events", params={"limit": 500})).text
        assert HIDDEN in trail, "whose it is may see it"
