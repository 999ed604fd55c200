"""Asking at the console's page of an approval: elicitation in URL mode, of either era.

The call is accepted first and waits, so that there is something to decide about. The URL names the
command and nothing else: whoever opens it signs in, and decides what is theirs to decide. That a
client says "accept" is its person's consent to look at the page, and no decision.
"""

import contextlib
from typing import Any, Final

from mcp import types
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from app.commands.approvals import has_approved, refusal, route_of
from app.commands.store.commands import Command
from app.config import Settings
from app.edges.auth.scopes import OPERATE
from app.edges.calls import Accepted
from app.edges.commands import decide, find
from app.edges.mcp.asking.approval import QUESTION, SAID, Decision, answer_in, can_ask
from app.edges.mcp.asking.dialogue import Dialogue, audit
from app.edges.mcp.calls import Context
from app.edges.parts import Parts
from app.errors import NotCancellableError
from app.identity import Identity
from app.intake.prepare import CallRequest

ASKS: Final = "broker.asks"
"""In the scope of a request of the older era whose client can be asked: what says it a message."""
DECISIONS: Final = {
    "accept": None,
    "decline": Decision.DECLINED,
    "cancel": Decision.DISMISSED,
}
"""What MCP's three answers say of a page that was offered."""


def opens(settings: Settings, ctx: Context) -> bool:
    """Whether this request's person is asked at the console.

    The client opens URLs, people can sign in, and it is not the form that goes first.
    """
    if settings.approvals_url is None or ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return False
    capabilities = ctx.session.client_capabilities
    asked = None if capabilities is None else capabilities.elicitation
    if asked is None or asked.url is None:
        return False
    return settings.elicitation_first == "url" or not can_ask(ctx)


def offered(command: Command, who: Identity) -> bool:
    """Whether the person behind the client may decide about a call, and has not yet."""
    if not command.awaits_approval or has_approved(command, who.user_id):
        return False
    route, operator = route_of(command, who), OPERATE in who.scopes
    return refusal(command, who, approve=True, route=route, operator=operator) is None


def elicitation(
    settings: Settings, command: Command, *, title: str, named: bool = False
) -> types.ElicitRequest:
    """The page, as a client offers it; `named` with the id that the older era has for that."""
    assert settings.approvals_url is not None, "people can sign in"
    return types.ElicitRequest(
        params=types.ElicitRequestURLParams(
            message=(
                f"{title} waits for your approval. Sign in at the broker's console to see what it"
                " would do, and decide there; the call then goes on by itself."
            ),
            url=f"{settings.approvals_url}/{command.id}",
            elicitation_id=str(command.id) if named else None,
        )
    )


async def ask(
    broker: Parts,
    who: Identity,
    accepted: Accepted,
    params: types.CallToolRequestParams,
) -> types.InputRequiredResult | None:
    """The page for an accepted call that waits for its person; None where it is to be waited for.

    The state that goes with it leads to this very command, whatever has become of it by then.

    Raises:
        MCPError: the answer is not of an answer's shape.
    """
    tool = accepted.tool
    if tool.policy.approval.by == "none":
        return None
    command = await find(broker, who, accepted.written.id)
    if not offered(command, who):
        return None
    so_far = Dialogue.of(params.request_state)
    if so_far.found is not None and answer_in(params.input_responses, QUESTION) is not None:
        await answer(broker, who, command, said(params.input_responses))
        return None
    shown = elicitation(broker.settings, command, title=tool.title or tool.name)
    found = so_far.model_copy(update={"found": command.idempotency_key})
    return found.asking(QUESTION, shown)


def said(responses: Any, key: str = QUESTION) -> Decision | None:
    """What a client's answer to the offer of a page says; None for consent, or no answer.

    Raises:
        MCPError: it is not of an answer's shape.
    """
    found = answer_in(responses, key)
    return None if found is None else DECISIONS[found.action]


async def answer(broker: Parts, who: Identity, command: Command, found: Decision | None) -> None:
    """Take the answer to the offer of a page: a no ends the call, a dismissal is audited."""
    if found is Decision.DISMISSED:
        request = CallRequest(tool=command.tool, method=command.method, args={})
        await audit(broker, who, request, found)
    elif found is Decision.DECLINED:
        route = route_of(command, who)
        with contextlib.suppress(NotCancellableError):  # somebody else was first
            await decide(broker, who, command, approve=False, reason=SAID[found], route=route)


def tells(ctx: Context) -> bool:
    """Whether this request's stream is of the older era, and its client opens URLs."""
    return ctx.request is not None and ASKS in ctx.request.scope


async def completed(ctx: Context, command: Command) -> None:
    """Tell a client of the older era that the page it was offered is done with."""
    if tells(ctx):
        params = types.ElicitCompleteNotificationParams(elicitation_id=str(command.id))
        done = types.ElicitCompleteNotification(params=params)
        await ctx.session.send_notification(done, related_request_id=ctx.request_id)
