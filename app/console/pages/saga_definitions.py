"""Definitions of sagas: their versions, their graph, and what a run would do."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from app.console import dag
from app.console.forms import Form
from app.console.parts import Console, form_of, who_of
from app.edges.bodies import number, parsed
from app.edges.sagas import Which, definition_for
from app.errors import BadRequestError, BrokerError, NotFoundError
from app.identity import Identity
from app.json_values import PlainText
from app.postgres.engine import tenant_transaction
from app.sagas import registry
from app.sagas.definition import Definition, as_json
from app.sagas.parse import load, parse
from app.sagas.store import definitions

LIMIT: Final = 50
VERSIONS_MAX: Final = 50
VERSION_MAX: Final = 2**31 - 1
NAME_CHARS_MAX: Final = 64

Name = Annotated[PlainText, Query(max_length=NAME_CHARS_MAX)]
Version = Annotated[int, Query(ge=1, le=VERSION_MAX)]


def add(made: APIRouter, console: Console) -> None:
    """The routes of definitions, above those of one saga."""

    @made.get("/definitions")
    async def listed(request: Request, after: Name | None = None) -> Response:
        """The newest version of each, by name."""
        who = who_of(request)
        async with tenant_transaction(console.broker.database.engine, who.tenant_id) as conn:
            found = await definitions.newest(
                conn, tenant_id=who.tenant_id, after=after, limit=LIMIT
            )
        more = found[-1].name if len(found) == LIMIT else None
        return console.page(
            request, "saga_definitions.html", found=found, more=more, first=after is None
        )

    @made.get("/definitions/{name}")
    async def definition(
        request: Request,
        name: PlainText,
        version: Version | None = None,
        before: Version | None = None,
    ) -> Response:
        """One version, by default the newest, with those before it."""
        who = who_of(request)
        if len(name) > NAME_CHARS_MAX:
            raise NotFoundError("There is no saga of such a name registered.")
        async with tenant_transaction(console.broker.database.engine, who.tenant_id) as conn:
            found = await registry.find(conn, who, name=name, version=version)
            versions = await definitions.versions(
                conn, tenant_id=who.tenant_id, name=name, before=before, limit=VERSIONS_MAX
            )
        known = registry.definition_of(found)
        return console.page(
            request,
            "saga_definition.html",
            one=found,
            known=known,
            versions=versions,
            older=versions[-1].version if len(versions) == VERSIONS_MAX else None,
            drawing=drawing_of(known),
            by_id={step.id: step for step in known.steps},
        )

    _add_plan(made, console)


def _add_plan(made: APIRouter, console: Console) -> None:
    """The dry run: its form, and what comes of it."""

    @made.get("/plan")
    async def form(
        request: Request, name: Name | None = None, version: Version | None = None
    ) -> Response:
        """The form of a dry run."""
        blank = {"name": name or "", "version": str(version or ""), "plan": "", "input": ""}
        return console.page(request, "saga_plan.html", asked=blank, done=None, error=None)

    @made.post("/plan")
    async def planned(request: Request) -> Response:
        """What a run would do and how it would be undone; nothing is started."""
        sent = await form_of(request)
        asked = {name: sent.get(name) for name in ("name", "version", "plan", "input")}
        try:
            done = await _planned(console, who_of(request), sent)
        except BrokerError as error:
            if error.status >= 500:  # noqa: PLR2004
                raise
            return console.page(
                request,
                "saga_plan.html",
                status=error.status,
                asked=asked,
                done=None,
                error=error,
                problems=error.fields.get("problems", ()),
            )
        return console.page(request, "saga_plan.html", asked=asked, done=done, error=None)


def drawing_of(known: Definition) -> dag.Drawing:
    """The graph of a definition's steps."""
    return dag.draw({step.id: step.needs for step in known.steps})


async def _planned(console: Console, who: Identity, form: Form) -> Mapping[str, Any]:
    """A dry run, with the graph of what it would do."""
    name, plan, given = (form.get(one).strip() for one in ("name", "plan", "input"))
    if bool(name) == bool(plan):
        raise BadRequestError("Give either the name of a registered saga, or a plan.")
    inputs = parsed(given.encode()) if given else {}
    if not isinstance(inputs, dict):
        raise BadRequestError("The input is a JSON object.")
    written = None
    if plan:
        # A large YAML text takes a second to read, which no other request is to wait for.
        written = as_json(parse(await asyncio.to_thread(load, plan)))
    version = _version(form.get("version")) if name else None
    try:
        which = Which(name=name or None, version=version, plan=written, input=inputs)
    except ValidationError as error:
        raise BadRequestError(
            "A saga's name is of lower-case letters, digits, - and _, up to 64."
        ) from error
    known = await definition_for(console.broker, who, which)
    found = registry.dry_run(known, which.input)
    return {
        **found,
        "known": known,
        "drawing": drawing_of(known),
        "by_id": {step.id: step for step in known.steps},
    }


def _version(text: str) -> int | None:
    text = text.strip()
    if not text:
        return None
    found = number(text)
    if found is None or not 1 <= found <= VERSION_MAX:
        raise BadRequestError("A version is a number from 1.")
    return found
