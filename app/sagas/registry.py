"""Registering a saga's definition, and saying what a run of it would do and how it is undone."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any, Final

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.audit.store import events
from app.catalog.cache import Catalog
from app.errors import BadRequestError, InvalidArgumentsError, NotFoundError
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from app.sagas.check import Tools, named, prepared_input, problems
from app.sagas.definition import INLINE, Call, Definition, Step, as_json, call_json
from app.sagas.parse import parse, refused
from app.sagas.store import definitions
from app.sagas.store.definitions import Registered
from app.sagas.template import Room, TemplateError, render

LATER: Final = frozenset({"steps", "saga"})
"""Roots of references that nobody can know before the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What registering led to; `new` is False where the newest version says the same."""

    registered: Registered
    new: bool


async def checked(catalog: Catalog, who: Identity, definition: Definition) -> Definition:
    """The definition with each tool by tool and method, all of them tools that `who` may call.

    Raises:
        InvalidDefinitionError: `problems` has what does not fit the tools.
    """
    tools = Tools.of(await catalog.in_sagas(who))
    found = problems(definition, tools)
    if found:
        raise refused(found)
    return named(definition, tools)


async def register(
    engine: AsyncEngine, catalog: Catalog, who: Identity, definition: Definition
) -> Registration:
    """Make it the newest version of its name; said again unchanged, nothing is written.

    Raises:
        BadRequestError: it has no name.
        InvalidDefinitionError: it does not fit the tools that the caller may call.
    """
    if definition.name == INLINE:
        raise BadRequestError("A definition needs a `name` of its own to be registered.")
    body = as_json(await checked(catalog, who, definition))
    written = orjson.dumps(body, option=orjson.OPT_SORT_KEYS)
    digest = hashlib.sha256(b"mcpbroker.saga.v1\n" + written).digest()
    tenant_id, name = who.tenant_id, definition.name
    async with tenant_transaction(engine, tenant_id) as conn:
        await definitions.lock(conn)
        newest = await definitions.find(conn, tenant_id=tenant_id, name=name)
        if newest is not None and newest.digest == digest:
            return Registration(registered=newest, new=False)
        made = await definitions.insert(
            conn,
            tenant_id=tenant_id,
            name=name,
            definition=body,
            digest=digest,
            registered_by=who.user_id,
        )
        await events.append(
            conn,
            tenant_id=tenant_id,
            kind="saga.registered",
            actor=f"user:{who.user_id}",
            user_id=who.user_id,
            body={"name": name, "version": made.version, "digest": digest.hex()},
        )
    return Registration(registered=made, new=True)


async def find(
    conn: AsyncConnection, who: Identity, *, name: str, version: int | None = None
) -> Registered:
    """A definition of the caller's tenant, the newest where no version is named.

    Raises:
        NotFoundError: there is none.
    """
    found = await definitions.find(conn, tenant_id=who.tenant_id, name=name, version=version)
    if found is None:
        label = name if version is None else f"{name} version {version}"
        raise NotFoundError(f"There is no saga {label!r} registered.")
    return found


def definition_of(registered: Registered) -> Definition:
    """As it was registered."""
    return parse(dict(registered.definition), version=registered.version)


def dry_run(definition: Definition, given: Mapping[str, Any]) -> dict[str, Any]:
    """What a run would do, and how it would be undone; nothing is started.

    `plan` has the waves of steps that run beside each other. `undo_plan` is for a saga that fails
    when every step that can be undone is done, run one after the other.

    Raises:
        InvalidArgumentsError: the input does not fit, or is too much to be shown so often.
    """
    scope = {"input": prepared_input(definition, given)}
    room = Room()

    def shown(call: Call) -> dict[str, Any]:
        try:
            args = render(call.args, scope, keep=LATER, room=room)
        except TemplateError as error:
            raise InvalidArgumentsError(f"{error}. Nothing was started.") from error
        return call_json(call) | {"args": args}

    waves: list[list[dict[str, Any]]] = []
    done: list[Step] = []
    sorter = TopologicalSorter({step.id: step.needs for step in definition.steps})
    sorter.prepare()
    while sorter.is_active():
        ready = set(sorter.get_ready())
        steps = [step for step in definition.steps if step.id in ready]
        waves.append([_shown_step(step) | shown(step.call) for step in steps])
        done += steps
        sorter.done(*ready)
    undo = [
        {"undoes": step.id} | shown(step.compensate)
        for step in reversed(done)
        if step.compensate is not None
    ]
    pivot = definition.pivot
    note = "Nothing was started."
    if pivot is not None:
        note += f" Once {pivot.id!r} is done nothing is undone: the saga goes forward only."
    return {"dry_run": True, "plan": waves, "undo_plan": undo, "note": note}


def _shown_step(step: Step) -> dict[str, Any]:
    body = {"id": step.id, "kind": str(step.kind), "needs": list(step.needs)}
    if step.approval != "none":
        body["approval"] = step.approval
    return body
