"""Asking the person behind a client: before a call is accepted (MRTR), or while its task waits.

A tool whose policy says `approval: ask` is asked about where the client can show a question
(elicitation); for every other client its command waits for an operator. The answer comes with a
sealed state that names the very call, its caller and an end (SEP-2322), and makes at most one
command, as the state carries the command's idempotency key (`dialogue.py`).
"""

from collections.abc import Mapping
from enum import StrEnum
from secrets import token_hex
from typing import Any, Final

import orjson
from mcp import types
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import SecretStr, TypeAdapter, ValidationError

from app.catalog.policy import APPROVE, Tool
from app.catalog.redaction import redact
from app.edges.mcp.calls import Context, identity_of

QUESTION: Final = APPROVE
"""The key of the question that a call or its task asks; a saga's steps add their names."""
CONFIRM: Final = "confirm"
"""The property of its answer that must be true: "accept" alone may be a dismissed form."""
SHOWN_MAX: Final = 1000
"""Characters of the arguments in a question."""
ANSWER: Final = TypeAdapter[types.ElicitResult](types.ElicitResult)


def boundary(keys: tuple[SecretStr, ...], *, ttl_s: float) -> RequestStateBoundary:
    """The middleware that seals a question's state and refuses one that is not ours.

    Without keys the state is this process's own: another replica refuses it, and the client
    has to call again.
    """
    secrets = [key.get_secret_value() for key in keys] or [token_hex(32)]
    security = RequestStateSecurity(keys=secrets, ttl=ttl_s, bind_principal=_principal)
    return RequestStateBoundary(security, default_audience="mcp-broker")


def _principal(ctx: Context) -> str:
    who = identity_of(ctx)
    return f"{who.tenant_id}\n{who.user_id}\n{who.client_id}"


def can_ask(ctx: Context) -> bool:
    """Whether this request's client shows questions (elicitation in form mode)."""
    if ctx.protocol_version not in MODERN_PROTOCOL_VERSIONS:
        return False  # an answer of the older era could meet another replica
    capabilities = ctx.session.client_capabilities
    asked = None if capabilities is None else capabilities.elicitation
    return asked is not None and (asked.form is not None or asked.url is None)


def question(
    tool: Tool, args: Mapping[str, Any], *, step: str | None = None, others: str | None = None
) -> types.ElicitRequest:
    """What the person is asked, with the arguments that may be shown; `step` is of a saga.

    `others` says whom the call waits for after a yes.
    """
    shown = orjson.dumps(redact(dict(args), tool.input_schema)).decode()
    if len(shown) > SHOWN_MAX:
        shown = f"{shown[:SHOWN_MAX]} …"
    named = tool.title or tool.name
    if step is not None:
        named += f" (step {step!r} of the saga)"
    return types.ElicitRequest(
        params=types.ElicitRequestFormParams(
            message=f"Allow {named}? It would be called with {shown}"
            + (f". After your yes it waits for {others}." if others else ""),
            requested_schema={
                "type": "object",
                "properties": {CONFIRM: {"type": "boolean", "title": "Allow it"}},
                "required": [CONFIRM],
            },
        )
    )


class Decision(StrEnum):
    """What became of a question: MCP's three answers are three things."""

    APPROVED = "approved"
    DECLINED = "declined"
    DISMISSED = "dismissed"


SAID: Final = {
    Decision.APPROVED: "the person behind the client said yes",
    Decision.DECLINED: "the person behind the client said no",
    Decision.DISMISSED: "the question was dismissed without an answer",
}
"""As it is audited."""


def decision(responses: Mapping[str, Any] | None, key: str = QUESTION) -> Decision | None:
    """What the person said; None where there is no answer to this question.

    Raises:
        MCPError: the answer is not of the shape that was asked for.
    """
    answer = answer_in(responses, key)
    if answer is None:
        return None
    content = answer.content or {}
    match answer.action:
        case "accept" if not content:  # a form that was closed without a look at it
            return Decision.DISMISSED
        case "accept" if content.get(CONFIRM) is True:
            return Decision.APPROVED
        case "accept" | "decline":
            return Decision.DECLINED
        case "cancel":  # also what clients say that nobody sits at
            return Decision.DISMISSED


def answer_in(responses: Mapping[str, Any] | None, key: str) -> types.ElicitResult | None:
    """The answer to a question; None where there is none.

    Raises:
        MCPError: what is there is no answer.
    """
    response = None if responses is None else responses.get(key)
    if response is None:
        return None
    try:
        return ANSWER.validate_python(response, from_attributes=True)
    except ValidationError as error:
        raise MCPError(types.INVALID_PARAMS, f"inputResponses.{key} is no answer") from error
