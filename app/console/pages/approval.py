"""One approval: where a client sends its person to decide (MCP's elicitation in URL mode).

In no navigation, and open to whoever has signed in: the address names a call and gives no right to
it. Who decides here does so as the person of the session, by the rules of every other decision.
"""

from typing import Final
from uuid import UUID

from fastapi import APIRouter, Request, Response

from app.commands.approvals import has_approved, refusal, route_of, waits_for
from app.commands.store.commands import Command
from app.console import shown
from app.console.parts import BASE, Console, form_of, who_of
from app.edges import commands as acts
from app.edges.auth.scopes import OPERATE
from app.errors import BadRequestError
from app.identity import Identity

PATH: Final = f"{BASE}/approvals"
OWN: Final = "said at the console by the person who made the call"
"""The reason of who gives none; others have to give one."""


def router(console: Console) -> APIRouter:
    """The page, and the decision."""
    made = APIRouter(include_in_schema=False)

    @made.get("/{call_id}")
    async def approval(request: Request, call_id: UUID) -> Response:
        """What is asked, of whom, and what is to be said to it."""
        return await _shown(console, request, call_id)

    @made.post("/{call_id}")
    async def decide(request: Request, call_id: UUID) -> Response:
        """Take the yes or the no."""
        who = who_of(request)
        form = await form_of(request)
        verb = form.get("verb")
        if verb not in {"approve", "deny"}:
            raise BadRequestError("Say whether it may go: approve, or deny.")
        command = await acts.decidable(console.broker, who, call_id)
        own = command.user_id == who.user_id and not form.get("reason").strip()
        await acts.decide(
            console.broker,
            who,
            command,
            approve=verb == "approve",
            reason=OWN if own else form.reason(),
            route=route_of(command, who),
        )
        return await _shown(console, request, call_id, said=verb)

    return made


async def _shown(
    console: Console, request: Request, call_id: UUID, *, said: str | None = None
) -> Response:
    who = who_of(request)
    command = await acts.decidable(console.broker, who, call_id)
    tool = await console.broker.catalog.tool(command.tool, command.method)
    return console.page(
        request,
        "approval.html",
        command=command,
        title=f"{command.tool}/{command.method}" if tool is None else tool.title or tool.name,
        arguments=await shown.arguments(console.broker.catalog, command),
        waits=waits_for(command) if command.awaits_approval else None,
        told=shown.told(command),
        why_not=_why_not(command, who),
        own=command.user_id == who.user_id,
        said=said,
        url=f"{PATH}/{command.id}",
    )


def _why_not(command: Command, who: Identity) -> str | None:
    """Why there is nothing to be decided by this person; None where there is."""
    if not command.awaits_approval:
        return "Nothing is left to decide about this call."
    if has_approved(command, who.user_id):
        return "Your yes is counted."
    route, operator = route_of(command, who), OPERATE in who.scopes
    return refusal(command, who, approve=True, route=route, operator=operator)
