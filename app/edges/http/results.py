"""The results API: what adapters POST. Every route is idempotent and fenced."""

from typing import Any, Final, Literal, Self, TypeVar
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app import metrics
from app.catalog.policy import ToolPolicy
from app.catalog.redaction import mask
from app.commands import results
from app.commands.attempts import Change
from app.commands.store.commands import Command
from app.contract import instant
from app.edges.auth.scopes import RESULTS, need
from app.edges.http.replies import identity_of, reply
from app.edges.parts import Parts
from app.identity import Identity

T = TypeVar("T")

GONE: Final = frozenset({"cancelled", "deadline_passed"})
"""Refusals that answer 410: this command is not wanted any more. The others answer 409."""


ATTEMPT_MAX: Final = 2**31 - 1


class ClaimBody(BaseModel):
    """One run of an adapter asks for an attempt."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: int = Field(ge=1, le=ATTEMPT_MAX)
    adapter: str = Field(min_length=1, max_length=200, description="Names this run, uniquely.")


class ProgressBody(BaseModel):
    """How far it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str = Field(min_length=1, max_length=100)
    percent: float | None = Field(default=None, ge=0, le=100)
    message: str | None = Field(default=None, max_length=2000)
    attempt: int | None = Field(default=None, ge=1, le=ATTEMPT_MAX)


class ResultBody(BaseModel):
    """The adapter's result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["ok", "error"]
    result: Any = None
    error: dict[str, Any] | str | None = None
    attempt: int | None = Field(default=None, ge=1, le=ATTEMPT_MAX)

    @model_validator(mode="after")
    def whole(self) -> Self:
        """An error result says what went wrong."""
        if self.status == "error" and not self.error:
            raise ValueError("status 'error' comes with an error")
        if self.status == "ok" and self.error:
            raise ValueError("status 'ok' comes without an error")
        return self

    def problem(self) -> dict[str, Any] | None:
        """The error, as an object."""
        if self.status == "ok":
            return None
        if isinstance(self.error, dict):
            return self.error
        return {"code": "adapter_error", "message": str(self.error)}


class RejectBody(BaseModel):
    """Why no rule takes a command."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str = Field(min_length=1, max_length=500)


def router(broker: Parts) -> APIRouter:  # noqa: C901 it holds the routes
    """The routes of adapters."""
    made = APIRouter(prefix="/results")
    engine = broker.database.engine

    def adapter_of(request: Request) -> Identity:
        who = identity_of(request)
        need(who, RESULTS)
        return who

    async def policy_of(who: Identity, correlation_id: UUID) -> ToolPolicy:
        found = await results.subject(engine, who, correlation_id)
        return await broker.catalog.policy(found.tool, found.method)

    async def heard(who: Identity, correlation_id: UUID, said: T) -> tuple[ToolPolicy, T]:
        """The tool's policy, and the adapter's report without the call's secrets."""
        found = await results.subject(engine, who, correlation_id)
        hidden = await broker.catalog.secrets(found.tool, found.method, found.args)
        return await broker.catalog.policy(found.tool, found.method), mask(said, hidden)

    @made.post("/{correlation_id}/claim")
    async def claim(request: Request, correlation_id: UUID, body: ClaimBody) -> Response:
        """Take an attempt before any side effect; on `proceed: false`, do nothing."""
        who = adapter_of(request)
        claimed = await results.claim(
            engine,
            adapter=who,
            policy=await policy_of(who, correlation_id),
            command_id=correlation_id,
            attempt=body.attempt,
            run=body.adapter,
            leases=broker.leases,
        )
        metrics.ADAPTER_REPORTS.labels("claim" if claimed.proceed else "claim_refused").inc()
        if not claimed.proceed:
            status = 410 if claimed.reason in GONE or claimed.command.final else 409
            return reply(status, {"proceed": False, "reason": claimed.reason})
        broker.announce(Change(command=claimed.command, woken=(correlation_id,)))
        return reply(200, go(claimed.command, claimed.lease_s))

    @made.post("/{correlation_id}/progress")
    async def progress(request: Request, correlation_id: UUID, body: ProgressBody) -> Response:
        """Say how far it is, and keep the lease."""
        who = adapter_of(request)
        said = [body.stage, body.message]
        policy, (stage, message) = await heard(who, correlation_id, said)
        change = await results.progress(
            engine,
            adapter=who,
            policy=policy,
            command_id=correlation_id,
            attempt=body.attempt,
            stage=str(stage),
            percent=body.percent,
            message=message,
            leases=broker.leases,
        )
        metrics.ADAPTER_REPORTS.labels("progress").inc()
        broker.announce(change)
        return reply(200, {"ok": True, "cancel_requested": change.cancel_requested})

    @made.post("/{correlation_id}")
    async def result(request: Request, correlation_id: UUID, body: ResultBody) -> Response:
        """Say how it ended. The first result wins; a repeat is answered alike."""
        who = adapter_of(request)
        policy, error = await heard(who, correlation_id, body.problem())
        change = await results.finish(
            engine,
            adapter=who,
            policy=policy,
            command_id=correlation_id,
            attempt=body.attempt,
            result=body.result,
            error=error,
            random=broker.random,
        )
        return ended(change)

    @made.post("/{correlation_id}/reject")
    async def reject(request: Request, correlation_id: UUID, body: RejectBody) -> Response:
        """Say that no rule takes it: it goes to the dead letters."""
        who = adapter_of(request)
        policy, reason = await heard(who, correlation_id, body.reason)
        change = await results.reject(
            engine,
            adapter=who,
            policy=policy,
            command_id=correlation_id,
            reason=reason,
        )
        return ended(change)

    def ended(change: Change) -> Response:
        metrics.ADAPTER_REPORTS.labels("result_repeated" if change.repeated else "result").inc()
        if not change.repeated:
            broker.announce(change)
        state = str(change.command.state)
        return reply(200, {"ok": True, "state": state, "repeated": change.repeated})

    return made


def go(command: Command, lease_s: float) -> dict[str, Any]:
    """The answer to a claim that was granted."""
    return {
        "proceed": True,
        "lease_s": lease_s,
        "deadline_at": instant(command.deadline_at),
        "args": command.args,
        "attempt": command.attempt,
    }
