"""The results API: what adapters POST. Every report is idempotent and fenced.

`POST /results/batch` takes up to 500 reports, each answered by itself with its own status; the
single routes take one. Both are plain ASGI (`fast_call.py`), as every call has three of them, and
go the same way: into a batch of what arrives together (`app.commands.reports`).
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from app import metrics
from app.commands.report import Answer, Kind, Report
from app.contract import Method, Name, Tenant
from app.edges.auth.scopes import RESULTS, need
from app.edges.failures import invalid, members, placed, translated
from app.edges.http.replies import identity_of, reply
from app.edges.http.strict import StrictRoute
from app.edges.parts import Parts
from app.errors import BrokerError, NotBoundError
from app.identity import Identity
from app.json_values import KeptObject, KeptValue, PlainText
from app.postgres.engine import AWAY

ATTEMPT_MAX: Final = 2**31 - 1
ITEMS_MAX: Final = 500
PATH: Final = "/results/"
BATCH_PATH: Final = "/results/batch"

Attempt = Annotated[int, Field(ge=1, le=ATTEMPT_MAX)]


class ClaimBody(BaseModel):
    """One run of an adapter asks for an attempt.

    Tenant, tool and method are those of the event that the adapter acts on: where they are not the
    command's, the claim is refused (`claim_mismatch`). Adapters should send them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: Attempt
    adapter: Annotated[PlainText, Field(min_length=1, max_length=200)] = Field(
        description="Names this run, uniquely."
    )
    tenant_id: Tenant | None = None
    tool: Name | None = None
    method: Method | None = None

    @model_validator(mode="after")
    def whole(self) -> Self:
        """Tenant, tool and method come together."""
        if len({self.tenant_id is None, self.tool is None, self.method is None}) > 1:
            raise ValueError("tenant_id, tool and method come together")
        return self

    def report(self, who: Identity, command_id: UUID) -> Report:
        """As the batcher takes it."""
        named = None
        if self.tenant_id is not None:
            named = (self.tenant_id, self.tool or "", self.method or "")
        return Report(
            kind=Kind.CLAIM,
            adapter=who,
            command_id=command_id,
            attempt=self.attempt,
            run=self.adapter,
            named=named,
        )


class ProgressBody(BaseModel):
    """How far it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: Annotated[PlainText, Field(min_length=1, max_length=100)]
    percent: float | None = Field(default=None, ge=0, le=100)
    message: Annotated[PlainText, Field(max_length=2000)] | None = None
    attempt: Attempt | None = None

    def report(self, who: Identity, command_id: UUID) -> Report:
        """As the batcher takes it."""
        return Report(
            kind=Kind.PROGRESS,
            adapter=who,
            command_id=command_id,
            attempt=self.attempt,
            stage=self.stage,
            percent=self.percent,
            message=self.message,
        )


class ResultBody(BaseModel):
    """How an attempt ended."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Literal["ok", "error"]
    result: KeptValue = None
    error: KeptObject | PlainText | None = None
    attempt: Attempt | None = None

    @model_validator(mode="after")
    def whole(self) -> Self:
        """An error result says what went wrong."""
        if self.status == "error" and not self.error:
            raise ValueError("status 'error' comes with an error")
        if self.status == "ok" and self.error:
            raise ValueError("status 'ok' comes without an error")
        retryable = self.error.get("retryable", True) if isinstance(self.error, dict) else True
        if not isinstance(retryable, bool):
            raise ValueError("error.retryable is true or false")  # noqa: TRY004 pydantic's way
        return self

    def problem(self) -> dict[str, Any] | None:
        """The error, as an object."""
        if self.status == "ok":
            return None
        if isinstance(self.error, dict):
            return self.error
        return {"code": "adapter_error", "message": str(self.error)}

    def report(self, who: Identity, command_id: UUID) -> Report:
        """As the batcher takes it."""
        return Report(
            kind=Kind.RESULT,
            adapter=who,
            command_id=command_id,
            attempt=self.attempt,
            result=self.result,
            error=self.problem(),
        )


class RejectBody(BaseModel):
    """Why no rule takes an attempt that nobody has claimed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    attempt: Attempt
    reason: Annotated[PlainText, Field(min_length=1, max_length=500)]

    def report(self, who: Identity, command_id: UUID) -> Report:
        """As the batcher takes it."""
        return Report(
            kind=Kind.REJECT,
            adapter=who,
            command_id=command_id,
            attempt=self.attempt,
            reason=self.reason,
        )


Body = ClaimBody | ProgressBody | ResultBody | RejectBody


class ClaimItem(ClaimBody):
    """A claim of a batch."""

    op: Literal["claim"]
    correlation_id: UUID


class ProgressItem(ProgressBody):
    """Progress of a batch."""

    op: Literal["progress"]
    correlation_id: UUID


class ResultItem(ResultBody):
    """A result of a batch."""

    op: Literal["result"]
    correlation_id: UUID


class RejectItem(RejectBody):
    """A rejection of a batch."""

    op: Literal["reject"]
    correlation_id: UUID


Item = Annotated[ClaimItem | ProgressItem | ResultItem | RejectItem, Field(discriminator="op")]


class BatchBody(BaseModel):
    """Reports that are answered one by one, in order; a bad one fails alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: list[Item] = Field(min_length=1, max_length=ITEMS_MAX)


