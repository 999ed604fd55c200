"""What the edges do with sagas: run one, look at it, cancel or commit it, settle a step."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final
from uuid import UUID

from asyncpg.pool import PoolConnectionProxy
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog.cache import Compiled
from app.catalog.policy import Tool, ToolPolicy
from app.edges.calls import Accepted, accept
from app.edges.commands import cancel, may_see, whose
from app.edges.parts import Parts
from app.errors import NotFoundError
from app.identity import Identity
from app.intake.prepare import CallRequest
from app.intake.store import Written
from app.postgres.engine import tenant_transaction
from app.sagas import registry, runs
from app.sagas import view as saga_view
from app.sagas.check import prepared_input
from app.sagas.definition import Definition
from app.sagas.parse import Name, parse
from app.sagas.state import State
from app.sagas.store import sagas
from app.sagas.store.sagas import SagaRow, StepRow

PLAN: Final[dict[str, Any]] = {
    "type": "object",
    "description": "Steps that are not registered: each names a tool, its args, and the call that"
    " undoes it.",
    "properties": {
        "steps": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "properties": {
                    "id": {"type": "string"},
                    "tool": {"type": "string", "description": "A name of tools/list."},
                    "args": {
                        "type": "object",
                        "description": "May hold {{ steps.ID.result.x }} of earlier steps.",
                    },
                    "needs": {
                        "type": "array",
                        "items": {"type": "string"},
                        "description": "Steps to wait for; left out: the one before. []: none.",
                    },
                    "kind": {
                        "type": "string",
                        "enum": ["compensatable", "readonly", "pivot", "retriable"],
                    },
                    "compensate": {
                        "type": "object",
                        "description": "{tool, args}: undoes this step; must bear being repeated.",
                    },
                },
                "required": ["id", "tool"],
            },
        }
    },
    "required": ["steps"],
}
# The arguments of steps are audited with the steps, each redacted by its tool's schema.
SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "description": "Of a registered saga."},
        "version": {"type": "integer", "description": "From 1 on; the newest by default."},
        "plan": {**PLAN, "x-sensitive": True},
        "input": {
            "type": "object",
            "x-sensitive": True,
            "description": "What the registered saga asks for.",
        },
        "dry_run": {
            "type": "boolean",
            "default": False,
            "description": "Only show the plan and the undo plan.",
        },
    },
    "additionalProperties": False,
}
RUN: Final = Tool(
    tool="saga",
    method="run",
    name="saga_run",
    title="Do several steps, or none",
    description=(
        "Run several tool calls as one piece of work: if a step fails, times out or is cancelled,"
        " the steps that were done are undone in reverse order. Use it when a half-done job would"
        " be worse than none; for a single call use the tool itself. Give either `name` of a"
        " registered saga and its `input`, or a `plan` with steps of tools that you can see in"
        " tools/list, each with the call that undoes it. Try `dry_run: true` first: it shows what"
        " would be done and undone. The answer has every step's result, or says what failed and"
        " that it was undone. If it answers 'accepted', ask saga_status; do not run it again."
    ),
    input_schema=SCHEMA,
    output_schema=None,
    annotations={"readOnlyHint": False, "destructiveHint": True, "openWorldHint": True},
    policy=ToolPolicy(),
    digest=b"",
)
COMPILED: Final = Compiled.of(RUN)


class Which(BaseModel):
    """A registered saga by name, or a plan that comes with the request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name | None = Field(default=None, description="Of a registered saga.")
    version: int | None = Field(default=None, ge=1, description="The newest by default.")
    plan: dict[str, JsonValue] | None = Field(default=None, description="A definition, inline.")
    input: dict[str, JsonValue] = Field(default_factory=dict)

    @model_validator(mode="after")
    def one(self) -> "Which":
        """Exactly one of the two."""
        if (self.name is None) == (self.plan is None):
            raise ValueError("give either `name` or `plan`")
        if self.version is not None and self.name is None:
            raise ValueError("`version` goes with `name`")
        return self


async def definition_for(broker: Parts, who: Identity, which: Which) -> Definition:
    """The definition that is meant, checked against what its caller may call.

    Raises:
        NotFoundError: no such saga is registered in the caller's tenant.
        InvalidDefinitionError: the plan cannot be run, or holds tools that the caller may not call.
    """
    if which.name is None:
        found = parse(which.plan)
    else:
        async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
            registered = await registry.find(conn, who, name=which.name, version=which.version)
        found = registry.definition_of(registered)
    return await registry.checked(broker.catalog, who, found)


