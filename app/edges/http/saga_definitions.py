"""Definitions of sagas over plain HTTP: register, list, show, and what a run would do."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.contract import instant
from app.edges.auth.scopes import CALL, need
from app.edges.bodies import is_json, parsed
from app.edges.http.operator import operator_of
from app.edges.http.replies import identity_of, reply
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.edges.sagas import Which, definition_for
from app.json_values import showable
from app.postgres.engine import tenant_transaction
from app.sagas import registry
from app.sagas.parse import load, parse
from app.sagas.store import definitions as saga_definitions
from app.sagas.store.definitions import Registered


def shown(one: Registered, *, whole: bool) -> dict[str, Any]:
    """A version of a definition, to a caller."""
    body: dict[str, Any] = {
        "name": one.name,
        "version": one.version,
        "description": one.definition.get("description", ""),
        "digest": one.digest.hex(),
        "registered_by": one.registered_by,
        "registered_at": instant(one.registered_at),
    }
    # A definition that an earlier release took can be deeper than answers are.
    named, value = (
        ("definition", one.definition) if whole else ("input", one.definition.get("input"))
    )
    return body | {named: showable(value)}


async def written(request: Request) -> Any:
    """The definition in a body: JSON, where it is said to be, else JSON or YAML.

    Raises:
        BrokerError: it is none that is taken.
    """
    body = await request.body()
    if is_json(request.headers.get("content-type")):
        return parsed(body)
    # A large YAML text takes a second to read, which no other request is to wait for.
    return await asyncio.to_thread(load, body)


def router(broker: Parts) -> APIRouter:
    """The routes of sagas; each works on the token's own tenant."""
    made = APIRouter(prefix="/sagas", route_class=StrictRoute)

    @made.post(
        "/definitions",
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {"application/json": {}, "application/yaml": {}},
            }
        },
    )
    async def register(request: Request) -> Response:
        """Register a definition, JSON or YAML: 201 for a new version, 200 for the newest again."""
        who = operator_of(request)
        definition = parse(await written(request))
        done = await registry.register(broker.database.engine, broker.catalog, who, definition)
        return reply(201 if done.new else 200, shown(done.registered, whole=True))

    @made.get("/definitions")
    async def definitions(
        request: Request,
        after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
    ) -> Response:
        """The newest version of each definition, by name, after one of them."""
        who = identity_of(request)
        need(who, CALL)
        async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
            found = await saga_definitions.newest(
                conn, tenant_id=who.tenant_id, after=after, limit=limit
            )
        more = found[-1].name if len(found) == limit else None
        return reply(
            200, {"definitions": [shown(one, whole=False) for one in found], "after": more}
        )

    @made.get("/definitions/{name}")
    async def definition(
        request: Request, name: str, version: Annotated[int | None, Query(ge=1)] = None
    ) -> Response:
        """One definition, by default its newest version."""
        who = identity_of(request)
        need(who, CALL)
        async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
            found = await registry.find(conn, who, name=name, version=version)
        return reply(200, shown(found, whole=True))

    @made.post("/dry-run")
    async def dry_run(request: Request, body: Which) -> Response:
        """What a run would do and how it would be undone; nothing is started."""
        who = identity_of(request)
        need(who, CALL)
        found = await definition_for(broker, who, body)
        return reply(200, registry.dry_run(found, body.input))

    return made
