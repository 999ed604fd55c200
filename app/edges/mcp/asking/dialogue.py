"""What a call's person is asked before it is accepted: arguments that it lacks, then its approval.

One question an answer (SEP-2322), and nothing is written until the last one is answered. What was
answered so far is in the sealed state, so any replica can go on.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Self
from uuid import uuid4

import jsonschema_rs
from mcp import types
from pydantic import BaseModel, ConfigDict, Field

from app.catalog.policy import Question, Tool
from app.commands.approvals import Needed, whom
from app.edges.mcp.asking.approval import QUESTION, SAID, Decision, answer_in, decision
from app.edges.mcp.asking.approval import question as approval_question
from app.edges.parts import Parts
from app.errors import DeclinedError, UnansweredError
from app.identity import Identity
from app.intake.call import Call
from app.intake.prepare import CallRequest

DECLINED: Final = "call.declined"
DISMISSED: Final = "call.dismissed"


class Dialogue(BaseModel):
    """What the state says of the questions so far."""

    model_config = ConfigDict(frozen=True)

    id: str = Field(default_factory=lambda: str(uuid4()))
    """The idempotency key of a call that brings none: one dialogue makes one command."""
    asked: str = ""
    found: str | None = None
    """The key of the call's command, where that waits for an approval at the console."""
    given: dict[str, Any] = Field(default_factory=dict)

    @classmethod
    def of(cls, state: str | None) -> Self:
        """What the client brought back, which is of our own making; a new one where it is none."""
        return cls() if state is None else cls.model_validate_json(state)

    def asking(self, key: str, asked: types.ElicitRequest) -> types.InputRequiredResult:
        """The answer to a call that has to come again, with the answer to this."""
        state = self.model_copy(update={"asked": key}).model_dump_json()
        return types.InputRequiredResult(input_requests={key: asked}, request_state=state)

    def keyed(self, request: CallRequest) -> CallRequest:
        """The call that this ends in, found again by the same answers."""
        own = self.found or f"asked:{self.id}"
        return replace(request, idempotency_key=request.idempotency_key or own)


async def ask(
    broker: Parts,
    who: Identity,
    tool: Tool,
    params: types.CallToolRequestParams,
    request: CallRequest,
    *,
    approves: bool,
) -> types.InputRequiredResult | CallRequest:
    """The next question, or the call with all that its person has said.

    Raises:
        DeclinedError: the person said no; it is audited.
        UnansweredError: nobody gave the arguments that are asked for; it is audited.
        BrokerError: as `Catalog.prepare` says.
    """
    so_far = Dialogue.of(params.request_state)
    question = missing(tool, {**request.args, **so_far.given})
    if question is not None and so_far.asked == question.key:
        answer = answered(question, tool, params.input_responses)
        if isinstance(answer, Decision):
            await audit(broker, who, request, answer)
            raise refused(tool, answer, question)
        so_far = so_far.model_copy(update={"given": {**so_far.given, **answer}})
        question = missing(tool, {**request.args, **so_far.given})
    if question is not None:
        return so_far.asking(question.key, elicitation(question, tool))
    request = replace(request, args={**request.args, **so_far.given})
    if approves:
        return await _approved(broker, who, tool, params, request, so_far)
    return request if params.request_state is None else so_far.keyed(request)


async def _approved(
    broker: Parts,
    who: Identity,
    tool: Tool,
    params: types.CallToolRequestParams,
    request: CallRequest,
    so_far: Dialogue,
) -> types.InputRequiredResult | CallRequest:
    """The call with its person's approval, or the question; a repeat is not asked again.

    A question that was dismissed is an operator's: the call waits for an approval.
    """
    call, _ = await broker.preparer.prepare(who, request)
    if call.approval is None:  # the tool asks about other calls than this one
        return request if params.request_state is None else so_far.keyed(request)
    answer = decision(params.input_responses) if so_far.asked == QUESTION else None
    if answer is None:
        if await broker.intake.earlier(call) is not None:
            return request
        asked = approval_question(tool, request.args, others=_others(call, who))
        return so_far.asking(QUESTION, asked)
    if answer is not Decision.APPROVED:
        await audit(broker, who, request, answer)
    if answer is Decision.DECLINED:
        raise refused(tool, answer)
    return so_far.keyed(replace(request, approved=answer is Decision.APPROVED))


def _others(call: Call, who: Identity) -> str | None:
    """Whom the call waits for beyond its person's yes, in words; None where that is enough."""
    assert call.approval_rule is not None, "it waits"
    needed = Needed.read(call.approval_rule)
    counts = needed.counts(who.user_id, who.groups, owner=who.user_id)
    if counts and needed.quorum == 1:
        return None
    return whom(needed, needed.quorum - counts, more=counts)


async def audit(broker: Parts, who: Identity, request: CallRequest, answer: Decision) -> None:
    """Have it in the audit trail that a question was not answered by a yes."""
    kind = DECLINED if answer is Decision.DECLINED else DISMISSED
    await broker.refusals.call(who, request, kind=kind, reason=SAID[answer])


def refused(
    tool: Tool, answer: Decision, question: Question | None = None
) -> DeclinedError | UnansweredError:
    """Why nothing was started, in words for a model."""
    if answer is Decision.DECLINED or question is None:
        return DeclinedError(f"The user does not allow {tool.name}. Nothing was started.")
    asked = ", ".join(question.arguments)
    return UnansweredError(
        f"{tool.name} asks for {asked}, and the question was dismissed. Nothing was started."
    )


def missing(tool: Tool, args: Mapping[str, Any]) -> Question | None:
    """The first question whose arguments are not all there."""
    open_ = (one for one in tool.policy.asks if not args.keys() >= set(one.arguments))
    return next(open_, None)


def form(question: Question, tool: Tool) -> dict[str, Any]:
    """The schema of its answer, out of the tool's own."""
    properties = tool.input_schema["properties"]
    return {
        "type": "object",
        "properties": {name: properties[name] for name in question.arguments},
        "required": list(question.arguments),
    }


def elicitation(question: Question, tool: Tool) -> types.ElicitRequest:
    """As a client shows it."""
    return types.ElicitRequest(
        params=types.ElicitRequestFormParams(
            message=question.message, requested_schema=form(question, tool)
        )
    )


def answered(
    question: Question, tool: Tool, responses: Mapping[str, Any] | None
) -> dict[str, Any] | Decision:
    """The arguments that the person gave, none where the answer is missing; or why there are none.

    Raises:
        MCPError: what is there is no answer.
    """
    answer = answer_in(responses, question.key)
    if answer is None:
        return {}
    if answer.action != "accept":
        return Decision.DECLINED if answer.action == "decline" else Decision.DISMISSED
    content = {name: (answer.content or {}).get(name) for name in question.arguments}
    good = jsonschema_rs.validator_for(form(question, tool)).is_valid(content)
    return content if good else {}