async def run(
    broker: Parts,
    who: Identity,
    which: Which,
    request: CallRequest,
    *,
    wait_s: float | None = None,
) -> Accepted:
    """Accept a saga: durable when this returns; the relay takes it from there.

    Raises:
        BrokerError: as `definition_for` and `broker.submit`; nothing was written.
    """
    definition = await definition_for(broker, who, which)
    given = prepared_input(definition, which.input)
    deadline_s = request.deadline_s or definition.deadline_s
    asked = replace(request, accept_async=False, deadline_s=deadline_s)
    call = await broker.preparer.prepare_own(who, asked, COMPILED)
    call = replace(call, saga_role="saga", saga_id=call.correlation_id)

    async def write(conn: PoolConnectionProxy) -> Written | None:
        return await runs.begin(conn, call, definition, given)

    return await accept(broker, who, call, RUN, write=write, wait_s=wait_s)


async def find(broker: Parts, who: Identity, saga_id: UUID) -> tuple[SagaRow, list[StepRow]]:
    """A saga of the caller's own; of its whole tenant for an operator.

    Raises:
        NotFoundError: no such saga, in the same words whoever's it is.
    """
    async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
        saga = await sagas.find(conn, saga_id)
        if saga is None or not may_see(who, saga.user_id):
            raise NotFoundError(f"You have no saga {saga_id}.")
        return saga, await sagas.steps(conn, saga_id)


async def listing(
    broker: Parts,
    who: Identity,
    *,
    states: Sequence[State] | None,
    before: UUID | None,
    limit: int,
    everyone: bool = False,
) -> list[SagaRow]:
    """The caller's sagas, newest first; its tenant's where an operator asks for everyone's."""
    async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
        return await sagas.listing(
            conn,
            tenant_id=who.tenant_id,
            user_id=whose(who, everyone=everyone),
            states=states,
            before=before,
            limit=limit,
        )


async def stop(broker: Parts, who: Identity, saga_id: UUID, *, reason: str) -> Mapping[str, Any]:
    """Ask for a saga to be undone; past its pivot it goes on, and says so.

    Raises:
        NotFoundError: no such saga of the caller's.
        SagaClosedError: it has completed.
    """
    saga, _ = await find(broker, who, saga_id)
    if saga.kind == "declared":
        await cancel(broker, who, saga_id, reason=reason)
        return saga_view.view(*await find(broker, who, saga_id))
    actor = f"user:{who.user_id}"
    abort = partial(runs.abort, actor=actor, reason=reason)
    return await _act(broker, who, saga_id, abort)


async def commit(broker: Parts, who: Identity, saga_id: UUID) -> Mapping[str, Any]:
    """Say that an ad hoc saga has all its steps.

    Raises:
        NotFoundError: no such saga of the caller's.
        SagaClosedError: it is being undone, or was.
    """
    await find(broker, who, saga_id)
    close = partial(runs.close, actor=f"user:{who.user_id}")
    return await _act(broker, who, saga_id, close)


async def settle(
    broker: Parts,
    who: Identity,
    saga_id: UUID,
    *,
    step: str,
    verb: runs.Verb,
    outcome: runs.Outcome | None,
    reason: str,
) -> Mapping[str, Any]:
    """An operator's decision on a step that a saga waits for.

    Raises:
        NotFoundError, NotCancellableError: as `saga_runs.settle`.
    """
    await find(broker, who, saga_id)
    actor = f"operator:{who.user_id}"
    settling = partial(
        runs.settle, step=step, verb=verb, outcome=outcome, actor=actor, reason=reason
    )
    return await _act(broker, who, saga_id, settling)


async def _act(
    broker: Parts,
    who: Identity,
    saga_id: UUID,
    verb: Callable[[AsyncConnection, SagaRow], Awaitable[None]],
) -> Mapping[str, Any]:
    """Apply a verb to a saga that the caller may name, locked; then show it."""
    async with tenant_transaction(broker.database.engine, who.tenant_id) as conn:
        saga = await sagas.lock(conn, saga_id)
        assert saga is not None, "sagas are never deleted while they are read"
        await verb(conn, saga)
    broker.notifier.sagas()
    return saga_view.view(*await find(broker, who, saga_id))
