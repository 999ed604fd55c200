"""Sagas over plain HTTP: run, follow, commit and cancel them; settle a step as an operator."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import ConfigDict, Field, model_validator

from app.asserted import Labels, labels_of
from app.contract import traceparent
from app.edges import sagas
from app.edges.auth.scopes import CALL, need
from app.edges.http.calls import awaited
from app.edges.http.operator import operator_of
from app.edges.http.replies import (
    CallHead,
    CancelBody,
    ReasonBody,
    identity_of,
    reply,
    wait_s,
)
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.edges.sagas import Which
from app.intake.prepare import CallRequest
from app.sagas import view as saga_view
from app.sagas.state import State
from app.traces.context import traceparent_here


class RunBody(Which):
    """Which saga to run."""

    deadline_ms: int | None = Field(default=None, gt=0, description="For the whole.")
    labels: Labels | None = Field(default=None, description="Its steps have them too.")


class SettleBody(ReasonBody):
    """What is to become of a step that a saga waits for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verb: Literal["retry", "skip", "resolve"]
    outcome: Literal["succeeded", "failed", "compensated"] | None = None

    @model_validator(mode="after")
    def whole(self) -> "SettleBody":
        """`resolve`, and only that, says an outcome."""
        if (self.verb == "resolve") != (self.outcome is not None):
            raise ValueError("`outcome` goes with `resolve`")
        return self


def router(broker: Parts) -> APIRouter:
    """The routes of running sagas; each works on the token's own tenant."""
    made = APIRouter(route_class=StrictRoute)

    @made.post("/sagas")
    async def run(
        request: Request,
        body: RunBody,
        headers: CallHead,
    ) -> Response:
        """Run a saga: its outcome, or "accepted" where it takes longer than the wait."""
        who = identity_of(request)
        need(who, CALL)
        asked = CallRequest(
            tool=sagas.RUN.tool,
            method=sagas.RUN.method,
            args=body.model_dump(exclude={"deadline_ms", "labels"}, exclude_none=True),
            idempotency_key=headers.idempotency_key,
            key_source="header",
            deadline_s=None if body.deadline_ms is None else body.deadline_ms / 1000,
            labels=labels_of(body.labels, headers.mcp_broker_labels),
            traceparent=traceparent_here(traceparent(headers.traceparent)),
        )
        accepted = await sagas.run(broker, who, body, asked, wait_s=wait_s(headers.prefer))
        return await awaited(broker, who, accepted)

    @made.get("/sagas")
    async def listing(
        request: Request,
        state: Annotated[list[State] | None, Query()] = None,
        before: UUID | None = None,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        everyone: bool = False,
    ) -> Response:
        """The caller's sagas, newest first; an operator may ask for everyone's."""
        who = identity_of(request)
        need(who, CALL)
        found = await sagas.listing(
            broker, who, states=state, before=before, limit=limit, everyone=everyone
        )
        more = str(found[-1].id) if len(found) == limit else None
        return reply(200, {"sagas": [saga_view.view(one, []) for one in found], "before": more})

    @made.get("/sagas/{saga_id}")
    async def saga(request: Request, saga_id: UUID) -> Response:
        """One saga with its steps."""
        return reply(200, saga_view.view(*await sagas.find(broker, identity_of(request), saga_id)))

    _add_endings(made, broker)
    return made


def _add_endings(made: APIRouter, broker: Parts) -> None:
    """The routes that end a running saga, or settle what it waits for."""

    @made.post("/sagas/{saga_id}/commit")
    async def commit(request: Request, saga_id: UUID) -> Response:
        """No more steps come: an ad hoc saga completes when those that it has succeed."""
        who = identity_of(request)
        need(who, CALL)
        return reply(200, await sagas.commit(broker, who, saga_id))

    @made.post("/sagas/{saga_id}/cancel")
    async def cancel(request: Request, saga_id: UUID, body: CancelBody) -> Response:
        """Undo what a saga did; one that is past its pivot goes on instead."""
        who = identity_of(request)
        need(who, CALL)
        return reply(202, await sagas.stop(broker, who, saga_id, reason=body.reason))

    @made.post("/operator/sagas/{saga_id}/steps/{step}")
    async def settle(request: Request, saga_id: UUID, step: str, body: SettleBody) -> Response:
        """Retry, skip or resolve a step that a stuck or half-undone saga waits for."""
        who = operator_of(request)
        saga = await sagas.settle(
            broker,
            who,
            saga_id,
            step=step,
            verb=body.verb,
            outcome=body.outcome,
            reason=body.reason,
        )
        return reply(200, saga)