class BatchShape(BaseModel):
    """A batch whose items are read one by one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    items: list[Any] = Field(min_length=1, max_length=ITEMS_MAX)


BODIES: Final[Mapping[str, TypeAdapter[Body]]] = {
    "claim": TypeAdapter(ClaimBody),
    "progress": TypeAdapter(ProgressBody),
    "": TypeAdapter(ResultBody),
    "reject": TypeAdapter(RejectBody),
}
"""By what follows the command in the path."""
ITEM: Final[TypeAdapter[Item]] = TypeAdapter(Item)
SHAPE: Final = TypeAdapter(BatchShape)


def router(broker: Parts) -> APIRouter:
    """The routes of adapters."""
    made = APIRouter(prefix="/results", route_class=StrictRoute)

    async def one(request: Request, correlation_id: UUID, body: Body) -> Response:
        who = identity_of(request)
        need(who, RESULTS)
        return answered(await reported(broker, body.report(who, correlation_id)))

    @made.post("/batch")
    async def batch(request: Request, body: BatchBody) -> Response:
        """Report of many commands: each is answered by itself, in order, with its own status."""
        who = identity_of(request)
        need(who, RESULTS)
        items = [item.report(who, item.correlation_id) for item in body.items]
        return await batched(broker, who, items, peer=peer_of(request))

    @made.post("/{correlation_id}/claim")
    async def claim(request: Request, correlation_id: UUID, body: ClaimBody) -> Response:
        """Take an attempt before any side effect; on `proceed: false`, do nothing."""
        return await one(request, correlation_id, body)

    @made.post("/{correlation_id}/progress")
    async def progress(request: Request, correlation_id: UUID, body: ProgressBody) -> Response:
        """Say how far it is, and keep the lease."""
        return await one(request, correlation_id, body)

    @made.post("/{correlation_id}")
    async def result(request: Request, correlation_id: UUID, body: ResultBody) -> Response:
        """Say how it ended. The first report wins; a repeat is answered alike."""
        return await one(request, correlation_id, body)

    @made.post("/{correlation_id}/reject")
    async def reject(request: Request, correlation_id: UUID, body: RejectBody) -> Response:
        """Say that no rule takes an attempt: its command goes to the dead letters."""
        return await one(request, correlation_id, body)

    return made


async def fast(
    broker: Parts, who: Identity, path: str, value: Any, *, peer: str
) -> Response | None:
    """The answer to a results request whose body is this JSON value; None where no route is.

    Raises:
        BrokerError: it is refused.
    """
    if path == BATCH_PATH:
        need(who, RESULTS)
        try:
            shape = SHAPE.validate_python(value)
        except ValidationError as error:
            raise invalid(RequestValidationError(placed(error, "body"))) from error
        return await batched(broker, who, [read(who, item) for item in shape.items], peer=peer)
    name, _, rest = path.removeprefix(PATH).partition("/")
    adapter = BODIES.get(rest)
    if adapter is None:
        return None
    try:
        command_id = UUID(name)
    except ValueError:
        return None  # FastAPI's route says what is wrong with it
    need(who, RESULTS)
    try:
        body = adapter.validate_python(value)
    except ValidationError as error:
        raise invalid(RequestValidationError(placed(error, "body"))) from error
    return answered(await reported(broker, body.report(who, command_id)))


def read(who: Identity, item: Any) -> Report | BrokerError:
    """One item of a batch, or what is wrong with it."""
    try:
        found = ITEM.validate_python(item)
    except ValidationError as error:
        return invalid(RequestValidationError(placed(error, "body")))
    return found.report(who, found.correlation_id)


async def reported(broker: Parts, report: Report) -> Answer:
    """Have one report applied, and count it."""
    answer = await broker.reports.report(report)
    count(report.kind, answer)
    return answer


async def batched(
    broker: Parts, who: Identity, reports: Sequence[Report | BrokerError], *, peer: str
) -> Response:
    """Have many reports applied; the answers are in their order."""

    async def one(report: Report | BrokerError) -> dict[str, Any]:
        if isinstance(report, BrokerError):
            return members(report)
        named = {"correlation_id": str(report.command_id)}
        try:
            answer = await reported(broker, report)
        except AWAY as error:
            return named | members(translated(error, path=BATCH_PATH))
        except BrokerError as error:
            if isinstance(error, NotBoundError):
                broker.refusals.denied(
                    who, reason="not_bound", peer=peer, detail=error.detail, path=BATCH_PATH
                )
            return named | members(error)
        return named | {"status": answer.status} | dict(answer.body)

    found = await asyncio.gather(*(one(report) for report in reports))
    return reply(200, {"items": found})


def answered(answer: Answer) -> Response:
    """A single report's answer."""
    return reply(answer.status, answer.body)


def count(kind: Kind, answer: Answer) -> None:
    """Count a report by what became of it."""
    named = str(kind)
    if kind is Kind.CLAIM:
        named = "claim" if answer.body["proceed"] else "claim_refused"
    elif kind is not Kind.PROGRESS:
        named = "result_repeated" if answer.body["repeated"] else "result"
    metrics.ADAPTER_REPORTS.labels(named).inc()
    if "misfit" in answer.body:
        metrics.ADAPTER_REPORTS.labels("result_misfit").inc()


def peer_of(request: Request) -> str:
    """The address that a request came from."""
    return "unknown" if request.client is None else request.client.host
