"""What a saga's tick knows, and the calls it makes of that: to start, find out, or undo a step."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import uuid_utils.compat as uuid_utils
from sqlalchemy.ext.asyncio import AsyncConnection

from app.catalog import store as catalog_store
from app.catalog.adapter import ToolAdapter
from app.catalog.cache import Compiled
from app.catalog.ordering import bounded
from app.catalog.policy import Ordering, Tool, ToolPolicy
from app.catalog.redaction import PERSONAL, redact
from app.catalog.rules import Asked
from app.commands.state import State as CommandState
from app.commands.store.commands import Command
from app.contract import Priority
from app.errors import cut
from app.intake.approving import approving
from app.intake.call import Call as Intent
from app.intake.call import fingerprint
from app.json_values import JsonRefusedError, checked, integral
from app.sagas.definition import Call, Definition, StepKind
from app.sagas.definition import Step as DefinedStep
from app.sagas.marked import Marked
from app.sagas.state import StepEvent
from app.sagas.store.sagas import SagaRow, StepRow
from app.sagas.template import TemplateError, references, render

ACTOR: Final = "saga"
UNDO_ATTEMPTS: Final = 5
"""An undo is tried at least so often, whatever its tool says."""
FORWARD_ATTEMPTS: Final = 20
"""A retriable step is, before an operator is asked."""

Tools = Callable[[str, str], Awaitable[Compiled | None]]
"""(tool, method) -> the tool, None where it is out of service."""


class UnmadeError(Exception):
    """A step's call could not be made; the message says why."""


@dataclass(slots=True, kw_only=True)
class SagaTick:
    """One saga in one transaction."""

    conn: AsyncConnection
    tools: Tools
    deadline_s: float
    grace_s: float
    saga: SagaRow
    root: Command | None
    definition: Definition | None
    steps: dict[str, StepRow]
    commands: dict[UUID, Command]
    woken: list[UUID]
    ended: list[Command]
    asking: set[UUID]
    """Commands that wait for somebody's approval."""


async def intent(tick: SagaTick, row: StepRow, event: StepEvent) -> Intent:
    """The call that starts, finds out about, or undoes a step.

    Raises:
        UnmadeError: a reference finds nothing, the arguments do not fit, or the tool is gone.
    """
    defined = None if tick.definition is None else tick.definition.step(row.step)
    call, role = _call(row, defined, event)
    try:
        args = render(call.args, _scope(tick)) if defined is not None else dict(call.args)
        # A result within a template can be deeper than either.
        args = integral(args, checked(args))
        key = await _ordering_key(tick, row, defined, event)
    except (TemplateError, JsonRefusedError) as error:
        raise UnmadeError(cut(str(error))) from error
    found = await tick.tools(call.tool, call.method)
    tool = None if found is None else found.tool
    if tool is None and event is not StepEvent.UNDO:
        raise UnmadeError(f"There is no tool {call.path!r} any more.")
    if found is not None:
        for problem in found.validator.iter_errors(args):
            raise UnmadeError(f"{found.tool.name}: {cut(problem.message)}")
    policy = ToolPolicy() if tool is None else tool.policy
    if key is None and event is StepEvent.START and found is not None:
        key = found.key_of(args)
    return Intent(
        correlation_id=uuid_utils.uuid7(),
        tenant_id=tick.saga.tenant_id,
        user_id=tick.saga.user_id,
        actor=ACTOR,
        tool=call.tool,
        method=call.method,
        args=args,
        args_audited=redact(args, None if tool is None else tool.input_schema),
        idempotency_key=f"saga:{tick.saga.id}:{row.step}:{row.issues + 1}",
        key_source="saga",
        dedupe_key=None,
        fingerprint=fingerprint(
            user_id=tick.saga.user_id,
            tool=call.tool,
            method=call.method,
            args=args,
            ordering_key=key,
            saga_id=tick.saga.id,
            saga_step=row.step,
        ),
        ordering_key=key,
        ordering=None if key is None else _ordering(policy, event),
        deadline_s=_timeout_s(defined, event) or policy.deadline_s or tick.deadline_s,
        priority=Priority.CRITICAL if role != "step" else Priority.named(policy.priority),
        accept_async=False,
        accept_partials=False,
        attempts_max=_attempts(policy, defined, role),
        **_approving(tick, found, defined, args, event),
        saga_id=tick.saga.id,
        saga_step=row.step,
        saga_role=role,
        labels=_labels(tick, row),
        traceparent=None if tick.root is None else tick.root.traceparent,
        topic=await _topic(tick, call, tool),
    )


