"""What a task asks the person behind its client while it waits: its approval, or a saga's steps'.

A saga's steps run beside each other, so its task may ask several things at once; each answer lets
its own step go (SEP-2663, "Input Required Tasks").
"""

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from mcp import types

from app.commands.approvals import Needed, has_approved, refusal
from app.commands.store import commands
from app.commands.store.commands import Command
from app.edges.commands import decide
from app.edges.mcp.asking import page
from app.edges.mcp.asking.approval import QUESTION, SAID, Decision, can_ask, decision, question
from app.edges.mcp.calls import Context, identity_of
from app.edges.parts import Parts
from app.errors import NotCancellableError
from app.identity import Identity
from app.postgres.engine import tenant_transaction
from app.sagas.store import sagas
from app.sagas.store.sagas import SagaRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question, and the command that its answer releases or ends."""

    command: Command
    request: types.ElicitRequest


async def asked(broker: Parts, ctx: Context, task: Command) -> dict[str, Asked]:
    """What a task asks now, by the key of each question; nothing where its client cannot ask."""
    at_console = page.opens(broker.settings, ctx)
    if task.final or not (at_console or can_ask(ctx)):
        return {}
    who = identity_of(ctx)
    found = {key: one async for key, one in _open(broker, task, at_console=at_console)}
    if at_console:
        return {key: one for key, one in found.items() if page.offered(one.command, who)}
    return {key: one for key, one in found.items() if _counts(one.command, who)}


def _counts(command: Command, who: Identity) -> bool:
    """Whether the answer of the person behind the client would be counted, and is not yet."""
    if has_approved(command, who.user_id):
        return False
    return refusal(command, who, approve=True, route="asked", operator=False) is None


async def answer(
    broker: Parts, ctx: Context, who: Identity, task: Command, responses: Mapping[str, Any] | None
) -> None:
    """Take a person's answers; one that nothing waits for is ignored, as the spec says.

    What was dismissed stays open, for an operator or for the person to come back to.

    Raises:
        MCPError: an answer is not of the shape that was asked for.
    """
    at_console = page.opens(broker.settings, ctx)
    judged = page.said if at_console else decision
    answered = [
        (one.command, found)
        for key, one in (await asked(broker, ctx, task)).items()
        if (found := judged(responses, key)) is not None
    ]
    for command, found in answered:
        if at_console or found is Decision.DISMISSED:
            await page.answer(broker, who, command, found)
            continue
        with contextlib.suppress(NotCancellableError):  # somebody else was first
            await decide(
                broker,
                who,
                command,
                approve=found is Decision.APPROVED,
                reason=SAID[found],
                route="asked",
            )


async def _open(
    broker: Parts, task: Command, *, at_console: bool
) -> AsyncIterator[tuple[str, Asked]]:
    ask = _offered if at_console else _asked
    if task.saga_role != "saga":
        if task.awaits_approval and (
            found := await ask(broker, task, await _saga_of(broker, task))
        ):
            yield QUESTION, found
        return
    async with tenant_transaction(broker.database.engine, task.tenant_id) as conn:
        saga = await sagas.find(conn, task.id)
        rows = await sagas.steps(conn, task.id)
        ids = [row.command_id for row in rows if row.command_id is not None]
        found = {one.id: one for one in await commands.find_many(conn, ids) if one.awaits_approval}
    for row in rows:
        command = None if row.command_id is None else found.get(row.command_id)
        if command is not None and (one := await ask(broker, command, saga)):
            yield f"{QUESTION} {row.step}", one


async def _saga_of(broker: Parts, command: Command) -> SagaRow | None:
    if command.saga_id is None:
        return None
    async with tenant_transaction(broker.database.engine, command.tenant_id) as conn:
        return await sagas.find(conn, command.saga_id)


async def _asked(broker: Parts, command: Command, saga: SagaRow | None) -> Asked | None:
    tool = await broker.catalog.tool(command.tool, command.method)
    if tool is None:
        return None
    whose = {tool.policy.approval.by, _said_of_step(command, saga)}
    if command.approval_rule is not None:
        whose = {Needed.of(command).by}
    if "ask" not in whose or "operator" in whose:
        return None
    return Asked(
        command=command, request=question(tool, command.args or {}, step=command.saga_step)
    )


async def _offered(broker: Parts, command: Command, saga: SagaRow | None) -> Asked | None:
    """The console's page of a call; who may decide there is judged by the call."""
    tool = await broker.catalog.tool(command.tool, command.method)
    if tool is None:
        return None
    title = tool.title or tool.name
    if saga is not None and command.saga_step is not None:
        title += f" (step {command.saga_step!r} of the saga)"
    return Asked(command=command, request=page.elicitation(broker.settings, command, title=title))


def _said_of_step(command: Command, saga: SagaRow | None) -> str | None:
    """Who may let a step of a declared saga go, by its definition."""
    steps = () if saga is None or saga.plan is None else saga.plan["steps"]
    return next((one["approval"] for one in steps if one["id"] == command.saga_step), None)