def _labels(tick: SagaTick, row: StepRow) -> tuple[str, ...]:
    """A saga's steps are found by its labels; an ad hoc step's undo by that step's."""
    command = tick.root or (tick.commands.get(row.command_id) if row.command_id else None)
    return () if command is None else tuple(command.labels or ())


async def _topic(tick: SagaTick, call: Call, tool: Tool | None) -> str | None:
    """Where the call's executor reads; that of a tool that is out of service goes on, too."""
    if tool is not None:
        return tool.topic
    found = await catalog_store.work(
        tick.conn, tenant_id=tick.saga.tenant_id, tool=call.tool, method=call.method
    )
    return None if found is None else ToolAdapter.model_validate(found[0]).topic


def _call(row: StepRow, defined: DefinedStep | None, event: StepEvent) -> tuple[Call, Any]:
    match event:
        case StepEvent.START:
            assert defined is not None, "an ad hoc step comes with its command"
            role = "retriable" if defined.kind is StepKind.RETRIABLE else "step"
            return defined.call, role
        case StepEvent.RECONCILE:
            assert defined is not None
            assert defined.reconcile is not None
            return defined.reconcile, "reconcile"
        case _:
            if defined is None:
                assert row.compensation is not None
                compensation = row.compensation
                return Call(
                    tool=compensation["tool"],
                    method=compensation["method"],
                    args=compensation["args"],
                ), "undo"
            assert defined.compensate is not None
            return defined.compensate, "undo"


def _scope(tick: SagaTick) -> dict[str, Any]:
    done = {
        row.step: {"result": result}
        for row in tick.steps.values()
        if row.done_seq is not None and (result := _result(tick, row)) is not None
    }
    return {"input": tick.saga.input or {}, "steps": done, "saga": {"id": str(tick.saga.id)}}


def _result(tick: SagaTick, row: StepRow) -> Any:
    """What a step came to; where its outcome was asked for, what the answer says of it."""
    command = tick.commands.get(row.command_id) if row.command_id else None
    if command is not None and command.state is CommandState.SUCCEEDED:
        return command.result
    asked = tick.commands.get(row.reconcile_id) if row.reconcile_id else None
    if asked is not None and isinstance(asked.result, dict):
        return asked.result.get("result")
    return None


async def _ordering_key(
    tick: SagaTick, row: StepRow, defined: DefinedStep | None, event: StepEvent
) -> str | None:
    """An undo waits where its step did; what finds out waits for nobody."""
    if event is StepEvent.RECONCILE:
        return None
    if event is StepEvent.UNDO:
        command = tick.commands.get(row.command_id) if row.command_id else None
        return None if command is None else command.ordering_key
    assert defined is not None
    if defined.ordering_key is None:
        return None
    assert tick.definition is not None
    rendered = str(render(defined.ordering_key, _scope(tick)))
    tools = [
        await tick.tools(call.tool, call.method)
        for step in tick.definition.steps
        for _, call in step.calls()
    ]
    known = {one.tool.path: one.tool for one in tools if one is not None}
    marked = Marked(tick.definition, lambda call: known.get(call.path), PERSONAL, by_reference=True)
    hidden = any(marked.may_be_in(one) for one in references(defined.ordering_key))
    return bounded(rendered, shown="" if hidden else rendered)


def _ordering(policy: ToolPolicy, event: StepEvent) -> Ordering:
    return Ordering.COMPLETION if event is StepEvent.UNDO else policy.ordering


def _timeout_s(defined: DefinedStep | None, event: StepEvent) -> float | None:
    return defined.timeout_s if defined is not None and event is StepEvent.START else None


def _attempts(policy: ToolPolicy, defined: DefinedStep | None, role: str) -> int:
    asked = None if defined is None else defined.attempts_max
    match role:
        case "undo":
            return max(policy.retry.attempts_max, UNDO_ATTEMPTS)
        case "retriable":
            return asked or max(policy.retry.attempts_max, FORWARD_ATTEMPTS)
        case "step":
            return asked or policy.retry.attempts_max
        case _:
            return policy.retry.attempts_max


def _approving(
    tick: SagaTick,
    found: Compiled | None,
    defined: DefinedStep | None,
    args: Mapping[str, Any],
    event: StepEvent,
) -> dict[str, Any]:
    """Whether a step waits for persons: by its tool's policy or by its definition.

    Of its user only the name is known here, so a rule over groups or scopes asks.
    """
    if event is not StepEvent.START:
        return {}
    labels = (tick.root.labels or ()) if tick.root is not None else ()
    asked = Asked(args=args, tenant=tick.saga.tenant_id, user=tick.saga.user_id, labels=labels)
    said = "none" if defined is None else defined.approval
    return approving(found, asked, step=said).of_call()
